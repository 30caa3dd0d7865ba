# Sourced by lab.sh.
SHOWS='reloads under load cost no connection, and a wrong one changes nothing'
SCENARIO_COMMANDS=yes

RELOADS=20

scenario() {
  local number got wanted lines
  lab_up
  servers_up
  lab_file slow 20
  wanted=$(sha256sum <"$LAB_STATE/files/slow")
  service web tcp 80 8080 'scheduler: rr'
  gateway_up

  say 'load: 4 slow transfers, and 300 new connections a second for as long as it takes'
  for number in 1 2 3 4; do
    spawn client "slow-$number" curl -sS -m 60 --limit-rate 4M -o "$LAB_STATE/slow-$number" \
      "http://$LAB_VIP/files/slow"
  done
  spawn client load node "$LAB_DIST/lab/tools/http-load.js" --target "$LAB_VIP:80" \
    --requests 100000 --concurrency 64 --rate 300

  say "$RELOADS reloads: a second service comes and goes"
  for ((number = 1; number <= RELOADS; number++)); do
    if [ $((number % 2)) = 1 ]; then
      service "extra-$number" tcp 81 8080 'scheduler: wrr'
    else
      LAB_SERVICES=("${LAB_SERVICES[0]}")
    fi
    config_write
    LAB_QUIET=$([ $number -le 2 ] || printf 1) hg reload >"$LAB_DIR/reload.log"
    [ $number -gt 2 ] || cat "$LAB_DIR/reload.log"
  done
  check 'still under load after the last reload' running load

  say 'a wrong configuration is refused, and the old one goes on'
  cp "$LAB_DIR/headgate.yaml" "$LAB_DIR/good.yaml"
  sed -i 's/port: 80$/port: 0/' "$LAB_DIR/headgate.yaml"
  if hg reload >"$LAB_DIR/reload.log" 2>&1; then number=0; else number=$?; fi
  cat "$LAB_DIR/reload.log"
  check 'the reload failed' [ "$number" -ne 0 ]
  check 'and named the place' grep -q 'services\[0\].port' "$LAB_DIR/reload.log"
  cp "$LAB_DIR/good.yaml" "$LAB_DIR/headgate.yaml"

  say 'the load ends'
  kill -s TERM "${LAB_PIDS[load]}"
  check 'no connection failed, all answers right' wait "${LAB_PIDS[load]}"
  unset 'LAB_PIDS[load]'
  cat "$LAB_DIR/load.log"
  for number in 1 2 3 4; do
    check "transfer $number ended well" wait "${LAB_PIDS[slow-$number]}"
    unset "LAB_PIDS[slow-$number]"
    got=$(sha256sum <"$LAB_STATE/slow-$number")
    check "transfer $number is equal" [ "$got" = "$wanted" ]
  done
  lines=$(hg status -o json)
  check "generation $((RELOADS + 1)): every good reload counted, the wrong one not" \
    grep -q "\"generation\": *$((RELOADS + 1))\b" <<<"$lines"
}
