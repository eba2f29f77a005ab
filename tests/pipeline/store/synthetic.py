"""A synthetic run whose every number follows from its step, its weights and its variant.

So any row that a store shows can be checked without having watched it being written.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.schema import Variable
from pipeline.store import Commit, Row, Store, Template
from pipeline.store.commits import latest
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.writer import Writer

IDENTITY = {"architecture": "synthetic"}


def scores(version: int = 1, layers: int = 2, heads: int = 3) -> Template:
    """Return a small measure: a score per head (NaN for the first) and a number per step."""
    return Template(
        "scores",
        variant_id(measure="scores", version=version, layers=layers),
        (
            Variable("induction", ("step", "layer", "head"), "1", "A score.", "A paper"),
            Variable("count", ("step",), "tokens", "A number.", dtype="int64"),
        ),
        {"layer": np.arange(layers), "head": np.arange(heads)},
        {"version": version, "parameters": {"layers": layers}},
    )


def losses(sequences: int = 4, positions: int = 6) -> Template:
    """Return a large measure: one loss per token, and their mean."""
    return Template(
        "losses",
        variant_id(measure="losses", sequences=sequences, positions=positions),
        (
            Variable("loss", ("step", "sequence", "position"), "nats", "A loss."),
            Variable("mean", ("step",), "nats", "A mean.", dtype="float64"),
        ),
        {"sequence": np.arange(sequences), "position": np.arange(positions)},
        {"version": 1},
    )


def weights_of(step: int, edition: int = 0) -> str:
    """Return the digest of the weights at a step; another edition means other weights."""
    return digest_of([step, edition])


def row_of(template: Template, step: int, edition: int = 0) -> Row:
    digest = weights_of(step, edition)
    return Row(
        step=step,
        fingerprint=fingerprint(template.variant, digest),
        digest=digest,
        uri=f"run/step-{step}",
        tokens_seen=None if step % 2 else step * 1000,
        details={"edition": edition},
    )


def values_of(template: Template, step: int, edition: int = 0) -> dict[str, np.ndarray]:
    """Return a measure's values at a step. The first entry of each float array is NaN."""
    values = {}
    for variable in template.variables:
        seed = zlib.crc32(f"{template.variant} {variable.name} {step} {edition}".encode())
        made = np.random.default_rng(seed).uniform(0, 100, template.shape(variable))
        made = np.asarray(made).astype(variable.dtype)
        if made.ndim and made.size and made.dtype.kind == "f":
            made[0] = np.nan
        values[variable.name] = made
    return values


def write(
    store: Store, template: Template, step: int, edition: int = 0, number: int | None = None
) -> Commit:
    """One committed row, planned now unless the number of a version is given."""
    if number is None:
        number = store.require_groups([template], plan=True).number
    row, values = row_of(template, step, edition), values_of(template, step, edition)
    (commit,) = Writer(store, number, [template]).write([(template.group, row, values)])
    return commit


def run(
    uri: str | Path, templates: Iterable[Template], steps: Iterable[int], edition: int = 0
) -> Store:
    """Make or open a store, and compute what is missing in it, as an analysis does."""
    store, templates, steps = Store(str(uri)), list(templates), list(steps)
    store.create_or_open(IDENTITY)
    number = store.require_groups(templates, plan=True).number
    for template in templates:
        done = latest(store.commits(template.group), template.variant)
        for step in steps:
            wanted = fingerprint(template.variant, weights_of(step, edition))
            if step not in done or done[step].fingerprint != wanted:
                write(store, template, step, edition, number)
    show(store, *templates)
    return store


def show(store: Store, *templates: Template) -> None:
    """Let readers see these variants, as the end of an analysis does."""
    version = store.version()
    variants = {template.group: template.variant for template in templates}
    store.settle(version.number, version.verdict, version.masked, variants, {})


def wrong_rows(
    tree: xr.DataTree, templates: Iterable[Template], edition: int = 0, until: int | None = None
) -> list[str]:
    """Return every visible row whose numbers or digest are wrong for its step and edition.

    until: while a run goes from one edition to another, a row may be of any between the two.
    """
    editions = range(edition, (edition if until is None else until) + 1)
    return [
        f"{template.group} at step {step}"
        for template in templates
        if template.group in tree.children
        for step, shown in _shown(tree.children[template.group].to_dataset())
        if not any(_is_row(shown, template, step, one) for one in editions)
    ]


def _shown(dataset: xr.Dataset) -> list[tuple[int, xr.Dataset]]:
    steps = dataset["step"].values.tolist()
    return [(step, dataset.isel(step=index)) for index, step in enumerate(steps)]


def _is_row(shown: xr.Dataset, template: Template, step: int, edition: int) -> bool:
    return shown["digest"].item() == weights_of(step, edition) and all(
        np.array_equal(shown[name].values, value, equal_nan=value.dtype.kind == "f")
        for name, value in values_of(template, step, edition).items()
    )
