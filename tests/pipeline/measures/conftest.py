"""A resident model whose mechanisms are known."""

import pytest

from pipeline.models.resident import Resident
from tests.pipeline import hand_built as written


@pytest.fixture
def hand_built() -> Resident:
    """Return the hand-built model of `tests.pipeline.hand_built`."""
    model = written.hand_built()
    resident = Resident(model.config)
    resident.swap(model.state_dict())
    return resident


@pytest.fixture
def induction_pair(hand_built: Resident) -> Resident:
    """Return the hand-built model with its previous-token and its induction head alone.

    Its other heads write nothing: the anti-induction head would hide the induction head's effect.
    """
    state = {name: w.clone() for name, w in hand_built.weights.items()}
    for layer in (0, 1):
        state[f"model.layers.{layer}.self_attn.o_proj.weight"][:, written.D_HEAD :] = 0
    hand_built.swap(state)
    return hand_built
