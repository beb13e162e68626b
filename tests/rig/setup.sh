#!/usr/bin/env bash
# Makes what the test rig needs and prints the path of its python on the last line of stdout.
#
# That is ZooKeeper (Java comes with it) and strace from Debian, and a virtual environment under REKEEPER_CACHE with the
# packages of requirements.txt. Quick when nothing is to do, safe when two run at once. All other output goes to stderr.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
requirements=$here/requirements.txt
cache=${REKEEPER_CACHE:-$HOME/.cache/rekeeper}
version=$(sha256sum "$requirements" | cut -c1-12)
venv=$cache/venv-$version

mkdir -p "$cache"
exec 9>"$cache/setup.lock"
flock 9

packages_are_there() {
    command -v java >/dev/null && [[ -e /usr/share/java/zookeeper.jar ]] && command -v strace >/dev/null
}

if ! packages_are_there; then
    echo "setup: installing zookeeper and strace" >&2
    # The package `zookeeper` has the program only; the service would be `zookeeperd`.
    install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 zookeeper strace)
    [[ $(id -u) == 0 ]] || install=(sudo "${install[@]}")
    if ! "${install[@]}" >"$cache/apt.log" 2>&1; then
        # A fresh machine has no package lists, or old ones.
        update=(apt-get -o DPkg::Lock::Timeout=300 update)
        [[ $(id -u) == 0 ]] || update=(sudo "${update[@]}")
        "${update[@]}" >"$cache/apt.log" 2>&1 && "${install[@]}" >>"$cache/apt.log" 2>&1 || {
            tail -n 20 "$cache/apt.log" >&2
            echo "setup: zookeeper or strace could not be installed" >&2
            exit 1
        }
    fi
fi

if [[ ! -x $venv/bin/python ]]; then
    echo "setup: making $venv" >&2
    # A directory that is half made never gets the name that is looked for. Its scripts know the old name, so only
    # `python -m` is used.
    building=$(mktemp -d "$cache/building.XXXXXX")
    trap 'rm -rf "$building"' EXIT
    python3 -m venv "$building" >&2
    "$building/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
        -r "$requirements" >&2
    mv -T "$building" "$venv"
    trap - EXIT
fi

echo "$venv/bin/python"
