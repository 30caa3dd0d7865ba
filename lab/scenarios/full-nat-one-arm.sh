# Sourced by lab.sh.
SHOWS='full NAT on one interface: backends need no route to the client'
SCENARIO_ARMS=1
SCENARIO_MODE=full-nat

scenario() {
  local node
  lab_up
  for node in "${LAB_BACKENDS[@]}"; do on "$node" ip route del default; done
  servers_up
  lab_file some 8
  service web tcp 80 8080 'scheduler: rr'
  gateway_up

  say 'whom the backends talk to'
  ask /client 30
  check 'all from the SNAT pool, none from the client' \
    [ "$(grep -cxE '10\.20\.0\.10[0-3]' "$LAB_DIR/answers")" -eq 30 ]

  say 'who answers'
  ask / 30
  for node in "${LAB_BACKENDS[@]}"; do
    answered "$node" 10
  done

  say 'a transfer of 8 MiB'
  on client curl -sS -m 20 -o "$LAB_STATE/some" "http://$LAB_VIP/files/some"
  check 'is equal' cmp -s "$LAB_STATE/some" "$LAB_STATE/files/some"
  check 'no bad checksum at client or backends' [ "$(checksum_errors)" -eq 0 ]
}
