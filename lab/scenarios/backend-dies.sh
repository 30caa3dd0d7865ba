# Sourced by lab.sh.
SHOWS='a dead backend is found and left out, and comes back'
SCENARIO_COMMANDS=yes

scenario() {
  lab_up
  servers_up
  service web tcp 80 8080 'scheduler: rr' \
    'health: { type: http, path: /, interval: 200ms, timeout: 200ms, rise: 2, fall: 2 }'
  gateway_up
  wait_for 10 backend_is 10.20.0.12 up

  say 'b2 dies'
  stop_process nginx-b2 KILL
  wait_for 10 backend_is 10.20.0.12 down
  hg get backends

  say '200 requests after detection'
  ask / 200
  answered b2 0
  answered b1 100

  say 'b2 is started again'
  nginx_up b2
  wait_for 10 backend_is 10.20.0.12 up
  ask / 30
  answered b2 10
}
