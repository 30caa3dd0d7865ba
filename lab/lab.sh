#!/usr/bin/env bash
# The lab's scenarios: the gateway among real clients and real servers, in network namespaces.
#
#   bash lab/lab.sh                                      lists the scenarios
#   bash lab/lab.sh NAME [--device tun|packet|xdp] [--arms 1|2] [--mode nat|full-nat]
#   bash lab/lab.sh matrix [tun|packet|xdp ...]          every mode, family and device, as a table
#
# `--device nftables` puts the kernel's own DNAT in the gateway's place (for the scenarios that ask
# nothing of the gateway's commands): what fails there too is not the gateway's fault.
# Exit code: 0 PASS, 1 FAIL, 2 usage, 77 not root.
set -eEuo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=lab/lib.sh
. "$here/lib.sh"

if [ "${1:-}" = matrix ]; then
  shift
  exec node --enable-source-maps "$LAB_DIST/lab/matrix.js" "$@"
fi

usage() {
  printf 'bash lab/lab.sh NAME [--device tun|packet|xdp] [--arms 1|2] [--mode nat|full-nat]\n\n'
  local file
  for file in "$here"/scenarios/*.sh; do
    printf '  %-18s %s\n' "$(basename "$file" .sh)" "$(sed -n "s/^SHOWS='\(.*\)'\$/\1/p" "$file")"
  done
  printf '  %-18s %s\n' matrix 'every mode with both families over every device, as a table'
}

wrong() {
  printf 'lab: %s\n\n' "$1" >&2
  usage >&2
  exit 2
}

name=''
arms=''
mode=''
while [ $# -gt 0 ]; do
  case $1 in
    --device | --arms | --mode)
      [ $# -ge 2 ] || wrong "$1 needs a value"
      case $1=$2 in
        --device=tun | --device=packet | --device=xdp | --device=nftables) LAB_DEVICE=$2 ;;
        --arms=1 | --arms=2) arms=$2 ;;
        --mode=nat | --mode=full-nat) mode=$2 ;;
        *) wrong "$1 $2: no such value" ;;
      esac
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    -*) wrong "no option $1" ;;
    *)
      [ -z "$name" ] || wrong "one scenario at a time, got $name and $1"
      name=$1
      shift
      ;;
  esac
done
if [ -z "$name" ]; then
  usage
  exit 0
fi
[ -e "$here/scenarios/$name.sh" ] || wrong "no scenario $name"
need_root "lab/lab.sh"
if [ ! -e "$LAB_DIST/lab/servers/hash-sink.js" ]; then
  printf 'lab: nothing is built yet: npm run build\n' >&2
  exit 1
fi

SHOWS=''
SCENARIO_ARMS=''      # set by a scenario that is about one topology only
SCENARIO_MODE=''      # likewise
SCENARIO_COMMANDS=no  # yes: it uses the gateway's commands, so nothing can stand in for it
# shellcheck source=/dev/null
. "$here/scenarios/$name.sh"
if [ -n "$SCENARIO_ARMS" ] && [ -n "$arms" ] && [ "$arms" != "$SCENARIO_ARMS" ]; then
  wrong "$name is about --arms $SCENARIO_ARMS"
fi
if [ -n "$SCENARIO_MODE" ] && [ -n "$mode" ] && [ "$mode" != "$SCENARIO_MODE" ]; then
  wrong "$name is about --mode $SCENARIO_MODE"
fi
if [ $SCENARIO_COMMANDS = yes ] && [ $LAB_DEVICE = nftables ]; then
  wrong "$name uses the gateway's commands; nftables has none"
fi
LAB_ARMS=${SCENARIO_ARMS:-${arms:-2}}
LAB_MODE=${SCENARIO_MODE:-${mode:-nat}}

# What is printed at the end goes where the program's output goes, also when a command fails
# whose own output goes elsewhere.
exec 3>&1
finish() {
  local status=$?
  exec >&3
  lab_down $((status + CHECKS_FAILED))
  if [ $status -eq 0 ] && [ $CHECKS_FAILED -eq 0 ]; then
    printf '\nPASS  %s (%s, %s, %s-arm)\n' "$name" "$LAB_DEVICE" "$LAB_MODE" "$LAB_ARMS"
    exit 0
  fi
  printf '\nFAIL  %s (%s, %s, %s-arm): %s\n' "$name" "$LAB_DEVICE" "$LAB_MODE" "$LAB_ARMS" \
    "$([ $CHECKS_FAILED -gt 0 ] && printf '%d checks' "$CHECKS_FAILED" || printf 'a command ended with %d' "$status")"
  exit 1
}

printf '%s: %s\n' "$name" "$SHOWS"
lab_trap finish
scenario
