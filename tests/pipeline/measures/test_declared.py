"""The file of declarations says what the measures' classes say."""

import json

from pipeline.measures import describe, registry
from pipeline.measures.declared import declared


def test_the_file_of_declarations_is_up_to_date() -> None:
    said = json.loads(json.dumps(describe(registry().values())))
    assert list(declared().values()) == said, "run: python -m pipeline.measures.known"
    assert list(declared()) == list(registry())
