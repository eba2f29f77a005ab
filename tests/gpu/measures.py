"""Part: every measure, on the device in float32, against the CPU in float64 and in float32.

Rounding differs between devices, and some measures magnify it: what the CPU's own float32 departs
from float64 by is the unit in which the device is judged.
"""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from pipeline.inputs import Input
from pipeline.measures.base import Measure
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.resident import Resident
from tests.gpu import small_runs
from tests.gpu.comparing import is_worse, relative, scale_of
from tests.gpu.report import Report
from tests.pipeline.families import FAMILIES, eager_model
from tests.pipeline.measures.test_nonfinite import ON_TABLES, ON_TEXT, computed, inputs_for
from tests.pipeline.modular_organisms import table_input

State = Mapping[str, Tensor]
Model = Callable[[], tuple[PreTrainedConfig, State]]

# Of a variable's largest number. A device may depart from float64 by more than this if it is by at
# most `TIMES` what the CPU's float32 does.
SMALLEST = 1e-4
TIMES = 8.0
# Ranks, labels and places of maxima change where two numbers are equal up to rounding.
OF_INTEGERS = 0.02


def run(report: Report) -> None:
    """Compare all measures in an organism of each task and in two random models."""
    torch.backends.cuda.matmul.allow_tf32 = False
    steps = 40 if report.small else 400
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        induction = small_runs.trained("induction", here / "induction", steps, steps)
        modular = small_runs.trained("modular-addition", here / "modular", steps, steps)
        models = [
            (_of_text, f"induction {place.name}", partial(_read, place))
            for place in sorted(induction.glob("step-*"))
        ]
        models += [
            (_of_table, f"modular {place.name}", partial(_read, place))
            for place in sorted(modular.glob("step-*"))
        ]
        for name in ("gpt_neox",) if report.small else ("gpt_neox", "llama", "gemma2"):
            models.append((_of_text, name, partial(_random, name)))
        for compare, name, model in models:
            work = partial(compare, report, name, model)
            report.attempt(f"measures of {name}", work, needed=20)


def _read(checkpoint: Path) -> tuple[PreTrainedConfig, State]:
    model = OrganismForCausalLM.from_pretrained(checkpoint)
    return model.config, model.state_dict()


def _random(family: str) -> tuple[PreTrainedConfig, State]:
    config = FAMILIES[family]()
    return config, eager_model(config, "float32").state_dict()


def _of_text(report: Report, name: str, model: Model) -> None:
    config, state = model()
    _compare(report, name, config, state, ON_TEXT, inputs_for(Resident(config)))


def _of_table(report: Report, name: str, model: Model) -> None:
    config, state = model()
    inputs = {"table": table_input(config.vocab_size - 1)}
    _compare(report, name, config, state, ON_TABLES, inputs)


def _compare(
    report: Report,
    model: str,
    config: PreTrainedConfig,
    state: State,
    measures: Mapping[str, Measure],
    inputs: Mapping[str, Input],
) -> None:
    exact = _values(config, state, "cpu", "float64", measures, inputs)
    cpu = _values(config, state, "cpu", "float32", measures, inputs)
    found = cpu
    if report.device != "cpu":
        found = _values(config, state, report.device, "float32", measures, inputs)
    report.figure("variables", len(exact), model=model)
    for measure in measures:
        own = [name for name in exact if name.split("/")[0] == measure]
        _report(report, model, measure, [(n, found[n], cpu[n], exact[n]) for n in own])


def _values(
    config: PreTrainedConfig,
    state: State,
    device: str,
    dtype: str,
    measures: Mapping[str, Measure],
    inputs: Mapping[str, Input],
) -> dict[str, np.ndarray]:
    resident = Resident(config, device, dtype)
    resident.swap(dict(state))
    return computed(resident, measures, inputs)


def _report(
    report: Report,
    model: str,
    measure: str,
    values: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]],
) -> None:
    """Print the worst variable of a measure, relative to its limit; and of its integers."""
    worst, which = -1.0, ("", 0.0, SMALLEST)
    largest = scale_of(exact for _, _, _, exact in values)
    for name, found, cpu, exact in values:
        if exact.dtype.kind != "f":
            # Compared with the same dtype: the margins of float64 are others.
            share = relative(found, cpu)
            report.figure(
                "share of integers that differ", share, at_most=OF_INTEGERS, variable=name,
                model=model,
            )  # fmt: skip
            continue
        difference, usual = (relative(one, exact, largest) for one in (found, cpu))
        limit = max(SMALLEST, TIMES * usual) if usual == usual else SMALLEST
        if is_worse(difference / limit, worst):
            worst, which = difference / limit, (name, difference, limit)
    if which[0]:
        name, difference, limit = which
        report.figure("relative error", difference, at_most=limit, variable=name, model=model)
