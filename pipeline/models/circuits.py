"""The matrices of the circuits papers, per head, whatever a model family calls and fuses them.

Row convention: a vector x of the residual stream is a row, and where p is the attention pattern
and f the final norm (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits),

    score(query x, key y) = (x W_Q) (y W_K)^T,   head output = p x W_V W_O,   logits = f(x) W_U

The gain g of a norm is folded into the matrix that reads the normalised stream, diag(g) W, and the
gain of a norm on the attention's output into W_O, both on copies: the loaded weights stay as they
are. What is left of a norm (subtracting a mean, dividing by a length) is no part of these matrices;
nor are biases, nor rotary positions.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.models.loading import ModelWeights


@dataclass(frozen=True)
class Heads:
    """One layer's heads. Grouped keys and values are repeated: each query head has its own."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]


@dataclass(frozen=True)
class _Family:
    """Where a family keeps its matrices; the names of a layer begin with `layer`, {} its number.

    qkv: three names, or one of a fused matrix whose columns lie "side by side" (all queries, all
    keys, all values) or "interleaved" (query, key and value of the first head, of the second, ...).
    offset: 1 where a norm multiplies by 1 + weight. output_norm: between W_O and the stream.
    """

    embedding: str = "model.embed_tokens"
    layer: str = "model.layers.{}"
    norm: str = "input_layernorm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    fused: Literal["side by side", "interleaved"] = "side by side"
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    output: str = "self_attn.o_proj"
    output_norm: str = ""
    final_norm: str = "model.norm"
    unembedding: str = "lm_head"
    offset: float = 0.0
    rows_are_inputs: bool = False


_LLAMA = _Family()
_POST_NORM = _Family(norm="", output_norm="post_attention_layernorm")
_GEMMA_2 = _Family(output_norm="post_attention_layernorm", offset=1.0)
_GPT_J = _Family(
    embedding="transformer.wte",
    layer="transformer.h.{}",
    norm="ln_1",
    qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    output="attn.out_proj",
    final_norm="transformer.ln_f",
)

