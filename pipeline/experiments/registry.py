"""The experiments, in the order in which they are carried out and listed."""

from collections.abc import Sequence

from pipeline.errors import InputError, suggestion
from pipeline.experiments import (
    forecast,
    grokking,
    initial_frequencies,
    nine_terms,
    optimizers,
    other_operations,
    smeared_keys,
)
from pipeline.experiments.experiment import Experiment

ALL = "all"

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        smeared_keys,
        grokking,
        optimizers,
        nine_terms,
        initial_frequencies,
        forecast,
        other_operations,
    )
}


def chosen_experiments(names: Sequence[str]) -> list[Experiment]:
    """Return the experiments of these names, or all for "all"; raises InputError for others."""
    for name in names:
        if name not in EXPERIMENTS and name != ALL:
            raise InputError(
                f"there is no experiment {name!r}: {suggestion(name, [ALL, *EXPERIMENTS])}"
            )
    return [one for name, one in EXPERIMENTS.items() if ALL in names or name in names]
