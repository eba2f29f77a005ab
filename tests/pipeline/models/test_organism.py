"""The organism, compared with its formula written a second time, and as a transformers model."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, relu
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from pipeline.errors import InputError
from pipeline.models.organism import OrganismForCausalLM, sinusoids
from pipeline.models.organism_config import OrganismConfig

OPTIONS = [
    dict(zip(("layer_norm", "intermediate_size", "positions", "smeared_keys"), values, strict=True))
    for values in itertools.product(
        (True, False), (0, 24), ("residual", "queries_keys"), (True, False)
    )
]


def organism(attention: str = "sdpa", **options) -> OrganismForCausalLM:
    """Return a float64 organism without special values such as 0 or 1 in its parameters."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "hidden_size": 16, "num_attention_heads": 4}
    config = OrganismConfig(**{**sizes, "max_position_embeddings": 9, **options})
    config._attn_implementation = attention
    model = OrganismForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def tokens(length: int = 9) -> torch.Tensor:
    return torch.randint(11, (3, length), generator=torch.Generator().manual_seed(1))


def logits_from_the_formula(model: OrganismForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Compute logits one head and one matrix at a time, from the weights alone."""
    c, w = model.config, model.state_dict()
    d_head = c.hidden_size // c.num_attention_heads
    positions = w["model.embed_positions.weight"][: ids.shape[1]]

    def norm(x, name):
        if not c.layer_norm:
            return x
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], c.layer_norm_eps)

    def linear(x, name):
        y = torch.einsum("bti,oi->bto", x, w[f"{name}.weight"])
        return y + w.get(f"{name}.bias", 0)

    x = w["model.embed_tokens.weight"][ids]
    if c.positions == "residual":
        x = x + positions
    for layer in range(c.num_hidden_layers):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm")
        h_qk = h + positions if c.positions == "queries_keys" else h
        q, k = linear(h_qk, f"{at}.self_attn.q_proj"), linear(h_qk, f"{at}.self_attn.k_proj")
        v, heads = linear(h, f"{at}.self_attn.v_proj"), []
        for head in range(c.num_attention_heads):
            part = slice(head * d_head, (head + 1) * d_head)
            key = k[..., part].clone()
            if c.smeared_keys:
                s = torch.sigmoid(w[f"{at}.self_attn.smear_alpha"][head])
                for j in range(1, ids.shape[1]):
                    key[:, j] = s * k[:, j, part] + (1 - s) * k[:, j - 1, part]
            scores = torch.einsum("bqd,bkd->bqk", q[..., part], key) / d_head**0.5
            future = torch.ones(scores.shape[1:]).triu(1).bool()
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
            heads.append(torch.einsum("bqk,bkd->bqd", weights, v[..., part]))
        x = x + linear(torch.cat(heads, -1), f"{at}.self_attn.o_proj")
        if c.intermediate_size:
            act = {"relu": relu, "gelu": gelu}[c.hidden_act]
            h = norm(x, f"{at}.post_attention_layernorm")
            x = x + linear(act(linear(h, f"{at}.mlp.up_proj")), f"{at}.mlp.down_proj")
    return linear(norm(x, "model.norm"), "lm_head")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_follow_the_formula(options, attention):
    model = organism(attention, **options)
    with torch.no_grad():
        found = model(tokens()).logits
    # eager attention rounds its softmax to float32, as in every transformers model
    tolerance = 1e-10 if attention == "sdpa" else 1e-4
    torch.testing.assert_close(
        found, logits_from_the_formula(model, tokens()), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("n_layers", [0, 1, 3])
@pytest.mark.parametrize("act", ["relu", "gelu"])
def test_biases_activations_and_depth_follow_the_formula(n_layers, act):
    model = organism(
        num_hidden_layers=n_layers, intermediate_size=24, hidden_act=act,
        attention_bias=True, mlp_bias=True, lm_head_bias=True,
    )  # fmt: skip
    names = {name for name, _ in model.named_parameters() if name.endswith("bias")}
    assert "lm_head.bias" in names
    assert sum("proj" in name for name in names) == 6 * n_layers
    with torch.no_grad():
        torch.testing.assert_close(model(tokens()).logits, logits_from_the_formula(model, tokens()))


def test_an_organism_without_biases_and_norms_has_only_matrices():
    model = organism(layer_norm=False, intermediate_size=24)
    assert all(p.ndim == 2 for p in model.parameters())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("smeared", [True, False])
def test_no_logit_depends_on_a_later_token(attention, smeared):
    model = organism(attention, smeared_keys=smeared, positions="queries_keys")
    ids = tokens()
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    with torch.no_grad():
        before, after = model(ids).logits, model(changed).logits
    assert torch.equal(before[:, :5], after[:, :5])
    assert ((before[:, 5:] - after[:, 5:]).abs().amax((0, 2)) > 1e-6).all()


def test_values_carry_no_position_when_positions_are_on_queries_and_keys():
    model = organism(positions="queries_keys", num_hidden_layers=1)
    same = torch.full((1, 9), 4)  # whatever the attention, a mean of equal values is that value
    with torch.no_grad():
        logits = model(same).logits
    torch.testing.assert_close(logits, logits[:, :1].expand_as(logits))


def test_registered_attention_gets_smeared_keys_of_every_layer():
    calls = []

    def spy(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
        calls.append((module.layer_idx, key, scaling))
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling
        )
        return out.transpose(1, 2), None

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", sdpa_mask)
    model = organism(smeared_keys=True)
    with torch.no_grad():
        expected = model(tokens()).logits
        model.set_attn_implementation("spy")
        found = model(tokens(), use_cache=False).logits
    torch.testing.assert_close(found, expected)
    assert [layer for layer, _, _ in calls] == [0, 1]
    assert calls[0][1].shape == (3, 4, 9, 4) and calls[0][2] == 0.5
    attention = model.model.layers[0].self_attn
    x = model.model.embed_tokens(tokens()) + model.model.embed_positions.weight
    k = attention.k_proj(model.model.layers[0].input_layernorm(x)).view(3, 9, 4, 4)
    s = torch.sigmoid(attention.smear_alpha)[:, None]
    torch.testing.assert_close(calls[0][1][:, :, 3], s * k[:, 3] + (1 - s) * k[:, 2])
    torch.testing.assert_close(calls[0][1][:, :, 0], k[:, 0])


def test_attentions_and_hidden_states_are_returned_on_request():
    model = organism("eager")
    with torch.no_grad():
        out = model(tokens(), output_attentions=True, output_hidden_states=True)
        body = model.model(tokens())
    assert [a.shape for a in out.attentions] == [(3, 4, 9, 9)] * 2
    torch.testing.assert_close(out.attentions[1].sum(-1), torch.ones(3, 4, 9, dtype=torch.float64))
    assert len(out.hidden_states) == 3
    torch.testing.assert_close(out.hidden_states[0], model.model.embed_tokens(tokens())
                               + model.model.embed_positions.weight)  # fmt: skip
    torch.testing.assert_close(out.hidden_states[-1], body.last_hidden_state)
    assert body.attentions is None and out.past_key_values is None


def test_the_loss_is_the_mean_next_token_loss():
    model = organism().float()
    ids = tokens()
    with torch.no_grad():
        out = model(ids, labels=ids)
    by_hand = -out.logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).mean()
    torch.testing.assert_close(out.loss, by_hand)


def test_right_padding_changes_nothing_before_it():
    model = organism()
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[:, 6:] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(ids, attention_mask=mask).logits[:, :6],
                                   model(ids[:, :6]).logits)  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS[:4] + OPTIONS[-4:], ids=str)
def test_saved_and_loaded_it_is_the_same_model(options, tmp_path):
    model = organism(position_init="sinusoidal", attention_bias=True, **options).float()
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is OrganismForCausalLM
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for (name, mine), (same, theirs) in zip(
        model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert name == same and torch.equal(mine, theirs)
    with torch.no_grad():
        assert torch.equal(model(tokens()).logits, loaded.eval()(tokens()).logits)


def test_weights_start_at_one_over_the_root_of_the_width():
    torch.manual_seed(0)
    model = OrganismForCausalLM(OrganismConfig(
        vocab_size=500, hidden_size=400, intermediate_size=800, attention_bias=True,
    ))  # fmt: skip
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.03), name
        else:
            assert parameter.unique().item() == (1 if name.endswith("norm.weight") else 0), name


def test_a_stated_initial_scale_and_sinusoidal_positions_are_used():
    torch.manual_seed(0)
    model = OrganismForCausalLM(OrganismConfig(
        vocab_size=500, hidden_size=400, initializer_range=0.02, embedding_range=1.0,
        position_init="sinusoidal",
    ))  # fmt: skip
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(1, rel=0.03)
    assert torch.equal(model.model.embed_positions.weight, sinusoids(64, 400))
    by_hand = math.sin(3 / 10_000 ** (10 / 400))
    assert sinusoids(64, 400)[3, 10].item() == pytest.approx(by_hand, abs=1e-6)
    assert sinusoids(64, 400)[0, 1].item() == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_size": 18}, "multiple of model.num_attention_heads"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be at least 0"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
        ({"hidden_size": 5, "num_attention_heads": 5, "position_init": "sinusoidal"}, "even"),
        ({"tie_word_embeddings": True}, "never tied"),
    ],
)
def test_sizes_that_make_no_model_are_refused(options, words):
    with pytest.raises(Exception, match=words):
        organism(**options)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_the_last_position_alone_is_what_the_whole_pass_gives_there(n_layers, attention):
    model = organism(
        attention, num_hidden_layers=n_layers, intermediate_size=24, smeared_keys=True,
        positions="queries_keys",
    )  # fmt: skip
    with torch.no_grad():
        whole, last = model(tokens()), model(tokens(), last_position_only=True)
    assert last.logits.shape == (3, 1, 11)
    torch.testing.assert_close(last.logits, whole.logits[:, -1:])


def test_an_input_longer_than_the_context_is_refused():
    with pytest.raises(InputError, match="10 tokens does not fit"):
        organism()(tokens(10))


FIXED = {"L0H1": 1, "L1H0": 0, "L1H3": 4}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("smeared", [True, False])
def test_fixed_heads_attend_to_one_token_exactly(attention, smeared):
    made = {"hidden_size": 32, "positions": "queries_keys", "smeared_keys": smeared}
    model = organism("eager", fixed_attention=FIXED, **made)
    found = model(tokens(), output_attentions=True).attentions
    for name, back in FIXED.items():
        layer, head = map(int, name[1:].split("H"))
        expected = torch.zeros(9, 9, dtype=torch.float64)
        expected[range(9), [max(i - back, 0) for i in range(9)]] = 1
        assert torch.equal(found[layer][:, head], expected.expand(3, 9, 9))
    assert found[0][:, 0].std() > 0.01  # other heads attend as their weights say
    other = organism(attention, fixed_attention=FIXED, **made)
    logits = other(tokens()).logits
    assert torch.allclose(model(tokens()).logits, logits, atol=1e-4)  # eager: softmax in float32
    # The weights of queries and keys of a fixed head count for nothing.
    with torch.no_grad():
        other.model.layers[0].self_attn.q_proj.weight[8:16] += 1
        other.model.layers[0].self_attn.k_proj.weight[8:16] += 1
    assert torch.equal(logits, other(tokens()).logits)


def test_fixed_attention_is_exact_at_long_distances_in_float32():
    made = {"max_position_embeddings": 512, "hidden_size": 32, "num_attention_heads": 1}
    model = organism("eager", fixed_attention={"L0H0": 1}, **made).float()
    found = model(torch.zeros(1, 512, dtype=torch.long), output_attentions=True).attentions[0][0, 0]
    assert torch.equal(found[1:, :-1], torch.eye(511))


@pytest.mark.parametrize(
    ("fixed", "said"),
    [
        ({"H1": 1}, "'H1' is no head"),
        ({"L2H0": 1}, "no head L2H0: the model has 2 layers of 4 heads"),
        ({"L0H0": -1}, "L0H0 is -1, expected 0"),
        ({"L0H0": 1}, "heads of 8 dimensions or more at a context of 9"),
    ],
)
def test_fixed_attention_of_no_head_is_refused(fixed, said):
    with pytest.raises(Exception, match="fixed_attention") as found:
        organism(fixed_attention=fixed)
    assert said in str(found.value.__cause__ or found.value)


def test_only_a_model_with_fixed_heads_says_so_in_its_config():
    assert "fixed_attention" not in OrganismConfig().to_dict()
    fixed = OrganismConfig(fixed_attention={"L0H0": 1})
    assert OrganismConfig(**fixed.to_dict()).fixed_attention == {"L0H0": 1}
