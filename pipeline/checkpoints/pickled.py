"""What the `.pth` files of grokking research hold, read without running any code of theirs.

    {epoch}.pth                 {"model": state dict, "epoch": ..., "train_loss": ..., ...}
    init.pth, final.pth         the same; init.pth is step 0 and may hold `train_data`
    full_run_data.pth           {"state_dicts": [...], "epochs": [...], "config": ...}
    TransformerLens' demo       {"checkpoints": [...], "checkpoint_epochs": [...], "config": ...}
    a state dict                the tensors alone

"model_state_dict" and "state_dict" are other words for "model", "cfg" for "config". A checkpoint's
step is the `step` or else the `epoch` in its file, which a number as the file's name must equal;
else that number; 0 for init.pth; else what the file's own history of losses proves. A file that
says none of these is refused. Unpickling is weights-only: a file that would run code is refused,
and the class of a config is replaced by one that does nothing.
"""

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.checkpoints.grokking import is_grokking
from pipeline.checkpoints.placeholders import placeholder_in
from pipeline.checkpoints.transformerlens import is_transformerlens
from pipeline.errors import InputError

SUFFIXES = (".pth", ".pt")
_REFUSED = re.compile(r"GLOBAL (\S+)")
_CONFIG_CLASSES = {"Config", "HookedTransformerConfig"}
_ONE = ("model", "model_state_dict", "state_dict")
_MANY = (("state_dicts", "epochs"), ("checkpoints", "checkpoint_epochs"))
_CONFIGS = ("config", "cfg")
_HISTORIES = ("train_losses", "test_losses")
# What unpickling raises for bytes that no torch.save wrote, or that were changed.
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError,
               AssertionError, ArithmeticError, struct.error)  # fmt: skip
_SHOWN = 3  # names that a message lists
_MOST_DIGITS = 15  # of a step, as in the names of folders


@dataclass(frozen=True)
class State:
    """One state dict of a file. place: the file, and which of its state dicts."""

    step: int
    tensors: Mapping[str, Tensor]
    place: str


