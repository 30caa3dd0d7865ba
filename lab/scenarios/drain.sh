# Sourced by lab.sh.
SHOWS='a drained backend gets no new connection and finishes its old ones'
SCENARIO_COMMANDS=yes

scenario() {
  local number node got wanted
  lab_up
  servers_up
  lab_file slow 24
  wanted=$(sha256sum <"$LAB_STATE/files/slow")
  service web tcp 80 8080 'scheduler: rr'
  gateway_up

  say 'three slow transfers, one per backend'
  for number in 1 2 3; do
    spawn client "slow-$number" curl -sS -m 60 --limit-rate 6M -D "$LAB_DIR/slow-$number.head" \
      -o "$LAB_STATE/slow-$number" "http://$LAB_VIP/files/slow"
    wait_for 10 test -s "$LAB_DIR/slow-$number.head"
  done
  cat "$LAB_DIR"/slow-?.head | tr -d '\r' | sed -n 's/^X-Backend: //p' | tally

  say 'b2 is drained under them'
  hg backend drain web/10.20.0.12:8080
  ask / 60
  answered b2 0
  answered b1 30
  answered b3 30
  check 'the transfers still run' running slow-2
  hg get backends

  say 'the transfers end on their own'
  for number in 1 2 3; do
    check "transfer $number ended well" wait "${LAB_PIDS[slow-$number]}"
    unset "LAB_PIDS[slow-$number]"
    got=$(sha256sum <"$LAB_STATE/slow-$number")
    check "transfer $number is equal" [ "$got" = "$wanted" ]
  done
  for node in "${LAB_BACKENDS[@]}"; do
    check "$node carried one of them" grep -qix "X-Backend: $node.\?" "$LAB_DIR"/slow-?.head
  done

  say 'b2 is enabled again'
  hg backend enable web/10.20.0.12:8080
  ask / 30
  answered b2 10
}
