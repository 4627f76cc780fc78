#!/bin/sh
# setup_peers.sh [PYTHON]: what the benchmarks compare with. Python peers go into a virtual environment of their
# own, exactly as requirements-peers.lock names them; wrk and hey come from Debian. Nothing of it is part of perfkit.
set -eu
python=${1:-python3.11}
cd "$(dirname "$0")/.."
lock=benchmarks/requirements-peers.lock venv=.bench/venv

for tool in wrk hey; do
    command -v "$tool" >/dev/null && continue
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing Debian's $tool for the benchmarks"
        { apt-get update -qq && apt-get install -y -qq "$tool"; } >/dev/null 2>&1 && continue
    fi
    echo "the benchmarks miss $tool and leave it out: install the package $tool and run make bench again" >&2
done

cmp -s "$lock" "$venv/installed.lock" && exit 0
command -v "$python" >/dev/null || { echo "the benchmarks need Python 3.11: '$python' not found; give its name" >&2; exit 1; }
echo "setting up $venv (once; a minute)"
"$python" -m venv --clear "$venv" || { echo "'$python -m venv' failed; on Debian: apt-get install python3.11-venv" >&2; exit 1; }
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
cp "$lock" "$venv/installed.lock"
