#!/usr/bin/env bash
# Run tests with the oldest versions that pyproject.toml allows of what the engine computes with.
#
#     tests/older_versions.sh [ARGUMENTS OF PYTEST]      e.g. tests/pipeline/engine -n 2
#
# Makes an environment of the Python in $PYTHON (python3.12) in the folder $OLDER (.older/) unless it is
# there. torch's wheels for Linux include CUDA: the environment takes 6 GB. The Hub's tests are skipped,
# since the extra `hub` needs a newer huggingface_hub than this transformers allows.
set -euo pipefail
cd "$(dirname "$0")/.."

older=${OLDER:-.older}
if [[ ! -e $older/ready || tests/older-versions.txt -nt $older/ready || pyproject.toml -nt $older/ready ]]; then
    echo "==> setting up $older (a few minutes the first time)"
    [[ -x $older/bin/python ]] || "${PYTHON:-python3.12}" -m venv "$older"
    # One version of each package: those of constraints.txt, but for the ones that are replaced.
    names=$(sed -n 's/==.*//p' tests/older-versions.txt)
    grep --invert-match --ignore-case --file <(sed 's/.*/^&=/' <<<"$names") \
        constraints.txt | cat - tests/older-versions.txt >"$older/constraints.txt"
    "$older/bin/pip" install --quiet --disable-pip-version-check -c "$older/constraints.txt" \
        -e '.[engine,flows,s3,adapters,parquet,dask,figures,netcdf,pools,test]'
    touch "$older/ready"
fi
exec "$older/bin/python" -m pytest "$@"
