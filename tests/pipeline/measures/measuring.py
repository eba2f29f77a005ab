"""Computation of one measure on a resident model, as in a worker."""

from pipeline.engine.changes import run_changed
from pipeline.engine.forward import run
from pipeline.engine.record import Record, merge
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Context, Measure, Setting
from pipeline.models.architecture import without_memory
from pipeline.models.facts import ModelFacts
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from pipeline.models.weights import ModelWeights
from pipeline.schema import Values

# Of a model that is not run: records stand for it.
FACTS = ModelFacts(2, 3, 3, 4, 12, 30, None, (), "test")
NO_WEIGHTS = ModelWeights(without_memory(OrganismConfig()), FACTS)


def measured(measure: Measure, resident: Resident, made: Input | None, **others: Input) -> Values:
    """Compute a measure on its input, and the other inputs that it reads, by name."""
    setting = Setting(resident.facts, made, others)
    apply.check(measure, setting)
    passes = measure.passes(setting)
    inputs = {one.name: one for one in (made, *others.values()) if one is not None}
    wanted = merge(passes)
    records = {p.key: run(resident, inputs[p.input], p) for p in wanted if p.change is None}
    records |= run_changed(resident, inputs, [p for p in wanted if p.change], records)
    own = tuple(records[p.key] for p in passes)
    return apply.compute(measure, Context(setting, resident.weights, own))


def of_weights(measure: Measure, weights: ModelWeights) -> Values:
    """Compute a measure that reads weights only."""
    return apply.compute(measure, Context(Setting(weights.facts), weights))


def of_record(measure: Measure, record: Record, weights: ModelWeights = NO_WEIGHTS) -> Values:
    """Compute a measure with one pass from its record."""
    return apply.compute(measure, Context(Setting(FACTS, record.input), weights, (record,)))
