"""The matrices of the circuits papers, per head, for any naming and fusion of a model family.

Row convention: a vector x of the residual stream is a row, and where p is the attention pattern
and f the final norm (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits),

    score(query x, key y) = (x W_Q) (y W_K)^T,   head output = p x W_V W_O,   logits = f(x) W_U

The gain g of a norm is folded into the matrix that reads the normalised stream, diag(g) W, and the
gain of a norm on the attention's output into W_O, both on copies: the loaded weights are not
changed. So are the constant factors of Granite on a block's output and on logits. The rest of a
norm (subtracting the mean, dividing by the length) is not part of these matrices; neither are
biases and rotary positions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedConfig

from pipeline.models.facts import ModelFacts
from pipeline.models.families import Family, family_of
from pipeline.models.logit_settings import logit_factor, logit_softcap
from pipeline.models.weights import ModelWeights

Stream = Float[Tensor, "*batch d_model"]


@dataclass(frozen=True)
class Heads:
    """The matrices of one layer's heads; grouped keys and values are repeated per query head."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]


def circuits(weights: ModelWeights) -> "Circuits | None":
    """Return the circuit matrices of a model, or None if they are not defined.

    They are defined for `FAMILIES`, by the `model_type` of the config. They are not for models with
    a norm on the embeddings (Bloom) or projections around the residual stream (OPT-350m), where
    W_E W_V is no single matrix; for families whose fused layout is not described; and for models
    that a check has found to differ from the description of their family (`engine/form.py`).
    """
    family = family_of(weights.config)
    if family is None or not _is_described(weights.facts):
        return None
    return Circuits(weights, family)


def _is_described(facts: ModelFacts) -> bool:
    projected = any(".project_in." in name for name in facts.parameters)
    return not projected and "matrices" not in facts.unmet


def weights_of_circuits(
    facts: ModelFacts,
    queries_keys: Iterable[int] = (),
    values_outputs: Iterable[int] = (),
    embedding: bool = False,
    unembedding: bool = False,
) -> frozenset[str]:
    """Return the parameters that circuit matrices are computed from; none if these are undefined.

    queries_keys, values_outputs: the layers whose W_Q and W_K, or W_V and W_O, are used; those that
    do not attend have none. embedding, unembedding: whether W_E or W_U is (b_U is not covered).
    """
    family = facts.family
    if family is None or not _is_described(facts):
        return frozenset()
    q_k, v = family.qkv[:2], family.qkv[-1]  # one and the same matrix where they are fused
    of_scores = (family.norm, *q_k, family.query_norm, family.key_norm)
    of_outputs = (family.norm, v, family.output, family.output_norm)
    used = ((queries_keys, of_scores), (values_outputs, of_outputs))
    names = {
        f"{family.layer.format(layer)}.{name}"
        for layers, of in used
        for layer in layers
        for name in of
        if name and layer not in facts.without_attention
    }
    if unembedding:
        tied = f"{family.unembedding}.weight" not in facts.parameters
        names |= {family.final_norm, family.embedding if tied else family.unembedding}
    if embedding:
        names.add(family.embedding)
    return frozenset(f"{name}.weight" for name in names).intersection(facts.parameters)


