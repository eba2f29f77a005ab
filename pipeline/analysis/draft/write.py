"""Write an analysis of a run: look at the run, choose, try the choice, write the file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.analysis.draft.choose import choose
from pipeline.analysis.draft.entries import Asked
from pipeline.analysis.draft.place import file_for, new_file
from pipeline.analysis.draft.seen import SEED_MEASURES, Machine, Seen, look
from pipeline.analysis.draft.text import as_yaml
from pipeline.analysis.draft.trial import tried
from pipeline.checkpoints import LeftOut
from pipeline.config import Analysis, RunLayout, paths_from, validated
from pipeline.errors import InputError
from pipeline.models.facts import ModelFacts
from pipeline.writing import whole_file

_MOST_STEPS_SHOWN = 5


@dataclass(frozen=True)
class Drafted:
    """A file that was written for a run.

    seen: sentences on the run. guessed: sentences on what no file of it states. left_out: inputs
    and measures, with the reasons. masked, failed: steps that will not be computed, with the
    reasons. not_listed: what the listing of the checkpoints leaves out. notes: sentences on what
    the listing assumed.
    """

    file: str
    analysis: dict[str, Any]
    seen: tuple[str, ...]
    guessed: tuple[str, ...]
    left_out: Mapping[str, str]
    masked: Mapping[int, str]
    failed: Mapping[int, str]
    not_listed: tuple[LeftOut, ...]
    notes: tuple[str, ...]


def draft_analysis(
    uri: str,
    file: Path | None = None,
    store: str | None = None,
    text: str | None = None,
    tokenizer: str | None = None,
    tokens_per_step: int | None = None,
    model: Mapping[str, Any] | None = None,
    machine: Machine | None = None,
    layout: RunLayout | None = None,
    column: str | None = None,
) -> Drafted:
    """Write a YAML file that analyses a run as it stands; read its small files, and no weights.

    file, store: by default named as the run, in the working directory and beside the file.
    text: a text file or data set on which losses are computed, with the run's tokenizer or
    `tokenizer`. machine: to compute on, this one by default. layout: see
    `pipeline.config.RunLayout`. column: of the data set. Raises InputError if the file exists, or
    the run cannot be analysed.
    """
    target = new_file(file or file_for(uri))
    asked = replace(
        _asked(uri, target, store, text, tokenizer),
        tokens_per_step=tokens_per_step,
        model=dict(model or {}),
        layout=_layout_keys(layout),
        column=column,
    )
    seed = {"checkpoints": asked.checkpoints, "store": asked.store, "measures": SEED_MEASURES}
    given = {"model": asked.model, "tokens_per_step": tokens_per_step, **asked.layout}
    seen = look(_analysis({**seed, **given}, target))
    draft, preflight = tried(
        choose(seen, asked, machine or Machine.here()),
        lambda one: _analysis(one.values(), target),
        needed="inputs.text" if text else "",
    )
    masked, failed = seen.surveyed.masked, preflight.failed
    about = _sentences(seen)
    _write(new_file(target), as_yaml(draft, _head(about, target, masked, failed)))
    return Drafted(
        str(target), draft.values(), about, draft.guessed, draft.left_out, masked, failed,
        seen.surveyed.left_out, seen.surveyed.notes,
    )  # fmt: skip


def _layout_keys(layout: RunLayout | None) -> dict[str, Any]:
    """Return the keys of an analysis that say how the run is laid out."""
    given = (layout or RunLayout()).model_dump(exclude_defaults=True)
    return {key: given[key] for key in RunLayout.model_fields if key in given}


def _asked(
    uri: str, file: Path, store: str | None, text: str | None, tokenizer: str | None
) -> Asked:
    """Return what is asked for, with paths as they are to stand in the file: relative to it."""

    def relative(place: str) -> str:
        if "://" in place or Path(place).is_absolute():
            return place
        if file.parent == Path():
            return os.path.normpath(place)
        return os.path.relpath(place, os.path.realpath(file.parent))

    own_tokenizer = (
        str(Path(tokenizer).resolve()) if tokenizer and Path(tokenizer).exists() else None
    )
    return Asked(
        checkpoints=relative(uri),
        store=relative(store) if store else f"{file.stem}.zarr",
        text=relative(text) if text else None,
        text_file=Path(text) if text else None,
        tokenizer=own_tokenizer or tokenizer,
    )


def _analysis(values: dict[str, Any], file: Path) -> Analysis:
    return paths_from(validated(Analysis, values, str(file)), file.parent)


def _sentences(seen: Seen) -> tuple[str, ...]:
    """Return what a run is, in sentences."""
    facts, steps = seen.facts, seen.steps
    shown = f"{', '.join(f'{step:,}' for step in steps[:-1][:_MOST_STEPS_SHOWN])}"
    shown += ", …" if len(steps) > _MOST_STEPS_SHOWN + 1 else ""
    span = f"{shown} and {steps[-1]:,}" if shown else f"{steps[-1]:,}"
    context = "any length" if facts.context is None else f"{facts.context:,} tokens"
    task = seen.training.task.kind.replace("_", " ") if seen.training else ""
    trained = f" A run of `ontogeny train` on {task}." if task else ""
    return (
        f"{len(steps):,} checkpoint{'s' if len(steps) > 1 else ''}: step {span}.",
        f"{facts.architecture}: {_layers(facts)}, width {facts.d_model:,}, context {context}, "
        f"{facts.vocabulary:,} token ids, {facts.n_numbers:,} parameters.{trained}",
    )


def _layers(facts: ModelFacts) -> str:
    if not facts.without_attention:
        return f"{facts.n_layers} layers of {facts.n_heads} heads"
    if not facts.attention_layers:
        return f"{facts.n_layers} layers without attention heads"
    attending = ", ".join(map(str, facts.attention_layers))
    return f"{facts.n_layers} layers, of which {attending} attend with {facts.n_heads} heads"


def _head(
    about: tuple[str, ...], file: Path, masked: Mapping[int, str], failed: Mapping[int, str]
) -> list[str]:
    lost = [f"Step {step:,} is left out by the audit: {why}" for step, why in masked.items()]
    lost += [f"Cannot be computed: {why}" for why in failed.values()]
    more = [f"(and {len(lost) - _MOST_STEPS_SHOWN} more)"] if len(lost) > _MOST_STEPS_SHOWN else []
    return [
        "Written by `ontogeny init`. Change it as you like; --dry-run says what it takes.",
        *about,
        *lost[:_MOST_STEPS_SHOWN],
        *more,
    ]


def _write(file: Path, content: str) -> None:
    try:
        with whole_file(file) as beside:
            beside.write_text(content, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror or error})") from error
