# Sourced by lab.sh.
SHOWS='IPIP and GUE: backends hold the VIP, take the tunnels off, and answer past the gateway'
SCENARIO_ARMS=2

scenario() {
  local node source mode
  # On AF_PACKET the outer source may be the host's own; elsewhere it is one of the gateway's.
  source=10.20.0.103
  [ "$LAB_DEVICE" != packet ] || source=10.20.0.1
  LAB_TOP="tunnel: { source: { ipv4: $source } }"
  LAB_FORWARD=1
  LAB_WEB_ALSO=$LAB_VIP
  lab_up
  for node in b1 b2; do
    decap_up "$node" $source
    nginx_up "$node"
    spawn "$node" "sink-$node" node "$LAB_DIST/lab/servers/hash-sink.js" 0.0.0.0 9000
    LAB_QUIET=1 wait_for 10 on "$node" curl -sf -o /dev/null "http://$(backend_address "$node"):8080/"
  done
  wait_for 10 grep -q listening "$LAB_DIR/sink-b1.log"
  wait_for 10 grep -q listening "$LAB_DIR/sink-b2.log"
  lab_file some 8

  # One after the other: a reload takes the mode over.
  for mode in ipip gue; do
    LAB_MODE=$mode
    LAB_SERVICES=()
    ON='b1 b2' service web tcp 8080 8080 'scheduler: rr'
    ON='b1 b2' service sink tcp 9000 9000 'scheduler: rr'
    if [ $mode = ipip ]; then
      gateway_up
    else
      config_write
      check 'the gateway takes the other mode over' hg reload
    fi
    say "$mode: who answers, and whom they see"
    on client curl -sS -m 10 "http://$LAB_VIP:8080/?n=[1-10]" -H 'Connection: close' >"$LAB_DIR/answers"
    answered b1 5
    answered b2 5
    check 'a backend sees the client itself' \
      [ "$(on client curl -sS -m 10 "http://$LAB_VIP:8080/client")" = "$LAB_CLIENT" ]
    say "$mode: 8 MiB to the client, and to the backend"
    on client curl -sS -m 20 -o "$LAB_STATE/got" "http://$LAB_VIP:8080/files/some"
    check 'the download is equal' cmp -s "$LAB_STATE/got" "$LAB_STATE/files/some"
    # shellcheck disable=SC2016 # for the shell over there
    on client timeout 30 sh -c 'socat -t 20 - TCP:$1:9000 <"$2"' upload $LAB_VIP "$LAB_STATE/files/some" >"$LAB_DIR/got"
    check 'the backend received the same bytes' \
      [ "$(cat "$LAB_DIR/got")" = "$(sha256sum <"$LAB_STATE/files/some" | cut -d' ' -f1)" ]
  done
  say 'what the decapsulators have counted'
  for node in b1 b2; do
    kill -USR1 "${LAB_PIDS[decap-$node]}"
    wait_for 10 grep -q '"event":"counters"' "$LAB_DIR/decap-$node.log"
    grep '"event":"counters"' "$LAB_DIR/decap-$node.log"
  done
  check 'no bad checksum at client or backends' [ "$(checksum_errors)" -eq 0 ]
}

# decap_up NODE SOURCE: takes tunnels from SOURCE off, on a backend that then holds the VIP.
decap_up() {
  printf 'version: 1\ndecap: { vip: [%s], accept: [%s/32] }\n' $LAB_VIP "$2" >"$LAB_DIR/decap-$1.yaml"
  spawn "$1" "decap-$1" "${HEADGATE[@]}" decap -c "$LAB_DIR/decap-$1.yaml"
  wait_for 20 grep -q '"event":"started"' "$LAB_DIR/decap-$1.log"
}
