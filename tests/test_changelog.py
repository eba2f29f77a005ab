"""The table of versions in CHANGELOG.md is that of the code."""

import importlib
import re
from pathlib import Path

from pipeline.engine.forward import ENGINE_VERSION
from pipeline.measures import registry
from pipeline.store.versions import LAYOUT

CHANGELOG = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()


def versions(text: str) -> dict[str, int]:
    """Return the versions in the tables below the heading "Versions"."""
    section = text.partition("\n## Versions\n")[2].partition("\n## ")[0]
    return {name: int(n) for name, n in re.findall(r"^\| `?([\w ]+?)`? \| (\d+) \|", section, re.M)}


def test_versions_are_those_of_the_code() -> None:
    own = {name: kind.version for name, kind in registry().items()}
    assert versions(CHANGELOG) == own | {"engine": ENGINE_VERSION, "store layout": LAYOUT}


def test_measures_are_listed_in_order_of_name() -> None:
    listed = [name for name in versions(CHANGELOG) if name not in ("engine", "store layout")]
    assert listed == sorted(listed)


def test_modules_that_have_moved_are_where_the_table_says() -> None:
    table = CHANGELOG.partition("| before | now |")[2].partition("\n## ")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| `")]
    moved = [name for row in rows for name in re.findall(r"`((?:pipeline|flows)\.[\w.]+)`", row)]
    assert len(moved) > 10
    for name in moved:
        importlib.import_module(name)
