"""Build the inputs of an analysis from its configuration, run and model; keep them in its store."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int

from pipeline.analysis.text_inputs import (
    array_input,
    check_tokenizer,
    natural_matches_input,
    text_input,
)
from pipeline.checkpoints.foreign import is_converted, table_facts
from pipeline.config import (
    ArrayInput,
    DocumentsInput,
    HeldOutInput,
    IndirectObjectInput,
    InputSpec,
    MatchesInput,
    NaturalMatchesInput,
    RepeatedInput,
    TableInput,
    TextInput,
)
from pipeline.errors import InputError
from pipeline.inputs import indirect_objects, matches, modular, repeats, text
from pipeline.inputs.batch import Input
from pipeline.inputs.bos import run_bos
from pipeline.inputs.drawable import Drawable, drawable_ids, run_tokenizer
from pipeline.inputs.token_texts import texts_of
from pipeline.models.facts import ModelFacts
from pipeline.models.trained_split import split_told_by_losses
from pipeline.outside import reading
from pipeline.store import Store
from pipeline.training import held_out, table_of, trained_vocabulary

SPLIT_GENERATORS: tuple[Literal["numpy", "random"], ...] = ("numpy", "random")

# Inputs that need no configuration: measures with these default inputs work without any.
# "repeated_4x25" is the protocol of Olsson et al. 2022 for prefix matching, in which all blocks
# have one length: on it an induction head scores like a head that attends a fixed distance back.
STANDARD_INPUTS: dict[str, InputSpec] = {
    "repeated": RepeatedInput(),
    "shuffled": RepeatedInput(shuffled=True),
    "repeated_4x25": RepeatedInput(repeats=4, vary=False, skip_commonest=0.02, skip_rarest=0.02),
    "matches": MatchesInput(),
    "natural_matches": NaturalMatchesInput(),
    "natural_matches_earlier": NaturalMatchesInput(replaced="earlier"),
    "natural_matches_last": NaturalMatchesInput(replaced="last"),
    "indirect_object": IndirectObjectInput(),
    "indirect_object_corrupted": IndirectObjectInput(corrupted=True),
    "table": TableInput(),
}

_MOST_TOKENS = 2**27  # of one input: 1 GiB, with every worker


def make_input(name: str, spec: InputSpec, run_folder: str, model: ModelFacts) -> Input:
    """Build one input for a model. Raises InputError where it does not fit the model."""
    asked = _tokens_asked(spec)
    if asked > _MOST_TOKENS:
        raise InputError(
            f"input {name!r}: asks for {asked:,} tokens, expected at most {_MOST_TOKENS:,}: make "
            "fewer or shorter sequences"
        )
    # Tokenizers and tables come with the run, and libraries raise errors of any type for them.
    with reading(f"input {name!r}", InputError, remedy="restore the files that it is made of"):
        made = _made(name, spec, run_folder, model)
        texts = _texts(spec, made, run_folder)
    _check_fits(made, model)
    return replace(made, texts=texts)


def _texts(spec: InputSpec, made: Input, run_folder: str) -> dict[int, str]:
    """Return the texts of an input's ids; empty where no tokenizer is known."""
    if isinstance(spec, TableInput):
        return {made.attributes["p"]: "="}  # residues are their own texts
    has_own = isinstance(spec, DocumentsInput | IndirectObjectInput)
    own = spec.tokenizer if has_own else None
    tokenizer = text.load_tokenizer(own) if own else run_tokenizer(run_folder)
    return {} if isinstance(tokenizer, str) else texts_of(made.tokens, tokenizer)


def _tokens_asked(spec: InputSpec) -> int:
    """Return about how many tokens an input is to have, from its configuration alone."""
    match spec:
        case TextInput() | ArrayInput() | NaturalMatchesInput():
            return spec.sequences * spec.length
        case RepeatedInput():
            return spec.sequences * spec.block_length * spec.repeats
        case MatchesInput():
            return spec.sequences * spec.strings * 2 * (spec.longest + 1)
        case TableInput():
            return 3 * (spec.p or 0) ** 2
    return spec.sequences


