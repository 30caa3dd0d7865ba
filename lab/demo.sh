#!/bin/sh
# Shows Headgate at work, from a fresh clone: installs what is missing, builds, brings up the lab,
# balances real HTTP, loses a backend and not a request, and cleans up.
#
#   npm run demo [-- --device tun|packet|xdp]
#
# Needs root: it makes network namespaces, which it removes in the end.
set -eu
cd "$(dirname "$0")/.."

case $* in
  '' | '--device tun' | '--device packet' | '--device xdp') ;;
  -h | --help)
    echo 'npm run demo [-- --device tun|packet|xdp]'
    exit 0
    ;;
  *)
    echo "demo: expected nothing, --device tun, packet or xdp, got: $*" >&2
    exit 2
    ;;
esac
if [ "$(id -u)" -ne 0 ]; then
  echo 'demo: it makes network namespaces, which only root may do. Run: sudo npm run demo' >&2
  exit 77
fi

sh lab/setup/install.sh
exec bash lab/demo-run.sh "${2:-packet}"
