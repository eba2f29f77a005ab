"""Recording attention in models that do not look up their attention function by name.

GPT-J, Bloom, Falcon, MPT, GPT-Neo, CodeGen and XGLM compute attention in code of their own. Their
eager path returns every layer's whole matrix: a hook reduces each to the requested entries and
drops it before the next layer makes its own. Time and memory per layer are quadratic in the
sequence's length, unlike those of `attention.attention_function`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from pipeline.engine.attention import current_recorder
from pipeline.errors import InputError
from pipeline.models.layers import attention_modules

# Names of the projection W_O inside the attention modules of these families.
_OUTPUT_PROJECTIONS = ("out_proj", "dense")


@contextmanager
def hooked(module: nn.Module, n_heads: int) -> Iterator[None]:
    """Record the attention of forward passes in the block, which must return attention weights."""
    with ExitStack() as stack:
        for part in attention_modules(module):
            handle = part.register_forward_hook(_reduce_weights)
            stack.callback(handle.remove)
            projection = _output_projection(part)
            handle = projection.register_forward_pre_hook(_on_head_outputs(n_heads))
            stack.callback(handle.remove)
        yield


def _output_projection(attention: nn.Module) -> nn.Module:
    found = [child for name, child in attention.named_children() if name in _OUTPUT_PROJECTIONS]
    if len(found) != 1:
        raise InputError(
            f"{type(attention).__name__} has no output projection that is known here: "
            "its attention cannot be recorded exactly"
        )
    return found[0]


def _on_head_outputs(n_heads: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """Return a hook on the input of W_O, which is the heads' outputs, concatenated."""

    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if (recorder := current_recorder()) is None:
            return args
        heads = args[0].unflatten(-1, (n_heads, -1))
        # W_O runs within its attention module, whose own hook counts the layer afterwards.
        return (recorder.take_output(recorder.next_layer, heads).flatten(-2), *args[1:])

    return hook


def _reduce_weights(module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
    recorder = current_recorder()
    if recorder is None:
        return output
    layer = recorder.layer_of(module)
    if not recorder.pairs:
        return output
    # Families return their attention at different places of the tuple: found by its shape.
    weights = [part for part in output if isinstance(part, Tensor) and _is_matrix(part)]
    if len(weights) != 1:
        raise InputError(
            f"{type(module).__name__} returns {len(weights)} attention matrices, expected one: "
            "its attention cannot be recorded exactly"
        )
    recorder.take_weights(layer, weights[0])
    # The model would otherwise keep the matrices of all layers until its forward pass ends.
    return tuple(None if part is weights[0] else part for part in output)


def _is_matrix(part: Tensor) -> bool:
    return part.ndim == 4 and part.shape[-1] == part.shape[-2]
