# The lab: a client, a gateway and three backends, each a network namespace of its own with no way
# out. Sourced by lab.sh and demo-run.sh; not a program.
#
#   lab_up       makes the topology that the LAB_* options below describe, and draws it
#   servers_up   starts the backends' servers
#   service      adds a service to the gateway's configuration
#   gateway_up   starts the gateway (or the kernel's nftables in its place) and waits until it is ready
#   lab_down     ends what was started and removes the namespaces
#   lab_trap     has that done on exit, however it comes
#
# Every command is printed before it runs, with the namespace it runs in: `[gateway] ip addr add …`.
# Namespaces are named hglab-PID-NODE, so that labs run side by side; what a lab that was killed left
# behind is removed by the next one.

LAB_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where the compiled lab tools are, and the gateway's program: the tests name their own build.
LAB_DIST=${HEADGATE_DIST:-$LAB_ROOT/dist}
if [ -n "${HEADGATE_MAIN:-}" ]; then
  HEADGATE=(node --enable-source-maps --max-semi-space-size=2 "$HEADGATE_MAIN")
else
  HEADGATE=("$LAB_ROOT/node_modules/.bin/headgate")
fi

# Options, to be set before lab_up.
LAB_ARMS=2          # 2: one interface to the client, one to the backends. 1: one for all
LAB_DEVICE=packet   # packet | tun | nftables (the kernel's DNAT in the gateway's place)
LAB_MODE=nat        # nat | full-nat
LAB_OFFLOADS=on     # on | off: checksum and segmentation offloads of every interface
LAB_FORWARD=''      # ip_forward of the gateway; '': what the device needs (packet 0, others 1)
LAB_TOP=''          # more lines at the top of the gateway's configuration
LAB_WEB_ALSO=''     # an address that the web servers listen on too: a VIP that they hold
LAB_RP_FILTER=0     # reverse path filter of the gateway
LAB_CLIENT_PATH=''  # an MTU (two-arm): puts a router with that MTU to the client before the gateway
LAB_BACKEND_MTU=1500 # MTU of the gateway's interface to the backends

LAB_CLIENT=198.51.100.2
LAB_VIP=203.0.113.10
LAB_SNAT_FIRST=10.20.0.100
LAB_SNAT_LAST=10.20.0.103
LAB_BACKENDS=(b1 b2 b3)
# The same over IPv6: every lab has both families.
LAB_CLIENT6=2001:db8:1::2
LAB_VIP6=2001:db8:ff::10
LAB_SNAT6_FIRST=2001:db8:2::100
LAB_SNAT6_LAST=2001:db8:2::103

LAB_ID=hglab-$$
LAB_DIR=''
LAB_STATE=''
LAB_NODES=()
LAB_SERVICES=()
declare -A LAB_PIDS=()
CHECKS_FAILED=0

# --- Saying and doing ---------------------------------------------------------------------------

say() { printf '\n== %s\n' "$*"; }

# on NODE COMMAND...: runs a command in a node's namespace, printed first.
on() {
  local node=$1
  shift
  if [ -z "${LAB_QUIET:-}" ]; then printf '[%s] %s\n' "$node" "$*" >&2; fi
  if [ "$1" = ip ]; then
    shift
    command ip -n "$LAB_ID-$node" "$@"
  else
    ip netns exec "$LAB_ID-$node" "$@"
  fi
}

# spawn NODE NAME COMMAND...: starts a process in a node's namespace; its output goes to NAME.log in
# the lab's folder, and NAME is what stop_process takes.
spawn() {
  local node=$1 name=$2
  shift 2
  printf '[%s] %s &\n' "$node" "$*" >&2
  ip netns exec "$LAB_ID-$node" "$@" >"$LAB_DIR/$name.log" 2>&1 </dev/null &
  LAB_PIDS[$name]=$!
}

# running NAME: whether a spawned process still runs.
running() { [ -n "${LAB_PIDS[$1]:-}" ] && kill -0 "${LAB_PIDS[$1]}" 2>/dev/null; }

