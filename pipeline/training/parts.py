"""Parts of a model that are put in from another checkpoint, and parts that are never trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from pipeline.errors import InputError, suggestion
from pipeline.models.head_names import head_place
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.organism_attention import OrganismAttention
from pipeline.models.weights import read_weights
from pipeline.training.config import Part

Entries = Bool[Tensor, "*shape"]


@dataclass(frozen=True)
class Frozen:
    """Entries of a parameter that keep their values: `values` where `entries`."""

    parameter: nn.Parameter
    entries: Entries
    values: Tensor

    @torch.no_grad()
    def drop_gradient(self) -> None:
        """Set the gradient of the entries to 0, so that it counts in no norm of gradients."""
        if self.parameter.grad is not None:
            self.parameter.grad[self.entries] = 0

    @torch.no_grad()
    def restore(self) -> None:
        """Set the entries to their values, which weight decay and momentum have moved."""
        self.parameter[self.entries] = self.values[self.entries]


@torch.no_grad()
def put_in(model: OrganismForCausalLM, parts: Sequence[Part]) -> list[Frozen]:
    """Copy the parts that have a checkpoint into a model; return what stays frozen.

    Raises InputError for a name that no parameter has, a head that is not there, or a checkpoint
    whose parameters have other shapes.
    """
    parameters = dict(model.named_parameters())
    frozen = []
    for part in parts:
        donor = None if part.checkpoint is None else read_weights(part.checkpoint)
        for name, entries in _entries(model, parameters, part).items():
            parameter = parameters[name]
            if donor is not None:
                values = _value_in(donor, name, parameter, str(part.checkpoint))
                parameter[entries] = values[entries]
            if part.frozen:
                frozen.append(Frozen(parameter, entries, parameter.detach().clone()))
    return frozen


def _entries(
    model: OrganismForCausalLM, parameters: Mapping[str, nn.Parameter], part: Part
) -> dict[str, Entries]:
    """Return which entries of which parameters a part consists of."""
    found: dict[str, Entries] = {}
    for pattern in part.parameters:
        names = [name for name in parameters if fnmatchcase(name, pattern)]
        if not names:
            raise InputError(f"keep: no parameter is named {pattern!r}; "
                             f"{suggestion(pattern, parameters)}")  # fmt: skip
        found |= {name: torch.ones_like(parameters[name], dtype=torch.bool) for name in names}
    for head in part.heads:
        for name, entries in _entries_of_head(model, *head_place(head)):
            found[name] = found.get(name, torch.zeros_like(entries)) | entries
    return found


def _entries_of_head(
    model: OrganismForCausalLM, layer: int, head: int
) -> Iterator[tuple[str, Entries]]:
    """Yield the rows of W_Q, W_K and W_V, their biases, and the columns of W_O of a head.

    And its smearing of keys, where the model has that.
    """
    config = model.config
    if layer >= config.num_hidden_layers or head >= config.num_attention_heads:
        raise InputError(
            f"keep: there is no head L{layer}H{head}: the model has {config.num_hidden_layers} "
            f"layers of {config.num_attention_heads} heads"
        )
    attention = cast(OrganismAttention, model.model.layers[layer].self_attn)
    rows = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
    for name, parameter in attention.named_parameters():
        entries = torch.zeros_like(parameter, dtype=torch.bool)
        if name == "o_proj.bias":  # of all heads together
            continue
        if name == "o_proj.weight":
            entries[:, rows] = True
        elif name == "smear_alpha":
            entries[head] = True
        else:
            entries[rows] = True
        yield f"model.layers.{layer}.self_attn.{name}", entries


def _value_in(
    donor: Mapping[str, Tensor], name: str, parameter: nn.Parameter, checkpoint: str
) -> Tensor:
    if name not in donor:
        raise InputError(f"{checkpoint}: has no parameter {name}: expected one like that to keep")
    values = donor[name]
    if values.shape != parameter.shape:
        raise InputError(
            f"{checkpoint}: {name} is of shape {tuple(values.shape)}, expected "
            f"{tuple(parameter.shape)}: train both models with the same sizes"
        )
    return values.to(parameter.dtype)
