"""The task's numbers against a plain model whose heads are patched by hooks."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.analysis.inputs import STANDARD_INPUTS, make_input
from pipeline.errors import InputError
from pipeline.inputs import Input, text
from pipeline.inputs.indirect_objects import NAMES, PLACES, TEMPLATES, THINGS
from pipeline.measures.indirect_object import IndirectObject, share_positive
from pipeline.models.organism_config import OrganismConfig
from pipeline.models.resident import Resident
from tests.pipeline.editing import edited, outputs
from tests.pipeline.measures.measuring import measured

Models = tuple[Resident, torch.nn.Module]
CORRUPTED = "indirect_object_corrupted"


@pytest.fixture(scope="module")
def models() -> Models:
    torch.manual_seed(0)
    config = OrganismConfig(vocab_size=390, hidden_size=32, num_attention_heads=4)
    config._attn_implementation = "eager"
    plain = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in plain.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    resident = Resident(config)
    resident.swap({name: p.clone() for name, p in plain.named_parameters()})
    return resident, plain


@pytest.fixture(scope="module")
def prompts(models, tmp_path_factory) -> dict[str, Input]:
    folder = tmp_path_factory.mktemp("tokenizer")
    sentences = [
        template.format(first=name, second="Tom", giver=name, place=place, thing=thing)
        for name in NAMES[:9]
        for template in TEMPLATES
        for place, thing in zip(PLACES, THINGS, strict=True)
    ]
    text.train_tokenizer(sentences, 390).save_pretrained(folder)
    return {
        name: make_input(name, STANDARD_INPUTS[name], str(folder), models[0].facts)
        for name in ("indirect_object", CORRUPTED)
    }


def differences(plain, made: Input) -> np.ndarray:
    logits = plain(torch.from_numpy(made.tokens)).logits[:, -1].double().numpy()
    names = made.arrays["indirect_object"], made.arrays["subject"]
    right, wrong = (logits[np.arange(len(logits)), name] for name in names)
    return right - wrong


@pytest.fixture(scope="module")
def found(models, prompts) -> dict[str, np.ndarray]:
    clean, corrupted = prompts.values()
    return measured(IndirectObject(), models[0], clean, **{CORRUPTED: corrupted})


def test_differences_are_those_of_the_models_logits(models, prompts, found):
    expected = [differences(models[1], made) for made in prompts.values()]
    assert found["logit_difference"] == pytest.approx(expected[0].mean(), abs=1e-5)
    assert found["corrupted_logit_difference"] == pytest.approx(expected[1].mean(), abs=1e-5)
    assert found["accuracy"] == (expected[0] > 0).mean()


def test_patching_is_what_a_hook_that_patches_loses(models, prompts, found):
    _, plain = models
    clean, corrupted = prompts.values()
    elsewhere = outputs(plain, torch.from_numpy(corrupted.tokens))
    whole = differences(plain, clean).mean() - differences(plain, corrupted).mean()
    for layer, head in ((0, 0), (0, 3), (1, 1), (1, 2)):
        patch = {layer: lambda z, at=layer, h=head: z[:, :, h].copy_(elsewhere[at][:, :, h])}
        with edited(plain, patch):
            lost = differences(plain, clean).mean()
        expected = (differences(plain, clean).mean() - lost) / whole
        assert abs(expected) > 1e-3
        assert found["patching"][layer, head] == pytest.approx(expected, rel=1e-3)


def test_direct_shares_and_the_embeddings_make_the_whole_difference(models, prompts, found):
    """Without MLP and biases, the stream at the end is the embedding and what the heads write."""
    _, plain = models
    clean = prompts["indirect_object"]
    kept: list[torch.Tensor] = []
    handle = plain.model.norm.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    plain(torch.from_numpy(clean.tokens))
    handle.remove()
    final = kept[0][:, -1]
    start = plain.model.embed_tokens(torch.from_numpy(clean.tokens[:, -1]))
    start = start + plain.model.embed_positions.weight[clean.tokens.shape[1] - 1]
    scale = 1 / (final.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = (start - start.mean(-1, keepdim=True)) * scale * plain.model.norm.weight
    W_U = plain.lm_head.weight
    names = clean.arrays["indirect_object"], clean.arrays["subject"]
    columns = W_U[names[0]] - W_U[names[1]]
    biases = columns @ plain.model.norm.bias
    embedding = ((normed * columns).sum(-1) + biases).mean().item()
    total = found["direct"].sum() + embedding
    assert total == pytest.approx(found["logit_difference"], abs=1e-4)


def test_attention_is_that_of_the_last_token_to_the_names(models, prompts, found):
    clean = prompts["indirect_object"]
    patterns = models[1](torch.from_numpy(clean.tokens), output_attentions=True).attentions
    p = torch.stack(patterns)[..., -1, :].double().numpy()  # layer, sequence, head, key
    rows = np.arange(len(clean.tokens))
    to_object = p[:, rows, :, clean.arrays["indirect_object_at"]].mean(0)
    to_subject = sum(p[:, rows, :, at].mean(0) for at in clean.arrays["subject_at"].T)
    np.testing.assert_allclose(found["attention_to_indirect_object"], to_object, atol=1e-6)
    np.testing.assert_allclose(found["attention_to_subject"], to_subject, atol=1e-6)


def test_only_named_heads_are_patched(models, prompts):
    clean, corrupted = prompts.values()
    for heads in ((), ((1, 2),)):
        some = measured(IndirectObject(heads=heads), models[0], clean, **{CORRUPTED: corrupted})
        assert np.isfinite(some["patching"]).sum() == len(heads)
        assert np.isfinite(some["direct"]).all()


def test_inputs_that_are_no_pair_are_refused(models, prompts):
    clean, corrupted = prompts.values()
    for given, other in ((clean, clean), (corrupted, clean)):
        with pytest.raises(InputError, match="is not the corrupted form"):
            measured(IndirectObject(), models[0], given, **{CORRUPTED: other})


def test_accuracy_is_nan_where_a_prompt_has_no_finite_difference():
    assert share_positive(np.array([1.0, -2.0, 3.0, 0.0])) == 0.5
    assert np.isnan(share_positive(np.array([1.0, np.nan])))
    assert np.isnan(share_positive(np.array([1.0, np.inf])))