def _made(name: str, spec: InputSpec, run_folder: str, model: ModelFacts) -> Input:
    match spec:
        case TextInput():
            return text_input(name, spec, run_folder, model)
        case ArrayInput():
            return array_input(name, spec)
        case RepeatedInput():
            return _repeated(name, spec, run_folder, model)
        case MatchesInput():
            return _matches(name, spec, run_folder, model)
        case NaturalMatchesInput():
            return natural_matches_input(name, spec, run_folder, model)
        case IndirectObjectInput():
            return _indirect_object(name, spec, run_folder, model)
        case HeldOutInput():
            tokens = held_out(run_folder, spec.sequences, spec.seed)
            return Input(name, spec.kind, tokens, attributes={"seed": spec.seed})
        case TableInput():
            return _table(name, spec, run_folder)


def _repeated(name: str, spec: RepeatedInput, run_folder: str, model: ModelFacts) -> Input:
    bos = _bos(spec, run_folder, model)
    drawn = _drawable(name, spec, run_folder, model)
    first, last = (
        round(share * len(drawn.ids)) for share in (spec.skip_commonest, spec.skip_rarest)
    )
    lengths = repeats.block_lengths(spec.sequences, spec.block_length, spec.vary)
    vocabulary = drawn.ids[first : len(drawn.ids) - last]
    tokens = repeats.repeated_blocks(lengths, vocabulary, spec.repeats, bos, spec.seed)
    if spec.shuffled:
        tokens = repeats.with_shuffled_repeats(tokens, lengths, bos, spec.seed)
    attributes = {
        "block_length": spec.block_length,
        "vary": spec.vary,
        "repeats": spec.repeats,
        "has_bos": bos is not None,
        "shuffled": spec.shuffled,
        "seed": spec.seed,
        "drawn_from": drawn.source,
    }
    return Input(name, spec.kind, tokens, {"block_length": lengths}, attributes)


def _matches(name: str, spec: MatchesInput, run_folder: str, model: ModelFacts) -> Input:
    bos = _bos(spec, run_folder, model)
    drawn = _drawable(name, spec, run_folder, model)
    made = matches.controlled_matches(
        spec.sequences, drawn.ids, spec.strings, spec.longest, bos, spec.seed
    )
    arrays = {"length": made.length, "successor": made.successor, "other": made.other}
    attributes = {
        "longest": spec.longest,
        "strings": spec.strings,
        "seed": spec.seed,
        "drawn_from": drawn.source,
    }
    return Input(name, spec.kind, made.tokens, arrays, attributes)


def _bos(
    spec: RepeatedInput | MatchesInput | IndirectObjectInput, run_folder: str, model: ModelFacts
) -> int | None:
    return run_bos(run_folder, model) if spec.bos else None


def _drawable(
    name: str, spec: RepeatedInput | MatchesInput, run_folder: str, model: ModelFacts
) -> Drawable:
    """Return the ids from which the input draws. Raises InputError, naming the input."""
    try:
        return drawable_ids(spec.ids, run_folder, trained_vocabulary(run_folder), model)
    except InputError as error:
        raise InputError(f"input {name!r}: {error}") from error


def _indirect_object(
    name: str, spec: IndirectObjectInput, run_folder: str, model: ModelFacts
) -> Input:
    bos = _bos(spec, run_folder, model)
    tokenizer = text.load_tokenizer(spec.tokenizer or run_folder)
    made = indirect_objects.prompts(tokenizer, spec.sequences, bos, spec.seed)
    arrays = {
        "indirect_object": made.indirect_object,
        "subject": made.subject,
        "indirect_object_at": made.indirect_object_at,
        "subject_at": made.subject_at,
    }
    attributes = {"corrupted": spec.corrupted, "seed": spec.seed}
    tokens = (made.corrupted if spec.corrupted else made.clean).astype(np.int64)
    check_tokenizer(name, tokens, tokenizer, spec.tokenizer, model)
    return Input(name, spec.kind, tokens, arrays, attributes)


