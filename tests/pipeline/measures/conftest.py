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
