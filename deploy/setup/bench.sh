#!/usr/bin/env bash
# Our own figures on this machine: one JSON object on standard output, sentences on standard error.
# $1 is the program.
set -euo pipefail
program=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
field() { sed -n "s/^ *\"$1\": *\([0-9.]*\),*$/\1/p" | head -n 1; }

best=0
for run in 1 2 3; do
  "$program" plan build --budget events/spring/budget.csv --script events/spring/script.toml --scheme A \
    --out "$work/build$run" -j 1 -o json >"$work/plan.json" 2>/dev/null
  rate=$(awk -v n="$(field records <"$work/plan.json")" -v s="$(field seconds <"$work/plan.json")" 'BEGIN { printf "%d", n / s }')
  [ "$rate" -gt "$best" ] && best=$rate
done
echo "plan build: $best records a second on one core (best of 3)" >&2

"$program" demo --report "$work/demo.json" >/dev/null 2>&1
opens=$(field opens_per_second <"$work/demo.json")
shakes=$(field shakes_per_second <"$work/demo.json")
p99=$(field open_p99_ms <"$work/demo.json")
again=$(field writable_again_ms <"$work/demo.json")
echo "edge: $shakes shakes a second, $opens opens a second durable on two zones, p99 $p99 ms" >&2
echo "zone kill: KV and queue acknowledge writes again after $again ms" >&2
printf '{"plan_records_per_second_core": %s, "shakes_per_second": %s, "opens_per_second": %s, "open_p99_ms": %s, "writable_again_ms": %s, "cores": %s}\n' \
  "$best" "$shakes" "$opens" "$p99" "$again" "$(nproc)"
