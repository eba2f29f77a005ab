"""Read the `.pth` files of grokking research: state dicts, their steps, the config.

    {epoch}.pth                 {"model": state dict, "epoch": ..., "train_loss": ..., ...}
    init.pth, final.pth         the same; init.pth is step 0 and may hold `train_data`
    full_run_data.pth           {"state_dicts": [...], "epochs": [...], "config": ...}
    TransformerLens' demo       {"checkpoints": [...], "checkpoint_epochs": [...], "config": ...}
    a state dict                the tensors alone

"model_state_dict", "model_state" and "state_dict" are accepted for "model"; "model_args",
"model_config" and "cfg" for "config". `pth_steps.py` has the rule for the step of a file;
`weights_only.py` loads it without running any code in it.
"""

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints.averages import is_of_averages
from pipeline.checkpoints.formats.plain import STATE_DICTS
from pipeline.checkpoints.grokking import is_grokking
from pipeline.checkpoints.hooked_tensors import is_transformerlens
from pipeline.checkpoints.inert import values_of
from pipeline.checkpoints.name_patterns import table_of
from pipeline.checkpoints.pth_names import found_in, step_in_any_name
from pipeline.checkpoints.pth_steps import step_of, whole_step
from pipeline.checkpoints.weights_only import load_weights_only
from pipeline.checkpoints.wrappers import common_prefixes, without_wrappers
from pipeline.config import RunLayout
from pipeline.errors import InputError
from pipeline.outside import reading

# Keys of a file: of its one state dict; of a list of many, with the list of their steps.
_ONE = (*STATE_DICTS, "model_state")
_MANY = (("state_dicts", "epochs"), ("checkpoints", "checkpoint_epochs"))
_CONFIGS = ("model_args", "model_config", "config", "cfg")


@dataclass(frozen=True)
class State:
    """A state dict of a file. place: the file, and which of its state dicts, for messages."""

    step: int
    tensors: Mapping[str, Tensor]
    place: str


