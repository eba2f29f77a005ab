"""Choose inputs, measures, a selection and workers for a run."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.analysis.draft.entries import Draft, Entry, measure_entry
from pipeline.analysis.draft.lengths import block_length, compared_tokens
from pipeline.analysis.draft.seen import Machine, Seen
from pipeline.config import RepeatedInput, TextInput, Workers
from pipeline.errors import InputError
from pipeline.inputs import text
from pipeline.inputs.operations import COMPOSE
from pipeline.measures.token_loss import LATE_TOKEN
from pipeline.training import Text, held_out
from pipeline.training.config import ModularArithmetic

_MOST_CHECKPOINTS = 200  # with more, a subset is selected
_ABLATED_CHECKPOINTS = 12  # one pass for each head, so few checkpoints
_MOST_ABLATIONS = 2_000  # passes, of all checkpoints together
_MOST_COMPOSITION = 2**30  # bytes, of all checkpoints together
_COMPOSITION_BYTES = 6 * 4  # for each pair of heads: six float32
_HELD_OUT_TOKENS = 2**14
_LONG_BLOCK = 255  # two of them and BOS reach the tokens that Olsson et al. 2022 compare
_LARGE_MODEL = 10**7  # numbers; products of smaller ones gain little from a second thread

# Measures of modular arithmetic; those that its operation does not define are left out.
_OF_TABLES = ("modular_addition", "restricted_loss", "excluded_loss", "key_frequencies",
              "logit_waves")  # fmt: skip
_OF_HEADS = ("head_scores", "head_labels", "repeat_loss")


@dataclass(frozen=True)
class Asked:
    """What the person asked for. text, tokenizer: as paths are to stand in the file.

    text_file: the same file for this process.
    """

    checkpoints: str
    store: str
    text: str | None = None
    text_file: Path | None = None
    tokenizer: str | None = None
    tokens_per_step: int | None = None
    model: dict[str, Any] | None = None


def choose(seen: Seen, asked: Asked, machine: Machine) -> Draft:
    """Return a draft for a run. Raises InputError for a text that cannot be used."""
    is_table = bool(seen.table) or _is_modular(seen)
    inputs, measures = _for_table(seen) if is_table else _for_language(seen, asked)
    return Draft(
        top=_top(seen, asked),
        inputs=tuple(inputs),
        measures=(*measures, measure_entry("weight_norm")),
        workers=workers_for(machine, len(seen.steps), seen.facts.n_numbers),
        left_out={} if is_table else _without_layers(seen),
        guessed=tuple(_guesses(seen, asked, is_table)),
    )


def _is_modular(seen: Seen) -> bool:
    return seen.training is not None and isinstance(seen.training.task, ModularArithmetic)


def _top(seen: Seen, asked: Asked) -> tuple[Entry, ...]:
    entries = [Entry("checkpoints", asked.checkpoints), Entry("store", asked.store)]
    if asked.model:
        entries.append(Entry("model", asked.model, "Fields that the run's own files lack."))
    if asked.tokens_per_step:
        entries.append(Entry("tokens_per_step", asked.tokens_per_step))
    elif not seen.tokens_known:
        why = "The run does not say how many tokens it has seen: give them for an axis of tokens."
        entries.append(Entry("tokens_per_step", 524_288, why, off=True))
    if (count := len(seen.steps)) > _MOST_CHECKPOINTS:
        why = (
            f"{_MOST_CHECKPOINTS} of {count:,} checkpoints, evenly spaced in log(1 + step); "
            "without this line, all of them."
        )
        entries.append(Entry("select", {"log_spaced": _MOST_CHECKPOINTS}, why))
    return tuple(entries)


def _for_table(seen: Seen) -> tuple[list[Entry], list[Entry]]:
    facts = seen.table
    names = [
        *_OF_TABLES,
        *(["permutation_characters"] if facts.get("operation") == COMPOSE else []),
    ]
    missing = [key for key in ("p", "operation") if key not in facts]
    if "train_pairs" not in facts:
        missing += [key for key in ("train_share", "split_seed") if key not in facts]
    if missing:
        why = (
            f"The table of all pairs with its split. The run's files lack {', '.join(missing)}: "
            "give the right values, and switch on the measures that read it."
        )
        examples = {"p": 113, "operation": "add", "train_share": 0.3, "split_seed": 0}
        given = {key: facts.get(key, examples[key]) for key in examples}
        off = Entry("table", {"kind": "table", **given}, why, off=True)
        return [off], [Entry(name, None, off=True) for name in names]
    described = "from training.yaml" if seen.training else "from the run's own files"
    table = Entry(
        "table", {"kind": "table"}, f"The table of all pairs with its split, {described}."
    )
    return [table], [measure_entry(name) for name in names]


def _for_language(seen: Seen, asked: Asked) -> tuple[list[Entry], list[Entry]]:
    inputs, measures = _losses(seen, asked)
    block = block_length(
        RepeatedInput().block_length, seen.facts.context, seen.n_drawable, seen.bos
    )
    if block:
        inputs.append(_repeated("repeated", seen, block, RepeatedInput().sequences))
    if not seen.facts.n_layers:
        return inputs, measures
    if block:
        measures += [measure_entry(name) for name in _OF_HEADS]
    measures.append(measure_entry("copying"))
    if seen.facts.n_layers > 1:
        measures.append(_composition(seen))
    if block:
        measures.append(_ablation(seen, 2 * block + seen.bos))
    return inputs, measures


def _without_layers(seen: Seen) -> dict[str, str]:
    if not seen.facts.n_layers:
        return {"measures of heads": "the model has no layers"}
    return {} if seen.facts.n_layers > 1 else {"composition": "the model has one layer"}


def _repeated(name: str, seen: Seen, block: int, sequences: int) -> Entry:
    """Return an input of repeated random tokens, which every model can read."""
    length, context = 2 * block + seen.bos, seen.facts.context
    of = f" of a context of {context:,}" if context is not None else ""
    why = (
        f"{'BOS, then a' if seen.bos else 'A'} block of at most {block} random tokens, and the "
        f"block again: {length} tokens{of}. Drawn from {seen.drawn_from}."
    )
    value = {"kind": "repeated", "block_length": block, "repeats": 2, "sequences": sequences}
    return Entry(name, value, why)


def _losses(seen: Seen, asked: Asked) -> tuple[list[Entry], list[Entry]]:
    """Return the input on which losses are computed, and their measure."""
    if asked.text is not None:
        made = _text(seen, asked)
    elif seen.training is not None:
        made = _held_out(seen)
    else:
        return _losses_without_text(seen)
    measure = _token_loss("token_loss", made[1])
    return [made[0]], [measure] if measure else []


def _losses_without_text(seen: Seen) -> tuple[list[Entry], list[Entry]]:
    usual = TextInput(path="prose.txt")
    length = min(usual.length, seen.facts.context or usual.length)
    value = {**usual.model_dump(exclude={"tokenizer"}), "length": length}
    why = (
        "Losses on a text of yours: give its path and switch this on with `token_loss` below, or "
        f"write this file again with --text FILE. {_tokenizer_of(seen)}"
    )
    inputs = [Entry("text", value, why, off=True)]
    on_text = _token_loss("token_loss", length)
    measures = [] if on_text is None else [Entry(on_text.key, on_text.value, "On text.", off=True)]
    block = block_length(_LONG_BLOCK, seen.facts.context, seen.n_drawable, seen.bos)
    if block:
        long = block > RepeatedInput().block_length
        name = "long_repeats" if long else "repeated"
        if long:
            inputs.append(_repeated(name, seen, block, 16))
        if measure := _token_loss(f"token_loss.{name}", 2 * block + seen.bos):
            measures.append(measure)
    return inputs, measures


def _tokenizer_of(seen: Seen) -> str:
    if seen.tokenizer:
        return f"Add `tokenizer: FOLDER` to it: there is {seen.tokenizer}."
    return "The tokenizer beside the checkpoints is used."


def _token_loss(key: str, length: int) -> Entry | None:
    tokens = compared_tokens(length)
    if tokens is None:
        return None
    early, late = tokens
    why = "" if length > LATE_TOKEN else (
        f"The in-context score compares tokens 500 and 50 of 512 in Olsson et al. 2022; {late} and "
        f"{early} are the same shares of {length}."
    )  # fmt: skip
    return measure_entry(key, why, early_token=early, late_token=late)


def _text(seen: Seen, asked: Asked) -> tuple[Entry, int]:
    """Return the input of a text file, and the length of its sequences in tokens."""
    assert asked.text_file is not None and asked.text is not None
    if seen.tokenizer and not asked.tokenizer:
        raise InputError(
            f"{asked.text_file}: cannot be tokenised, there is {seen.tokenizer}: give --tokenizer "
            "FOLDER, or leave out --text"
        )
    ids = text.tokenise(asked.text_file, text.load_tokenizer(asked.tokenizer or seen.run_folder))
    usual = TextInput(path=asked.text)
    length = min(usual.length, seen.facts.context or usual.length, len(ids))
    if length < 3:
        raise InputError(
            f"{asked.text_file}: {len(ids)} tokens in sequences of {length}, expected at least 3: "
            "give more text, or leave out --text"
        )
    sequences = min(usual.sequences, len(ids) // length)
    own = {"tokenizer": asked.tokenizer} if asked.tokenizer else {}
    value = {"kind": "text", "path": asked.text, **own, "sequences": sequences, "length": length}
    why = f"The first {sequences * length:,} of the text's {len(ids):,} tokens."
    return Entry("text", value, why), length


def _held_out(seen: Seen) -> tuple[Entry, int]:
    """Return held-out sequences of an organism, as many as there are, and their length."""
    assert seen.training is not None
    length = seen.training.task.context
    wanted = max(1, _HELD_OUT_TOKENS // length)
    sequences = _available(seen, wanted) if isinstance(seen.training.task, Text) else wanted
    why = (
        f"Sequences of {length} tokens like those that the run was trained on, but not among them "
        "(training.yaml says how they were made)."
    )
    return Entry("text", {"kind": "held_out", "sequences": sequences}, why), length


def _available(seen: Seen, wanted: int) -> int:
    """Return how many held-out sequences there are, to a power of two below `wanted`."""
    while wanted > 1:
        try:
            held_out(seen.run_folder, wanted, 0)
        except InputError:
            wanted //= 2
        else:
            break
    return wanted


def _composition(seen: Seen) -> Entry:
    heads = seen.facts.n_layers * seen.facts.n_heads
    each = _COMPOSITION_BYTES * heads**2
    if each * len(seen.steps) <= _MOST_COMPOSITION:
        return measure_entry("composition")
    chosen = max(2, _MOST_COMPOSITION // each)
    why = f"{each / 1e6:,.0f} MB at each checkpoint ({heads:,} heads in pairs), so few checkpoints."
    return measure_entry("composition", why, select={"log_spaced": chosen})


def _ablation(seen: Seen, length: int) -> Entry:
    """Return the ablation of every head, at few checkpoints. length: tokens of its sequences."""
    heads = seen.facts.n_layers * seen.facts.n_heads
    chosen = max(2, min(_ABLATED_CHECKPOINTS, _MOST_ABLATIONS // (heads + 1)))
    given: dict[str, Any] = {}
    if tokens := compared_tokens(length):
        given = {"early_token": tokens[0], "late_token": tokens[1]}
    why = f"{heads + 1:,} forward passes at each checkpoint"
    if len(seen.steps) <= chosen:
        return measure_entry("head_ablation", f"{why}.", **given)
    select = {"log_spaced": chosen}
    return measure_entry("head_ablation", f"{why}, so {chosen} of them.", **given, select=select)


def workers_for(machine: Machine, n_checkpoints: int, n_numbers: int) -> Entry:
    """Return workers that fit a machine: one for each GPU, or for each core that memory allows.

    A worker holds two models' weights in float32 (the next ones are read while it computes), and
    the activations of a pass.
    """
    if machine.gpus:
        count = min(machine.gpus, n_checkpoints)
        value = {"count": count, "cpus": 1, "gpus": 1, "threads": 1, "device": "cuda"}
        return Entry("workers", value, f"One worker for each of {machine.gpus} GPUs.")
    each = 2 * 4 * n_numbers + Workers().memory
    count = max(1, min(machine.cores, n_checkpoints, machine.memory // each))
    threads = max(1, machine.cores // count) if n_numbers >= _LARGE_MODEL else 1
    gib = math.floor(machine.memory / 2**30)
    why = f"For {machine.cores} cores and {gib} GiB of memory."
    return Entry("workers", {"count": count, "cpus": threads, "threads": threads}, why)


def _guesses(seen: Seen, asked: Asked, is_table: bool) -> list[str]:
    said = []
    if not is_table:
        if "as a guess" in seen.drawn_from:
            said.append(f"random tokens are drawn from all ids ({seen.drawn_from})")
        if not seen.bos:
            said.append("no file of the run names a BOS token: inputs begin without one")
    if not seen.tokens_known and not asked.tokens_per_step:
        said.append("the run does not say how many tokens it has seen: series have steps alone")
    return said
