"""The factorised pass is used where it applies, with the results of the plain pass."""

import pytest
import torch

from pipeline.engine.forward import run
from pipeline.engine.modular import table_record
from pipeline.engine.record import Lag, Pass
from pipeline.errors import InputError
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.resident import Resident
from tests.pipeline.modular_organisms import config, random_model, table_input

P = 7
AT_EQUALS = Pass("table", logit_positions=(-1,), dtype="float64")


def resident(**changes) -> Resident:
    made = config(P, **changes)
    torch.manual_seed(1)
    loaded = Resident(made)
    loaded.swap({name: w.detach() for name, w in OrganismForCausalLM(made).named_parameters()})
    return loaded


@pytest.mark.parametrize("changes", [{}, {"layer_norm": True, "positions": "queries_keys"}])
def test_both_ways_agree(changes):
    model, table = resident(**changes), table_input(P)
    factorised = run(model, table, AT_EQUALS)
    plain = run(model, table, Pass("table", losses=True, logit_positions=(-1,), dtype="float64"))
    assert plain.loss is not None and factorised.loss is None
    torch.testing.assert_close(factorised.logits[-1], plain.logits[-1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "wanted",
    [
        Pass("table", logit_positions=(-1,), losses=True),
        Pass("table", logit_positions=(-1, 1)),
        Pass("table", attention=frozenset({Lag(1)})),
    ],
)
def test_what_is_read_elsewhere_than_at_equals_goes_the_plain_way(wanted):
    assert table_record(random_model(P), table_input(P), wanted) is None
    assert table_record(random_model(P), table_input(P), AT_EQUALS) is not None


def test_every_name_of_the_last_position_is_served():
    wanted = Pass("table", logit_positions=(-1, 2), dtype="float64")
    found = run(resident(), table_input(P), wanted)
    assert set(found.logits) == {-1, 2}
    assert torch.equal(found.logits[-1], found.logits[2])


def test_neurons_are_recorded_where_asked_for_only():
    wanted = Pass("table", logit_positions=(-1,), neurons=True, dtype="float64")
    found = run(resident(), table_input(P), wanted)
    assert found.neurons is not None and found.neurons.shape == (P * P, 16)
    assert run(resident(), table_input(P), AT_EQUALS).neurons is None


def test_neurons_of_a_model_that_does_not_factorise_are_refused():
    wanted = Pass("table", logit_positions=(-1,), neurons=True)
    with pytest.raises(InputError, match="one-layer organism without smeared keys"):
        run(resident(num_hidden_layers=2), table_input(P), wanted)
