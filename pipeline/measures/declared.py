"""Declarations of the packaged measures, read from a file instead of their classes: without torch.

`python -m pipeline.measures.known` writes the file from the measures' classes.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "declared.json"


@cache
def declared() -> dict[str, dict[str, Any]]:
    """Return the description of every packaged measure by its name, as `describe` gives it."""
    return {one["name"]: one for one in json.loads(FILE.read_text(encoding="utf-8"))}
