#!/usr/bin/env bash
# Holds every crate that is depended on to scripts/deny.toml: advisories, licences, bans and sources. Needs cargo-deny
# (cargo install cargo-deny --locked); the advisories are fetched from where they are kept.
#
#     scripts/check_dependencies.sh                      # everything
#     scripts/check_dependencies.sh licenses bans sources    # without the network
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-deny >/dev/null || { echo "cargo-deny is missing: cargo install cargo-deny --locked" >&2; exit 2; }
cargo deny --locked --config scripts/deny.toml check "$@"
