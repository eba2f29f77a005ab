"""Parse the names of checkpoints: of folders, files, branches and tags.

A number in a name is, by the words beside it:

a step: after `step`, `global_step`, `iter`, `iteration`, `ba` (batches of Composer), after
`checkpoint`, `ckpt` and `chck` without a unit of millions, before `ba`, and a bare number. `50K` is
50,000.
an epoch: after `epoch` and `ep`, and before `ep`.
a count of tokens: after `tokens` and before `_tokens`, after a step with a unit of millions or more
(`step-50K-105b`, `step-001000-2BT`), and after `checkpoint`, `ckpt` and `chck` with such a unit
(`chck_10M`).

The words are joined to their numbers by nothing, `-`, `_` or `=`. A bare number that is a date
(20240501) or has more than nine digits is none, and neither is the number of other words: `model-3`
may be the third save, `checkpoint3` the third epoch (fairseq).

Sources: the Trainer of transformers (`checkpoint-N`), DeepSpeed (`global_stepN`), verl
(`global_step_N`), Megatron-LM (`iter_0001000`), litgpt (`iter-001000-ckpt.pth`, `step-00001000`),
accelerate's examples and torchtune (`epoch_3`, `step_100`), Lightning (`epoch=3-step=100.ckpt`) and
NeMo (`name--val_loss=2.1-step=9-consumed_samples=80.0`), Composer (`ep0-ba1000-rank0.pt`), fairseq
(`checkpoint_3_5000.pt`: epoch and step), OLMo (`step1000-unsharded`, `stage1-step150-tokens1B`),
TinyLlama (`step-50K-105b`), FineWeb's ablations (`step-001000-2BT`), RedPajama (`240b_tokens`),
Amber (`ckpt_358`), CrystalCoder (`phase1_checkpoint_055500`), BabyLM (`chck_10M`), BLOOM
(`global_step1000`, also `1000`), nanochat (`model_001000.pt`).
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Literal

from pipeline.config.run_layout import RunLayout, compiled

SPELLINGS = "step-N, checkpoint-N, global_step_N, iter_N, epoch_N, ckpt_N, N or N_tokens"
PTH_SUFFIXES, PTH_DIGITS = (".pth", ".pt"), 15  # of files that are named by their step alone
FILE_SUFFIXES = (*PTH_SUFFIXES, ".ckpt", ".safetensors")

_MOST_BARE_DIGITS = 9
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_LARGEST = 10**15  # of a step, an epoch and a count of tokens, exclusive

_DIGITS = r"\d{1,15}"
_COUNT = r"\d{1,15}(?:\.\d{1,6})?"
_LARGE = rf"{_COUNT}(?:[mMbB]T?|[tT])"
_STAGE = r"(?:(?P<stage>(?:stage|phase)\d+(?:-ingredient\d+)?)[-_])?"
_PREFIX = r"(?:(?:checkpoint|ckpt|chck|model|intermediate)[-_])?"
_STEP = rf"(?:global[-_]?step|step|iteration|iter)[-_=]?(?P<step>{_DIGITS}|{_COUNT}[kKmM])"
_EPOCH = rf"(?:epoch|ep)[-_=]?(?P<epoch>{_DIGITS})"
_TOKENS = rf"(?:tokens?[-_=]?(?P<tokens>{_COUNT}[kKmMbBtT]?)|(?P<total>{_LARGE})(?:[-_]?tokens)?)"
_METRICS = r"(?:[-_][A-Za-z]\w{0,40}=-?\d{1,15}(?:\.\d{1,20})?(?:e-?\d{1,3})?){0,8}"
_KIND = r"(?:[-_](?:unsharded|ckpt|hf))?"
_RANK = r"(?:-rank0)?"

_NAMES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_STAGE}{_PREFIX}{_STEP}(?:[-_]{_TOKENS})?(?:[-_]{_EPOCH})?{_METRICS}{_KIND}",
        rf"{_PREFIX}{_EPOCH}(?:[-_]{_STEP})?{_METRICS}",
        rf"{_STAGE}(?:checkpoint[-_=]|(?:ckpt|chck)[-_=]?)(?P<step>{_DIGITS}|{_COUNT}[kK])",
        rf"(?:checkpoint[-_=]|(?:ckpt|chck)[-_=]?)(?P<tokens>{_LARGE})",
        rf"checkpoint_(?P<epoch>{_DIGITS})_(?P<step>{_DIGITS})",
        rf"(?:(?:ep(?P<epoch>{_DIGITS})-)?ba(?P<step>{_DIGITS})|(?P<step2>{_DIGITS})ba){_RANK}",
        rf"(?P<epoch>{_DIGITS})ep{_RANK}",
        rf"{_PREFIX}tokens?[-_=]?(?P<tokens>{_COUNT}[kKmMbBtT]?)",
        rf"(?P<tokens>{_COUNT}[kKmMbBtT]?)[-_]?tokens",
        rf"(?P<bare>\d{{1,{_MOST_BARE_DIGITS}}})",
        # Lightning's and NeMo's, with metrics before the step
        rf"(?:[\w.+-]{{1,80}}--)?(?:(?!step=|epoch=)[A-Za-z]\w{{0,40}}=[\d.e-]{{1,24}}?-){{0,8}}"
        rf"(?:epoch=(?P<epoch>{_DIGITS})-)?step=(?P<step>{_DIGITS}){_METRICS}",
    )
)
# nanochat numbers its files by the step; lucidrains' trainers, with a hyphen, by the save.
_NUMBERED_MODEL = re.compile(rf"model_(?P<step>{_DIGITS})")
_TEMPORARY = re.compile(r"[._]*(?:tmp[-_.])?(?P<name>.+?)(?:[-_.](?:tmp|temp|partial|incomplete))?")


@dataclass(frozen=True)
class Name:
    """The parts of a checkpoint's name.

    step: None if the name gives only tokens or an epoch. tokens_seen: rounded as in the name
    (`step1000-tokens4B`). stage: for runs trained in stages (`stage1-step1000-tokens5B`), each of
    which counts its own steps; "" for all others. is_bare: the name is a number and nothing else.
    counts: what `step` counts in this run, see `numbering.py`.
    """

    step: int | None = None
    tokens_seen: int | None = None
    stage: str = ""
    epoch: int | None = None
    is_bare: bool = False
    counts: Literal["steps", "epochs", "tokens"] = "steps"


def parse_name(name: str, layout: RunLayout | None = None) -> Name | None:
    """Return the parts of the name of a checkpoint's folder, branch or tag; None for other names.

    layout: of the run; its `names` replace the known names. Temporary names (`tmp-checkpoint-5`,
    `checkpoint-5.tmp`, `.step-5`) are none.
    """
    if layout is not None and layout.names is not None:
        return _by_pattern(name, layout.names)
    return _known(name.removesuffix(".ckpt"))


def parse_file_name(name: str, layout: RunLayout | None = None) -> Name | None:
    """Return the parts of the name of a file that is a checkpoint by itself; None for other names.

    The files of grokking research and TransformerLens, such as `1000.pth`, are none: see
    `foreign.py`.
    """
    stem = _stem(name)
    if stem is None:
        return None
    if layout is not None and layout.names is not None:
        pattern = layout.names.partition("/")[0]
        return _by_pattern(name, pattern) or _by_pattern(stem, pattern)
    if is_of_another_format(name):
        return None
    if match := _NUMBERED_MODEL.fullmatch(stem):
        return Name(int(match["step"]))
    return _known(stem)


def is_checkpoint_file(name: str, layout: RunLayout | None = None) -> bool:
    """Return whether a file of this name in a run's folder is a checkpoint by itself."""
    return parse_file_name(name, layout) is not None


def may_be_checkpoint_file(name: str) -> bool:
    """Return whether a file of this name may be a checkpoint by itself, under any given `names`."""
    return _stem(name) is not None


def is_of_another_format(name: str) -> bool:
    """Return whether a file of this name is converted with its whole run: see `foreign.py`."""
    stem, dot, suffix = name.rpartition(".")
    if f"{dot}{suffix}" not in PTH_SUFFIXES:
        return False
    is_step = stem.isdecimal() and stem.isascii() and len(stem) <= PTH_DIGITS
    return is_step or stem in ("init", "final", "full_run_data")


def companions(name: str) -> tuple[str, ...]:
    """Return the names of files that describe a checkpoint's single file, if they lie beside it.

    nanochat writes `meta_001000.json` beside `model_001000.pt`.
    """
    match = _NUMBERED_MODEL.fullmatch(_stem(name) or "")
    return (f"meta_{match['step']}.json",) if match else ()


def is_temporary(name: str) -> bool:
    """Return whether this is the name of a save that is renamed into place when it is complete."""
    match = _TEMPORARY.fullmatch(name)
    if match is None or match["name"] == name:
        return False
    saved = parse_name(match["name"]) or parse_file_name(match["name"])
    # `.1000` and `1000.tmp` may be anything.
    return saved is not None and not saved.is_bare


