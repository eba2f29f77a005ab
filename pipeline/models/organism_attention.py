"""The attention of an organism, with smeared keys and heads whose attention is fixed."""

import math
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import dropout
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward

from pipeline.models.organism_config import OrganismConfig
from pipeline.models.organism_fields import n_periods

_SHARPNESS = 100.0  # factor of the scores of heads whose attention is fixed


def position_codes(
    positions: Int[Tensor, " position"], context: int, d_head: int
) -> Float[Tensor, "position d_head"]:
    """Return vectors whose products are greatest, by at least 2, for equal positions.

    They hold cos and sin of 2 pi position / period, for the periods 2, 4, 8, … up to the context or
    beyond: two positions whose distance is an odd multiple of 2^k are in opposite phases of the
    period 2^(k+1).
    """
    periods = 2.0 ** torch.arange(1, n_periods(context) + 1, device=positions.device)
    angles = 2 * math.pi * positions[:, None] / periods
    codes = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return nn.functional.pad(codes, (0, d_head - codes.shape[-1]))


def smear(
    k: Float[Tensor, "batch head position d_head"], alpha: Float[Tensor, " head"]
) -> Float[Tensor, "batch head position d_head"]:
    """Return smeared keys: s k_j + (1 - s) k_{j-1} with s = sigmoid(alpha); k_0 is unchanged.

    Olsson et al. 2022, "Smeared keys"; one alpha per head, 0 (s = 1/2) before training.
    """
    s = torch.sigmoid(alpha)[:, None, None]
    return torch.cat([k[:, :, :1], s * k[:, :, 1:] + (1 - s) * k[:, :, :-1]], dim=2)


class OrganismAttention(nn.Module):
    """Multi-head causal attention, computed through transformers' attention interface."""

    def __init__(self, config: OrganismConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = 1  # read by the registered attention functions
        own = config.attention_scale
        self.scaling = self.head_dim**-0.5 if own is None else own
        self.is_causal = True
        d_model, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_model, bias=bias)
        self.v_proj = nn.Linear(d_model, d_model, bias=bias)
        self.o_proj = nn.Linear(d_model, d_model, bias=bias)
        self.fixed = config.fixed_in(layer_idx)
        if config.smeared_keys:
            self.smear_alpha = nn.Parameter(torch.zeros(config.num_attention_heads))

    def _heads(
        self, x: Float[Tensor, "batch position d_model"]
    ) -> Float[Tensor, "batch head position d_head"]:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _fixed_attention(
        self,
        q: Float[Tensor, "batch head query d_head"],
        k: Float[Tensor, "batch head position d_head"],
        queries: slice,
    ) -> tuple[
        Float[Tensor, "batch head query d_head"], Float[Tensor, "batch head position d_head"]
    ]:
        """Return queries and keys of which those of fixed heads are codes of positions.

        Codes rather than masks, so that every kernel computes the attention as it does that of
        other heads. Scores of other keys are lower by 200 or more: exp(-200) rounds to 0.
        """
        at, context = torch.arange(k.shape[2], device=k.device), self.config.max_position_embeddings
        q, k = q.clone(), k.clone()
        for head, back in self.fixed.items():
            k[:, head] = position_codes(at, context, self.head_dim).to(k)
            sought = position_codes((at[queries] - back).clamp(min=0), context, self.head_dim)
            q[:, head] = (_SHARPNESS / self.scaling * sought).to(q)
        return q, k

    def forward(
        self,
        hidden_states: Float[Tensor, "batch position d_model"],
        position_vectors: Float[Tensor, "#batch position d_model"] | None,
        attention_mask,
        queries: slice,
        **kwargs,
    ) -> tuple[
        Float[Tensor, "batch query d_model"], Float[Tensor, "batch head query position"] | None
    ]:
        """Return the contribution to the residual stream at `queries`, and the attention weights.

        The weights are None for implementations that do not compute them. `position_vectors` are
        added to the input of queries and keys, not to that of values.
        """
        x_qk = hidden_states if position_vectors is None else hidden_states + position_vectors
        q, k = self._heads(self.q_proj(x_qk[:, queries])), self._heads(self.k_proj(x_qk))
        v = self._heads(self.v_proj(hidden_states))
        if self.config.smeared_keys:
            k = smear(k, self.smear_alpha)
        if self.fixed:
            q, k = self._fixed_attention(q, k, queries)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            cast(str, self.config._attn_implementation), eager_attention_forward
        )
        mask = attention_mask
        # None: an implementation with a causal mask of its own, which for a single last query is
        # no mask at all.
        if mask is not None and queries != slice(None):
            mask = mask[:, :, queries]
        z, weights = attend(self, q, k, v, mask, dropout=0.0, scaling=self.scaling, **kwargs)
        if self.training and self.config.head_dropout:
            kept = torch.ones(z.shape[0], 1, z.shape[2], 1, dtype=z.dtype, device=z.device)
            z = z * dropout(kept, self.config.head_dropout)
        return self.o_proj(z.flatten(2)), weights
