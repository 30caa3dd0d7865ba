#!/bin/sh
# Installs what the project needs and is missing: Debian packages by name, npm packages from the
# lockfile, and the build. Safe to run again; does nothing when all is there.
#
#   sh lab/setup/install.sh
set -eu
cd "$(dirname "$0")/../.."

say() { printf 'setup: %s\n' "$*" >&2; }

# Command (or file) that shows a package is there, and the package.
needed='
ip:iproute2 nft:nftables tshark:tshark tcpdump:tcpdump iperf3:iperf3 nginx:nginx-light
haproxy:haproxy /usr/lib/python3/dist-packages/scapy:python3-scapy conntrack:conntrack ethtool:ethtool socat:socat curl:curl
ping:iputils-ping openssl:openssl g++:g++ make:make python3:python3
/usr/include/pcap/pcap.h:libpcap-dev
'
missing=''
for pair in $needed; do
  probe=${pair%%:*}
  package=${pair#*:}
  case $probe in
    /*) [ -e "$probe" ] || missing="$missing $package" ;;
    *) PATH="$PATH:/usr/sbin:/sbin" command -v "$probe" >/dev/null || missing="$missing $package" ;;
  esac
done
# The sanitizer's run-time library comes with the compiler; ask the compiler where it is.
if command -v g++ >/dev/null; then
  case $(g++ -print-file-name=libasan.so) in /*) ;; *) missing="$missing libasan8" ;; esac
fi

if [ -n "$missing" ]; then
  if [ "$(id -u)" -ne 0 ]; then
    say "these Debian packages are missing and only root can install them:$missing"
    say "as root: apt-get install --no-install-recommends$missing"
    case $missing in *libpcap-dev* | *g++* | *make* | *python3\ *) exit 77 ;; esac
  else
    say "installing Debian packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # Services of these packages must not start: the lab starts its own, inside namespaces.
    policy=/usr/sbin/policy-rc.d
    made_policy=no
    if [ ! -e $policy ]; then
      printf '#!/bin/sh\nexit 101\n' >$policy
      chmod 0755 $policy
      made_policy=yes
    fi
    log=$(mktemp)
    # shellcheck disable=SC2086 # the list is split on purpose
    if ! { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
      tail -n 30 "$log" >&2
      [ $made_policy = yes ] && rm -f $policy
      rm -f "$log"
      say "apt-get failed; the lines above say why"
      exit 1
    fi
    [ $made_policy = yes ] && rm -f $policy
    rm -f "$log"
  fi
fi

# node-gyp compiles against Node's headers; a distribution's lie beside its binary.
if [ -z "${npm_config_nodedir:-}" ]; then
  prefix=$(node -p 'require("node:path").resolve(process.execPath, "../..")')
  if [ -e "$prefix/include/node/node_api.h" ]; then
    export npm_config_nodedir="$prefix"
    export npm_package_config_node_gyp_nodedir="$prefix"
  fi
fi

if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  say 'npm ci'
  npm ci --no-audit --no-fund --loglevel=error >&2
  touch node_modules/.package-lock.json
fi
sh lab/setup/build.sh