def folder_inside(layout: RunLayout) -> str:
    """Return the folder in each checkpoint's that `names` gives after a `/`; "" if none."""
    return (layout.names or "").partition("/")[2]


def _stem(name: str) -> str | None:
    suffix = next((suffix for suffix in FILE_SUFFIXES if name.endswith(suffix)), None)
    return None if suffix is None else name.removesuffix(suffix)


def _by_pattern(name: str, pattern: str) -> Name | None:
    # A branch's name may itself contain "/"; a folder's is compared with the first part.
    wanted = pattern if "/" in name else pattern.partition("/")[0]
    match = compiled(wanted).fullmatch(name) if name.isascii() else None
    if match is None:
        return None
    found = match.groupdict()
    if not found:  # of "runs/{step}", a folder `runs`
        return None
    step, epoch, tokens = (found.get(key) for key in ("step", "epoch", "tokens"))
    seen = None if tokens is None else _number(tokens)
    if tokens is not None and seen is None:
        return None
    return Name(
        step=None if step is None else int(step),
        tokens_seen=seen,
        epoch=None if epoch is None else int(epoch),
    )


@lru_cache(2**16)
def _known(name: str) -> Name | None:
    # isascii, because \d matches the digits of all scripts.
    if not name.isascii():
        return None
    matches = (pattern.fullmatch(name) for pattern in _NAMES)
    found = next((match.groupdict() for match in matches if match), None)
    return None if found is None else _name(found)


def _name(found: dict[str, str | None]) -> Name | None:
    if (bare := found.get("bare")) is not None:
        return None if _is_date(bare) else Name(int(bare), is_bare=True)
    step = found.get("step") or found.get("step2")
    tokens = found.get("tokens") or found.get("total")
    epoch = found.get("epoch")
    name = Name(stage=found.get("stage") or "")
    if step is not None:
        name = replace(name, step=_number(step))
    if tokens is not None:
        name = replace(name, tokens_seen=_number(tokens))
    if epoch is not None:
        name = replace(name, epoch=int(epoch))
    lost = (step is not None and name.step is None) or (tokens and name.tokens_seen is None)
    return None if lost else name


def _number(spelling: str) -> int | None:
    """Return a number with a unit, `4.2B`; None if it is no whole number, or absurdly large."""
    plain = spelling.upper()
    plain = plain[:-1] if plain.endswith(("MT", "BT")) else plain  # millions and billions of tokens
    unit = plain[-1] if plain[-1] in _UNITS else ""
    value = Decimal(plain.removesuffix(unit)) * _UNITS[unit]
    return int(value) if value == value.to_integral_value() and value < _LARGEST else None


def _is_date(digits: str) -> bool:
    """Return whether eight digits are a day of this century or the last: 20240501."""
    if len(digits) != 8 or digits[:2] not in ("19", "20"):
        return False
    try:
        datetime.strptime(digits, "%Y%m%d")
    except ValueError:
        return False
    return True
