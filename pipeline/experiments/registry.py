"""The experiments, in the order in which they are carried out and listed."""

from collections.abc import Sequence

from pipeline.errors import InputError, suggestion
from pipeline.experiments import (
    bigrams,
    composition,
    first_axis,
    five_tokens,
    forecast,
    grokking,
    induction,
    induction_on_text,
    initial_frequencies,
    model_sizes,
    nine_terms,
    optimizers,
    other_operations,
    redundancy,
    smeared_keys,
    steps,
    strict_induction,
    transplants,
)
from pipeline.experiments.experiment import Experiment

ALL = "all"

_MODULES = (
    bigrams, induction, induction_on_text, smeared_keys, composition, transplants, strict_induction,
    redundancy, grokking, optimizers, nine_terms, initial_frequencies, forecast, model_sizes,
    first_axis, five_tokens, steps, other_operations,
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
