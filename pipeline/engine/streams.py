"""The residual stream between a model's blocks: recorded, or given in place of the first blocks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.errors import InputError
from pipeline.models.families import family_of
from pipeline.models.layers import blocks

Stream = Float[Tensor, "batch position d_model"]


@contextmanager
def watched_stream(
    module: nn.Module, n_layers: int, streams: Mapping[int, list[Stream]]
) -> Iterator[None]:
    """Append copies of the residual stream that enters each block to the lists in `streams`.

    Key n_layers is the output of the last block. In a model without layers the only stream is the
    input of the final norm. Raises InputError where blocks pass on no single stream.
    """

    def keep(layer: int, stream: Any) -> None:
        if not isinstance(stream, Tensor) or stream.ndim != 3:
            raise InputError(
                f"{type(module).__name__} hands no single residual stream from block to block: "
                "its hidden states cannot be recorded"
            )
        streams[layer].append(stream.to("cpu", wide(stream.dtype), copy=True))

    def entering(layer: int) -> Callable[..., None]:
        return lambda _, args, kwargs: keep(layer, args[0] if args else kwargs.get("hidden_states"))

    def leaving(_: nn.Module, __: Any, output: Any) -> None:
        keep(n_layers, output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        if streams and not n_layers:
            handle = _final_norm(module).register_forward_pre_hook(entering(0), with_kwargs=True)
            stack.callback(handle.remove)
        for layer in streams if n_layers else ():
            # The last stream has no block that it enters; it is the output of the last block.
            block = blocks(module, n_layers)[min(layer, n_layers - 1)]
            if layer < n_layers:
                handle = block.register_forward_pre_hook(entering(layer), with_kwargs=True)
            else:
                handle = block.register_forward_hook(leaving)
            stack.callback(handle.remove)
        yield


def _final_norm(module: nn.Module) -> nn.Module:
    family = family_of(module.config.get_text_config())  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    if family is None:
        raise InputError(
            f"{type(module).__name__} has no layers, and the place of its final norm is not known "
            "here: its hidden states cannot be recorded"
        )
    return module.get_submodule(family.final_norm)


@contextmanager
def started_at(
    module: PreTrainedModel, n_layers: int, layer: int, stream: Stream | None
) -> Iterator[None]:
    """Skip the blocks before `layer`, and let `stream` enter that block."""
    skipped = blocks(module, n_layers)[:layer]
    if not skipped:
        yield
        return
    assert stream is not None
    others = _returned_beside(module, n_layers)
    returned = stream if others is None else (stream, *[None] * others)
    for block in skipped:
        # On the instance, where it shadows the method of the class until it is deleted.
        vars(block)["forward"] = lambda *_, **__: returned
    try:
        yield
    finally:
        for block in skipped:
            del vars(block)["forward"]


_BESIDE: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()


def _returned_beside(module: PreTrainedModel, n_layers: int) -> int | None:
    """Return how many values blocks return in a tuple with their stream; None for no tuple.

    They are attention, on request, and states. This depends on family and version of transformers;
    it is observed in a forward pass of one token through the body of the model.
    """
    if module not in _BESIDE:
        first = blocks(module, n_layers)[0]

        def observe(_: nn.Module, __: Any, output: Any) -> None:
            _BESIDE[module] = len(output) - 1 if isinstance(output, tuple) else None

        handle = first.register_forward_hook(observe)
        try:
            token = torch.zeros(1, 1, dtype=torch.long, device=module.device)
            module.base_model(input_ids=token, use_cache=False)
        finally:
            handle.remove()
    return _BESIDE[module]


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which records are kept: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)
