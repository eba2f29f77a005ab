"""The inputs of an analysis: the fields of each kind."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.faults import Strict
from pipeline.config.places import Place


class DocumentsInput(Strict):
    """The fields of inputs that read documents: the tokenizer, BOS, and how documents are cut.

    tokenizer: a folder or the name of one on the Hub; by default the run's own. column: of a data
    set, the one that holds the texts. documents: "packed", one after the other with the end-of-text
    token after each, cut into sequences; or "separate", each sequence the beginning of another
    document, without the documents that are shorter. bos: whether each sequence begins with the
    token BOS, as one of its `length` tokens; "auto" as the tokenizer does where it adds special
    tokens (see `pipeline.inputs.bos`).
    """

    tokenizer: Place | None = None
    column: str = Field(default="text", min_length=1)
    documents: Literal["packed", "separate"] = "packed"
    bos: Literal[True, False, "auto"] = "auto"


class TextInput(DocumentsInput):
    """Texts, tokenised with the run's own tokenizer (or `tokenizer`), cut into sequences.

    path: a text file in UTF-8; or a data set: a `.parquet` or `.jsonl` file (`.jsonl` and `.json`
    also with `.gz` or `.zst`), a folder that `datasets` saved with `save_to_disk`, or a folder of
    such files or of `.txt` files. Of a data set only as many documents are read as are needed.
    sequences: how many are made. length: tokens of each, with BOS.
    """

    kind: Literal["text"] = "text"
    path: Place
    sequences: int = Field(default=64, ge=1)
    length: int = Field(default=512, ge=2)


class ArrayInput(Strict):
    """Token ids prepared elsewhere: a `.npy` array, a flat `.bin` file of `dtype`, or a data set.

    path: of the file, or of a data set as in `text`. dtype: of the ids in a flat file. column: of a
    data set, the one that holds the ids; each row is a sequence, or longer. sequences: how many are
    read. length: tokens of each.
    """

    kind: Literal["array"] = "array"
    path: Place
    dtype: Literal["uint16", "uint32", "int32", "int64"] = "uint16"
    column: str = Field(default="input_ids", min_length=1)
    sequences: int = Field(default=64, ge=1)
    length: int = Field(default=512, ge=2)


class RepeatedInput(Strict):
    """Repeated random tokens: BOS where the run's files name one, then a block of ids drawn
    without replacement, repeated.

    repeats: how often each block occurs. sequences: how many are drawn. seed: of the random ids.
    bos: whether a sequence begins with the token BOS where there is one.
    block_length: length of the longest blocks, in tokens. vary: give the sequences' blocks
    different lengths, from just over half of `block_length` up to it, so that a head that attends
    a fixed distance back finds the match in few sequences only; a shorter block is repeated until
    its sequence is full. shuffled: permute the tokens of each later block, so that only single
    tokens are repeated. ids: the first id that may be drawn, and the one after the last; by
    default those of the run's own tokenizer, else all (see `pipeline.inputs.drawable`).
    skip_commonest, skip_rarest: fractions of these ids to leave out at the start and at the end;
    byte-pair vocabularies are in the order in which pairs were merged, the commonest first.
    """

    kind: Literal["repeated"] = "repeated"
    block_length: int = Field(default=25, ge=2)
    vary: bool = True
    repeats: int = Field(default=2, ge=2)
    sequences: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0)
    bos: bool = True
    shuffled: bool = False
    ids: tuple[int, int] | None = None
    skip_commonest: float = Field(default=0.0, ge=0, lt=0.5)
    skip_rarest: float = Field(default=0.0, ge=0, lt=0.5)


class MatchesInput(Strict):
    """Random tokens in which the last 1 to `longest` tokens of earlier strings are repeated with
    the token that followed them, to measure a response by length of match.

    strings: how many strings a sequence is made of. sequences: how many are drawn. seed: of the
    random ids. bos: whether a sequence begins with the token BOS where there is one. ids: as in
    `repeated`.
    """

    kind: Literal["matches"] = "matches"
    strings: int = Field(default=3, ge=2)
    longest: int = Field(default=8, ge=2)
    sequences: int = Field(default=64, ge=1)
    seed: int = Field(default=0, ge=0)
    bos: bool = True
    ids: tuple[int, int] | None = None


class NaturalMatchesInput(DocumentsInput):
    """Sequences of text in which the last `match` tokens up to a probe, one in each sequence,
    occurred exactly once before, followed by the same token.

    path: texts, as in `text`, tokenised with the run's own tokenizer (or `tokenizer`) and cut into
    sequences of `length`; without it, held-out sequences of a model organism. sequences: how many
    are searched; those without a probe are left out. replaced: the tokens of the earlier occurrence
    that are replaced by others: all but its last ("earlier"), or its last one ("last"). seed: of
    the tokens that replace them.
    """

    kind: Literal["natural_matches"] = "natural_matches"
    replaced: Literal["nothing", "earlier", "last"] = "nothing"
    match: int = Field(default=5, ge=2)
    path: Place | None = None
    sequences: int = Field(default=256, ge=1)
    length: int = Field(default=512, ge=4)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _of_a_text(self) -> "NaturalMatchesInput":
        given = sorted({"bos", "column", "documents"} & self.model_fields_set)
        if given and self.path is None:
            raise ValueError(f"{', '.join(given)}: means something with `path` alone: give a text")
        return self


class IndirectObjectInput(Strict):
    """Prompts whose next token is the name of the indirect object, in the run's own tokenizer
    (or `tokenizer`).

    corrupted: the same prompts with the other person as the subject. sequences: number of prompts.
    seed: of the names and places. bos: whether a prompt begins with the token BOS where there is
    one.
    """

    kind: Literal["indirect_object"] = "indirect_object"
    corrupted: bool = False
    tokenizer: Place | None = None
    sequences: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0)
    bos: bool = True


class HeldOutInput(Strict):
    """Sequences of a model organism's training distribution that it was not trained on.

    sequences: how many are drawn. seed: of those that are drawn.
    """

    kind: Literal["held_out"] = "held_out"
    sequences: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0)


SplitGenerator = Literal["numpy", "random", "orbits"]


class TableInput(Strict):
    """The whole p x p table of an operation with its split into train and test pairs.

    Values that are not given are read from the run's `training.yaml` or from its own files.
    p: number of residues. operation: such as "add", see `pipeline.inputs.operations`.
    train_share: share of the pairs that the model was trained on. split_seed: seed of the split.
    split_generator: how the seed makes the split, see `pipeline.inputs.modular.split`.
    """

    kind: Literal["table"] = "table"
    p: int | None = Field(default=None, ge=3)
    operation: str | None = None
    train_share: float | None = Field(default=None, gt=0, lt=1)
    split_seed: int | None = Field(default=None, ge=0)
    split_generator: SplitGenerator | None = None


InputSpec = Annotated[
    TextInput
    | ArrayInput
    | RepeatedInput
    | MatchesInput
    | NaturalMatchesInput
    | IndirectObjectInput
    | HeldOutInput
    | TableInput,
    Field(discriminator="kind"),
]
