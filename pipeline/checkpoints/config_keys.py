"""Keys of a config.json that differ between equal models, and that identify none of them."""

from collections.abc import Mapping
from typing import Any

_AS_SAVED = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")

# How far the model was trained: numbers under these keys, and anything under those of times.
_PROGRESS = frozenset(
    {
        "step", "global_step", "train_step", "training_step", "checkpoint_step", "current_step",
        "iteration", "iter", "iter_num", "epoch", "current_epoch", "tokens_seen",
        "num_input_tokens_seen", "consumed_tokens", "consumed_samples", "consumed_train_samples",
        "loss", "train_loss", "val_loss", "eval_loss", "best_val_loss",
    }
)  # fmt: skip
_TIMES = ("saved_at", "timestamp")


def identifying(config: Mapping[str, Any], progress: bool = False) -> dict[str, Any]:
    """Return a config without keys that differ between equal models.

    progress: whether to keep those that say how far the model was trained, as identities of stores
    once did.
    """
    return {
        key: value
        for key, value in config.items()
        if key not in _AS_SAVED and (progress or not _is_progress(key, value))
    }


def _is_progress(key: str, value: object) -> bool:
    # Under the same name a text is a setting of the model, such as `loss: "mse"`.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return key in _TIMES or (is_number and key in _PROGRESS)