# stop_process NAME [SIGNAL]: ends a spawned process; one that is deaf to it for 5 s is killed.
stop_process() {
  local pid=${LAB_PIDS[$1]:-} tries
  [ -n "$pid" ] || return 0
  unset "LAB_PIDS[$1]"
  kill -s "${2:-TERM}" "$pid" 2>/dev/null || true
  for ((tries = 0; tries < 100; tries++)); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
  done
  kill -s KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

# wait_for SECONDS COMMAND...: runs the command until it succeeds; fails when the time is over.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    if [ $SECONDS -gt $deadline ]; then
      printf 'gave up waiting for: %s\n' "$*" >&2
      return 1
    fi
    sleep 0.05
  done
}

# check TEXT COMMAND...: prints `ok` or `FAIL` and the text; failures are counted, and end in FAIL.
check() {
  local text=$1
  shift
  if "$@"; then
    printf 'ok    %s\n' "$text"
  else
    printf 'FAIL  %s\n' "$text"
    CHECKS_FAILED=$((CHECKS_FAILED + 1))
  fi
}

# --- The topology -------------------------------------------------------------------------------

need_root() {
  if [ "$(id -u)" -ne 0 ]; then
    printf '%s makes network namespaces, which only root may do; run it as root\n' "$1" >&2
    exit 77
  fi
}

# Removes one lab's namespaces. What still runs in them ends first: a namespace lives as long as
# its last process.
lab_remove_namespaces() {
  local name pid
  for name in $(ip netns list | cut -d' ' -f1); do
    case $name in
      "$1"-*)
        for pid in $(ip netns pids "$name" 2>/dev/null); do kill -s KILL "$pid" 2>/dev/null || true; done
        ip netns del "$name" 2>/dev/null || true
        ;;
    esac
  done
}

# Removes what labs left whose process is gone (killed with SIGKILL, or the machine's memory ran out).
lab_sweep() {
  local name rest owner
  for name in $(ip netns list | cut -d' ' -f1); do
    case $name in
      hglab-*)
        rest=${name#hglab-}
        owner=${rest%%-*}
        if [ ! -e "/proc/$owner" ]; then lab_remove_namespaces "hglab-$owner"; fi
        ;;
    esac
  done
  for name in "${TMPDIR:-/tmp}"/hglab-[0-9]*.* /dev/shm/hglab-[0-9]*.*; do
    rest=${name##*/hglab-}
    owner=${rest%%[-.]*}
    if [ -e "$name" ] && [ ! -e "/proc/$owner" ]; then
      umount -q "$name/bpf" 2>/dev/null || true # pins of a test's gateway
      rm -rf "$name"
    fi
  done
}

# lab_node NODE: makes a namespace.
lab_node() {
  printf '[host] ip netns add %s-%s\n' "$LAB_ID" "$1" >&2
  ip netns add "$LAB_ID-$1"
  # No duplicate address detection: addresses are good at once.
  lab_set "$1" net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
  LAB_NODES+=("$1")
  on "$1" ip link set lo up
}

# lab_cable NODE INTERFACE NODE INTERFACE: a cable (veth pair) between two nodes.
lab_cable() {
  on "$1" ip link add "$2" type veth peer name "$4" netns "$LAB_ID-$3"
  on "$1" ip link set "$2" up
  on "$3" ip link set "$4" up
}

# lab_plug NODE INTERFACE: a cable from a node into the switch.
lab_plug() {
  lab_cable "$1" "$2" switch "to-$1"
  on switch ip link set "to-$1" master br0
}

# lab_set NODE KEY=VALUE...: sysctl.
lab_set() {
  local node=$1
  shift
  on "$node" sysctl -qw "$@"
}

lab_draw() {
  case $LAB_ARMS${LAB_CLIENT_PATH:+routed} in
    2) cat <<DRAWING ;;

   client                       gateway                                      b1  10.20.0.11
  +--------------+  gw-client  +---------------+  gw-backend   +--------+   +---------------+
  | 198.51.100.2 +-------------+ 198.51.100.1  +---------------+ switch +---+ b2 10.20.0.12 |
  +--------------+             | 10.20.0.1     |               +--------+   +---------------+
                               +---------------+                             b3  10.20.0.13
DRAWING
    2routed) cat <<DRAWING ;;

   client              router                         gateway
  +--------------+    +---------------------------+  +----------------+  gw-backend  +--------+
  | 198.51.100.2 +----+ 198.51.100.1         .130 +--+ 198.51.100.129 +--------------+ switch |
  +--------------+    | MTU $LAB_CLIENT_PATH to the client    |  | 10.20.0.1      |              +-+--+--++
                      +---------------------------+  +----------------+                |  |  |
                                                                       10.20.0.11-13   b1 b2 b3
