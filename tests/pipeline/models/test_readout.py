"""Shares of logits, compared with the logits that each family's own code computes."""

import pytest
import torch

from pipeline.models.circuits import circuits
from pipeline.models.families import FAMILIES
from pipeline.models.readout import Readout, head_shares, shares
from tests.pipeline.circuit_families import config_of, resident

TOKENS = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))


def traced(made, family):
    """Return logits, the stream before the final norm, and the first layer's attention inputs."""
    names, seen = FAMILIES[family], {}
    final = made.module.get_submodule(names.final_norm)
    output = made.module.get_submodule(f"{names.layer.format(0)}.{names.output}")
    handles = [
        final.register_forward_pre_hook(lambda m, args: seen.update(stream=args[0])),
        output.register_forward_pre_hook(lambda m, args: seen.update(z=args[0])),
        output.register_forward_hook(lambda m, args, out: seen.update(written=out)),
    ]
    with torch.no_grad():
        logits = made.module(TOKENS, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return logits, seen, output


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_stream_and_the_biases_make_the_whole_logits(family):
    config = config_of(family)
    config.final_logit_softcapping = None
    if family == "granite":
        config.logits_scaling, config.residual_multiplier = 4.0, 0.3
    made = resident(config)
    logits, seen, output = traced(made, family)
    model = circuits(made.weights)
    assert model is not None
    readout = Readout(model)
    every, scale = torch.arange(50), readout.scale(seen["stream"])
    found = shares(seen["stream"][..., None, :], readout.directions(every), scale[..., None])
    found = found + readout.biases(every)
    # RMSNorms compute in float32 in transformers, whatever the model's dtype.
    torch.testing.assert_close(found, logits - logits.mean(-1, keepdim=True), rtol=1e-4, atol=1e-4)

    # What the heads write, without W_O's bias, read one by one and all at once.
    if not model.heads_are_normed:
        directions = readout.directions(TOKENS)
        by_head = head_shares(
            seen["z"].unflatten(-1, (4, -1)), model.layer(0).W_O, directions, scale
        )
        bias = 0 if output.bias is None else output.bias
        factor = getattr(config, "residual_multiplier", 1.0)
        written = (seen["written"] - bias) * factor
        torch.testing.assert_close(
            by_head.sum(-1), shares(written, directions, scale), rtol=1e-4, atol=1e-4
        )


def test_families_whose_heads_are_normed_say_so():
    said = {f for f in FAMILIES if circuits(resident(config_of(f)).weights).heads_are_normed}
    assert said == {"olmo2", "olmo3", "gemma2", "gemma3_text"}
