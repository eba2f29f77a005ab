"""The step of a `.pth` file with one state dict, by its content and its name.

It is the `step` or else the `epoch` in the file, which must equal the file's name if that is a
number; else that number; 0 for init.pth; else the step that the file's own history of losses
proves. Files without any of these are refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.checkpoints.pth_names import MOST_DIGITS, found_in
from pipeline.errors import InputError

_STEPS = ("step", "global_step", "iteration", "iter_num", "epoch")
_HISTORIES = ("train_losses", "test_losses")


def step_of(
    file: Path, content: Mapping[str, Any], config: Mapping[str, Any], named: int | str | None
) -> int:
    """Return the step of a file with one state dict. Raises InputError if unknown or ambiguous.

    content: of the file. config: in it. named: the step in the file's name, see `pth_names`.
    """
    by_name = 0 if named == "init" else named if isinstance(named, int) else None
    inside = next((key for key in _STEPS if key in content), None)
    if inside is None:
        proven = _proven_by_losses(content, config) if by_name is None else by_name
        if proven is None:
            raise _unknown_step(file, content)
        return proven
    said = whole_step(content[inside], f"{file}: its {inside}")
    # epoch_5.pt gives its epoch, also where its step is inside.
    is_epoch = file.stem.startswith("epoch") and by_name == content.get("epoch")
    if by_name is not None and said != by_name and not is_epoch:
        raise InputError(
            f"{file}: its name gives step {by_name}, its {inside} is {said}: rename the file to "
            f"{said}{file.suffix}, or correct the {inside}"
        )
    return said


def _unknown_step(file: Path, content: Mapping[str, Any]) -> InputError:
    found = {name: content[name] for name in _HISTORIES if isinstance(content.get(name), Sequence)}
    losses = [f"{len(history)} {name}" for name, history in found.items()]
    history = f", and its {' and '.join(losses)} do not prove it" if losses else ""
    return InputError(
        f"{file}: has no step: found {found_in(content)}, no 'epoch' and no 'step'"
        f"{history}: rename the file to its step, as in 1000{file.suffix}"
    )


def _proven_by_losses(content: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """Return the last epoch if the history has one loss for each epoch of the config, else None.

    Both are needed: a history may have a loss per k epochs, and a run may not have reached the
    number of epochs in its config.
    """
    lengths = {len(content[name]) for name in _HISTORIES if isinstance(content.get(name), Sequence)}
    epochs = config.get("num_epochs")
    return epochs if type(epochs) is int and epochs > 0 and lengths == {epochs} else None


def whole_step(value: Any, what: str) -> int:
    """Return a step as an int. Raises InputError if it is negative or not a whole number."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    is_step = is_number and 0 <= number < 10**MOST_DIGITS and number == int(number)
    if not is_step:
        raise InputError(
            f"{what} is {number!r}, expected a whole number that is not negative and has at most "
            f"{MOST_DIGITS} digits"
        )
    return int(number)
