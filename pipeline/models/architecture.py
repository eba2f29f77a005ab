"""Build the module of an architecture from its config, with the library's own code only."""

from copy import deepcopy
from pathlib import Path
from typing import cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

import pipeline.models.organism  # noqa: F401 (transformers then knows organisms by their config)
from pipeline.errors import InputError, first_line

# Errors that transformers raises, from many places, for a config with unexpected values.
_UNUSABLE = (
    ValueError, ImportError, KeyError, AttributeError, TypeError, IndexError, ArithmeticError,
    AssertionError, NotImplementedError, StrictDataclassError,
)  # fmt: skip

# A damaged config may have any number of layers, and building them takes time and memory even
# without weights. The largest published decoders have about 130.
_MOST_LAYERS = 10_000


def read_architecture(folder: str | Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Read the config.json of a checkpoint's folder. Raises InputError if it cannot be used.

    trust_remote_code: allow running the folder's own Python files if its config names them.
    """
    try:
        return AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except (OSError, RecursionError, *_UNUSABLE) as error:
        # transformers has no exception of its own for this; its message names the argument.
        if "trust_remote_code" in str(error):
            raise _distrusted(Path(folder) / "config.json") from error
        raise InputError(
            f"{Path(folder) / 'config.json'}: describes no model that can be built here "
            f"({first_line(error)}): give a checkpoint in the Hugging Face layout"
        ) from error


def _distrusted(what: object) -> InputError:
    return InputError(
        f"{what}: this model is built by code that comes with its checkpoints, which is not run by "
        "default: set `trust_remote_code: true` in the analysis if you trust its authors"
    )


def build(
    architecture: str | Path | PreTrainedConfig,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Return an architecture's module in eval mode, its weights as transformers initialises them.

    Raises InputError where no causal language model can be built from the config.
    """
    config = (
        deepcopy(architecture)
        if isinstance(architecture, PreTrainedConfig)
        else read_architecture(architecture, trust_remote_code)
    )
    config.use_cache = False  # every pass is over whole sequences: keys are never read again
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        raise InputError(
            f"{config.model_type}: its config says num_hidden_layers = {layers}, expected at most "
            f"{_MOST_LAYERS}: restore it"
        )
    try:
        module = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            # Models whose attention function the engine cannot replace must return their patterns,
            # as the eager one alone does.
            attn_implementation="eager",
            trust_remote_code=trust_remote_code,
        )
    except (*_UNUSABLE, RuntimeError) as error:
        # On the CPU torch raises a plain RuntimeError when memory is exhausted, which its message
        # alone identifies. It says nothing about the config, and the retrying code handles it.
        if "DefaultCPUAllocator" in str(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        if "trust_remote_code" in str(error):
            raise _distrusted(config.model_type) from error
        raise InputError(
            f"{config.model_type}: is no causal language model that can be built here "
            f"({first_line(error)}): give checkpoints of a decoder that transformers knows"
        ) from error
    return module.eval().requires_grad_(False)


def without_memory(
    architecture: str | Path | PreTrainedConfig, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Return an architecture's module on the meta device: its tensors have shapes, but no data."""
    with torch.device("meta"):
        return build(architecture, trust_remote_code=trust_remote_code)


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a name such as "float32"."""
    return cast(torch.dtype, getattr(torch, name))
