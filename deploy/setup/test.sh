#!/usr/bin/env bash
# Runs every test: with nextest where it is installed, with cargo's own runner elsewhere.
set -euo pipefail
cd "$(dirname "$0")/../.."
if cargo nextest --version >/dev/null 2>&1; then
  exec cargo nextest run --locked --workspace "$@"
fi
exec cargo test --locked --workspace "$@"
