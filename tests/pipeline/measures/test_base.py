"""The declaration of a measure, and the errors of its context."""

import numpy as np
import pytest

from pipeline.engine.record import Pass, Record
from pipeline.inputs import Input
from pipeline.measures import apply, registry
from pipeline.measures.base import Context, Measure, Setting
from pipeline.models.facts import facts_of
from pipeline.models.organism_config import OrganismConfig
from pipeline.schema import Variable
from tests.pipeline.measures.measuring import FACTS, NO_WEIGHTS, of_record
from tests.pipeline.modular_organisms import config, table_input


@pytest.mark.parametrize(
    ("measure", "of_dtypes"),
    [
        ("token_loss", ("float32", "bfloat16", "float64")),  # the forward pass's own
        ("bigrams", ("float32", "bfloat16", "float64")),  # the corpus is only counted
        ("copying", ("float32", "float32", "float64")),  # circuits are float32 at least
        ("weight_norm", ("float64", "float64", "float64")),
    ],
)
def test_the_dtype_of_the_arithmetic_is_said(measure: str, of_dtypes: tuple[str, ...]):
    made = Input("text", "text", np.zeros((1, 8), np.int64))
    corpus = Input("corpus", "text", np.ones((1, 8), np.int64))
    setting = Setting(facts_of(OrganismConfig(vocab_size=20)), made, {"corpus": corpus})
    for dtype, said in zip(("float32", "bfloat16", "float64"), of_dtypes, strict=True):
        assert registry()[measure]().computed_in(setting, dtype) == said


@pytest.mark.parametrize("measure", ["modular_addition", "embedding_plane", "lottery_ticket"])
def test_modular_arithmetic_is_float64_whatever_the_workers_have(measure: str):
    setting = Setting(facts_of(config(5)), table_input(5))
    assert registry()[measure]().computed_in(setting, "float32") == "float64"


TEXT = Input("text", "text", np.zeros((2, 8), np.int64))


class OneNumber(Measure):
    """A measure with one number."""

    name = "one_number"
    version = 1
    default_input = "text"
    variables = (Variable("number", ("step",), "1", "A number."),)
    other: str = "text"
    returned: str = "number"

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        return (Pass(self.other),)

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        return {self.returned: np.array(len(context.record.input.tokens))}


@pytest.mark.parametrize(
    ("attribute", "says"),
    [
        ("input", "has no input"),
        ("record", "one pass, this one has 0"),
        ("reference", "sets `reference_from`"),
    ],
)
def test_what_a_context_lacks_is_an_error_that_says_what_to_declare(attribute: str, says: str):
    with pytest.raises(TypeError, match=says):
        getattr(Context(Setting(FACTS), NO_WEIGHTS), attribute)


def test_a_loss_that_no_pass_asked_for_is_an_error():
    with pytest.raises(TypeError, match=r"Pass\(..., losses=True\)"):
        _ = Record(TEXT).kept_loss


def test_exactly_the_declared_variables_are_computed():
    assert of_record(OneNumber(), Record(TEXT)) == {"number": 2}
    with pytest.raises(TypeError, match=r"returns \['numbre'\], expected .* \['number'\]"):
        of_record(OneNumber(returned="numbre"), Record(TEXT))


def test_a_pass_over_an_input_that_is_not_declared_is_refused():
    apply.check(OneNumber(), Setting(FACTS, TEXT))
    with pytest.raises(TypeError, match=r"the input 'prose', expected .* \['text'\]"):
        apply.check(OneNumber(other="prose"), Setting(FACTS, TEXT))
