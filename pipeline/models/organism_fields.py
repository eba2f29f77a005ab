"""The fields of a model organism's configuration, and what makes a model of them, without torch."""

import math
import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import InputError


@dataclass(kw_only=True)
class OrganismFields:
    """The fields in which organisms differ, with transformers' usual names where there is one.

    `intermediate_size` 0: attention-only. `positions`: learned vectors added to the "residual"
    stream once, or to the input of "queries_keys" in every layer (after its LayerNorm, so that
    values carry no position). `position_init` "sinusoidal": the learned vectors start as the
    sines and cosines of Vaswani et al. 2017. `smeared_keys`: see `smear`. `initializer_range`:
    standard deviation of every weight matrix at step 0; None means 1 / sqrt(hidden_size).
    `embedding_range`: that of W_E, if it differs. `attention_scale`: the factor of scores before
    the softmax; None means 1 / sqrt(d_head). `fixed_attention`: heads, such as {"L0H1": 1}, which
    attend to the token so many positions back and to no other, whatever their W_Q and W_K are;
    where there is none so far back, to the first one.

    In training, `dropout` is the share of the entries of each block's contribution that are set to
    0, and `head_dropout` that of the heads, each in a whole sequence; what is left is scaled up.
    """

    vocab_size: int = 64
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int | None = 0
    max_position_embeddings: int = 64
    hidden_act: Literal["relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu"] = (
        "relu"
    )
    layer_norm: bool = True
    layer_norm_eps: float = 1e-5
    attention_scale: float | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    lm_head_bias: bool = False
    positions: Literal["residual", "queries_keys"] = "residual"
    position_init: Literal["normal", "sinusoidal"] = "normal"
    smeared_keys: bool = False
    fixed_attention: dict[str, int] | None = None
    initializer_range: float | None = None
    embedding_range: float | None = None
    dropout: float = 0.0
    head_dropout: float = 0.0
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    tie_word_embeddings: bool = False

    def validate_architecture(self) -> None:
        """Raise InputError for sizes that make no model; huggingface_hub calls this by its name."""
        for name in ("vocab_size", "hidden_size", "num_attention_heads", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("num_hidden_layers", "intermediate_size"):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"model.{name} must be at least 0, not {getattr(self, name)}.")
        for name in ("dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"model.{name} must be in [0, 1), not {getattr(self, name)}.")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"model.hidden_size must be a multiple of model.num_attention_heads "
                f"({self.num_attention_heads}), not {self.hidden_size}."
            )
        if self.position_init == "sinusoidal" and self.hidden_size % 2:
            raise InputError(
                f"model.hidden_size must be even for sinusoidal positions, not {self.hidden_size}."
            )
        self._validate_fixed_attention()
        if self.tie_word_embeddings:
            raise InputError("model.tie_word_embeddings: an organism's W_U is never tied to W_E.")

    def _validate_fixed_attention(self) -> None:
        for name, back in (self.fixed_attention or {}).items():
            found = re.fullmatch(r"L(\d+)H(\d+)", name)
            if found is None:
                raise InputError(
                    f"model.fixed_attention: {name!r} is no head: give one such as L0H1"
                )
            layer, head = map(int, found.groups())
            if layer >= self.num_hidden_layers or head >= self.num_attention_heads:
                raise InputError(
                    f"model.fixed_attention: there is no head {name}: the model has "
                    f"{self.num_hidden_layers} layers of {self.num_attention_heads} heads"
                )
            if back < 0:
                raise InputError(
                    f"model.fixed_attention: {name} is {back}, expected 0 (the token itself) or "
                    "more"
                )
        needed = 2 * n_periods(self.max_position_embeddings)
        if self.fixed_attention and self.hidden_size // self.num_attention_heads < needed:
            raise InputError(
                f"model.fixed_attention needs heads of {needed} dimensions or more at a context of "
                f"{self.max_position_embeddings}: raise hidden_size, or have fewer heads"
            )


def n_periods(context: int) -> int:
    """Return how many periods 2, 4, 8, … tell all positions of a context apart."""
    return max(1, math.ceil(math.log2(context)))
