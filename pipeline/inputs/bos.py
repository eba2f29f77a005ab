"""The token BOS: which one a run has, and which one its tokenizer puts before a text."""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.models.facts import ModelFacts
from pipeline.models.special_ids import named_special_ids

_PROBES = ("a", "0", ".", " ")  # texts; a tokenizer of few words may know none of some


@dataclass(frozen=True)
class Beginning:
    """The tokens with which every sequence of an input begins. said: which, and why, for people."""

    ids: tuple[int, ...]
    said: str


def run_bos(run_folder: str, model: ModelFacts) -> int | None:
    """Return the id of BOS, from the checkpoints' files or else those of the run's folder."""
    named = model.bos_token_id
    return named_special_ids(run_folder, model.vocabulary)[0] if named is None else named


def put_before(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the ids that a tokenizer puts before a text where it adds special tokens.

    One, BOS, for Llama's and Gemma's; none for those of GPT-2 and Pythia. Found by encoding a short
    text with and without special tokens, since tokenizers are configured in many ways.
    """
    for probe in _PROBES:
        plain = _encoded(tokenizer, probe, special=False)
        whole = _encoded(tokenizer, probe, special=True)
        for start in range(len(whole) - len(plain) + 1 if plain else 0):
            if whole[start : start + len(plain)] == plain:
                return tuple(whole[:start])
    return ()


def beginning(
    asked: Literal[True, False, "auto"],
    tokenizer: PreTrainedTokenizerBase,
    run_folder: str,
    model: ModelFacts,
) -> Beginning:
    """Return the tokens with which sequences of text begin.

    asked: as in `pipeline.config.inputs.DocumentsInput`. True: the tokens that the tokenizer puts
    before a text, else the BOS that the run's files name, else the tokenizer's. Raises InputError
    where none of these has one.
    """
    own = put_before(tokenizer)
    if asked is False:
        but = f", though the tokenizer adds {_shown(own, tokenizer)}" if own else ""
        return Beginning((), f"without BOS, as given{but}")
    named = run_bos(run_folder, model)
    if own:
        other = named is not None and named not in own
        but = f"; the run's files name id {named:,} as BOS" if other else ""
        return Beginning(own, f"with BOS {_shown(own, tokenizer)} (as the tokenizer does{but})")
    if asked == "auto":
        return Beginning((), "without BOS (the tokenizer adds none)")
    if named is not None:
        why = "the tokenizer adds none; the run's files name it"
        return Beginning((named,), f"with BOS {_shown((named,), tokenizer)} ({why})")
    if isinstance(known := tokenizer.bos_token_id, int):
        why = "the tokenizer has it, but does not add it"
        return Beginning((known,), f"with BOS {_shown((known,), tokenizer)} ({why})")
    raise InputError(
        "`bos: true`, but neither the tokenizer nor the run's files name a BOS token: leave `bos` "
        "out, or give a tokenizer that has one as `tokenizer`"
    )


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _shown(ids: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> str:
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    named = zip(ids, tokens, strict=True)
    return " ".join(f"id {id_:,}" if token is None else token for id_, token in named)
