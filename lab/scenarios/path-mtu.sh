# Sourced by lab.sh.
SHOWS='path MTU discovery works through the gateway, in both directions'
SCENARIO_ARMS=2

scenario() {
  say 'download: a router behind which the way to the client is 1300 bytes wide'
  LAB_CLIENT_PATH=1300
  lab_up
  path_servers
  gateway_up
  on client curl -sS -m 20 -o "$LAB_STATE/got" "http://$LAB_VIP/files/some"
  check 'the transfer is equal' cmp -s "$LAB_STATE/got" "$LAB_STATE/files/some"
  on b1 ip route get $LAB_CLIENT | tee "$LAB_DIR/route"
  if [ "$LAB_MODE" = full-nat ]; then
    on b1 ip route show cache | tee "$LAB_DIR/route"
  fi
  check 'the router told b1 through the gateway: mtu 1300' grep -q 'mtu 1300' "$LAB_DIR/route"
  lab_down

  say "upload: the gateway's interface to the backends is 1400 bytes wide"
  LAB_CLIENT_PATH=''
  LAB_BACKEND_MTU=1400
  lab_up
  path_servers
  gateway_up
  # shellcheck disable=SC2016 # for the shell over there
  on client timeout 30 sh -c 'socat -t 20 - TCP:$1:9000 <"$2"' upload $LAB_VIP "$LAB_STATE/files/some" >"$LAB_DIR/got"
  check 'the backend received the same bytes' \
    [ "$(cat "$LAB_DIR/got")" = "$(sha256sum <"$LAB_STATE/files/some" | cut -d' ' -f1)" ]
  on client ip route get $LAB_VIP | tee "$LAB_DIR/route"
  check 'the gateway told the client: mtu 1400' grep -q 'mtu 1400' "$LAB_DIR/route"
}

path_servers() {
  nginx_up b1
  spawn b1 sink node "$LAB_DIST/lab/servers/hash-sink.js" 10.20.0.11 9000
  LAB_QUIET=1 wait_for 10 on b1 curl -sf -o /dev/null http://10.20.0.11:8080/
  wait_for 10 grep -q listening "$LAB_DIR/sink.log"
  lab_file some 4
  ON=b1 service web tcp 80 8080 'scheduler: rr'
  ON=b1 service sink tcp 9000 9000 'scheduler: rr'
}
