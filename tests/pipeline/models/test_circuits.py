"""The circuit matrices, compared with what each family's own forward pass computes with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import repeat_kv

from pipeline.models.circuits import circuits
from pipeline.models.families import FAMILIES
from pipeline.models.resident import Resident
from tests.pipeline.circuit_families import WIDTH, config_of, resident

NORMALISED_PER_HEAD = {"qwen3", "gemma3_text"}
NORMALISED_TOGETHER = {"olmo2", "olmo3"}


@contextmanager
def watched(module: nn.Module, family: str) -> Iterator[dict[str, Tensor]]:
    """Record the first layer's q, k, v as attention receives them, and three streams."""
    names, seen = FAMILIES[family], {}
    attention = names.layer.format(0) + "." + names.output.rpartition(".")[0]

    def attend(module, query, key, value, mask, *args, **kwargs):
        groups = query.shape[1] // key.shape[1]
        if module is attention_module:
            k, v = repeat_kv(key, groups), repeat_kv(value, groups)
            seen.update(q=query[0, :, 0], k=k[0, :, 0], v=v[0, :, 0])
        return repeat_kv(value, groups).transpose(1, 2), None  # one key: all attention is on it

    def attend_directly(query, key, value, mask=None, *args):
        seen.update(q=query[0, :, 0], k=key[0, :, 0], v=value[0, :, 0])
        return value, None

    attention_module = module.get_submodule(attention)
    if hasattr(attention_module, "_attn"):  # GPT-J and GPT-Neo know no attention interface
        attention_module._attn = attend_directly
    else:
        AttentionInterface.register("watched", attend)
        module.set_attn_implementation("watched")
    before = names.norm or attention.rpartition(".")[2]
    after = names.output_norm or names.output
    handles = [
        module.get_submodule(f"{names.layer.format(0)}.{before}").register_forward_pre_hook(
            lambda m, args, kwargs: seen.update(stream=(*args, *kwargs.values())[0][0, 0]),
            with_kwargs=True,
        ),
        module.get_submodule(f"{names.layer.format(0)}.{after}").register_forward_hook(
            lambda m, args, out: seen.update(written=out[0, 0])
        ),
        module.get_submodule(names.final_norm).register_forward_pre_hook(
            lambda m, args: seen.update(last=args[0][0, 0])
        ),
    ]
    yield seen
    for handle in handles:
        handle.remove()


def normalised(x: Tensor, norm: nn.Module) -> Tensor:
    """Return the norm of a stream without gain and bias."""
    if "RMS" not in type(norm).__name__:
        x = x - x.mean()
    return x / (x.square().mean() + 1e-5).sqrt()


def direction(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def two_tokens(made: Resident, family: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compute with sequences of one token; position 0 is not rotated. `x`, `f`: normalised."""
    names, results = FAMILIES[family], []
    with torch.no_grad(), watched(made.module, family) as seen:
        for token in (7, 20):
            logits = made.module(torch.tensor([[token]]), use_cache=False).logits[0, 0]
            norm = names.norm and made.module.get_submodule(f"{names.layer.format(0)}.{names.norm}")
            final = made.module.get_submodule(names.final_norm)
            x = normalised(seen["stream"], norm) if norm else seen["stream"]
            results.append(dict(seen, logits=logits, x=x, f=normalised(seen["last"], final)))
    return results[0], results[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_those_of_the_familys_own_forward_pass(family):
    config = config_of(family)
    config.final_logit_softcapping = None
    made = resident(config)
    model = circuits(made.weights)
    assert model is not None
    heads = model.layer(0)
    one, other = two_tokens(made, family)
    difference = {name: one[name] - other[name] for name in one}  # biases are gone from it

    x = difference["x"]
    values = x @ heads.W_V
    torch.testing.assert_close(difference["v"], values, rtol=1e-4, atol=1e-4)
    for name, matrix in (("q", heads.W_Q), ("k", heads.W_K)):
        if family in NORMALISED_PER_HEAD:
            there, here = one[name], one["x"] @ matrix
        elif family in NORMALISED_TOGETHER:
            there, here = one[name].flatten(), (one["x"] @ matrix).flatten()
        else:  # one factor for all heads: OPT divides its queries by sqrt(d_head) already here
            there, here = difference[name].flatten(), (x @ matrix).flatten()
        torch.testing.assert_close(direction(there), direction(here), rtol=0, atol=1e-4)

    if FAMILIES[family].output_norm:
        written = torch.einsum("hd,hdm->m", one["x"] @ heads.W_V, heads.W_O)
        torch.testing.assert_close(direction(one["written"]), direction(written), rtol=0, atol=1e-4)
    else:
        written = torch.einsum("hd,hdm->m", values, heads.W_O)
        torch.testing.assert_close(difference["written"], written, rtol=1e-4, atol=1e-4)

    logits = difference["f"] @ model.W_U
    torch.testing.assert_close(
        direction(difference["logits"]), direction(logits), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("family", ["ontogeny-organism", "gpt2", "gpt_neox", "qwen3"])
def test_the_loaded_weights_stay_as_they_are(family):
    made = resident(config_of(family))
    before = {name: tensor.clone() for name, tensor in made.weights.items()}
    model = circuits(made.weights)
    assert model is not None
    assert model.W_E.shape == model.W_U.T.shape == (50, WIDTH) and model.layer(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in made.weights.items())


def test_half_precision_weights_give_float32_matrices():
    config = config_of("llama")
    made = Resident(config, dtype="bfloat16")
    made.swap(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).state_dict())
    model = circuits(made.weights)
    assert model is not None
    assert {m.dtype for m in (model.W_E, model.W_U, model.layer(0).W_O)} == {torch.float32}


def test_no_circuits_are_made_up_for_other_families():
    bloom = AutoConfig.for_model("bloom", vocab_size=50, hidden_size=16, n_layer=1, n_head=2)
    assert circuits(resident(bloom).weights) is None
    opt = config_of("opt")
    opt.word_embed_proj_dim = 8
    assert circuits(resident(opt).weights) is None
