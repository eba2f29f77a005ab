"""Sizes, names of parameters and special tokens of an architecture, before weights are read."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from pipeline.errors import InputError
from pipeline.models.architecture import without_memory
from pipeline.models.assumptions import Unmet
from pipeline.models.families import Family, family_of
from pipeline.models.layers import layers_without_attention
from pipeline.models.recurrent_norms import norm_notes
from pipeline.models.special_ids import named_special_ids
from pipeline.outside import reading


@dataclass(frozen=True)
class ModelFacts:
    """The properties of an architecture that are known before any weights are read.

    context: the longest sequence (tokens) it can read, None if there is no limit. parameters: the
    names of its weight tensors, tied ones once. architecture: the name of its class. d_mlp: neurons
    of each MLP, None if the config does not say. n_numbers: in all parameters. unmet: the
    `ASSUMPTIONS` that the architecture was found not to meet, each with the reason; empty if all
    are met or none was checked yet. without_attention: the layers that do not attend; n_heads,
    n_key_value_heads and d_head are those of the others, and 0 where there are none. family: the
    names of its matrices, None if not described. notes: sentences on what other versions of
    transformers compute otherwise.
    """

    n_layers: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_model: int
    vocabulary: int
    context: int | None
    parameters: tuple[str, ...]
    architecture: str
    bos_token_id: int | None = None
    special_token_ids: tuple[int, ...] = ()
    d_mlp: int | None = None
    n_numbers: int = 0
    unmet: Unmet = field(default_factory=dict)
    without_attention: tuple[int, ...] = ()
    family: Family | None = None
    notes: tuple[str, ...] = ()

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The layers that attend, ascending."""
        return tuple(k for k in range(self.n_layers) if k not in self.without_attention)


def facts_of(
    architecture: str | Path | PreTrainedConfig, trust_remote_code: bool = False
) -> ModelFacts:
    """Return the facts of a config, or of the config.json in a checkpoint's folder.

    Reads no weights. The special ids of a folder are those that its own files name, without the
    library's defaults. Raises InputError for a config that describes no model.
    """
    if isinstance(architecture, PreTrainedConfig):
        return facts_of_module(without_memory(architecture, trust_remote_code))
    file = Path(architecture) / "config.json"
    with reading(str(file), InputError, passing=(), remedy="restore it"):
        facts = facts_of_module(without_memory(architecture, trust_remote_code))
        bos, special = named_special_ids(architecture, facts.vocabulary)
    return replace(facts, bos_token_id=bos, special_token_ids=special)


def facts_of_module(module: PreTrainedModel) -> ModelFacts:
    """Return the facts of a module, with the special ids that its config names."""
    config = module.config.get_text_config()
    without_attention = layers_without_attention(module)
    n_layers = config.num_hidden_layers
    attends = not n_layers or len(without_attention) < n_layers
    n_heads = config.num_attention_heads if attends else 0
    unembedding = cast(nn.Linear, module.get_output_embeddings())
    specials = [getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")]
    flat = [i for s in specials if s is not None for i in (s if isinstance(s, list) else [s])]
    bos = specials[0]
    return ModelFacts(
        n_layers=n_layers,
        n_heads=n_heads,
        n_key_value_heads=_key_value_heads(config) if attends else 0,
        d_head=_width_of_heads(config) if attends else 0,
        d_model=config.hidden_size,
        vocabulary=unembedding.weight.shape[0],
        context=_context(config),
        parameters=tuple(name for name, _ in module.named_parameters()),
        architecture=type(module).__name__,
        bos_token_id=bos if isinstance(bos, int) and bos < unembedding.weight.shape[0] else None,
        special_token_ids=tuple(sorted({i for i in flat if i < unembedding.weight.shape[0]})),
        d_mlp=getattr(config, "intermediate_size", None),
        n_numbers=sum(parameter.numel() for parameter in module.parameters()),
        without_attention=without_attention,
        family=family_of(config),
        notes=norm_notes(module),
    )


def _width_of_heads(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _key_value_heads(config: PreTrainedConfig) -> int:
    # Falcon: `multi_query` means one head, but is ignored by its newer decoder architecture.
    if getattr(config, "multi_query", False) and not getattr(
        config, "new_decoder_architecture", False
    ):
        return 1
    for name in ("num_key_value_heads", "num_kv_heads"):
        if heads := getattr(config, name, None):
            return heads
    return config.num_attention_heads


def _context(config: PreTrainedConfig) -> int | None:
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return None  # positions are biases on attention scores: any length has them
    return getattr(config, "max_position_embeddings", None)
