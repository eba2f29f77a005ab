"""Every stage of an analysis has words for whoever waits for it."""

import re
from pathlib import Path

from pipeline.analysis.run import STAGES

ROOT = Path(__file__).parents[3]
STAGE = re.compile(r"""\.stage\(\s*"(\w+)",""")


def test_every_stage_says_what_it_does() -> None:
    sources = [path for name in ("pipeline", "flows") for path in (ROOT / name).rglob("*.py")]
    begun = {stage for path in sources for stage in STAGE.findall(path.read_text("utf-8"))}
    assert begun == STAGES.keys()
