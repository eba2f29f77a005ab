"""Recognise folders of other layouts than a complete model's, with advice on converting them."""

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

ADAPTER = "adapter_config.json"

_MERGE = "a LoRA adapter: merge it into its base model and save the whole (merge_and_unload)"
_SHARDED = "a checkpoint of torch.distributed: join its shards with accelerate merge-weights"
_DEEPSPEED = "a DeepSpeed checkpoint: join its parts with zero_to_fp32.py"
_ELSEWHERE = "weights of another framework: convert them to the Hugging Face layout"
_SEVERAL = "files of which each may hold the weights: put each into a folder of its own"
_UNNAMED = "of another name: rename the file with the whole model's state dict"

# Patterns of file names with a description, from the most specific: the first match counts.
_LAYOUTS: tuple[tuple[str, str], ...] = (
    (ADAPTER, _MERGE),
    ("adapter_model.*", _MERGE),
    ("*.distcp", _SHARDED),
    ("pytorch_model_fsdp*", _SHARDED),
    ("zero_to_fp32.py", _DEEPSPEED),
    ("*mp_rank_*", _DEEPSPEED),
    ("*zero_pp_rank_*", _DEEPSPEED),
    ("consolidated.*", "Mistral's own layout: convert it to the Hugging Face layout"),
    ("*.ckpt", _SEVERAL),
    ("*.gguf", _ELSEWHERE),
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
            names = [inside.name + "/" * inside.is_dir() for inside in folder.iterdir()]
        except OSError as error:
            return f"the folder cannot be read ({error.strerror or error})"
    if not names:
        return "the folder is empty"
    shown = ", ".join(sorted(names)[:_MOST_SHOWN])
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    known = layout_of([name.rstrip("/") for name in names])
    return f"found {shown}{more}" + (f" ({known})" if known else "")