DRAWING
    1*) cat <<DRAWING ;;

   client                                   gateway
  +--------------+      +--------+  gw-lan  +------------------------+
  | 198.51.100.2 +------+ switch +----------+ 198.51.100.1 10.20.0.1 |
  +--------------+      +-+--+--++          +------------------------+
                          |  |  |
                         b1  b2 b3   10.20.0.11-13
DRAWING
  esac
  printf '\n   VIP %s, SNAT %s-103: %s, %s, ip_forward=%s, offloads %s, MTU to the backends %s\n\n' \
    $LAB_VIP $LAB_SNAT_FIRST "$LAB_DEVICE" "$LAB_MODE" "$LAB_FORWARD" "$LAB_OFFLOADS" "$LAB_BACKEND_MTU"
}

# Sets LAB_DIR (logs, configuration, socket) and LAB_STATE (the state file's folder: shared memory).
lab_folders() {
  LAB_DIR=$(mktemp -d "${TMPDIR:-/tmp}/$LAB_ID.XXXXXX")
  LAB_STATE=$(mktemp -d "/dev/shm/$LAB_ID.XXXXXX")
}

lab_up() {
  local node number
  if [ -z "$LAB_FORWARD" ]; then
    case $LAB_DEVICE in packet | xdp) LAB_FORWARD=0 ;; *) LAB_FORWARD=1 ;; esac
  fi
  lab_sweep
  lab_folders
  lab_draw

  for node in client gateway switch "${LAB_BACKENDS[@]}"; do lab_node "$node"; done
  on switch ip link add br0 type bridge forward_delay 0 mcast_snooping 0
  on switch ip link set br0 up

  if [ "$LAB_ARMS" = 1 ]; then
    LAB_TO_CLIENT=gw-lan
    LAB_TO_BACKENDS=gw-lan
    lab_plug gateway gw-lan
    lab_plug client eth0
  else
    LAB_TO_CLIENT=gw-client
    LAB_TO_BACKENDS=gw-backend
    if [ -n "$LAB_CLIENT_PATH" ]; then
      lab_router
    else
      lab_cable gateway gw-client client eth0
    fi
    lab_plug gateway gw-backend
  fi
  if [ -z "$LAB_CLIENT_PATH" ]; then
    on gateway ip addr add 198.51.100.1/24 dev $LAB_TO_CLIENT
    on gateway ip addr add 2001:db8:1::1/64 dev $LAB_TO_CLIENT nodad
    on client ip addr add $LAB_CLIENT/24 dev eth0
    on client ip addr add $LAB_CLIENT6/64 dev eth0 nodad
  fi
  on client ip route add default via 198.51.100.1
  on client ip route add default via 2001:db8:1::1
  on gateway ip addr add 10.20.0.1/24 dev $LAB_TO_BACKENDS
  on gateway ip addr add 2001:db8:2::1/64 dev $LAB_TO_BACKENDS nodad
  on gateway ip link set $LAB_TO_BACKENDS mtu "$LAB_BACKEND_MTU"
  number=11
  for node in "${LAB_BACKENDS[@]}"; do
    lab_plug "$node" eth0
    on "$node" ip addr add 10.20.0.$number/24 dev eth0
    on "$node" ip addr add 2001:db8:2::$number/64 dev eth0 nodad
    on "$node" ip route add default via 10.20.0.1
    on "$node" ip route add default via 2001:db8:2::1
    number=$((number + 1))
  done

  # One segment with two subnets: the kernel would tell hosts of a shorter way past the gateway.
  lab_set gateway net.ipv4.ip_forward="$LAB_FORWARD" \
    net.ipv6.conf.all.forwarding="$LAB_FORWARD" net.ipv4.conf.all.rp_filter="$LAB_RP_FILTER" \
    net.ipv4.conf.default.rp_filter="$LAB_RP_FILTER" \
    net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.$LAB_TO_BACKENDS.send_redirects=0 \
    net.ipv4.conf.$LAB_TO_CLIENT.send_redirects=0 \
    net.ipv4.conf.$LAB_TO_BACKENDS.rp_filter="$LAB_RP_FILTER" \
    net.ipv4.conf.$LAB_TO_CLIENT.rp_filter="$LAB_RP_FILTER"
  if [ "$LAB_DEVICE" = tun ]; then lab_proxy_snat; fi
  if [ "$LAB_OFFLOADS" = off ]; then lab_offloads_off; fi
}

