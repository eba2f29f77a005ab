"""Choose inputs, measures, a selection and workers for a run."""

import math
from typing import Any

from pipeline.analysis.draft.entries import Asked, Draft, Entry, measure_entry
from pipeline.analysis.draft.lengths import block_length, compared_tokens
from pipeline.analysis.draft.losses import losses, repeated
from pipeline.analysis.draft.seen import Machine, Seen
from pipeline.config import RepeatedInput, Workers
from pipeline.inputs.operations import COMPOSE
from pipeline.training.config import ModularArithmetic

_MOST_CHECKPOINTS = 200  # with more, a subset is selected
_ABLATED_CHECKPOINTS = 12  # one pass for each head, so few checkpoints
_MOST_ABLATIONS = 2_000  # passes, of all checkpoints together
_MOST_COMPOSITION = 2**30  # bytes, of all checkpoints together
_COMPOSITION_BYTES = 6 * 4  # for each pair of heads: six float32
_LARGE_MODEL = 10**7  # numbers; products of smaller ones gain little from a second thread

# Measures of modular arithmetic; those that its operation does not define are left out.
_OF_TABLES = ("modular_addition", "restricted_loss", "excluded_loss", "key_frequencies",
              "logit_waves")  # fmt: skip
_ON_REPEATS = ("head_scores", "head_labels", "repeat_loss")
_WITHOUT_HEADS = ("repeat_loss",)


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
    entries += [Entry(key, value) for key, value in asked.layout.items()]
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
    inputs, measures = losses(seen, asked)
    block = block_length(
        RepeatedInput().block_length, seen.facts.context, seen.n_drawable, seen.bos
    )
    if block:
        inputs.append(repeated("repeated", seen, block, RepeatedInput().sequences))
    if not seen.facts.n_layers:
        return inputs, measures
    if block:
        attends = bool(seen.facts.attention_layers)
        measures += [measure_entry(name) for name in (_ON_REPEATS if attends else _WITHOUT_HEADS)]
    if not seen.facts.attention_layers:
        return inputs, measures
    measures.append(measure_entry("copying"))
    if seen.facts.n_layers > 1:
        measures.append(_composition(seen))
    if block:
        measures.append(_ablation(seen, 2 * block + seen.bos))
    return inputs, measures


def _without_layers(seen: Seen) -> dict[str, str]:
    if not seen.facts.n_layers:
        return {"measures of heads": "the model has no layers"}
    if not seen.facts.attention_layers:
        return {"measures of heads": "the model has no attention heads"}
    return {} if seen.facts.n_layers > 1 else {"composition": "the model has one layer"}


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
    heads = len(seen.facts.attention_layers) * seen.facts.n_heads
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
