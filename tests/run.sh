#!/usr/bin/env bash
# Everything that has to hold before a change is merged: format, lints, documentation, dependencies, tests. The one command
# of CI. What takes longer does something else:
#
#     --mutants            takes out one guard after the other, and demands that a cargo test notices
#                          (tests/mutants/run.py --plain)
#     --matrix [ENGINE...] every end-to-end test, also those that tests/e2e/long.py leaves out here, on every engine of the rig
#                          or on those named; writes docs/compatibility.md (tests/matrix/run.py)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scratch=$(mktemp -d)
# The tests make their temporary directories in here, so that nothing is left of a run that was interrupted. Their
# processes end by themselves when the one that started them is gone.
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
export TMPDIR=$scratch

stage() {
    echo "== $(date -u +%H:%M:%S) $*"
}

stage "test rig"
python=$(tests/rig/setup.sh | tail -n 1)
# With it Rust's integration tests start a ZooKeeper: tests/rig/rig.py zookeeper.
export REKEEPER_RIG_PYTHON=$python

case ${1:-} in
--mutants)
    stage "mutants"
    tests/mutants/run.py --plain
    exit
    ;;
--matrix)
    stage "programs"
    cargo build --workspace --bins --examples --locked
    export REKEEPER_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug
    stage "cargo test, as it were on ClickHouse Keeper"
    REKEEPER_TEST_KEEPER=25.8 cargo test -p rekeeper-agent --test zookeeper --locked
    stage "matrix"
    # Its end is told when the rest has run, too.
    code=0
    tests/matrix/run.py "${@:2}" || code=$?
    stage "cargo test of what takes half an hour"
    cargo test -p rekeeper-agent --test clickhouse --locked -- --ignored
    exit "$code"
    ;;
"") ;;
*)
    echo "usage: tests/run.sh [--mutants | --matrix [ENGINE...]]" >&2
    exit 2
    ;;
esac

stage "mutants apply"
tests/mutants/run.py --check
stage "benchmarks compile"
"$python" -m py_compile tests/benches/*.py
stage "dependencies"
tools=$(tests/tools.sh | tail -n 1)
"$tools/cargo-deny" --locked --config tests/deny.toml check licenses bans sources
"$tools/cargo-machete" --skip-target-dir .
stage "cargo fmt"
cargo fmt --all --check
stage "cargo clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings
stage "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --workspace --locked
stage "cargo test"
cargo test --workspace --locked
stage "programs"
cargo build --workspace --bins --locked
export REKEEPER_BIN=${CARGO_TARGET_DIR:-$PWD/target}/debug
stage "end to end"
"$python" -m pytest tests/e2e -m "not long" -n 2 --dist loadfile --durations 20
