"""The model organism: one small decoder with the architectural choices of the circuits papers.

It is an ordinary transformers model, registered with `AutoModelForCausalLM` when this module is
imported, so that code that reads Hugging Face checkpoints reads organisms without a special case.

    x_0   = W_E[tokens] (+ W_pos, when positions are "residual")
    x    <- x + Attention(LN(x)),   x <- x + MLP(LN(x)),   logits = LN(x) W_U

LN is the identity without `layer_norm`; there is no MLP when `intermediate_size` is 0.

Sources: Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (attention-only);
Press et al. 2021, Shortformer (positions added to queries and keys); Olsson et al. 2022,
In-context Learning and Induction Heads (smeared keys); Nanda et al. 2023, Progress measures for
grokking via mechanistic interpretability (no LayerNorm, weights drawn at 1/sqrt(d_model)).
"""

import math
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import dropout
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from pipeline.errors import InputError
from pipeline.models.organism_attention import OrganismAttention
from pipeline.models.organism_config import OrganismConfig


def sinusoids(n_positions: int, d_model: int) -> Float[Tensor, "position d_model"]:
    """Return the position vectors of Vaswani et al. 2017; columns 2i and 2i+1 are sin and cos of
    position / 10000^(2i / d_model)."""
    rates = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000.0) / d_model))
    angles = torch.arange(n_positions)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class PositionEmbedding(nn.Embedding):
    """An embedding of positions; a separate class, so that it can be initialised differently."""


class OrganismMLP(nn.Module):
    """An MLP, W_out act(W_in x), with biases if the configuration has `mlp_bias`."""

    def __init__(self, config: OrganismConfig):
        super().__init__()
        d_model, d_mlp = config.hidden_size, cast(int, config.intermediate_size)
        self.up_proj = nn.Linear(d_model, d_mlp, bias=config.mlp_bias)
        self.down_proj = nn.Linear(d_mlp, d_model, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return the layer's contribution to the residual stream."""
        return self.down_proj(self.act_fn(self.up_proj(x)))


def _norm(config: OrganismConfig) -> nn.Module:
    if not config.layer_norm:
        return nn.Identity()
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class OrganismLayer(nn.Module):
    """A block: attention, then the MLP if there is one, each on the normalised residual stream."""

    def __init__(self, config: OrganismConfig, layer_idx: int):
        super().__init__()
        self.dropout = config.dropout
        self.input_layernorm = _norm(config)
        self.self_attn = OrganismAttention(config, layer_idx)
        self.mlp = None
        if config.intermediate_size:
            self.post_attention_layernorm = _norm(config)
            self.mlp = OrganismMLP(config)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch position d_model"],
        position_vectors: Float[Tensor, "#batch position d_model"] | None,
        attention_mask,
        queries: slice,
        **kwargs,
    ) -> Float[Tensor, "batch query d_model"]:
        """Return the residual stream after this block at `queries`."""
        attended, _ = self.self_attn(
            self.input_layernorm(hidden_states), position_vectors, attention_mask, queries, **kwargs
        )
        hidden_states = hidden_states[:, queries] + dropout(attended, self.dropout, self.training)
        if self.mlp is not None:
            added = self.mlp(self.post_attention_layernorm(hidden_states))
            hidden_states = hidden_states + dropout(added, self.dropout, self.training)
        return hidden_states


class OrganismPreTrainedModel(PreTrainedModel):
    """The base class of body and language model: names, support flags and initialisation."""

    config: OrganismConfig
    config_class = OrganismConfig
    base_model_prefix = "model"  # the attribute of OrganismForCausalLM that holds the body
    _no_split_modules = ["OrganismLayer"]  # noqa: RUF012 (transformers' own attributes)
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": OrganismLayer,
        "attentions": OrganismAttention,
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # transformers.initialization's functions, not torch's: they skip tensors that were loaded.
        std = self.config.initializer_range
        std = self.config.hidden_size**-0.5 if std is None else std
        if isinstance(module, PositionEmbedding) and self.config.position_init == "sinusoidal":
            init.copy_(module.weight, sinusoids(*module.weight.shape))
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, PositionEmbedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.Embedding):
            own = self.config.embedding_range
            init.normal_(module.weight, std=std if own is None else own)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, OrganismAttention) and self.config.smeared_keys:
            init.zeros_(module.smear_alpha)


class OrganismModel(OrganismPreTrainedModel):
    """The body, which maps token ids to the residual stream after the final norm."""

    def __init__(self, config: OrganismConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = PositionEmbedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(
            OrganismLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = _norm(config)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Int[Tensor, "batch position"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "#batch position"] | None = None,
        past_key_values: None = None,
        use_cache: bool | None = None,
        last_position_only: bool = False,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Return `last_hidden_state` [batch, position, d_model] after the final norm, no cache.

        With `last_position_only` it is [batch, 1, d_model], and the last layer computes no other
        query: for tasks with one answer, at the end, this is less than half of the work. Raises
        InputError if the input is longer than `max_position_embeddings`.
        """
        length, context = input_ids.shape[1], self.config.max_position_embeddings
        if length > context:
            raise InputError(
                f"An input of {length} tokens does not fit this model, whose context "
                f"(max_position_embeddings) is {context}: use shorter sequences."
            )
        if self.config.smeared_keys and attention_mask is not None and not attention_mask.all():
            raise InputError(
                "Smeared keys mix every key with the one before it, so padding would change what "
                "follows it: give sequences without padding."
            )
        if position_ids is None:
            position_ids = torch.arange(length, device=input_ids.device)[None]
        x, position_vectors = self.embed_tokens(input_ids), self.embed_positions(position_ids)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            past_key_values=None,
            position_ids=position_ids,
        )
        if self.config.positions == "residual":
            x, position_vectors = x + position_vectors, None
        kept = slice(-1, None) if last_position_only else slice(None)
        for index, layer in enumerate(self.layers):
            queries = kept if index == len(self.layers) - 1 else slice(None)
            x = layer(x, position_vectors, mask, queries, **kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x[:, kept]))


class OrganismForCausalLM(OrganismPreTrainedModel):
    """The body and its unembedding W_U, which is never tied to W_E."""

    def __init__(self, config: OrganismConfig):
        super().__init__(config)
        self.model = OrganismModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.lm_head_bias)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch position"],
        labels: Int[Tensor, "batch position"] | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Return logits [batch, position, vocabulary], and with `labels` the mean loss in nats.

        `labels` are the input ids themselves (transformers shifts them); -100 is ignored.
        """
        body = self.model(input_ids, **kwargs)
        logits = self.lm_head(body.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=body.hidden_states,
            attentions=body.attentions,
        )


# exist_ok: reloading this module registers the class again.
AutoModelForCausalLM.register(OrganismConfig, OrganismForCausalLM, exist_ok=True)
