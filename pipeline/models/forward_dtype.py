"""Check that a model's own code computes in a dtype, before any weights are read."""

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.errors import InputError, first_line
from pipeline.models.architecture import torch_dtype

_LENGTH = 24  # tokens of the pass that is tried


def refuse_dtype(module: PreTrainedModel, dtype: str) -> None:
    """Raise InputError if a model's forward pass fails in a dtype, and not in float32.

    module: on the meta device, in float32, so that the pass has shapes and dtypes, but no numbers.
    Nothing is refused where it fails in float32 too: some models read numbers on their way. Code of
    recurrent layers may mix float32 with the dtype of the weights; xLSTM's does.
    """
    if dtype == "float32" or _failure(module) is not None:
        return
    if (why := _failure(nn.Module.to(module, torch_dtype(dtype)))) is not None:
        raise InputError(
            f"workers.dtype: transformers' code of {type(module).__name__} computes in float32, "
            f"but not in {dtype} ({why}): set `workers: {{dtype: float32}}`"
        )


@torch.inference_mode()
def _failure(module: nn.Module) -> str | None:
    """Return why a forward pass fails; None if it does not."""
    tokens = torch.zeros(1, _LENGTH, dtype=torch.long, device="meta")
    try:
        module(input_ids=tokens, use_cache=False)
    except Exception as error:  # of any type: it is the model's code
        return first_line(error)
    return None
