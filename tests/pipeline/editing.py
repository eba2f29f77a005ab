"""Heads of a plain transformers model, recorded and edited by hooks on W_O."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.models.layers import attention_modules


def projections(model: nn.Module) -> list[nn.Module]:
    """Return W_O of each layer, whose input is the concatenated outputs of the heads."""
    names = ("o_proj", "out_proj", "dense", "c_proj")
    return [
        next(child for name, child in attention.named_children() if name in names)
        for attention in attention_modules(model)
    ]


@contextmanager
def edited(model: PreTrainedModel, edits: dict[int, Callable[[Tensor], object]]) -> Iterator[None]:
    """Apply each edit to a layer's outputs [sequence, position, head, d_value] in place."""

    def hook(edit: Callable[[Tensor], object]) -> Callable:
        def change(_: nn.Module, args: tuple) -> tuple:
            z = args[0].clone()
            edit(z.unflatten(-1, (model.config.num_attention_heads, -1)))
            return (z, *args[1:])

        return change

    layers = projections(model)
    handles = [layers[at].register_forward_pre_hook(hook(edit)) for at, edit in edits.items()]
    yield
    for handle in handles:
        handle.remove()


def outputs(model: PreTrainedModel, ids: Tensor) -> list[Tensor]:
    """Return each layer's head outputs [sequence, position, head, d_value]."""
    kept: list[Tensor] = []
    with edited(
        model, {at: lambda z: kept.append(z.clone()) for at in range(len(projections(model)))}
    ):
        model(ids, use_cache=False)
    return kept
