"""Build the module of an architecture from its config, with the library's own code only."""

import logging
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

import pipeline.models.organism  # noqa: F401 (transformers then knows organisms by their config)
from pipeline.checkpoints.configs import MAY_BE_INFINITE
from pipeline.errors import InputError, first_line
from pipeline.outside import content_of, is_out_of_memory, json_object

# It prints a whole config, raw, before it raises the error that is reported here.
logging.getLogger("transformers.configuration_utils").setLevel(logging.CRITICAL)

# A damaged config may name any number of layers, labels or experts, for each of which transformers
# makes an object even without weights. The largest published decoders have about 130 layers.
_MOST_LAYERS = 1_000
_MOST_COUNTED = 100_000
_LAYERS = re.compile(r"(^|_)(n_?|num_?)?(hidden_)?(layers?|blocks?|depths?|stages)$")
_COUNTED = re.compile(r"(^|_)(labels|experts|groups|kernels|classes|predict_layers)$")


def read_architecture(folder: str | Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Read the config.json of a checkpoint's folder. Raises InputError if it cannot be used.

    trust_remote_code: allow running the folder's own Python files if its config names them.
    """
    file = Path(folder) / "config.json"
    refuse_oversized(json_object(content_of(file, InputError), str(file), InputError,
                                 MAY_BE_INFINITE), str(file))  # fmt: skip
    try:
        return AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # of any type, for a config with unexpected values
        # transformers has no exception of its own for this; its message names the argument.
        if "trust_remote_code" in str(error):
            raise _distrusted(Path(folder) / "config.json") from error
        raise InputError(
            f"{Path(folder) / 'config.json'}: describes no model that can be built here "
            f"({first_line(error)}): give a checkpoint in the Hugging Face layout"
        ) from error


def refuse_oversized(config: Mapping[Any, Any], source: str) -> None:
    """Raise InputError for a config with more layers, labels or experts than any model has."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            refuse_oversized(value, source)
        for counted, most in ((_LAYERS, _MOST_LAYERS), (_COUNTED, _MOST_COUNTED)):
            if counted.search(str(key)) and isinstance(value, int | float) and value > most:
                raise InputError(
                    f"{source}: its config says {key} = {value}, expected at most {most}: "
                    "restore it"
                )


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
    if config.model_type == "rwkv":
        # Else its first forward pass divides weights in place, once, for the sake of float16: a
        # checkpoint that is loaded later would be computed otherwise than the first.
        config.rescale_every = 0
    source = str(config.model_type)
    if not isinstance(architecture, PreTrainedConfig):
        source = f"{Path(architecture) / 'config.json'}: {source}"
    refuse_oversized(vars(config) | vars(config.get_text_config()), source)
    try:
        module = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype,
            # Models whose attention function the engine cannot replace must return their patterns,
            # as the eager one alone does.
            attn_implementation="eager",
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:  # of any type, for a config with unexpected values
        if is_out_of_memory(error):  # says nothing about the config; the retrying code handles it
            raise
        if "trust_remote_code" in str(error):
            raise _distrusted(source) from error
        raise InputError(
            f"{source}: is no causal language model that can be built here "
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
