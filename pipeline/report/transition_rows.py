"""The transitions that a figure shows: those of losses, and of heads above their null."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.findings.number_format import head_name, in_words

LEAST = 0.1  # change of a head above its null that is drawn, as a share of its attention
LOSSES = {
    "token_loss": ("mean", "in_context_score"),
    "modular_addition": ("train_loss", "test_loss", "restricted_loss", "excluded_loss"),
}


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


def row_label(row: Any) -> str:
    """Return the name of a row's series: a variable in words, and its head if it is of one."""
    group, _, given = str(row.group).partition(".")
    name = (
        "mean loss" if (group, row.variable) == ("token_loss", "mean") else in_words(row.variable)
    )
    on = f" ({given})" if given else ""
    return (f"{head_name(row.layer, row.head)} " if row.head >= 0 else "") + name + on
