#!/usr/bin/env bash
# Try the wheels without the machine: in a fresh environment that holds only what installed.txt names
# (of what is needed) and, beside it, the wheels, install nothing else and analyse small checkpoints.
#
#     bash tests/gpu/try_wheels.sh [ARGUMENTS OF PYTEST: tests to run there too]
#
# PYTHON: a Python 3.12 (default python3.12). The environment takes 5 GB while the script runs.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3.12}
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT

cd "$root"
.venv/bin/python -m tests.gpu.wheels --python "$python" --to "$made/wheels" --there "$made/there.txt"
"$python" -m venv "$made/venv"
"$made/venv/bin/pip" install --quiet --disable-pip-version-check --no-compile -r "$made/there.txt"
"$made/venv/bin/pip" install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \
    --target "$made/packages" "$made"/wheels/*.whl
export PYTHONPATH=$root:$made/packages
python=$made/venv/bin/python

"$python" - "$made" <<'PYTHON'
import sys
from importlib.util import find_spec
from pathlib import Path

import torch, transformers

from pipeline.models.organism import OrganismConfig, OrganismForCausalLM

present = [name for name in ("ray", "prefect", "httpx2") if find_spec(name)]
assert not present, f"{present} are not there on the machine, and are here"
print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, "
      f"transformers {transformers.__version__}")
made = Path(sys.argv[1])
for step in (0, 1, 2):
    torch.manual_seed(step)
    model = OrganismForCausalLM(OrganismConfig(vocab_size=64))
    model.save_pretrained(made / "run" / f"step-{step}")
(made / "analysis.yaml").write_text(
    "checkpoints: run\nstore: run.zarr\nmeasures: {head_scores: , copying: , weight_norm: }\n"
)
PYTHON
"$python" -m ontogeny --help >/dev/null
"$python" -m ontogeny analyze "$made/analysis.yaml" --serial
"$python" -m ontogeny query "$made/run.zarr" weight_norm/sum_of_squares
if [ $# -gt 0 ]; then
    "$python" -m pytest -p no:cacheprovider "$@"
fi
