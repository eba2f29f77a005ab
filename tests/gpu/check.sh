#!/usr/bin/env bash
# Check that Ontogeny computes on this machine's GPU what it computes on a CPU: see docs/gpu.md.
#
#   bash tests/gpu/check.sh [--wheels FOLDER] [arguments of `python -m tests.gpu.check`]
#
# Packages that the machine lacks come as wheels from FOLDER (default: .whl at the root of the
# repository, if it exists) and go to a temporary folder. PYTHON: the interpreter (default python3).
# OUT: where figures and summary are written (default: build/gpu at the root of the repository).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
wheels=$root/.whl
if [ "${1:-}" = --wheels ]; then
    wheels=${2:?--wheels takes a folder}
    shift 2
    [ -d "$wheels" ] || { echo "no folder of wheels: $wheels" >&2; exit 2; }
fi

packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
shopt -s nullglob
found=("$wheels"/*.whl)
if [ ${#found[@]} -gt 0 ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        --no-compile --target "$packages" "${found[@]}"
fi

# All models are made here: without a network, a request would be tried again for minutes.
export HF_HUB_OFFLINE=1
export OUT=${OUT:-$root/build/gpu}
export PYTHONPATH=$root:$packages${PYTHONPATH:+:$PYTHONPATH}
"$python" -m tests.gpu.check "$@"
