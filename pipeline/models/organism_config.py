"""The configuration of an organism, registered with transformers when this module is imported."""

from typing import Any, no_type_check

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from pipeline.models.head_names import head_place
from pipeline.models.organism_fields import OrganismFields


# `strict` checks the types itself, and takes arguments that the signature it shows does not have.
@no_type_check
@strict
class OrganismConfig(OrganismFields, PreTrainedConfig):
    """The configuration of an organism, with transformers' usual names where there is one.

    Its fields, beside those of every model, are documented in `OrganismFields`. Raises InputError
    for sizes that make no model.
    """

    model_type = "ontogeny-organism"

    def __post_init__(self, **kwargs):
        self.intermediate_size = self.intermediate_size or 0  # None means no MLP, too
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json, with some fields only if they are set."""
        content = super().to_dict()
        # Left out, since runs saved before the fields existed must have an equal config.
        unset = {"attention_scale": None, "fixed_attention": None, "dropout": 0.0,
                 "head_dropout": 0.0}  # fmt: skip
        for name, value in unset.items():
            if name in content and content[name] == value:
                del content[name]
        return content

    @property
    def drops(self) -> bool:
        """Return whether the model drops activations in training."""
        return bool(self.dropout or self.head_dropout)

    def fixed_in(self, layer: int) -> dict[int, int]:
        """Return how many positions back each head of a layer attends whose attention is fixed."""
        named = (self.fixed_attention or {}).items()
        places = [(*head_place(name), back) for name, back in named]
        return {head: back for at, head, back in places if at == layer}


# exist_ok: reloading this module registers the class again.
AutoConfig.register(OrganismConfig.model_type, OrganismConfig, exist_ok=True)
