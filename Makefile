# kafkalog: the commands of the README. On a fresh Debian 12 machine, as root or with sudo.

SHELL := /bin/bash
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO := cargo

# What the build and the tests need from Debian.
PACKAGES := ca-certificates g++ gcc libclang-dev libc6-dev libvarnishapi-dev make pkg-config python3 varnish zlib1g-dev

.PHONY: help setup build release test lint loom demo deny clean

help: ## Show the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## Install what is missing: Debian packages, and a Rust that is new enough
	@missing=$$(for package in $(PACKAGES); do dpkg-query -W -f='$${Status}\n' $$package 2>/dev/null | grep -q '^install ok installed' || echo $$package; done); \
	cargo --version >/dev/null 2>&1 || missing="$$missing cargo-web rustc-web"; \
	if [ -n "$$missing" ]; then \
		echo "installing" $$missing; \
		$(SUDO) apt-get update -q && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -q -y --no-install-recommends $$missing; \
	fi
	@$(CARGO) --version

build: setup ## Build the programs and the module, unoptimised
	$(CARGO) build --workspace --bins
	$(CARGO) build -p vmod_kafkalog

release: setup ## Build the programs and the module as they are deployed
	$(CARGO) build --release -p kafkalog -p kafkalog-sink --bins
	$(CARGO) build --release -p vmod_kafkalog

test: build ## Run every test, those with a real varnishd included
	$(CARGO) test --workspace
	$(MAKE) loom

demo: release ## Drive 100,000 requests through varnishd, Kafka and the sink, and compare both ends
	$(CARGO) build --release -p kafkalog-tests --bin demo
	KAFKALOG_BIN_DIR=$(CURDIR)/target/release target/release/demo

loom: setup ## Try every interleaving of the ring's two threads
	RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom $(CARGO) test -p kafkalog --no-default-features --lib ring

lint: setup ## Check format and lints
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

deny: ## Check licences, bans and sources (needs cargo-deny)
	$(CARGO) deny check

clean: ## Remove what was built
	$(CARGO) clean
