"""The transitions that figures and tables show, and in words what changed and how often."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.aggregate.transitions import FEWEST
from pipeline.findings.number_format import in_words
from pipeline.models.head_names import head_name

LEAST = 0.1  # change of a head above its null that is drawn, as a share of its attention
# Losses and the in-context score, in the order in which they are shown, with their colour roles.
LOSSES = {
    "token_loss": {"mean": "loss", "in_context_score": "in_context"},
    "modular_addition": {
        "train_loss": "train", "test_loss": "test", "restricted_loss": "restricted",
        "excluded_loss": "excluded",
    },
}  # fmt: skip
ERRORS = (
    "Random walks look sudden too: about a quarter of series that only wander are said to have a "
    "transition, and about 2% of smooth or constant noisy series are."
)


def loss_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the transitions of losses and of the in-context score, in that order."""
    measure = table["group"].map(lambda group: group.partition(".")[0])
    parts = [
        table.loc[(measure == group) & (table["variable"] == name)]
        for group, names in LOSSES.items()
        for name in names
    ]
    return pd.concat(parts)


def head_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the transitions of scores with a null, the largest above it first.

    above: the change, or as much of it as lies above the null before or after.
    """
    heads = table.loc[(table["head"] >= 0) & table["excess_after"].notna()]
    change = heads["amplitude"].to_numpy()
    highest = heads["excess_after"].to_numpy() + np.maximum(-change, 0)
    heads = heads.assign(above=np.minimum(np.abs(change), highest))
    return heads.sort_values(by="above", ascending=False, kind="stable")


def other_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the transitions that neither `loss_rows` nor `head_rows` has, in their order."""
    taken = loss_rows(table).index.union(head_rows(table).index)
    return table.loc[table.index.difference(taken, sort=False)]


def rows_of(table: pd.DataFrame) -> Iterator[Any]:
    """Yield the rows of a table, with a column's value as an attribute of its name."""
    yield from table.itertuples()


def series_name(group: str, variable: str) -> str:
    """Return a series in words: its variable, with the measure and the input where these matter."""
    measure, _, given = group.partition(".")
    name = "mean loss" if (measure, variable) == ("token_loss", "mean") else in_words(variable)
    if variable not in LOSSES.get(measure, ()) and measure != "head_scores":
        name = f"{in_words(measure)}: {name}"
    return f"{name} ({given})" if given else name


def row_label(row: Any) -> str:
    """Return the name of a row's series: a variable in words, and its head if it is of one."""
    head = f"{head_name(row.layer, row.head)} " if row.head >= 0 else ""
    return head + series_name(str(row.group), str(row.variable))


def counts(found: xr.Dataset, steps: int) -> str:
    """Return what shapes the series have, and how often that is wrong.

    found: the stored transitions. steps: the most checkpoints of any group.
    """
    total = f"{found.sizes['series']:,} series"
    if steps < FEWEST:
        return (
            f"Whether {total} change suddenly cannot be told from fewer than {FEWEST} checkpoints."
        )
    shapes = Counter(str(shape) for shape in found["shape"].values)
    return (
        f"Of {total}, {shapes['sudden']} change suddenly, {shapes['smooth']} smoothly and "
        f"{shapes['none']} not beyond their noise; {shapes['cannot tell']} cannot be told. {ERRORS}"
    )
