"""A model whose mechanisms are known, as a worker holds it."""

import pytest

from pipeline.models.resident import Resident
from tests.pipeline import hand_built as written


@pytest.fixture
def hand_built() -> Resident:
    """See `tests.pipeline.hand_built`."""
    model = written.hand_built()
    resident = Resident(model.config)
    resident.swap(model.state_dict())
    return resident
