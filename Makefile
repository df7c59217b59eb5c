# What one does with a checkout. Every target installs what it misses (see tests/deps.sh) and starts its own servers.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Arguments for `make bench`, for example ARGS='--quick --pgbouncer /opt/pgbouncer-1.25/bin/pgbouncer'.
ARGS ?=
# How long each fuzz target runs.
FUZZ_SECONDS ?= 60

.PHONY: help run test check bench fuzz image deb deps clean

help: ## This list.
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: ## Pool DATABASE_URL, or a private throw-away PostgreSQL, on 127.0.0.1:6432 (PGWEIR_LISTEN_PORT).
	@tests/deps.sh build run
	@$(CARGO) build --release --locked --bin pgweir
	@config/demo.sh $(TARGET)/release/pgweir

test: ## Every test, against a real PostgreSQL that the tests start themselves.
	@tests/deps.sh build test
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-8} $(CARGO) test --locked

check: ## Formatting, lints and documentation, without warnings.
	@tests/deps.sh build
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps

bench: ## The load benchmark beside PgBouncer: some 20 minutes, or 5 with ARGS=--quick; docs/benchmarks.md.
	@tests/deps.sh build bench
	$(CARGO) bench --locked --bench load -- $(ARGS)

fuzz: ## Every fuzz target for FUZZ_SECONDS (60); wants nightly Rust and cargo-fuzz.
	@tests/deps.sh build fuzz
	@$(CARGO) +nightly --version >/dev/null 2>&1 || { \
	    echo 'make fuzz wants nightly Rust. First: rustup toolchain install nightly' >&2; exit 1; }
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 || { \
	    echo 'make fuzz wants cargo-fuzz. First: cargo install cargo-fuzz' >&2; exit 1; }
	set -e; for target in $$($(CARGO) +nightly fuzz list --fuzz-dir tests/fuzz); do \
	    mkdir -p tests/fuzz/target/corpus/$$target; \
	    $(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz $$target \
	        tests/fuzz/target/corpus/$$target tests/fuzz/corpus/$$target -- -max_total_time=$(FUZZ_SECONDS); \
	done

image: ## The Docker image, as pgweir:latest.
	docker build --file docker/Dockerfile --tag pgweir .

deb: ## The Debian package, in target/debian; wants cargo-deb.
	@tests/deps.sh build
	@$(CARGO) deb --version >/dev/null 2>&1 || { \
	    echo 'make deb wants cargo-deb. First: cargo install --locked cargo-deb' >&2; exit 1; }
	$(CARGO) deb --locked

deps: ## Install what all of the above need, from the distribution.
	@tests/deps.sh build run test bench

clean: ## Remove what was built and measured.
	$(CARGO) clean
	rm -rf benches/out
