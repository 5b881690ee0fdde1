# kafkalog: the commands of the README. On a fresh Debian 12 machine, as root or with sudo.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO ?= cargo
REQUESTS ?= 100000

# What the build and the tests need from Debian.
PACKAGES := ca-certificates g++ gcc libclang-dev libc6-dev libsasl2-dev libssl-dev libvarnishapi-dev make maven openjdk-17-jre-headless openssl pkg-config python3 varnish zlib1g-dev

.PHONY: help setup build release demo test lint loom bench deny clean

help: ## Show the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# Where there is no cargo, or an old one, Debian 12 has a recent Rust under names of its own. rustup's cargo fetches what
# rust-toolchain.toml asks for.
setup: ## Install what is missing: Debian packages, and a Rust that is new enough
	@missing=(); \
	for package in $(PACKAGES); do \
		dpkg-query -W -f='$${Status}\n' "$$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$$package"); \
	done; \
	version=$$($(CARGO) --version 2>/dev/null | cut -d ' ' -f 2 || true); \
	if [ -z "$$version" ] || ! printf '1.95\n%s\n' "$$version" | sort -C -V; then missing+=(cargo-web rustc-web rustfmt-web); fi; \
	if [ "$${#missing[@]}" -gt 0 ]; then \
		echo "installing $${missing[*]}"; \
		$(SUDO) apt-get update -q; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$${missing[@]}"; \
	fi
	@version=$$($(CARGO) --version | cut -d ' ' -f 2); \
	printf '1.95\n%s\n' "$$version" | sort -C -V || { echo "$(CARGO) is $$version and 1.95 is needed: is an old one first in PATH?" >&2; exit 1; }; \
	echo "cargo $$version"

build: setup ## Build the programs and the module, unoptimised
	$(CARGO) build --workspace --bins
	$(CARGO) build -p vmod_kafkalog

# The module by itself: together, it would get the programs' features as well.
release: setup ## Build the programs and the module as they are deployed
	$(CARGO) build --release -p kafkalog -p kafkalog-sink -p kafkalog-tests --bins
	$(CARGO) build --release -p vmod_kafkalog

demo: release ## Run the whole pipeline on this machine and count what arrives (REQUESTS=100000)
	@target/release/demo --requests $(REQUESTS)

# Tests that need servers note here, one a line, why they did not run. With CI in the environment they fail.
SKIPPED := target/servers/skipped

# A Kerberos realm, for a broker that wants tickets.
test: PACKAGES += krb5-admin-server krb5-kdc krb5-user libsasl2-modules-gssapi-mit
test: build ## Run every test, those with a real varnishd and real Kafkas included
	@rm -f $(SKIPPED)
	$(CARGO) test --workspace
	$(MAKE) loom
	@if [ -s $(SKIPPED) ]; then echo "test: DID NOT RUN, for want of servers:" >&2; sed 's/^/  /' $(SKIPPED) >&2; fi

loom: setup ## Try every interleaving of the ring's two threads
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(CARGO) test -p kafkalog --no-default-features --lib ring

# Debian has rustfmt beside its recent Rust, but no clippy.
lint: setup ## Check format and lints
	$(CARGO) fmt --all -- --check
	@if $(CARGO) clippy --version >/dev/null 2>&1; then \
		$(CARGO) clippy --workspace --all-targets -- -D warnings; \
	else \
		echo "lint: clippy SKIPPED, this cargo has none (rustup's does)" >&2; \
	fi

bench: PACKAGES += valgrind
bench: release ## Run the benchmarks: the parts, beside varnishncsa, and in a varnishd under load
	$(CARGO) build --release -p kafkalog-benches --bins
	$(CARGO) bench -p kafkalog-benches
	@target/release/side-by-side
	@target/release/live-loggers
	@target/release/real-kafka
	@target/release/live
	@test "$$(nproc)" -lt 2 || target/release/live --spare-core

deny: ## Check licences, bans and sources (needs cargo-deny)
	$(CARGO) deny check

clean: ## Remove what was built
	$(CARGO) clean
