"""A measure computed on one resident, as a worker does it."""

from pipeline.engine.changes import run_changed
from pipeline.engine.forward import run
from pipeline.engine.record import Record, merge
from pipeline.inputs import Input
from pipeline.measures import apply
from pipeline.measures.base import Context, Measure, Setting
from pipeline.models.loading import ModelFacts, ModelWeights, Resident, without_memory
from pipeline.models.organism import OrganismConfig
from pipeline.schema import Values

# Of a model that is not run: records stand for it.
FACTS = ModelFacts(2, 3, 3, 4, 12, 30, None, (), "test")
NO_WEIGHTS = ModelWeights(without_memory(OrganismConfig()), FACTS)


def measured(measure: Measure, resident: Resident, made: Input | None, **others: Input) -> Values:
    """The variables of a measure on its input and, by name, those that it reads beside it."""
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
    """The variables of a measure that reads weights only."""
    return apply.compute(measure, Context(Setting(weights.facts), weights))


def of_record(measure: Measure, record: Record, weights: ModelWeights = NO_WEIGHTS) -> Values:
    """The variables of a measure with one pass, which yielded this record."""
    return apply.compute(measure, Context(Setting(FACTS, record.input), weights, (record,)))
