# Sourced by lab.sh.
SHOWS='TLS ends at the backends: the client verifies their certificates through the VIP'

scenario() {
  local number status
  lab_up
  lab_certificates
  servers_up
  service secure tcp 443 8443 'scheduler: rr'
  gateway_up

  say 'six requests for https://www.headgate.test/, verified against the lab CA'
  for number in 1 2 3 4 5 6; do
    on client curl -sS -m 10 -v --cacert "$LAB_DIR/ca.pem" --resolve "www.headgate.test:443:$LAB_VIP" \
      https://www.headgate.test/ 2>"$LAB_DIR/tls-$number" | tee -a "$LAB_DIR/answers"
    sed -n 's/^\*  \(subject: .*\|SSL certificate verify ok\.\)$/      \1/p' "$LAB_DIR/tls-$number"
  done
  check 'six verified answers' [ "$(wc -l <"$LAB_DIR/answers")" -eq 6 ]
  for number in "${LAB_BACKENDS[@]}"; do
    answered "$number" 2
    check "with $number's own certificate" \
      [ "$(cat "$LAB_DIR"/tls-? | grep -c "subject: CN=$number.headgate.test")" -eq 2 ]
  done

  say 'a client that does not know the lab CA'
  if on client curl -sS -m 10 --resolve "www.headgate.test:443:$LAB_VIP" https://www.headgate.test/; then
    status=0
  else
    status=$?
  fi
  check 'refuses the certificate (curl 60)' [ "$status" -eq 60 ]
}
