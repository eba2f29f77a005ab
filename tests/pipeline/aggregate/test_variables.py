"""Units, dimensions and definitions of all results over checkpoints."""

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from pipeline.aggregate.axes import explain_axes
from pipeline.aggregate.backtest import backtest
from pipeline.aggregate.corner import find_corner
from pipeline.aggregate.derivative import loss_derivative
from pipeline.aggregate.derivatives_by_size import compare_derivatives
from pipeline.aggregate.forecast import now, others_mean
from pipeline.aggregate.in_context import (
    compare_positions,
    final_scores,
    in_context_scores,
    loss_by_position,
)
from pipeline.aggregate.kinds_of_token import by_kind_of_token, variability_over_runs
from pipeline.aggregate.learning_curves import learning_curves
from pipeline.aggregate.logit_components import logit_gram
from pipeline.aggregate.loss_space import loadings, loss_space
from pipeline.aggregate.run_transitions import transitions_of
from pipeline.aggregate.threshold import calibrate
from pipeline.aggregate.token_features import token_features
from pipeline.aggregate.variables import DIMENSIONS, UNITS
from tests.pipeline.aggregate.losses import as_group
from tests.pipeline.aggregate.planted_sweeps import sweep

_RNG = np.random.default_rng(0)
STEPS = np.arange(1, 13)
ONE, OTHER = (as_group(_RNG.uniform(0, 9, (12, 6, 8)), steps=STEPS) for _ in range(2))
RUNS = {"one": ONE, "other": OTHER}
FEATURES = token_features(_RNG.integers(0, 4, (6, 9)))
SWEEP = sweep([300, 400, 500, 600])

RESULTS: dict[str, Callable[[], xr.Dataset]] = {
    "loss_space": lambda: loss_space(RUNS, 3),
    "loadings": lambda: loadings({"one": ONE["loss"]}, loss_space({"one": ONE}, 3)).to_dataset(),
    "corner": lambda: find_corner(loss_space(RUNS), "one", simulations=20, transition=(3, 4)),
    "axes": lambda: explain_axes(
        {"one": ONE}, loss_space({"one": ONE}), FEATURES, components=1, resamples=5
    ),
    "token_features": lambda: FEATURES,
    "loss_by_position": lambda: loss_by_position(ONE),
    "in_context_scores": lambda: in_context_scores(ONE),
    "compare_positions": lambda: compare_positions(ONE, OTHER, tokens=(2, 6)),
    "final_scores": lambda: final_scores({**RUNS, "third": ONE}),
    "loss_derivative": lambda: loss_derivative(ONE),
    "compare_derivatives": lambda: compare_derivatives(RUNS, {"one": 1.0, "other": 2.0}, 5),
    "learning_curves": lambda: learning_curves(ONE),
    "by_kind_of_token": lambda: by_kind_of_token(learning_curves(ONE), FEATURES),
    "variability_over_runs": lambda: variability_over_runs(
        {name: learning_curves(group) for name, group in RUNS.items()}
    ),
    "calibrate": lambda: calibrate(SWEEP),
    "backtest": lambda: backtest(SWEEP, [others_mean(), now()]),
    "logit_gram": lambda: logit_gram(ONE["loss"]).to_dataset(name="gram"),
    "transitions": lambda: transitions_of(
        xr.DataTree.from_dict({"token_loss": ONE, "other": OTHER[["in_context_score"]]})
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_units_and_dimensions_are_declared_and_definitions_are_a_sentence(name: str):
    found = RESULTS[name]()
    assert found.data_vars
    assert {str(dim) for dim in found.sizes} <= set(DIMENSIONS)
    for variable, values in found.data_vars.items():
        assert values.attrs["units"] in UNITS, variable
        definition = values.attrs["definition"]
        assert definition.endswith("."), variable
        assert definition[0].isupper() or definition[0].isdigit() or definition.startswith("log10")
        if values.dtype.kind in "OU":
            assert values.attrs["units"] == "1", "as CF has it of flags"


def test_the_unit_of_every_series_is_known():
    ONE["in_context_score"].attrs["units"] = "nats"
    table = RESULTS["transitions"]()
    units = dict(zip(table["group"].values, table["unit"].values, strict=True))
    assert units == {"token_loss": "nats", "other": ""}
    assert table["amplitude"].attrs["units"] == "unit of the series"
