#!/usr/bin/env bash
# KvSvr beside etcd on this machine: three members each, fsync on, the same client, in turn.
# $1 is the program. One JSON object on standard output, sentences on standard error.
# ROUNDS, SECONDS_EACH and CLIENTS may be set.
set -euo pipefail
program=$1
rounds=${ROUNDS:-3}
seconds=${SECONDS_EACH:-5}
clients=${CLIENTS:-"1 64 256 1000"}

say() { printf '%s\n' "$*" >&2; }
command -v etcd >/dev/null || { say "etcd is not installed: run this through \`make bench-peers\`"; exit 1; }

work=$(mktemp -d)
started=()
cleanup() {
  "$program" dev down --dir "$work/ours" >/dev/null 2>&1 || true
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap cleanup EXIT

# Three members of etcd, as a default installation would run them, on ports of their own.
base=23790
members="e0=http://127.0.0.1:$((base + 1)),e1=http://127.0.0.1:$((base + 11)),e2=http://127.0.0.1:$((base + 21))"
etcds=""
for n in 0 1 2; do
  client=http://127.0.0.1:$((base + 10 * n)) peer=http://127.0.0.1:$((base + 10 * n + 1))
  etcd --name "e$n" --data-dir "$work/etcd$n" --listen-client-urls "$client" --advertise-client-urls "$client" \
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "$members" \
    --initial-cluster-state new --log-level error >"$work/etcd$n.log" 2>&1 &
  started+=($!)
  etcds="$etcds,127.0.0.1:$((base + 10 * n))"
done
etcds=${etcds#,}
for _ in $(seq 100); do
  ETCDCTL_API=3 etcdctl --endpoints="http://${etcds//,/,http://}" endpoint health >/dev/null 2>&1 && break
  sleep 0.2
done
ETCDCTL_API=3 etcdctl --endpoints="http://${etcds//,/,http://}" endpoint health >/dev/null 2>&1 || {
  say "etcd did not start:"; tail -n 5 "$work"/etcd?.log >&2; exit 1
}
# The member that a client alone asks leads ours; who leads etcd is chance, and the client would feel it.
asked=127.0.0.1:$base
status() { ETCDCTL_API=3 etcdctl --endpoints="$asked" endpoint status -w fields | sed -n "s/^\"$1\" : \([0-9]*\).*/\1/p"; }
# Only the leader gives away what it leads; etcdctl wants the number in hexadecimal digits.
for e in ${etcds//,/ }; do
  [ "$(status MemberID)" != "$(status Leader)" ] || break
  ETCDCTL_API=3 etcdctl --endpoints="$e" move-leader "$(printf %x "$(status MemberID)")" >/dev/null 2>&1 || true
done
[ "$(status MemberID)" = "$(status Leader)" ] || say "etcd's leader could not be moved to $asked: one client alone will feel it"
"$program" dev up --dir "$work/ours" -o json >/dev/null
say "$(etcd --version | head -n 1) beside $("$program" --version), $(nproc) cores, $rounds rounds of $seconds s each"

printf '{"peer": "%s", "cores": %s, "runs": [' "$(etcd --version | head -n 1)" "$(nproc)"
first=yes
for op in put get; do
  for n in $clients; do
    "$program" bench kv --dir "$work/ours" --against "$etcds" --rounds "$rounds" --op "$op" \
      --clients "$n" --seconds "$seconds" -o json >"$work/run.json"
    [ "$first" = yes ] || printf ','
    first=no
    cat "$work/run.json"
    field() { sed -n "s/^  \"$1\": *\([0-9.]*\),*$/\1/p" "$work/run.json"; }
    rates=$(sed -n 's/^ *"ops_per_second": *\([0-9]*\).*/\1/p' "$work/run.json" | tr '\n' ' ')
    say "$(printf '%s, %s clients: ours and etcd %s a second; ratio %.2f, p99 %.2f' "$op" "$n" "$rates" "$(field ratio)" "$(field p99_ratio)")"
  done
done
printf ']}\n'