@dataclass(frozen=True)
class Saved:
    """The state dicts of one file, and further values in it.

    train_pairs: the rows a * p + b of the table that were trained on, None if not listed.
    train_losses: the recorded loss (nats) on the train pairs, by step. left_out: other parts of the
    file that may be checkpoints. averages: those that are averages of the weights over steps.
    """

    states: tuple[State, ...]
    config: dict[str, Any] = field(default_factory=dict)
    train_pairs: list[int] | None = None
    train_losses: dict[int, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    averages: tuple[str, ...] = ()


def read_saved(file: Path, has_own_names: bool = False, layout: RunLayout | None = None) -> Saved:
    """Read one file. Raises InputError, naming the file, if it cannot be read.

    has_own_names: its tensors have names other than those of the known formats. layout: its `names`
    give the step in the file's name. OSError and MemoryError, which may pass, are raised as they
    are.
    """
    with reading(str(file), InputError, passing=(OSError, MemoryError), remedy="copy it again"):
        return _saved(file, load_weights_only(file), has_own_names, step_in_any_name(file, layout))


def _saved(file: Path, content: Any, has_own_names: bool, named: int | str | None) -> Saved:
    if not isinstance(content, dict):
        length = f" of {len(content)}" if isinstance(content, Sized) else ""
        raise InputError(
            f"{file}: holds {type(content).__name__}{length}, expected a dictionary: a state dict, "
            "or one with 'model' and 'epoch', or one with 'state_dicts' and 'epochs'"
        )
    config = _config(file, content)
    states = tuple(_states(file, content, config, named))
    if not has_own_names:
        states = tuple(replace(one, tensors=_known(one)) for one in states)
    return Saved(
        states, config, _train_pairs(file, content), _losses(content, states),
        tuple(_left_out(file, content, states)), tuple(_averages(file, content)),
    )  # fmt: skip


def _known(state: State) -> Mapping[str, Tensor]:
    """Return the tensors of a state without wrappers and what all names begin with.

    Raises InputError for a state dict that is of no known format.
    """
    plain = without_wrappers(state.tensors, state.place)
    for prefix in common_prefixes(plain.values()):
        tensors = {new[len(prefix) :]: state.tensors[old] for old, new in plain.items()}
        if is_grokking(tensors) or is_transformerlens(tensors):
            return tensors
    raise _unknown_format(state.place, state.tensors)


def _unknown_format(place: str, tensors: Mapping[str, Tensor]) -> InputError:
    """Return the error for a state dict of another format."""
    table = table_of(list(tensors))
    names = f"{{names: {table}}}" if table else "{names: ...}"
    known = f" (they are those of {table})" if table else ""
    return InputError(
        f"{place}: holds no weights of a known format, found {found_in(tensors)}{known}; expected "
        "embed.W_E, blocks.0.attn.W_O and the others of the grokking paper's code or of "
        f"TransformerLens: give the names of this model, `model: {names}` in the analysis, or, for "
        'a file of nanoGPT or another trainer, the names of the files, `names: "{step}.pt"`; see '
        "docs/file-formats.md"
    )


def _config(file: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config in a file, {} if there is none. Raises InputError if it is no mapping."""
    for name in _CONFIGS:
        if name in content:
            config = content[name]
            values = values_of(config)
            if values is None:
                raise InputError(
                    f"{file}: its {name!r} is {type(config).__name__}, expected a dictionary or a "
                    "HookedTransformerConfig: save it as a dictionary"
                )
            return {key: _plain(value) for key, value in values.items()}
    return {}


def _plain(value: Any) -> Any:
    """Return a config's value in comparable form: a tensor as Python numbers."""
    return value.tolist() if isinstance(value, Tensor) else value


def _states(
    file: Path, content: Mapping[str, Any], config: Mapping[str, Any], named: int | str | None
) -> Iterator[State]:
    """Yield the state dicts in one file with their steps; named: see `pth_names`."""
    for many, epochs in _MANY:
        if many in content:
            yield from _many(file, content, many, epochs)
            return
    keys = [key for key in _ONE if key in content]
    if len(keys) > 1:
        raise InputError(f"{file}: holds both {keys[0]!r} and {keys[1]!r}: keep one of them")
    tensors = _tensors(content[keys[0]], f"{file}: its {keys[0]!r}") if keys else {
        name: value for name, value in content.items() if isinstance(value, Tensor)
    }  # fmt: skip
    if not tensors:
        raise InputError(
            f"{file}: holds no state dict, found {found_in(content)}: give files with the weights, "
            "as torch.save(model.state_dict(), ...) writes them"
        )
    yield State(step_of(file, content, config, named), tensors, str(file))


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
        yield State(
            whole_step(step, f"{file}: its {epochs}[{number}]"), _tensors(state, place), place
        )


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


def _train_pairs(file: Path, content: Mapping[str, Any]) -> list[int] | None:
    """Return the rows of the table that were trained on; None if the file does not list them."""
    try:
        if "train_indices" in content:
            return sorted(int(row) for row in content["train_indices"])
        if pairs := content.get("train_data"):
            p = max(int(pair[-1]) for pair in pairs)  # the id of '='
            return sorted(int(a) * p + int(b) for a, b, *_ in pairs)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise InputError(
            f"{file}: its train_indices or train_data are no list of pairs ({error}): leave them "
            "out, and give the split in the analysis"
        ) from error
    return None


def _losses(content: Mapping[str, Any], states: tuple[State, ...]) -> dict[int, float]:
    """Return the train loss (nats) of a file with one state dict, by its step; {} if none."""
    loss = content.get("train_loss")
    if isinstance(loss, Tensor) and loss.numel() == 1:
        loss = loss.item()
    if not isinstance(loss, int | float) or len(states) != 1:
        return {}
    return {states[0].step: float(loss)}


def _left_out(file: Path, content: Mapping[str, Any], states: tuple[State, ...]) -> Iterator[str]:
    """Yield the names of further state dicts in a file of many, whose step is unknown."""
    if not any(many in content for many, _ in _MANY):
        return
    for name in _ONE:
        if isinstance(beside := content.get(name), Mapping) and not any(
            same_tensors(beside, state.tensors) for state in states
        ):
            yield f"{file}: its {name!r}"


def _averages(file: Path, content: Mapping[str, Any]) -> Iterator[str]:
    for name, beside in content.items():
        # Not settings alone, such as `ema: {decay: 0.999}`.
        if is_of_averages(str(name)) and _holds_tensors(beside):
            yield f"{file}: its {name!r}"


def _holds_tensors(content: Any) -> bool:
    """Return whether a mapping has a tensor, directly or within one that it holds."""
    if not isinstance(content, Mapping):
        return False
    within = [
        one for value in content.values() if isinstance(value, Mapping) for one in value.values()
    ]
    return any(isinstance(one, Tensor) for one in (*content.values(), *within))


def same_tensors(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two state dicts have the same names and equal tensors."""
    return one.keys() == other.keys() and all(
        isinstance(tensor, Tensor)
        and isinstance(other[name], Tensor)
        and tensor.shape == other[name].shape
        and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )
