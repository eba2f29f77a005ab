"""The residual stream between a model's blocks: watched there, or put in place of what they do."""

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

Stream = Float[Tensor, "batch position d_model"]


@contextmanager
def watched_stream(
    module: nn.Module, n_layers: int, streams: Mapping[int, list[Stream]]
) -> Iterator[None]:
    """Append copies of the residual stream at the asked-for layers: what enters each block.

    In a model of no layers the one stream is what enters the final norm.
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
            f"{type(module).__name__} has no layers, and where its final norm is is not known "
            "here: its hidden states cannot be recorded"
        )
    return module.get_submodule(family.final_norm)


@contextmanager
def started_at(
    module: PreTrainedModel, n_layers: int, layer: int, stream: Stream | None
) -> Iterator[None]:
    """Let the blocks before `layer` compute nothing and hand on `stream`, what enters that one."""
    skipped = blocks(module, n_layers)[:layer]
    if not skipped:
        yield
        return
    assert stream is not None
    returned = (stream, None) if _in_tuples(module, n_layers) else stream
    for block in skipped:
        vars(block)["forward"] = lambda *_, **__: returned
    try:
        yield
    finally:
        for block in skipped:
            del vars(block)["forward"]


_IN_TUPLES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _in_tuples(module: PreTrainedModel, n_layers: int) -> bool:
    """Whether blocks return their stream with something else (the attention, if it is asked for).

    Found by asking the first one, in a forward pass of one token that unembeds nothing.
    """
    if module not in _IN_TUPLES:
        first = blocks(module, n_layers)[0]
        handle = first.register_forward_hook(
            lambda _, __, output: _IN_TUPLES.update({module: isinstance(output, tuple)})
        )
        try:
            token = torch.zeros(1, 1, dtype=torch.long, device=module.device)
            module.base_model(input_ids=token, use_cache=False)
        finally:
            handle.remove()
    return _IN_TUPLES[module]


def blocks(module: nn.Module, n_layers: int) -> nn.ModuleList:
    """The outermost list of as many modules as the model has layers."""
    lists = (m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers)
    if (found := next(lists, None)) is None:
        raise InputError(
            f"{type(module).__name__} has no list of {n_layers} blocks: its hidden states cannot "
            "be recorded"
        )
    return found


def wide(dtype: torch.dtype) -> torch.dtype:
    """float32 at least: what records are kept in."""
    return torch.promote_types(dtype, torch.float32)