@dataclass(frozen=True)
class Saved:
    """The state dicts of one file, and what is said beside them.

    train_pairs: the rows a * p + b of the table that were trained on, None where not listed.
    train_losses: the loss on the train pairs that the file gives for a step. left_out: what else is
    in the file that might be a checkpoint, with the reason.
    """

    states: tuple[State, ...]
    config: dict[str, Any] = field(default_factory=dict)
    train_pairs: list[int] | None = None
    train_losses: dict[int, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


class _ConfigValues:
    """Stands in for the class of a pickled config: keeps its values, runs nothing."""


class _NumberKind:
    """Stands in for numpy's dtype, so that numbers of numpy in a config can be read."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = str(state[1])


def _number(kind: _NumberKind, raw: bytes) -> Any:
    """A number of numpy, as Python's own. ValueError for what is no number."""
    dtype = np.dtype(kind.code).newbyteorder(kind.order)  # pyright: ignore[reportArgumentType]
    if dtype.kind not in "biuf":
        raise ValueError(f"a numpy scalar of type {kind.code}")
    return np.frombuffer(raw, dtype, count=1)[0].item()


_NUMPY = (
    (_NumberKind, "numpy.dtype"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
)


def step_in_name(file: Path) -> int | str | None:
    """The step that a file's name gives, or the role that it has; None for other files."""
    if file.suffix not in SUFFIXES or not file.is_file():
        return None
    if file.stem in ("init", "final", "full_run_data"):
        return file.stem
    is_step = file.stem.isdecimal() and file.stem.isascii() and len(file.stem) <= _MOST_DIGITS
    return int(file.stem) if is_step else None


def read_saved(file: Path) -> Saved:
    """One file's content. Raises InputError, naming the file, where it cannot be read."""
    content = _unpickled(file)
    if not isinstance(content, dict):
        length = f" of {len(content)}" if isinstance(content, Sized) else ""
        raise InputError(
            f"{file}: holds {type(content).__name__}{length}, expected a dictionary: a state dict, "
            "or one with 'model' and 'epoch', or one with 'state_dicts' and 'epochs'"
        )
    config = _config(file, content)
    states = tuple(_states(file, content, config))
    return Saved(
        states, config, _train_pairs(file, content), _losses(content, states),
        tuple(_left_out(file, content, states)),
    )  # fmt: skip


def is_known(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is of a format that can be converted."""
    return is_grokking(tensors) or is_transformerlens(tensors)


def unknown_format(place: str, tensors: Mapping[str, Tensor]) -> InputError:
    """What is said of a state dict of another format."""
    return InputError(
        f"{place}: holds no weights of a known format, found {found_in(tensors)}; expected "
        "embed.W_E, blocks.0.attn.W_O and the others of the grokking paper's code or of "
        "TransformerLens: save such a state dict, or a folder step-N with config.json and "
        "safetensors"
    )


def found_in(content: Mapping[Any, Any]) -> str:
    """The first names in a dictionary, and how many there are."""
    names = [str(name) for name in content]
    if not names:
        return "nothing"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _unpickled(file: Path) -> Any:
    if found := placeholder_in(file):
        raise InputError(f"{file}: {found}")
    try:
        with torch.serialization.safe_globals([*_stand_ins(file)]):
            return torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
    except pickle.UnpicklingError as error:
        if found := _REFUSED.search(str(error)):
            raise InputError(
                f"{file}: names {found[1]}, and files that could run code are refused: save its "
                "state dicts on their own"
            ) from error
        raise _broken(file, error) from error
    except _UNREADABLE as error:
        raise _broken(file, error) from error


def _broken(file: Path, error: Exception) -> InputError:
    reason = (str(error).splitlines() or [type(error).__name__])[-1]
    return InputError(f"{file}: is truncated or no file of torch.save ({reason}): copy it again")


def _stand_ins(file: Path) -> Iterator[tuple[Any, str]]:
    """For each config class and number of numpy that the file names, what is put in its place."""
    try:
        with warnings.catch_warnings(action="ignore"):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (*_UNREADABLE, pickle.UnpicklingError):
        return  # not a zip file; loading it will tell
    for name in names:
        if name.rpartition(".")[2] in _CONFIG_CLASSES:
            yield _ConfigValues, name
    yield from (one for one in _NUMPY if one[1] in names)


def _config(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The config that stands beside the weights, {} where there is none."""
    for name in _CONFIGS:
        if name in content:
            config = content[name]
            values = vars(config) if isinstance(config, _ConfigValues) else config
            if not isinstance(values, Mapping):
                raise InputError(
                    f"{file}: its {name!r} is {type(config).__name__}, expected a dictionary or a "
                    "HookedTransformerConfig: save it as a dictionary"
                )
            return {str(key): _plain(value) for key, value in values.items()}
    return {}


def _plain(value: Any) -> Any:
    """A config's value, which can be compared: tensors as Python's own numbers."""
    return value.tolist() if isinstance(value, Tensor) else value


def _states(file: Path, content: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[State]:
    """The state dicts in one file with their steps."""
    for many, epochs in _MANY:
        if many in content:
            yield from _many(file, content, many, epochs)
            return
    named = [name for name in _ONE if name in content]
    if len(named) > 1:
        raise InputError(f"{file}: holds both {named[0]!r} and {named[1]!r}: keep one of them")
    tensors = _tensors(content[named[0]], f"{file}: its {named[0]!r}") if named else {
        name: value for name, value in content.items() if isinstance(value, Tensor)
    }  # fmt: skip
    if not tensors:
        raise InputError(
            f"{file}: holds no state dict, found {found_in(content)}: give files with the weights, "
            "as torch.save(model.state_dict(), ...) writes them"
        )
    if not is_known(tensors):
        raise unknown_format(str(file), tensors)
    yield State(_step(file, content, config), tensors, str(file))


def _many(file: Path, content: Mapping[str, Any], many: str, epochs: str) -> Iterator[State]:
    states, steps = content[many], _plain(content.get(epochs, ()))
    if not isinstance(states, Sequence) or not isinstance(steps, Sequence):
        raise InputError(f"{file}: its {many!r} and {epochs!r} are no lists of equal length")
    if len(states) != len(steps):
        raise InputError(
            f"{file}: holds {len(states)} {many!r} but {len(steps)} {epochs!r}: expected one for "
            "each"
        )
    for number, (state, step) in enumerate(zip(states, steps, strict=True)):
        place = f"{file}: its {many}[{number}]"
        yield State(_whole(step, f"{file}: its {epochs}[{number}]"), _tensors(state, place), place)


def _tensors(value: Any, place: str) -> Mapping[str, Tensor]:
    if not isinstance(value, Mapping):
        raise InputError(f"{place} is {type(value).__name__}, expected a state dict")
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"{place} holds {name!r} = {type(tensor).__name__}, expected tensors alone: save "
                "model.state_dict() there"
            )
    return value


def _step(file: Path, content: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """The step of a file with one state dict. InputError where it is not known, or said twice."""
    named = step_in_name(file)
    by_name = 0 if named == "init" else named if isinstance(named, int) else None
    inside = next((key for key in ("step", "epoch") if key in content), None)
    if inside is None:
        proven = _proven_by_losses(content, config) if by_name is None else by_name
        if proven is None:
            raise _unknown_step(file, content)
        return proven
    said = _whole(content[inside], f"{file}: its {inside}")
    if by_name is not None and said != by_name:
        raise InputError(
            f"{file}: its name says step {by_name}, its {inside} is {said}: rename the file to "
            f"{said}{file.suffix}, or correct the {inside}"
        )
    return said


def _unknown_step(file: Path, content: Mapping[str, Any]) -> InputError:
    found = {name: content[name] for name in _HISTORIES if isinstance(content.get(name), Sequence)}
    losses = [f"{len(history)} {name}" for name, history in found.items()]
    history = f", and its {' and '.join(losses)} do not prove it" if losses else ""
    return InputError(
        f"{file}: does not say its step: found {found_in(content)}, no 'epoch' and no 'step'"
        f"{history}: rename the file to its step, as in 1000{file.suffix}"
    )


def _proven_by_losses(content: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
    """The last epoch, where the history has one loss for each of the epochs of the config.

    A history alone does not tell how often a loss was noted, nor a config that its run ended.
    """
    lengths = {len(content[name]) for name in _HISTORIES if isinstance(content.get(name), Sequence)}
    epochs = config.get("num_epochs")
    return epochs if type(epochs) is int and epochs > 0 and lengths == {epochs} else None


def _whole(value: Any, what: str) -> int:
    """A step. InputError for what is no whole number, or a negative one."""
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    is_step = is_number and 0 <= number < 10**_MOST_DIGITS and number == int(number)
    if not is_step:
        raise InputError(
            f"{what} is {number!r}, expected a whole number that is not negative and has at most "
            f"{_MOST_DIGITS} digits"
        )
    return int(number)


def _train_pairs(file: Path, content: Mapping[str, Any]) -> list[int] | None:
    """The rows of the table that were trained on, where the file lists them."""
    try:
        if "train_indices" in content:
            return sorted(int(row) for row in content["train_indices"])
        if pairs := content.get("train_data"):
            p = max(int(pair[-1]) for pair in pairs)
            return sorted(int(a) * p + int(b) for a, b, *_ in pairs)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise InputError(
            f"{file}: its train_indices or train_data are no list of pairs ({error}): leave them "
            "out, and give the split in the analysis"
        ) from error
    return None


def _losses(content: Mapping[str, Any], states: tuple[State, ...]) -> dict[int, float]:
    """The train loss that a file with one state dict notes beside it."""
    loss = content.get("train_loss")
    if isinstance(loss, Tensor) and loss.numel() == 1:
        loss = loss.item()
    if not isinstance(loss, int | float) or len(states) != 1:
        return {}
    return {states[0].step: float(loss)}


def _left_out(file: Path, content: Mapping[str, Any], states: tuple[State, ...]) -> Iterator[str]:
    """State dicts beside many others that are none of these: their step is not said."""
    if not any(many in content for many, _ in _MANY):
        return
    for name in _ONE:
        if isinstance(beside := content.get(name), Mapping) and not any(
            same_tensors(beside, state.tensors) for state in states
        ):
            yield f"{file}: its {name!r}"


def same_tensors(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two state dicts hold the same numbers under the same names."""
    return one.keys() == other.keys() and all(
        isinstance(tensor, Tensor)
        and isinstance(other[name], Tensor)
        and tensor.shape == other[name].shape
        and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )
