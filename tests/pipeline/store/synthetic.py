"""A synthetic run whose every number follows from its step, its weights and its class.

So any row that a store shows can be checked without having watched it being written.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.schema import Variable
from pipeline.store import Commit, Row, Store, Template
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.markers import latest

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


def row_of(template: Template, step: int, row: int, edition: int = 0) -> Row:
    digest = weights_of(step, edition)
    return Row(
        step=step,
        row=row,
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
        if made.ndim and made.dtype.kind == "f":
            made[0] = np.nan
        values[variable.name] = made
    return values


def write(
    store: Store, template: Template, step: int, row: int | None = None, edition: int = 0
) -> Commit:
    """Commit one row, in a fresh storage row unless one is given."""
    if row is None:
        (row,) = store.reserve(template.group, template.variant, 1)
    values = values_of(template, step, edition)
    return store.write(template.group, row_of(template, step, row, edition), values)


def run(
    uri: str | Path, templates: Iterable[Template], steps: Iterable[int], edition: int = 0
) -> Store:
    """Do what an analysis does: create or open the store, and compute the missing rows."""
    store, templates = Store(str(uri)), list(templates)
    store.create_or_open(IDENTITY)
    store.require_groups(templates)
    for template in templates:
        done = latest(store.commits(template.group), template.variant)
        missing = [
            step
            for step in steps
            if step not in done
            or done[step].fingerprint != fingerprint(template.variant, weights_of(step, edition))
        ]
        rows = store.reserve(template.group, template.variant, len(missing))
        for step, row in zip(missing, rows, strict=True):
            write(store, template, step, row, edition)
        store.set_current(template.group, template.variant)
    return store


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