# A router between client and gateway. The narrow link is its way to the client: what comes from
# the VIP and does not fit is answered with ICMP "fragmentation needed", sent to the VIP. Only the
# route is narrow, so that the client offers an MSS for 1500 and the path has to be discovered.
lab_router() {
  lab_node router
  lab_cable router r-client client eth0
  lab_cable gateway gw-client router r-gateway
  on client ip addr add $LAB_CLIENT/25 dev eth0
  on client ip addr add $LAB_CLIENT6/112 dev eth0 nodad
  on router ip addr add 2001:db8:1::1/112 dev r-client nodad
  on router ip addr add 2001:db8:1::1:2/112 dev r-gateway nodad
  on gateway ip addr add 2001:db8:1::1:1/112 dev gw-client nodad
  on router ip addr add 198.51.100.1/25 dev r-client
  on router ip addr add 198.51.100.130/25 dev r-gateway
  on gateway ip addr add 198.51.100.129/25 dev gw-client
  on router ip route add default via 198.51.100.129
  on router ip route replace 198.51.100.0/25 dev r-client mtu "$LAB_CLIENT_PATH"
  on gateway ip route add 198.51.100.0/25 via 198.51.100.130
  on router ip route add default via 2001:db8:1::1:1
  # No link of IPv6 is narrower than 1280 (RFC 8200 section 5).
  on router ip -6 route replace 2001:db8:1::/112 dev r-client \
    mtu $((LAB_CLIENT_PATH < 1280 ? 1280 : LAB_CLIENT_PATH))
  on gateway ip route add 2001:db8:1::/112 via 2001:db8:1::1:2
  lab_set router net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv6.conf.all.forwarding=1
}

# TUN owns routes, not links: SNAT addresses out of the backends' own subnet are asked for by ARP
# and neighbour solicitations, and the gateway's kernel has to answer for them. (A subnet routed to the gateway needs none of it.)
lab_proxy_snat() {
  local last
  lab_set gateway net.ipv4.neigh.$LAB_TO_BACKENDS.proxy_delay=0 \
    net.ipv6.neigh.$LAB_TO_BACKENDS.proxy_delay=0 net.ipv6.conf.$LAB_TO_BACKENDS.proxy_ndp=1
  for last in 100 101 102 103; do
    on gateway ip neigh add proxy 10.20.0.$last dev $LAB_TO_BACKENDS
    on gateway ip neigh add proxy 2001:db8:2::$last dev $LAB_TO_BACKENDS
  done
}

# Without offloads every packet is at most one MTU and carries its whole checksum, and receivers
# verify it; with them, it crosses a veth with a partial one that nobody looks at.
lab_offloads_off() {
  local node interface
  for node in "${LAB_NODES[@]}"; do
    [ "$node" != switch ] || continue
    for interface in $(LAB_QUIET=1 on "$node" ip -o link show type veth | cut -d' ' -f2 | cut -d@ -f1); do
      on "$node" ethtool -K "$interface" tx off rx off sg off tso off gso off gro off >/dev/null
    done
  done
}

