# Newcomers: `make demo`, then `make test`. Both do their own set-up.
#
#   setup        system packages, RocksDB (compiled once per machine)
#   demo         one whole event on this machine, with the loss of a zone in the middle
#   test         every test
#   sim          1,000 fresh seeds of the whole system in the simulator (SIM_FLAGS="--seeds 50" for fewer)
#   mutants      known mistakes, switched on one by one: does the simulator notice?
#   verify       formatting, lints, repo rules, docs, tests; changes nothing
#   fix          what can be mended by machine
#   bench        our own figures, as a table and as JSON
#   bench-kv     KvSvr's: failover, drains, batches, ingests, memory, churn (BENCH_PARTS="failover churn" for some of them)
#   bench-peers  KvSvr beside etcd, in turn, with the same client

SHELL := /bin/bash
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
HONGBAO := $(TARGET)/debug/hongbao
DEMO_FLAGS ?=
SIM := $(TARGET)/debug/hongbao-sim
SIM_FLAGS ?= --seeds 1000

.PHONY: setup demo sim mutants test verify verify-cheap fix bench bench-kv bench-peers build doc

setup:
	@deploy/setup/system.sh
	@deploy/setup/rocksdb.sh

build: setup
	@cargo build --locked --quiet -p deploy --bin hongbao

demo: setup
	@echo "building hongbao (the first time: some minutes on two cores)" >&2
	@cargo build --locked -p deploy --bin hongbao
	@$(HONGBAO) demo $(DEMO_FLAGS)

sim: setup
	@echo "building the simulator (the first time: some minutes on two cores)" >&2
	@cargo build --locked -p sim
	@$(SIM) run --seed $$(date +%s) $(SIM_FLAGS)

mutants: setup
	@cargo build --locked -p sim
	@$(SIM) mutants

test: setup
	@cargo build --locked -p deploy --bin hongbao
	@deploy/setup/test.sh

verify-cheap: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

verify: verify-cheap doc test

doc: setup
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --workspace --no-deps --quiet

fix: setup
	cargo fmt --all
	cargo clippy --locked --workspace --all-targets --fix --allow-dirty --allow-staged

bench: setup
	@cargo build --locked --release -p deploy --bin hongbao
	@deploy/setup/bench.sh $(TARGET)/release/hongbao

bench-kv: setup
	@cargo build --locked --release -p deploy --bin hongbao
	@deploy/setup/bench-kv.sh $(TARGET)/release/hongbao $(BENCH_PARTS)

bench-peers: setup
	@cargo build --locked --release -p deploy --bin hongbao
	@deploy/setup/bench-peers.sh $(TARGET)/release/hongbao
