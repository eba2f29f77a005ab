"""What a measure says of itself beside its numbers."""

import numpy as np
import pytest

from pipeline.inputs import Input
from pipeline.measures import registry
from pipeline.measures.base import Setting
from pipeline.models.loading import facts_of
from pipeline.models.organism import OrganismConfig
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