# lab_down [FAILED]: ends everything and removes it; safe to call twice, and on a lab that is half
# there. After a failure (not 0) it shows the gateway's last words.
lab_down() {
  local name
  set +e
  if [ -n "$LAB_DIR" ]; then
    if [ "${1:-0}" -ne 0 ] && [ -e "$LAB_DIR/headgate.log" ]; then
      printf '\n== the last lines of the gateway\n' >&2
      tail -n 20 "$LAB_DIR/headgate.log" >&2
    fi
    printf '\n== cleaning up %s\n' "$LAB_ID" >&2
    for name in "${!LAB_PIDS[@]}"; do stop_process "$name"; done
    lab_remove_namespaces "$LAB_ID"
    rm -rf "$LAB_DIR" "$LAB_STATE"
  fi
  LAB_DIR=''
  LAB_NODES=()
  LAB_SERVICES=()
  LAB_FORWARD=''
  set -e
}

# lab_trap COMMAND: runs COMMAND when the program ends, also by Ctrl-C or SIGTERM; it calls lab_down.
# What made a program end under `set -eE` is printed with its place.
lab_trap() {
  trap 'printf "%s:%s: failed: %s\n" "${BASH_SOURCE[0]}" "$LINENO" "$BASH_COMMAND" >&2' ERR
  # shellcheck disable=SC2064 # to be expanded now
  trap "$1" EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

# --- Servers ------------------------------------------------------------------------------------

# backend_address NODE
backend_address() { printf '10.20.0.1%s' "${1#b}"; }
backend_address6() { printf '2001:db8:2::1%s' "${1#b}"; }

# A CA of the lab, and a certificate per backend for its own name and the service's.
lab_certificates() {
  local node
  (
    cd "$LAB_DIR"
    openssl ecparam -genkey -name prime256v1 -noout -out ca.key
    openssl req -x509 -new -key ca.key -days 2 -subj '/CN=Headgate lab CA' -out ca.pem
    for node in "${LAB_BACKENDS[@]}"; do
      openssl ecparam -genkey -name prime256v1 -noout -out "$node.key"
      openssl req -new -key "$node.key" -subj "/CN=$node.headgate.test" -out "$node.csr"
      printf 'subjectAltName=DNS:%s.headgate.test,DNS:www.headgate.test\n' "$node" >"$node.ext"
      openssl x509 -req -in "$node.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
        -extfile "$node.ext" -out "$node.pem" 2>/dev/null
    done
  )
}

# nginx_up NODE: the web server of one backend: / says its name, /client whom it talks to,
# /files/ serves LAB_STATE/files. On 8443 the same over TLS when lab_certificates has run.
nginx_up() {
  local node=$1 address address6 tls=''
  address=$(backend_address "$node")
  address6=$(backend_address6 "$node")
  if [ -e "$LAB_DIR/$node.pem" ]; then
    tls="listen $address:8443 ssl; listen [$address6]:8443 ssl; ssl_certificate $LAB_DIR/$node.pem; ssl_certificate_key $LAB_DIR/$node.key;"
  fi
  mkdir -p "$LAB_STATE/files" "$LAB_DIR/$node"
  cat >"$LAB_DIR/$node.conf" <<NGINX
daemon off; master_process off; pid $LAB_DIR/$node.pid;
events { worker_connections 4096; }
http {
  access_log off; sendfile on; tcp_nopush on; default_type text/plain;
  client_body_temp_path $LAB_DIR/$node/body; proxy_temp_path $LAB_DIR/$node/proxy;
  fastcgi_temp_path $LAB_DIR/$node/fastcgi; uwsgi_temp_path $LAB_DIR/$node/uwsgi;
  scgi_temp_path $LAB_DIR/$node/scgi;
  server {
    listen $address:8080 backlog=4096; listen [$address6]:8080 backlog=4096; $tls
    ${LAB_WEB_ALSO:+listen $LAB_WEB_ALSO:8080 backlog=4096;}
    add_header X-Backend $node always;
    location = / { return 200 "$node\n"; }
    location = /client { return 200 "\$remote_addr\n"; }
    location /files/ { alias $LAB_STATE/files/; }
  }
}
NGINX
  spawn "$node" "nginx-$node" nginx -e "$LAB_DIR/$node-error.log" -c "$LAB_DIR/$node.conf"
}

# servers_up: a web server on every backend.
servers_up() {
  local node
  for node in "${LAB_BACKENDS[@]}"; do nginx_up "$node"; done
  for node in "${LAB_BACKENDS[@]}"; do
    LAB_QUIET=1 wait_for 10 on "$node" curl -sf -o /dev/null "http://$(backend_address "$node"):8080/"
  done
}

# lab_file NAME MIB: content that is the same in every run and does not compress.
lab_file() {
  mkdir -p "$LAB_STATE/files"
  head -c "$(($2 * 1048576))" /dev/zero |
    openssl enc -aes-128-ctr -K 000102030405060708090a0b0c0d0e0f -iv 00000000000000000000000000000000 \
      >"$LAB_STATE/files/$1"
}

# --- The gateway --------------------------------------------------------------------------------

# service NAME PROTOCOL PORT BACKEND_PORT [LINE...]: adds a service on the VIP; each LINE is a line
# of its YAML. ON='b1 b2' names its backends (all, unless set).
service() {
  local name=$1 protocol=$2 port=$3 backend_port=$4 node text
  shift 4
  text="  - name: $name
    vip: $LAB_VIP
    port: $port
    protocol: $protocol
    mode: $LAB_MODE"
  while [ $# -gt 0 ]; do
    text+=$'\n'"    $1"
    shift
  done
  text+=$'\n'"    backends:"
  for node in ${ON:-${LAB_BACKENDS[@]}}; do
    text+=$'\n'"      - { address: $(backend_address "$node"), port: $backend_port }"
  done
  LAB_SERVICES+=("$text")
}

# config_write: writes the gateway's configuration with the services added so far.
config_write() {
  local device
  case $LAB_DEVICE in
    tun) device='{ type: tun, name: hg0 }' ;;
    *)
      device="{ type: $LAB_DEVICE, interfaces: [$LAB_TO_CLIENT, $LAB_TO_BACKENDS] }"
      [ "$LAB_ARMS" = 2 ] || device="{ type: $LAB_DEVICE, interfaces: [$LAB_TO_CLIENT] }"
      ;;
  esac
  {
    printf 'version: 1\ndevice: %s\n' "$device"
    printf 'flows: { capacity: 65536, stateFile: %s/state }\n' "$LAB_STATE"
    printf 'limits: { services: 64, backends: 256, hashSlots: 524288 }\n'
    printf 'admin: { socket: %s/admin.sock }\n' "$LAB_DIR"
    [ -z "$LAB_TOP" ] || printf '%s\n' "$LAB_TOP"
    [ "$LAB_MODE" = nat ] || printf 'snat: { addresses: [%s-%s] }\n' $LAB_SNAT_FIRST $LAB_SNAT_LAST
    printf 'services:\n'
    printf '%s\n' "${LAB_SERVICES[@]}"
  } >"$LAB_DIR/headgate.yaml"
}