FAMILIES: dict[str, _Family] = {
    "ontogeny-organism": _LLAMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "olmo": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "starcoder2": _LLAMA,
    "olmo2": _POST_NORM,
    "olmo3": _POST_NORM,
    "gemma": _Family(offset=1.0),
    "gemma2": _GEMMA_2,
    "gemma3_text": _GEMMA_2,
    "phi3": _Family(qkv=("self_attn.qkv_proj",)),
    "phi": _Family(output="self_attn.dense", final_norm="model.final_layernorm"),
    "opt": _Family(
        embedding="model.decoder.embed_tokens",
        layer="model.decoder.layers.{}",
        norm="self_attn_layer_norm",
        output="self_attn.out_proj",
        final_norm="model.decoder.final_layer_norm",
    ),
    "gptj": _GPT_J,
    "gpt_neo": replace(
        _GPT_J,
        qkv=("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        output="attn.attention.out_proj",
    ),
    "gpt2": replace(_GPT_J, qkv=("attn.c_attn",), output="attn.c_proj", rows_are_inputs=True),
    "gpt_neox": _Family(
        embedding="gpt_neox.embed_in",
        layer="gpt_neox.layers.{}",
        qkv=("attention.query_key_value",),
        fused="interleaved",
        output="attention.dense",
        final_norm="gpt_neox.final_layer_norm",
    ),
}


def circuits(weights: ModelWeights) -> "Circuits | None":
    """The circuit matrices of a model, or None where they are not defined here.

    Defined for `FAMILIES`, by the `model_type` of the config. Not for others: a norm on the
    embeddings (Bloom) or projections around the residual stream (OPT-350m) leave no one W_E W_V;
    the rest have fused layouts that are not described here.
    """
    family = FAMILIES.get(weights.config.model_type)
    if family is None or any(".project_in." in name for name in weights):
        return None
    return Circuits(weights, family)


class Circuits:
    """One model's circuit matrices, in float32 (float64 where the weights are).

    Matrices are made anew whenever they are read, one layer at a time: keep what is used twice.
    """

    def __init__(self, weights: ModelWeights, family: _Family):
        self._weights, self._family = weights, family
        self.n_layers, self.n_heads = weights.facts.n_layers, weights.facts.n_heads
        self.d_model, self.d_head = weights.facts.d_model, weights.facts.d_head

    @property
    def W_E(self) -> Float[Tensor, "vocabulary d_model"]:
        """The embedding as stored: constant factors that some families apply are left out."""
        return self._read(self._family.embedding)

    @property
    def W_U(self) -> Float[Tensor, "d_model vocabulary"]:
        """The unembedding (W_E^T where they are tied), with the final norm's gain."""
        tied = f"{self._family.unembedding}.weight" not in self._weights
        name = self._family.embedding if tied else self._family.unembedding
        return _scaled(self._read(name).T, rows=self._gain(self._family.final_norm))

    def layer(self, layer: int) -> Heads:
        """The heads of one layer."""
        family, prefix = self._family, f"{self._family.layer.format(layer)}."
        gain = self._gain(prefix + family.norm) if family.norm else None
        q, k, v = (_scaled(m, rows=gain) for m in self._queries_keys_values(prefix))
        q = _scaled(q, columns=self._gain(prefix + family.query_norm))
        k = _scaled(k, columns=self._gain(prefix + family.key_norm))
        output_gain = self._gain(prefix + family.output_norm) if family.output_norm else None
        W_O = _scaled(self._matrix(prefix + family.output), columns=output_gain)
        return Heads(
            W_Q=self._per_head(q),
            W_K=self._per_head(k),
            W_V=self._per_head(v),
            W_O=W_O.unflatten(0, (self.n_heads, self.d_head)),
        )

    def _queries_keys_values(self, prefix: str) -> list[Float[Tensor, "d_model columns"]]:
        matrices = [self._matrix(prefix + name) for name in self._family.qkv]
        if len(matrices) == 3:
            return matrices
        if self._family.fused == "interleaved":
            by_head = matrices[0].unflatten(1, (self.n_heads, 3, self.d_head))
            return [m.flatten(1) for m in by_head.unbind(2)]
        grouped = self._weights.facts.n_key_value_heads
        widths = [heads * self.d_head for heads in (self.n_heads, grouped, grouped)]
        return list(matrices[0].split(widths, dim=1))

    def _per_head(
        self, matrix: Float[Tensor, "d_model columns"]
    ) -> Float[Tensor, "head d_model d_head"]:
        heads = matrix.unflatten(1, (-1, self.d_head)).transpose(0, 1)
        return heads.repeat_interleave(self.n_heads // heads.shape[0], dim=0)

    def _matrix(self, name: str) -> Float[Tensor, "inputs outputs"]:
        matrix = self._read(name)
        return matrix if self._family.rows_are_inputs else matrix.T

    def _gain(self, norm: str) -> Float[Tensor, " width"] | None:
        """A norm's gain; None where there is no such norm, or one without a gain."""
        if f"{norm}.weight" not in self._weights:
            return None
        return self._read(norm).flatten() + self._family.offset

    def _read(self, name: str) -> Tensor:
        weight = self._weights[f"{name}.weight"].detach()
        return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _scaled(
    matrix: Float[Tensor, "inputs outputs"],
    rows: Float[Tensor, " inputs"] | None = None,
    columns: Float[Tensor, " width"] | None = None,
) -> Float[Tensor, "inputs outputs"]:
    """diag(rows) matrix diag(columns); `columns` may be one head's and holds for every head."""
    if rows is not None:
        matrix = rows[:, None] * matrix
    if columns is not None:
        matrix = matrix * columns.repeat(matrix.shape[1] // columns.shape[0])
    return matrix
