# Sourced by lab.sh.
SHOWS='connections go to the backends in turn'

scenario() {
  local node
  lab_up
  servers_up
  service web tcp 80 8080 'scheduler: rr'
  gateway_up

  say '30 requests, each on a connection of its own'
  ask / 30
  for node in "${LAB_BACKENDS[@]}"; do
    answered "$node" 10
  done
  head -n 3 "$LAB_DIR/answers" >"$LAB_DIR/first"
  tail -n 3 "$LAB_DIR/answers" >"$LAB_DIR/last"
  check 'in the same order from first to last' cmp -s "$LAB_DIR/first" "$LAB_DIR/last"
  check 'no bad checksum at client or backends' [ "$(checksum_errors)" -eq 0 ]
}
