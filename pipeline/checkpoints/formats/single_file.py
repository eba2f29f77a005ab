"""Checkpoints that are one file of torch.save, with a small file beside it in some formats.

The format of such a file is not in its name: it is recognised by its content, whose tensors are
not read for it.
"""

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pipeline.checkpoints.formats import (
    composer,
    lightning,
    litgpt,
    llama2c,
    nanochat,
    nanogpt,
    plain,
)
from pipeline.checkpoints.names import companions
from pipeline.outside import is_whole

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.checkpoints.formats.base import Source

SUFFIXES = (".pt", ".pth", ".ckpt")
# Files of torch.save beside weights that hold none, or a part of them.
_OTHERS = (
    "optim*", "scheduler*", "rng_state*", "random_states*", "scaler*", "training_args*",
    "consolidated.*", "common.pt", "*mp_rank_*", "*zero_pp_*", "sampler*", "train.pt", "other.pt",
    "*/*",
)  # fmt: skip


@runtime_checkable
class Layout(Protocol):
    """The content of a file: implemented by a module of each format of one file.

    All of its functions but `matches` raise ValueError with the reason for another content.
    """

    def matches(self, content: Any) -> bool:
        """Return whether the content of a file, with or without the tensors' bytes, is such."""
        ...

    def config(self, content: Mapping[str, Any], beside: Mapping[str, bytes]) -> dict[str, Any]:
        """Return the content of config.json. beside: small files that may describe the model."""
        ...

    def state(self, content: Mapping[str, Any]) -> "dict[str, Tensor]":
        """Return the weights in the content by the names in the file."""
        ...

    def tensors(
        self, state: "Mapping[str, Tensor]", config: Mapping[str, Any]
    ) -> "dict[str, Tensor]":
        """Return the weights, with their numbers, by the names of transformers' parameters."""
        ...


@runtime_checkable
class AssumingLayout(Layout, Protocol):
    """A layout whose files lack facts about the model."""

    def assumed(self, content: Mapping[str, Any]) -> list[str]:
        """Return sentences on the facts that are assumed."""
        ...


# From the most specific: the first that matches counts.
LAYOUTS: tuple[Layout, ...] = (nanogpt, llama2c, lightning, composer, litgpt, nanochat, plain)


# Where the trainers' files state the number of optimizer steps.
_STEPS = {
    nanogpt.__name__: "iter_num",
    llama2c.__name__: "iter_num",
    lightning.__name__: "global_step",
}


def weights(names: Collection[str]) -> list[str]:
    """Return the file of torch.save that holds the weights; [] if there is none, or several."""
    found = [
        name
        for name in names
        if name.endswith(SUFFIXES) and not any(fnmatchcase(name, one) for one in _OTHERS)
    ]
    return found if len(found) == 1 else []


def recognises(content: Any) -> bool:
    """Return whether the content of a file of torch.save, as `described` gives it, can be read."""
    return _layout(content) is not None


def config(source: "Source") -> dict[str, Any]:
    """Return the content of config.json for the file in `source`.

    Raises CheckpointError if the file, or those beside it, do not say which model it is of.
    """
    from pipeline.checkpoints.torch_files import named

    name = weights(source.names)[0]
    content = source.described(name)
    described_by = (*companions(name), litgpt.CONFIG)
    beside = {one: source.read(one) for one in described_by if one in source.names}
    # The address of a checkpoint that is one file is the file's.
    with named(source.uri if source.uri.endswith(f"/{name}") else f"{source.uri}/{name}"):
        return _known(content).config(content, beside)


def step_inside(content: Any) -> int | None:
    """Return the optimizer step that a trainer's file states; None if it is of no such format.

    content: as `described` gives it.
    """
    key = _STEPS.get(getattr(_layout(content), "__name__", ""))
    step = content.get(key) if key else None
    return step if is_whole(step) else None


def assumed(source: "Source") -> list[str]:
    """Return what neither the file nor those beside it say of the model, and is assumed of it."""
    content = source.described(weights(source.names)[0])
    layout = _layout(content)
    return layout.assumed(content) if isinstance(layout, AssumingLayout) else []


def tensors(files: Mapping[str, Path], config: Mapping[str, Any]) -> "dict[str, Tensor]":
    """Return the weights by the names of transformers' parameters.

    Of the file, only the weights are read: no states of optimizers. Raises CheckpointError.
    """
    from pipeline.checkpoints.torch_files import saved_file

    (path,) = (files[name] for name in weights(files))
    with saved_file(path) as file:
        layout = _known(file.content)
        return layout.tensors(file.loaded(layout.state(file.content)), config)


def _layout(content: Any) -> Layout | None:
    return next((one for one in LAYOUTS if one.matches(content)), None)


def _known(content: Any) -> Layout:
    if (found := _layout(content)) is not None:
        return found
    what = f"a dictionary with {', '.join(map(str, list(content)[:5])) or 'nothing'}" if (
        isinstance(content, Mapping)
    ) else f"an object of type {type(content).__name__}"  # fmt: skip
    raise ValueError(
        f"holds {what}, expected a state dict, alone or as 'state_dict', 'model_state_dict' or "
        "'model': save the model's state_dict()"
    )
