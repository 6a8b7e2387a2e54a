#!/bin/sh
# Installs what benchmarks/run.py measures beside sandlock. Run again at will.
#   benchmarks/setup_peers.sh            bubblewrap, redis and the original (Rust) sandlock 0.9.0
#   benchmarks/setup_peers.sh --wheel    also a wheel of this tree, in benchmarks/.venv-wheel
# Both import names are `sandlock`, so the original gets an environment of its own.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}

missing=
for tool in bwrap:bubblewrap redis-server:redis-server redis-benchmark:redis-tools git:git gcc:gcc; do
    command -v "${tool%%:*}" >/dev/null || missing="$missing ${tool##*:}"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then
        # shellcheck disable=SC2086  # a list of packages
        apt-get install -y --no-install-recommends $missing
    else
        echo "not root, so please: sudo apt-get install$missing" >&2
    fi
fi

[ -x .venv-original/bin/python ] || "$python" -m venv .venv-original
.venv-original/bin/pip -q install sandlock==0.9.0

if [ "${1:-}" = --wheel ]; then
    rm -rf .venv-wheel
    "$python" -m venv .venv-wheel
    .venv-wheel/bin/pip -q install ..
    echo "now: benchmarks/.venv-wheel/bin/python benchmarks/run.py"
fi
