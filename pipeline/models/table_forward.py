"""The forward pass of a one-layer organism over all pairs (a, b, '='), factorised.

Only the last position's query matters, and each key and value depends on one token and its position
alone. They are therefore computed for the p tokens, not for the p x p pairs, and combined over the
grid:

    mid[a, b] = x_= + sum over heads of A_0[a, b] u_0[a] + A_1[a, b] u_1[b] + A_2[a, b] u_2

with A_i the attention from '=' to position i and u_i the value there, multiplied by W_O. The MLP
and the logits are then computed for every pair, at one position instead of three. The results equal
those of the plain pass up to rounding.
"""

from dataclasses import dataclass
from typing import TypeGuard, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.models.organism import OrganismForCausalLM, OrganismLayer

# Pairs per block of the MLP: 512 x 512 neurons in float32 take 1 MB, which a CPU's cache holds.
_BLOCK = 512


@dataclass(frozen=True)
class AtEquals:
    """The activations at '=' for every pair, in row a * p + b.

    neurons: activations of the MLP, the inputs of W_out; None if not kept or without an MLP.
    """

    neurons: Float[Tensor, "pair neuron"] | None
    logits: Float[Tensor, "pair vocabulary"]


def factorises(module: PreTrainedModel) -> TypeGuard[OrganismForCausalLM]:
    """Return whether a model is an organism of one layer whose keys depend on one token each.

    A model that drops activations in training does so by pair, and not by token.
    """
    return (
        isinstance(module, OrganismForCausalLM)
        and module.config.num_hidden_layers == 1
        and not module.config.smeared_keys
        and not module.config.fixed_attention
        and not (module.training and module.config.drops)
    )


def _layer(model: OrganismForCausalLM) -> OrganismLayer:
    return cast(OrganismLayer, model.model.layers[0])


def forward_table(model: OrganismForCausalLM, p: int, keep_neurons: bool = True) -> AtEquals:
    """Compute all p * p pairs with a model that `factorises` and whose id p is '='."""
    residual = middle_residual(model, p)
    layer = _layer(model)
    d_mlp = model.config.intermediate_size if keep_neurons and layer.mlp is not None else 0
    neurons = residual.new_empty(p * p, d_mlp or 0)
    logits = residual.new_empty(p * p, model.config.vocab_size)
    for first in range(0, p * p, _BLOCK):
        pairs = slice(first, first + _BLOCK)
        x = residual[pairs]
        if layer.mlp is not None:
            active = layer.mlp.act_fn(layer.mlp.up_proj(layer.post_attention_layernorm(x)))
            x = x + layer.mlp.down_proj(active)
            if d_mlp:
                neurons[pairs] = active
        logits[pairs] = model.lm_head(model.model.norm(x))
    return AtEquals(neurons if d_mlp else None, logits)


def pair_logits(
    model: OrganismForCausalLM, p: int, pairs: Int[Tensor, " pair"]
) -> Float[Tensor, "pair vocabulary"]:
    """Return the differentiable logits at '=' of the given pairs a * p + b, for training."""
    x, layer = middle_residual(model, p)[pairs], _layer(model)
    if layer.mlp is not None:
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.lm_head(model.model.norm(x))


def middle_residual(model: OrganismForCausalLM, p: int) -> Float[Tensor, "pair d_model"]:
    """Return the residual stream at '=' between attention and MLP, for every pair."""
    attention, embedding = _layer(model).self_attn, model.model.embed_tokens.weight
    tokens = (embedding[:p], embedding[:p], embedding[p : p + 1])
    first, second, equals = (_Source(model, x, i) for i, x in enumerate(tokens))
    to_first, to_second, to_equals = _attention(first, second, equals)
    # [a, b, head] @ [a, head, d_model]: the contribution of the first token's values, for each a.
    mixed = to_first @ first.values().transpose(0, 1)
    mixed += to_equals @ equals.values().transpose(0, 1)
    mixed += (to_second.transpose(0, 1) @ second.values().transpose(0, 1)).transpose(0, 1)
    if attention.o_proj.bias is not None:
        mixed += attention.o_proj.bias
    return (mixed + equals.x).flatten(0, 1)


def _attention(
    first: "_Source", second: "_Source", equals: "_Source"
) -> tuple[Float[Tensor, "a b head"], ...]:
    """Return the attention from '=' to each of the three positions, for every pair."""
    q = equals.queries()[:, 0, :, None]
    s_a, s_b, s_equals = (
        equals.attention.scaling * (source.keys() @ q).squeeze(-1)
        for source in (first, second, equals)
    )
    # No mask: '=' is the last position and attends to all three.
    scores = torch.broadcast_tensors(s_a[:, :, None], s_b[:, None, :], s_equals[:, :, None])
    return torch.stack(scores).softmax(dim=0).permute(0, 2, 3, 1).unbind()


class _Source:
    """The queries, keys and values of all tokens that occur at one position."""

    def __init__(
        self, model: OrganismForCausalLM, tokens: Float[Tensor, "token d_model"], position: int
    ) -> None:
        layer = _layer(model)
        self.attention = layer.self_attn
        vector = model.model.embed_positions.weight[position]
        in_residual = model.config.positions == "residual"
        self.x = tokens + vector if in_residual else tokens
        self.normed = layer.input_layernorm(self.x)
        self.x_qk = self.normed if in_residual else self.normed + vector

    def queries(self) -> Float[Tensor, "head token d_head"]:
        return self._heads(self.attention.q_proj(self.x_qk))

    def keys(self) -> Float[Tensor, "head token d_head"]:
        return self._heads(self.attention.k_proj(self.x_qk))

    def values(self) -> Float[Tensor, "head token d_model"]:
        """Return each head's values, multiplied by its part of W_O."""
        W_O = self.attention.o_proj.weight.T.unflatten(0, (-1, self.attention.head_dim))
        return self._heads(self.attention.v_proj(self.normed)) @ W_O

    def _heads(self, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "head token d_head"]:
        return x.unflatten(-1, (-1, self.attention.head_dim)).transpose(0, 1)
