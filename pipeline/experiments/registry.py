"""The experiments, in the order in which they are carried out and listed."""

from collections.abc import Sequence

from pipeline.errors import InputError, suggestion
from pipeline.experiments import (
    composition,
    first_axis,
    forecast,
    grokking,
    induction,
    initial_frequencies,
    model_sizes,
    nine_terms,
    optimizers,
    other_operations,
    redundancy,
    smeared_keys,
    steps,
    transplants,
)
from pipeline.experiments.experiment import Experiment

ALL = "all"

_MODULES = (
    induction, smeared_keys, composition, transplants, redundancy, grokking, optimizers, nine_terms,
    initial_frequencies, forecast, model_sizes, first_axis, steps, other_operations,
)  # fmt: skip
EXPERIMENTS: dict[str, Experiment] = {of.EXPERIMENT.name: of.EXPERIMENT for of in _MODULES}


def chosen_experiments(names: Sequence[str]) -> list[Experiment]:
    """Return the experiments of these names, or all for "all"; raises InputError for others."""
    for name in names:
        if name not in EXPERIMENTS and name != ALL:
            raise InputError(
                f"there is no experiment {name!r}: {suggestion(name, [ALL, *EXPERIMENTS])}"
            )
    return [one for name, one in EXPERIMENTS.items() if ALL in names or name in names]
