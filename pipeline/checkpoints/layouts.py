"""Recognise folders of layouts that are not read, with advice on converting them."""

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

ADAPTER = "adapter_config.json"

_MEGATRON = (
    "a checkpoint of Megatron-LM: export it to the Hugging Face layout with Megatron Bridge, or "
    "with the script of the training code"
)
_NO_METADATA = (
    "shards of torch.distributed.checkpoint without their .metadata, which is written last: the "
    "save was cut off, or a hidden file was not copied"
)
_NO_SHARDS = (
    "the .metadata of torch.distributed.checkpoint without its shards, *.distcp: copy them too"
)
_OF_EACH_PROCESS = (
    "the parts of each process of FSDP: save with fsdp_state_dict_type SHARDED_STATE_DICT or "
    "FULL_STATE_DICT"
)
_SPLIT = (
    "the parts of a model that was split between devices (tensor parallel): join them with the "
    "script of the code that saved them"
)
_EXPERTS = "a DeepSpeed checkpoint of a mixture of experts: convert it with DeepSpeed's scripts"
_NO_MODEL = (
    "a DeepSpeed checkpoint without its *_model_states.pt, or of several steps: give a folder with "
    "the files of one step, or join them with zero_to_fp32.py"
)
_GGUF = "a GGUF file of llama.cpp, usually quantised: give the unquantised checkpoint"
_JAX = "a checkpoint of JAX (Orbax): export it to the Hugging Face layout with its own code"
_ELSEWHERE = "weights of another framework: convert them to the Hugging Face layout"
_SEVERAL = "files of which each may hold the weights: put each into a folder of its own"
_UNNAMED = "of another name: rename the file with the whole model's state dict"

# Patterns of file names with a description, from the most specific: the first match counts.
_LAYOUTS: tuple[tuple[str, str], ...] = (
    (ADAPTER, "an adapter without its adapter_model.safetensors: restore it"),
    ("adapter_model.*", f"an adapter without its {ADAPTER}: restore it"),
    ("*model_optim_rng.pt", _MEGATRON),
    ("*distrib_optim.pt", _MEGATRON),
    ("mp_rank_[0-9][0-9]*_000", _MEGATRON),
    ("mp_rank_[0-9][0-9]", _MEGATRON),
    ("*common.pt", _MEGATRON),
    ("*.nemo", "a NeMo archive: export it with NeMo's own connector to Hugging Face"),
    ("*.distcp", _NO_METADATA),
    (".metadata", _NO_SHARDS),
    ("*/.metadata", _NO_SHARDS),
    ("*pytorch_model_fsdp*rank*.bin", _OF_EACH_PROCESS),
    ("*_expert_*_model_states.pt", _EXPERTS),
    ("*zero_pp_rank_*", _NO_MODEL),
    ("*mp_rank_*", _NO_MODEL),
    ("zero_to_fp32.py", _NO_MODEL),
    ("*model*tp[0-9]*.safetensors", _SPLIT),
    ("*model*rank[_-][0-9]*.safetensors", _SPLIT),
    ("shard-*-model-*.safetensors", "shards of torch.distributed: consolidate its safetensors"),
    ("consolidated.*", "Mistral's own layout: convert it to the Hugging Face layout"),
    ("*.ckpt", _SEVERAL),
    ("*.gguf", _GGUF),
    ("manifest.ocdbt", _JAX),
    ("_CHECKPOINT_METADATA", _JAX),
    ("tf_model.h5", _ELSEWHERE),
    ("flax_model*.msgpack", _ELSEWHERE),
    ("*.pt", _SEVERAL),
    ("*.pth", _SEVERAL),
    ("*.bin", _UNNAMED),
    ("*.safetensors", _UNNAMED),
)
_TRAINING = ("optimizer*", "scheduler*", "rng_state*", "scaler*", "training_args.bin")
_MOST_SHOWN = 5


def layout_of(names: Collection[str]) -> str:
    """Return a description of a folder with files of these names, with advice; "" if unknown.

    Files of a Trainer's state are ignored.
    """
    ordinary = [n for n in names if not any(fnmatchcase(n, pattern) for pattern in _TRAINING)]
    for pattern, what in _LAYOUTS:
        if any(fnmatchcase(name, pattern) for name in ordinary):
            return what
    return ""


def contents_of(place: str, names: Collection[str]) -> str:
    """Return a clause on the contents of a folder without weights: names, and their layout."""
    if (folder := Path(place)).is_dir():  # names of subfolders may identify the layout too
        try:
            names = {*names, *(inside.name + "/" * inside.is_dir() for inside in folder.iterdir())}
        except OSError as error:
            return f"the folder cannot be read ({error.strerror or error})"
    if not names:
        return "the folder is empty"
    shown = ", ".join(sorted(names)[:_MOST_SHOWN])
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    known = layout_of([name.rstrip("/") for name in names])
    return f"found {shown}{more}" + (f" ({known})" if known else "")
