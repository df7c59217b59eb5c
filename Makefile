# Builds, runs, tests and packages pgweir. Every target installs the packages that it needs (see tests/deps.sh) and starts
# its own servers.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Arguments for `make bench`, for example ARGS='--quick --pgbouncer /opt/pgbouncer-1.25/bin/pgbouncer'.
ARGS ?=
# How long each fuzz target runs.
FUZZ_SECONDS ?= 60

.PHONY: help run test check bench fuzz image deb deps clean

help: ## Print this list.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: ## Run pgweir on 127.0.0.1:6432 (PGWEIR_LISTEN_PORT) for DATABASE_URL or a temporary private PostgreSQL.
	@tests/deps.sh build run
	@$(CARGO) build --release --locked --bin pgweir
	@config/demo.sh $(TARGET)/release/pgweir

test: ## Run every test. The tests start their own PostgreSQL.
	@tests/deps.sh build test
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-8} $(CARGO) test --locked

check: ## Check formatting, lints and documentation. A warning is an error.
	@tests/deps.sh build
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

bench: ## Run the load benchmark against PgBouncer: about 20 minutes, 5 with ARGS=--quick; see docs/benchmarks.md.
	@tests/deps.sh build bench
	$(CARGO) bench --locked --bench load -- $(ARGS)

fuzz: ## Run every fuzz target for FUZZ_SECONDS (60). Needs nightly Rust and cargo-fuzz.
	@tests/deps.sh build fuzz
	@$(CARGO) +nightly --version >/dev/null 2>&1 || { \
	    echo 'make fuzz needs nightly Rust. Install it with: rustup toolchain install nightly' >&2; exit 1; }
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { \
	    echo 'make fuzz needs cargo-fuzz. Install it with: cargo install cargo-fuzz' >&2; exit 1; }
	set -e; for target in $$($(CARGO) +nightly fuzz list --fuzz-dir tests/fuzz); do \
	    mkdir -p tests/fuzz/target/corpus/$$target; \
	    $(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz $$target \
	        tests/fuzz/target/corpus/$$target tests/fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS); \
	done

image: ## Build the Docker image pgweir:latest.
	docker build --file docker/Dockerfile --tag pgweir .

deb: ## Build the Debian package in target/debian. Needs cargo-deb.
	@tests/deps.sh build
	@$(CARGO) deb --version >/dev/null 2>&1 || { \
	    echo 'make deb needs cargo-deb. Install it with: cargo install --locked cargo-deb' >&2; exit 1; }
	$(CARGO) deb --locked

deps: ## Install the distribution's packages that the targets above need.
	@tests/deps.sh build run test bench

clean: ## Remove build output and benchmark results.
	$(CARGO) clean
	rm -rf benches/out
