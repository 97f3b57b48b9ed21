#!/usr/bin/env bash
# KvSvr's own figures on this machine: failover, drains, batches, ingests, memory, churn. $1 is the program; after it, which of them
# (all if none is named). One JSON object on standard output, sentences on standard error.
# KILLS, DRAINS, KEYS, ROUNDS and SECONDS_EACH may be set.
set -euo pipefail
program=$1
shift
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(failover drain batch ingest memory churn)

work=$(mktemp -d)
cleanup() {
  "$program" dev down --dir "$work/dev" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT
say() { printf '%s\n' "$*" >&2; }
# Each part begins with empty disks.
fresh() {
  "$program" dev down --dir "$work/dev" >/dev/null 2>&1 || true
  rm -rf "$work/dev"
  "$program" dev up --dir "$work/dev" --base-port 17000 -o json >/dev/null
}
one() {
  fresh
  "$program" bench "$@" --dir "$work/dev" -o json
}

say "$("$program" --version), $(nproc) cores"
printf '{"cores": %s' "$(nproc)"
for part in "${parts[@]}"; do
  printf ',\n"%s": ' "$part"
  case $part in
    failover)
      say "writable again after SIGKILL of the leader's zone:"
      one failover --kills "${KILLS:-30}"
      ;;
    drain)
      say "puts of 16 writers while the leader's zone is drained:"
      one drain --drains "${DRAINS:-30}"
      ;;
    batch)
      say "256 operations a request to the data groups"
      one batch --clients 16 --seconds "${SECONDS_EACH:-10}"
      ;;
    ingest)
      say "sorted files of 10,000 pairs to the data groups"
      one batch --op ingest --ops 10000 --clients 4 --seconds "${SECONDS_EACH:-10}"
      ;;
    memory)
      say "${KEYS:-1000000} keys of 128 bytes:"
      one churn --keys "${KEYS:-1000000}" --writes 1 --rounds 1 --no-compact --settle 10
      ;;
    churn)
      say "write, overwrite, compact in rounds:"
      one churn --keys 50000 --writes 5 --rounds "${ROUNDS:-12}"
      ;;
    *)
      say "$part: there are failover, drain, batch, ingest, memory and churn"
      exit 2
      ;;
  esac
done
printf '}\n'
