"""Stores of runs made by hand, from the groups of `tests.pipeline.report.fake`."""

import numpy as np
import xarray as xr

from pipeline.schema import DIMENSIONS, Variable, declare_dimension
from pipeline.store import Row, Template
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.writer import Writer
from tests.pipeline.query import questions
from tests.pipeline.report import fake

STEPS = fake.STEPS
HEAD = ("step", "layer", "head")


def stored(uri: str, steps=STEPS, **groups: xr.Dataset) -> str:
    """Write a store that holds the groups at the given steps; return its address."""
    made = {name: _template(name, group) for name, group in groups.items()}
    writer = Writer(questions.create(uri, made.values()), 1, list(made.values()))
    for step in steps:
        digest = digest_of(int(step))
        rows = []
        for name, template in made.items():
            if step in groups[name]["step"].values:
                at = groups[name].sel(step=step)
                mark = fingerprint(template.variant, digest)
                row = Row(int(step), mark, digest, f"run/step-{step}", int(step) * 4096)
                rows.append((name, row, {str(v): at[v].values for v in at.data_vars}))
        writer.write(rows)
    return uri


def _template(name: str, group: xr.Dataset) -> Template:
    variables = tuple(
        Variable(str(v), ("step", *(d for d in values.dims if d != "step")), values.attrs["unit"],
                 values.attrs["definition"], values.attrs["references"], dtype=str(values.dtype))
        for v, values in group.data_vars.items()
    )  # fmt: skip
    dims = {dim for one in variables for dim in one.dims[1:]}
    coordinates = {dim: group[dim].values for dim in sorted(dims)}
    return Template(name, variant_id(of=name), variables, coordinates, dict(group.attrs))


def ablation(steps=STEPS[::5], layers=2, heads=4, seed=1) -> xr.Dataset:
    """Return effects of ablation at every fifth step."""
    values = np.random.default_rng(seed).normal(0, 0.5, (2, len(steps), layers, heads))
    loss, repeated = values.astype("f4")
    undefined = np.full_like(loss, np.nan)
    arrays = {"loss": (HEAD, loss), "repeated_loss": (HEAD, repeated),
              "in_context_score": (HEAD, undefined)}  # fmt: skip
    return fake.group("head_ablation", arrays, steps)


def composition(steps=STEPS[::3], layers=2, heads=4, seed=2) -> xr.Dataset:
    """Return composition of random size, NaN where the later head is not later."""
    dims = ("step", "layer_from", "head_from", "layer_to", "head_to")
    shape = (len(steps), layers, heads, layers, heads)
    made = np.random.default_rng(seed).uniform(0, 1, (3, *shape)).astype("f4")
    later = np.arange(layers)[:, None] < np.arange(layers)[None]
    made = np.where(later[None, None, :, None, :, None], made, np.nan).astype("f4")
    arrays = {path: (dims, values) for path, values in zip("kqv", made, strict=True)}
    arrays |= {f"{path}_baseline": (dims, np.full(shape, 0.125, "f4")) for path in "kqv"}
    coords = {dim: np.arange(n) for dim, n in zip(dims[1:], shape[1:], strict=True)}
    return fake.group("composition", arrays, steps, None, coords)


def attention(steps=STEPS[::8], layers=2, heads=4, seed=3) -> xr.Dataset:
    """Return attention of two sequences of five tokens."""
    dims = ("step", "sequence", "layer", "head", "query", "key")
    for dim in {*dims} - DIMENSIONS.keys():
        declare_dimension(dim, "a token")
    shape = (len(steps), 2, layers, heads, 5, 5)
    values = np.tril(np.random.default_rng(seed).uniform(0, 1, shape)).astype("f4")
    coords = {"query": np.arange(5), "key": np.arange(5)}
    return fake.group("attention_patterns", {"attention": (dims, values)}, steps, "text", coords)


def head_scores() -> xr.Dataset:
    """Return head scores with a null of induction that differs by head and step, up to 0.002."""
    made = fake.head_scores()
    null = made["induction_null"]
    values = np.random.default_rng(4).uniform(0, 0.002, null.shape).astype("f4")
    return made.assign(induction_null=null.copy(data=values))


def language(uri: str, **more: xr.Dataset) -> str:
    """Write a run of two layers with all that a language model's site shows."""
    groups = {
        "head_scores": head_scores(), "head_ablation": ablation(),
        "composition": composition(), "token_loss": fake.token_loss(),
        "weight_norm": fake.weight_norm(), "attention_patterns": attention(),
    }  # fmt: skip
    return stored(uri, **(groups | more))
