"""Checkpoints of PyTorch Lightning (`Trainer.save_checkpoint`), `.ckpt` files.

    {"state_dict", "pytorch-lightning_version", "epoch", "global_step", "hyper_parameters", ...}

The language model is an attribute of the LightningModule, such as `model` or `net`. Which model it
is may stand in `hyper_parameters` (of `save_hyperparameters`): as its config, whole or under a name
of its own, as a dictionary or as the object of transformers.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.formats.plain import inner_names, is_state
from pipeline.checkpoints.formats.settings import is_plain
from pipeline.checkpoints.inert import Settings, values_of

if TYPE_CHECKING:
    from torch import Tensor

_VERSION = "pytorch-lightning_version"
_HYPER_PARAMETERS = "hyper_parameters"
_OURS = "transformers.models."


def matches(content: Any) -> bool:
    """Return whether this is what Lightning saves."""
    return isinstance(content, Mapping) and _VERSION in content and is_state(
        content.get("state_dict")
    )  # fmt: skip


def config(content: Mapping[str, Any], beside: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the config among the hyper-parameters. Raises ValueError if there is not just one."""
    given = values_of(content.get(_HYPER_PARAMETERS)) or {}
    found = list(_configs(given))
    if len(found) != 1:
        names = ", ".join(map(str, given)) or "none"
        raise ValueError(
            f"has {len(found)} configs with a model_type among its hyper_parameters ({names}), "
            "expected one: put the model's config.json beside it or in the run's folder, or give "
            "its path as `config`"
        )
    return found[0]


def state(content: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by the LightningModule's names."""
    return dict(content["state_dict"])


def tensors(state: Mapping[str, "Tensor"], config: Mapping[str, Any]) -> dict[str, "Tensor"]:
    """Return the weights by the names that they have in the language model."""
    return inner_names(state)


def _configs(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the configs among hyper-parameters: all of them, or the values that are one."""
    for value in (given, *given.values()):
        values = values_of(value)
        if values is not None and (kind := _model_type(value, values)):
            yield _plain(values) | {"model_type": kind}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a config.json can hold: no dtype; of inner settings, their values."""
    inner = {name: values_of(value) or value for name, value in values.items()}
    return {name: value for name, value in inner.items() if is_plain(value)}


def _model_type(value: Any, values: Mapping[str, Any]) -> str:
    """Return the model type that a config names, or whose class it is of; "" for none."""
    if isinstance(kind := values.get("model_type"), str):
        return kind
    if not isinstance(value, Settings) or not value.class_name.startswith(_OURS):
        return ""
    from transformers.models.auto.configuration_auto import (
        CONFIG_MAPPING_NAMES,  # pyright: ignore[reportPrivateImportUsage]
    )

    name = value.class_name.rpartition(".")[2]
    return next((kind for kind, one in CONFIG_MAPPING_NAMES.items() if one == name), "")
