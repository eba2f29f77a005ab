"""A measure computed on one resident, as a worker does it."""

import numpy as np

from pipeline.engine.changes import run_changed
from pipeline.engine.forward import run
from pipeline.engine.record import merge
from pipeline.inputs import Input
from pipeline.measures.base import Measure, Setting
from pipeline.models.loading import Resident


def measured(
    measure: Measure, resident: Resident, made: Input | None, **others: Input
) -> dict[str, np.ndarray]:
    """The variables of a measure on its input and, by name, those that it reads beside it."""
    setting = Setting(resident.facts, made, others)
    measure.check(setting)
    passes = measure.passes(setting)
    inputs = {one.name: one for one in (made, *others.values()) if one is not None}
    wanted = merge(passes)
    records = {p.key: run(resident, inputs[p.input], p) for p in wanted if p.change is None}
    records |= run_changed(resident, inputs, [p for p in wanted if p.change], records)
    return measure.compute(tuple(records[p.key] for p in passes), resident.weights, None)
