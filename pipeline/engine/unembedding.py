"""A model's unembedding: its matrix, its replacement during a pass, and the transform of logits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.engine.cross_entropy import Unembedding
from pipeline.engine.kernels import capped
from pipeline.engine.streams import Stream
from pipeline.errors import InputError
from pipeline.models.logit_settings import logit_factor, logit_softcap


@contextmanager
def replaced_unembedding(
    module: PreTrainedModel, stand_in: Callable[[Stream], Tensor]
) -> Iterator[None]:
    """Call `stand_in` in place of the unembedding. Raises InputError unless it is called once."""
    head = _matrix(module)
    calls = 0

    def counted(h: Stream) -> Tensor:
        nonlocal calls
        calls += 1
        return stand_in(h)

    # An attribute of the instance shadows the method; a hook would run after the product of the
    # whole vocabulary, which is to be avoided.
    vars(head)["forward"] = counted
    try:
        yield
    finally:
        del vars(head)["forward"]
    if calls != 1:
        raise InputError(
            f"{type(module).__name__} applied its unembedding {calls} times in one forward pass, "
            "expected once: its losses cannot be computed exactly"
        )


def unembedding_of(module: PreTrainedModel, scale: float, softcap: float | None) -> Unembedding:
    """Return the current weights of the unembedding, with the result of `logit_transform`."""
    head = _matrix(module)
    return Unembedding(head.weight, head.bias, scale, softcap)


def logit_transform(module: PreTrainedModel) -> tuple[float, float | None]:
    """Return the scale and softcap that a model applies after its unembedding.

    A placeholder for the unembedding returns values from -1000 to 1000, because a softcap hardly
    changes small logits. Raises InputError where the model's transform of them is not the one that
    its config states.
    """
    probe = torch.linspace(-1000, 1000, 64, dtype=module.dtype, device=module.device)
    probe = torch.cat([probe, probe / 1000]).expand(1, 2, -1)
    tokens = torch.zeros(1, 2, dtype=torch.long, device=module.device)
    with replaced_unembedding(module, lambda h: probe.clone()):
        found = module(input_ids=tokens, use_cache=False).logits
    config = module.config.get_text_config()
    scale, softcap = logit_factor(config), logit_softcap(config)
    expected = capped(probe.float() * scale, softcap)
    tolerance = 1e-2 if module.dtype.itemsize < 4 else 1e-4  # bfloat16 has 8 bits: 0.004
    if found.shape != probe.shape or not torch.allclose(
        found.float(), expected, rtol=tolerance, atol=1e-6
    ):
        raise InputError(
            f"{type(module).__name__} changes its logits after the unembedding in a way that is "
            "not known here: its losses cannot be computed exactly"
        )
    return scale, softcap


def _matrix(module: PreTrainedModel) -> nn.Linear:
    head = module.get_output_embeddings()
    # A subclass with a `forward` of its own may compute anything.
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        raise InputError(
            f"{type(module).__name__} has no plain unembedding matrix: its logits cannot be "
            "computed in tiles"
        )
    return head
