"""A note where groups of Mamba 2 are normalised together, found by what the norm computes."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated

from pipeline.models.facts import facts_of_module
from pipeline.models.recurrent_norms import norm_notes
from tests.pipeline.recurrent_families import config_of, plain_model

FAMILIES = ["mamba2", "bamba", "granitemoehybrid", "falcon_h1", "nemotron_h", "zamba2"]
CHANGES = {"falcon_h1": {"mamba_rms_norm": True}}


def normalised_together(norm: nn.Module, width: int) -> bool:
    """Return whether the second half of a norm's input changes the first half of its output."""
    x = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0))
    larger = torch.cat([x[..., : width // 2], 10 * x[..., width // 2 :]], -1)
    first, second = (norm(one, torch.ones_like(x))[..., : width // 2] for one in (x, larger))
    return not torch.allclose(first, second, rtol=1e-3)


def recurrence(module: nn.Module) -> Any:
    return next(part for part in module.modules() if hasattr(part, "ssm_state_size"))


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_groups_that_are_normalised_together_are_noted(family: str) -> None:
    module = plain_model(config_of(family, **CHANGES.get(family, {})))
    part = recurrence(module)
    assert part.n_groups == 2
    together = normalised_together(part.norm, part.intermediate_size)
    assert bool(facts_of_module(module).notes) is together


def test_a_recurrence_without_a_norm_is_not_noted() -> None:
    module = plain_model(config_of("falcon_h1", mamba_rms_norm=False))
    assert recurrence(module).n_groups == 2 and norm_notes(module) == ()


@torch.inference_mode()
def test_a_norm_over_all_groups_is_noted() -> None:
    module = plain_model(config_of("nemotron_h"))
    part = recurrence(module)
    assert not normalised_together(part.norm, part.intermediate_size)
    assert norm_notes(module) == ()
    part.norm = Qwen3NextRMSNormGated(part.intermediate_size)
    assert normalised_together(part.norm, part.intermediate_size)
    (note,) = norm_notes(module)
    assert "normalises the 2 groups of NemotronHForCausalLM together" in note
    for one in module.modules():
        vars(one).pop("n_groups", None)
    assert norm_notes(module) == ()