# hg COMMAND...: a headgate command, asked of the lab's gateway.
hg() {
  if [ -z "${LAB_QUIET:-}" ]; then printf '[gateway] headgate %s\n' "$*" >&2; fi
  ip netns exec "$LAB_ID-gateway" "${HEADGATE[@]}" "$@" --socket "$LAB_DIR/admin.sock"
}

gateway_ready() { curl -sf -m 2 -o /dev/null --unix-socket "$LAB_DIR/admin.sock" http://headgate/readyz; }

gateway_ready_or_gone() { gateway_ready || ! running headgate; }

# gateway_up: writes and shows the configuration, starts the gateway, waits until it is ready.
gateway_up() {
  if [ "$LAB_DEVICE" = nftables ]; then
    peer_nftables
    return
  fi
  config_write
  say 'the configuration'
  cat "$LAB_DIR/headgate.yaml"
  spawn gateway headgate "${HEADGATE[@]}" run -c "$LAB_DIR/headgate.yaml"
  wait_for 20 gateway_ready_or_gone
  if ! running headgate; then
    printf 'the gateway ended instead of getting ready\n' >&2
    return 1
  fi
}

# peer_nftables: the kernel does what the services added so far say: DNAT in turns, and SNAT to the
# pool in full-nat. It shows that the lab is right without the gateway, and what the kernel is worth.
peer_nftables() {
  local text name protocol port backend_port targets count last
  {
    printf 'table ip headgate_peer {\n  chain pre {\n    type nat hook prerouting priority dstnat\n'
    for text in "${LAB_SERVICES[@]}"; do
      port=$(sed -n 's/^    port: //p' <<<"$text")
      protocol=$(sed -n 's/^    protocol: //p' <<<"$text" | tr -d '[]')
      targets=$(sed -n 's/.*address: \([0-9.]*\), port: \([0-9]*\).*/\1 . \2/p' <<<"$text" |
        awk '{ printf "%s%d : %s", (NR > 1 ? ", " : ""), NR - 1, $0 }')
      count=$(grep -c 'address:' <<<"$text")
      printf '    ip daddr %s meta l4proto { %s } th dport %s dnat ip to numgen inc mod %d map { %s }\n' \
        $LAB_VIP "$protocol" "$port" "$count" "$targets"
    done
    printf '  }\n'
    if [ "$LAB_MODE" = full-nat ]; then
      printf '  chain post {\n    type nat hook postrouting priority srcnat\n'
      printf '    ip daddr 10.20.0.0/24 ct status dnat snat ip to %s-%s\n  }\n' $LAB_SNAT_FIRST $LAB_SNAT_LAST
    fi
    printf '}\n'
  } >"$LAB_DIR/peer.nft"
  on gateway ip addr add $LAB_VIP/32 dev lo
  if [ "$LAB_MODE" = full-nat ]; then
    for last in 100 101 102 103; do on gateway ip addr add 10.20.0.$last/32 dev $LAB_TO_BACKENDS; done
  fi
  on gateway nft -f "$LAB_DIR/peer.nft"
}

# --- Asking -------------------------------------------------------------------------------------

# ask PATH COUNT: COUNT requests through the VIP, each on a connection of its own; the answers go to
# LAB_DIR/answers, and their tally is printed.
ask() {
  local status=0 answers
  on client curl -sS -m 10 -H 'Connection: close' "http://$LAB_VIP$1?n=[1-$2]" >"$LAB_DIR/answers" || status=$?
  tally <"$LAB_DIR/answers"
  answers=$(wc -l <"$LAB_DIR/answers")
  check "$2 requests, $(($2 - answers)) failed" [ "$status/$answers" = "0/$2" ]
}

# answered TEXT COUNT: that COUNT of the last answers are TEXT.
answered() { check "$1 answered $2" [ "$(grep -cxF "$1" "$LAB_DIR/answers" || true)" -eq "$2" ]; }

# backend_is ADDRESS STATE: whether the gateway has that backend in that state.
backend_is() {
  LAB_QUIET=1 hg get backends -o json |
    node -e 'const rows = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
      const row = rows.find((row) => row.address === process.argv[1]);
      process.exit(row?.state === process.argv[2] ? 0 : 1)' "$1" "$2"
}

# tally: counts equal lines of standard input.
tally() { sort | uniq -c | awk '{ printf "      %6d  %s\n", $1, $2 }'; }

# checksum_errors: bad checksums that the kernels of client and backends have seen, all protocols.
checksum_errors() {
  local node
  for node in client "${LAB_BACKENDS[@]}"; do
    LAB_QUIET=1 on "$node" nstat -asz TcpInCsumErrors UdpInCsumErrors IcmpInCsumErrors IpExtInCsumErrors
  done | awk '/InCsumErrors/ { sum += $2 } END { print sum + 0 }'
}
