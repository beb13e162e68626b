#!/usr/bin/env bash
# Shows Rekeeper at work on a real cluster on this machine: see demo.py. Options: --quick, --tls, --tables N, --keep.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$("$repository/tests/rig/setup.sh" | tail -n 1)
if [[ -z ${REKEEPER_BIN:-} ]]; then
    cargo build --release --locked --workspace --bins --manifest-path "$repository/Cargo.toml"
    export REKEEPER_BIN=${CARGO_TARGET_DIR:-$repository/target}/release
fi
exec "$python" "$repository/deploy/demo.py" "$@"
