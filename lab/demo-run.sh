#!/usr/bin/env bash
# The demo itself, when all is installed and built; lab/demo.sh starts it.
#
#   bash lab/demo-run.sh tun|packet|xdp
set -eEuo pipefail
# shellcheck source=lab/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
LAB_DEVICE=$1
need_root 'lab/demo-run.sh'

REQUESTS=200

exec 3>&1
finish() {
  local status=$?
  exec >&3
  lab_down $((status + CHECKS_FAILED))
  if [ $status -ne 0 ] || [ $CHECKS_FAILED -ne 0 ]; then
    printf '\ndemo: FAILED\n'
    exit 1
  fi
  printf '\ndemo: done. %d requests, 0 failed; every namespace is gone.\n' $((2 * REQUESTS))
}
lab_trap finish

say "a client, a gateway on $LAB_DEVICE, three web servers: each a namespace of its own"
lab_up
say 'a web server on every backend; each answers its name'
servers_up
service web tcp 80 8080 'scheduler: rr' \
  'health: { type: http, path: /, interval: 250ms, timeout: 250ms, rise: 2, fall: 2 }'
gateway_up
wait_for 10 backend_is 10.20.0.12 up

say "$REQUESTS requests through the VIP, each on a connection of its own"
ask / $REQUESTS
hg status
hg get services
hg get backends

say 'the server of b2 dies'
killed=$(date +%s%N)
stop_process nginx-b2 KILL
wait_for 10 backend_is 10.20.0.12 down
printf '      found after %d ms\n' $((($(date +%s%N) - killed) / 1000000))
hg get backends

say "$REQUESTS more requests"
ask / $REQUESTS
answered b2 0