class Circuits:
    """The circuit matrices of one model, in float32 (float64 if the weights are).

    Matrices are computed at each access, one layer at a time, to save memory: keep those that are
    used twice. heads_are_normed: a norm is applied between W_O and the stream, so that a head's
    contribution depends on the other heads. embedding_factor: the factor by which rows of W_E are
    multiplied before they enter the stream. softcap: c of logits c tanh(x / c), None without.
    """

    def __init__(self, weights: ModelWeights, family: Family):
        self._weights, self._family = weights, family
        self.n_layers, self.n_heads = weights.facts.n_layers, weights.facts.n_heads
        self.d_model, self.d_head = weights.facts.d_model, weights.facts.d_head
        self.heads_are_normed = bool(family.output_norm) or family.norms_stream
        self.final_norm = FinalNorm.of(weights.config)
        self.softcap = logit_softcap(weights.config)

    @property
    def W_E(self) -> Float[Tensor, "vocabulary d_model"]:
        """The embedding as stored, without the constant factor that some families apply."""
        return self._read(self._family.embedding)

    @property
    def embedding_factor(self) -> float:
        """The factor of W_E's rows in the stream, such as Gemma's sqrt(d_model)."""
        factor = getattr(self._weights.config, "embedding_multiplier", 1.0)
        return factor * (self.d_model**0.5 if self._family.embedding_scaled else 1.0)

    @property
    def W_U(self) -> Float[Tensor, "d_model vocabulary"]:
        """The unembedding (W_E^T if they are tied) with the final norm's gain and logit factor."""
        gain = self._gain(self._family.final_norm)
        return _scaled(self._unembedding(), rows=gain, factor=self._logit_factor)

    @property
    def unembedding_rows(self) -> Float[Tensor, "vocabulary d_model"]:
        """W_U^T as stored: `with_final_gain` of it, or of what is linear in its rows, is W_U's."""
        return self._unembedding().T

    def with_final_gain(
        self, rows: Float[Tensor, "*shape d_model"]
    ) -> Float[Tensor, "*shape d_model"]:
        """Multiply rows, as stored, by the final norm's gain and the logit factor."""
        gain = self._gain(self._family.final_norm)
        return (rows if gain is None else rows * gain) * self._logit_factor

    @property
    def b_U(self) -> Float[Tensor, " vocabulary"]:
        """The contribution of the biases of final norm and unembedding to each logit."""
        W_U = self._unembedding()
        bias = torch.zeros_like(W_U[0])
        if (of_norm := self._bias(self._family.final_norm)) is not None:
            bias = bias + of_norm @ W_U
        if (own := self._bias(self._family.unembedding)) is not None:
            bias = bias + own
        return bias * self._logit_factor

    def layer(self, layer: int) -> Heads:
        """Return the matrices of one layer's heads, with the gains of norms folded in.

        NaN in a layer that does not attend.
        """
        if layer in self._weights.facts.without_attention:
            return self._no_heads()
        family, prefix = self._family, f"{self._family.layer.format(layer)}."
        gain = self._gain(prefix + family.norm) if family.norm else None
        q, k, v = (_scaled(m, rows=gain) for m in self._queries_keys_values(prefix))
        output_gain = self._gain(prefix + family.output_norm) if family.output_norm else None
        factor = getattr(self._weights.config, "residual_multiplier", 1.0)
        W_O = _scaled(self._matrix(prefix + family.output), columns=output_gain, factor=factor)
        return Heads(
            W_Q=self._per_head(_scaled(q, columns=self._gain(prefix + family.query_norm))),
            W_K=self._per_head(_scaled(k, columns=self._gain(prefix + family.key_norm))),
            W_V=self._per_head(v),
            W_O=W_O.unflatten(0, (self.n_heads, self.d_head)),
        )

    def _no_heads(self) -> Heads:
        # On the device and in the type of the matrices of other layers.
        nan = self.W_E.new_full((self.n_heads, self.d_model, self.d_head), torch.nan)
        return Heads(nan, nan, nan, nan.mT)

    @property
    def _logit_factor(self) -> float:
        return logit_factor(self._weights.config)

    def _unembedding(self) -> Float[Tensor, "d_model vocabulary"]:
        tied = f"{self._family.unembedding}.weight" not in self._weights
        return self._read(self._family.embedding if tied else self._family.unembedding).T

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
        # Consecutive query heads share a key and value head, as in transformers' repeat_kv.
        return heads.repeat_interleave(self.n_heads // heads.shape[0], dim=0)

    def _matrix(self, name: str) -> Float[Tensor, "inputs outputs"]:
        matrix = self._read(name)
        return matrix if self._family.rows_are_inputs else matrix.T

    def _gain(self, norm: str) -> Float[Tensor, " width"] | None:
        """Return a norm's gain; None if there is no such norm or it has no gain."""
        if f"{norm}.weight" not in self._weights:
            return None
        # Gemma's norms multiply by 1 + weight.
        return self._read(norm).flatten() + self._family.offset

    def _bias(self, name: str) -> Float[Tensor, " width"] | None:
        return self._read(name, "bias") if f"{name}.bias" in self._weights else None

    def _read(self, name: str, kind: str = "weight") -> Float[Tensor, "..."]:
        found = self._weights[f"{name}.{kind}"].detach()
        # Products of matrices in bfloat16 would lose most of their digits.
        return found.to(torch.promote_types(found.dtype, torch.float32))


@dataclass(frozen=True)
class FinalNorm:
    """The final norm without gain and bias, which are folded into W_U and b_U.

    centres: it subtracts the mean (LayerNorm). epsilon: None if there is no norm at all.
    """

    centres: bool
    epsilon: float | None

    @classmethod
    def of(cls, config: PreTrainedConfig) -> "FinalNorm":
        """Return the final norm of a config; OPT has none if its norms follow the blocks."""
        follow = not getattr(config, "do_layer_norm_before", True)
        if follow or getattr(config, "_remove_final_layer_norm", False):
            return cls(False, None)
        return cls.of_blocks(config)

    @classmethod
    def of_blocks(cls, config: PreTrainedConfig) -> "FinalNorm":
        """Return the norm before each block, which is of the same kind.

        An organism without `layer_norm` has none. The epsilon is torch's default, 1e-5, if the
        config has none.
        """
        if not getattr(config, "layer_norm", True):
            return cls(False, None)
        if (family := family_of(config)) is not None and family.rms_epsilon:
            return cls(False, getattr(config, family.rms_epsilon))
        if (epsilon := getattr(config, "rms_norm_eps", None)) is not None:
            return cls(False, epsilon)
        names = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
        return cls(True, next((getattr(config, n) for n in names if hasattr(config, n)), 1e-5))

    def __call__(self, stream: Stream) -> Stream:
        """Return the normalised stream, which W_U is applied to."""
        return self.centred(stream) * self.scale(stream)

    def centred(self, stream: Stream) -> Stream:
        """Return the stream (or a part of it) without its mean, if the norm subtracts that."""
        return stream - stream.mean(-1, keepdim=True) if self.centres else stream

    def scale(self, stream: Stream) -> Float[Tensor, "*batch 1"]:
        """Return the factor by which the norm multiplies each vector of the stream: 1 / length."""
        if self.epsilon is None:
            return torch.ones_like(stream[..., :1])
        return (self.centred(stream).square().mean(-1, keepdim=True) + self.epsilon).rsqrt()


def _scaled(
    matrix: Float[Tensor, "inputs outputs"],
    rows: Float[Tensor, " inputs"] | None = None,
    columns: Float[Tensor, " width"] | None = None,
    factor: float = 1.0,
) -> Float[Tensor, "inputs outputs"]:
    """Return factor diag(rows) matrix diag(columns); `columns` of one head apply to every head."""
    if matrix.is_meta:  # was not read, and has no numbers
        return matrix
    if rows is not None:
        matrix = rows[:, None] * matrix
    if columns is not None:
        matrix = matrix * columns.repeat(matrix.shape[1] // columns.shape[0])
    return matrix if factor == 1 else matrix * factor
