"""Declarations of the packaged measures, read from a file instead of their classes: without torch.

`python -m pipeline.measures.known` writes the file from the measures' classes.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.measures.names import measures_of_entry_points, split_key, unknown_measure

FILE = Path(__file__).parent / "declared.json"


@cache
def declared() -> dict[str, dict[str, Any]]:
    """Return the description of every packaged measure by its name, as `describe` gives it."""
    return {one["name"]: one for one in json.loads(FILE.read_text(encoding="utf-8"))}


def refuse_unknown(keys: Iterable[str]) -> None:
    """Raise InputError for keys of `measures` that name no measure: a sentence for each.

    Those that give a file or module of the user's own are not looked at, since that imports them.
    """
    known = {*declared(), *measures_of_entry_points()}
    names = dict.fromkeys(split_key(key)[0] for key in keys)
    unknown = [name for name in names if ":" not in name and name not in known]
    if unknown:
        raise InputError(*(str(unknown_measure(name, known)) for name in unknown))
