"""The questions of docs/queries.md, and stores in which they have an answer."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store import Row, Store, Template
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id

PAGE = Path(__file__).parents[3] / "docs" / "queries.md"
_QUESTION = re.compile(
    r"\*\*\d+\. (?P<title>.+?)\*\*.*?```python\n(?P<python>.+?)\n```.*?```sh\n(?P<shell>.+?)\n```",
    re.DOTALL,
)


@dataclass(frozen=True)
class Question:
    title: str
    python: str  # one expression
    shell: str  # one command


def questions() -> list[Question]:
    return [Question(**match.groupdict()) for match in _QUESTION.finditer(PAGE.read_text())]


def preamble() -> dict[str, Any]:
    """Return the names that the page defines before its questions."""
    (block,) = re.findall(
        r"```python\n(.+?)\n```", PAGE.read_text().partition("**1.")[0], re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def templates(layers: int, heads: int, sequences: int, positions: int) -> list[Template]:
    """Return templates of `head_scores` and `token_loss` in a given size."""
    from pipeline.measures import measure_class

    sizes = {"layer": layers, "head": heads, "sequence": sequences, "position": positions}
    made = []
    for name in ("head_scores", "token_loss"):
        variables = measure_class(name).variables
        dims = {dim for variable in variables for dim in variable.dims[1:]}
        coordinates = {dim: np.arange(sizes[dim]) for dim in sorted(dims)}
        made.append(Template(name, variant_id(of=name, sizes=sizes), variables, coordinates))
    return made


def create(uri: str, templates: Iterable[Template]) -> Store:
    store = Store(uri)
    store.create_or_open({"made": "for measuring"})
    store.require_groups(templates)
    return store


def reserve(store: Store, template: Template, steps: Iterable[int]) -> Iterator[Row]:
    """Yield a reserved row for each step; tokens seen are a thousand times the step."""
    steps = list(steps)
    rows = store.reserve(template.group, template.variant, len(steps))
    for step, row in zip(steps, rows, strict=True):
        digest = digest_of(step)
        mark = fingerprint(template.variant, digest)
        yield Row(step, row, mark, digest, f"run/step-{step}", tokens_seen=step * 1000)


def values(template: Template, dice: np.random.Generator) -> dict[str, Any]:
    """Return random numbers in the range of scores."""
    return {
        variable.name: dice.random(template.shape(variable), dtype=np.float32)
        for variable in template.variables
    }


def fill(uri: str, made: list[Template], steps: Iterable[int]) -> Store:
    """Create a whole store of random numbers."""
    store, steps, dice = create(uri, made), list(steps), np.random.default_rng(0)
    for template in made:
        for row in reserve(store, template, steps):
            store.write(template.group, row, values(template, dice))
    return store