def _table(name: str, spec: TableInput, run_folder: str) -> Input:
    given = spec.model_dump(exclude={"kind"}, exclude_none=True)
    # From the weakest source to the strongest: converted files, training.yaml, the analysis.
    facts: dict[str, Any] = table_facts(run_folder) | table_of(run_folder) | given
    listed = None
    if {"train_share", "split_seed"} <= given.keys():
        listed = facts.pop("train_pairs", None)
    split = ("train_pairs",) if "train_pairs" in facts else ("train_share", "split_seed")
    needed = ("p", "operation", *split)
    if missing := [key for key in needed if key not in facts]:
        raise InputError(
            f"input {name!r}: {', '.join(missing)} not given, and {run_folder} has no "
            "training.yaml of a modular task that would say: add them to the input"
        )
    tokens, labels = modular.table(facts["p"], facts["operation"])
    facts |= _undeclared_generator(facts, listed, run_folder, tokens, labels)
    is_train = _split(facts)
    if listed is not None and not np.array_equal(np.flatnonzero(is_train), listed):
        raise InputError(
            f"input {name!r}: train_share and split_seed give other train pairs than the "
            f"{len(listed)} that the run's files list: leave both out"
        )
    described = ("p", "operation", "train_share", "split_seed", "split_generator", "split_proven")
    attributes = {key: facts[key] for key in described if key in facts}
    if "train_share" not in facts:
        attributes["train_share"] = float(is_train.mean())
    return Input(name, spec.kind, tokens, {"labels": labels, "is_train": is_train}, attributes)


def _split(facts: dict[str, Any]) -> Bool[np.ndarray, " pair"]:
    """Return a mask of the train pairs: as the run lists them, or as its seed makes them."""
    p = facts["p"]
    if "train_pairs" in facts:
        return np.isin(np.arange(p * p), facts["train_pairs"])
    generator = facts.get("split_generator", "numpy")
    share, seed = facts["train_share"], facts["split_seed"]
    return modular.split(p, share, seed, generator, facts["operation"])


def _undeclared_generator(
    facts: Mapping[str, Any],
    listed: list[int] | None,
    run_folder: str,
    tokens: Int[np.ndarray, "pair 3"],
    labels: Int[np.ndarray, " pair"],
) -> dict[str, Any]:
    """Return the generator that made a converted run's split, where it is not declared.

    Inferred from the train pairs that the run's files list, or from the losses that they record, if
    these decide; else numpy's, which `Input.note` states.
    """
    is_declared = {"train_pairs", "split_generator"} & facts.keys()
    if is_declared or not is_converted(run_folder):
        return {}
    splits = {
        generator: modular.split(facts["p"], facts["train_share"], facts["split_seed"], generator)
        for generator in SPLIT_GENERATORS
    }
    if listed is not None:
        same = [one for one in splits if np.array_equal(np.flatnonzero(splits[one]), listed)]
        return {"split_generator": same[0]} if same else {}
    noted = {int(step): loss for step, loss in facts.get("train_losses", {}).items()}
    found = split_told_by_losses(run_folder, noted, tokens, labels, splits)
    return {"split_generator": found or "numpy", "split_proven": found is not None}


def _check_fits(made: Input, model: ModelFacts) -> None:
    length = made.tokens.shape[1]
    if model.context is not None and length > model.context:
        raise InputError(
            f"input {made.name!r}: its sequences have {length} tokens, but the model's context is "
            f"{model.context}: shorten the input"
        )
    # Checked here and in the engine: here before anything is written.
    outside = made.tokens[(made.tokens < 0) | (made.tokens >= model.vocabulary)]
    if outside.size:
        raise InputError(
            f"input {made.name!r}: holds token id {outside.max()}, but the model's vocabulary has "
            f"{model.vocabulary} ids (0 to {model.vocabulary - 1}): use the run's own tokenizer"
        )


def save_input(store: Store, made: Input) -> None:
    """Save an input beside the results, so that workers need no access to its source."""
    attributes = {"kind": made.kind, "attributes": made.attributes}
    store.save_input(made.name, made.digest, made.tokens, made.arrays, attributes, made.texts)


def load_input(store: Store, name: str, digest: str) -> Input:
    """Return an input as it was saved."""
    tokens, arrays, about = store.load_input(name, digest)
    return Input(name, about["kind"], tokens, arrays, about["attributes"])
