"""Annotations of shapes and types in pipeline/ are checked: see the hook in conftest.py."""

import jaxtyping
import pytest
import torch

from pipeline.engine.cross_entropy import Unembedding, token_losses
from pipeline.engine.reductions import FromMatrix, mean_by_lag

UNEMBEDDING = Unembedding(torch.zeros(5, 4))


def test_a_wrong_number_of_dimensions_is_an_error() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="weight"):
        Unembedding(torch.zeros(1, 5, 4))


def test_two_lengths_of_one_axis_are_an_error() -> None:
    hidden = torch.zeros(3, 4)
    assert token_losses(hidden, torch.zeros(3, dtype=torch.long), UNEMBEDDING).shape == (3,)
    with pytest.raises(jaxtyping.TypeCheckError, match="targets"):
        token_losses(hidden, torch.zeros(2, dtype=torch.long), UNEMBEDDING)


def test_a_mask_of_floats_is_an_error() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="defined"):
        mean_by_lag(FromMatrix(torch.zeros(1, 2, 3, 3)), 2, torch.ones(1, 3))  # type: ignore


def test_a_wrong_type_is_an_error() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="scale"):
        Unembedding(torch.zeros(5, 4), scale="1")  # type: ignore[arg-type]
