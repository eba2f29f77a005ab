"""The questions of docs/queries.md, and stores in which they have an answer."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.store import Row, Store, Template
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.writer import Writer

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
    """The names that the page defines before its questions, in the folder of the stores."""
    (block,) = re.findall(
        r"```python\n(.+?)\n```", PAGE.read_text().partition("**1.")[0], re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(block, names)
    return names


def templates(layers: int, heads: int, sequences: int, positions: int) -> list[Template]:
    """The groups `head_scores` and `token_loss` as their measures declare them, in a given size."""
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


def row(template: Template, step: int) -> Row:
    """A row of a step, which has seen a thousand times as many tokens."""
    digest = digest_of(step)
    mark = fingerprint(template.variant, digest)
    return Row(step, mark, digest, f"run/step-{step}", tokens_seen=step * 1000)


def values(template: Template, dice: np.random.Generator) -> dict[str, Any]:
    """Random numbers in the range of scores."""
    return {
        variable.name: dice.random(template.shape(variable), dtype=np.float32)
        for variable in template.variables
    }


def fill(uri: str, made: list[Template], steps: Iterable[int]) -> Store:
    """A whole store of random numbers."""
    store, dice = create(uri, made), np.random.default_rng(0)
    writer = Writer(store, store.version().number, made)
    for step in steps:
        writer.write([(one.group, row(one, step), values(one, dice)) for one in made])
    return store
