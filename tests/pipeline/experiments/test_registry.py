"""The experiments as files: short, named, with claims that can be told apart."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.experiments import registry
from pipeline.experiments.registry import EXPERIMENTS, chosen_experiments

LONGEST = 120  # lines


def test_files_of_experiments_are_short():
    for module in registry._MODULES:
        lines = Path(module.__file__).read_text(encoding="utf-8").count("\n")
        assert lines < LONGEST, module.__name__


def test_names_are_distinct():
    assert len(EXPERIMENTS) == len(registry._MODULES)
    claims = [claim.name for one in EXPERIMENTS.values() for claim in one.claims]
    assert len(claims) == len(set(claims))


def test_sentences_are_sentences():
    for one in EXPERIMENTS.values():
        for claim in one.claims:
            assert claim.sentence[0].isupper() and claim.sentence.endswith("."), claim.name
            assert claim.source and not claim.source.endswith("."), claim.name


def test_experiments_are_chosen_by_name():
    assert chosen_experiments(["all"]) == list(EXPERIMENTS.values())
    assert [one.name for one in chosen_experiments(["steps", "induction"])] == [
        "induction",
        "steps",
    ]
    with pytest.raises(InputError, match=r"no experiment 'smeared-key': .*smeared-keys"):
        chosen_experiments(["smeared-key"])
