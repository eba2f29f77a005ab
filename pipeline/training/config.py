"""One YAML file describes one training run of a model organism."""

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from pipeline.checkpoints.files import RUN_FILE
from pipeline.config import Place, Strict, dump_yaml, read_yaml, validated
from pipeline.config.inputs import SplitGenerator
from pipeline.errors import InputError, suggestion
from pipeline.models.organism_fields import OrganismFields
from pipeline.training.schedule import Schedule
from pipeline.writing import whole_file

if TYPE_CHECKING:
    from pipeline.models.organism_config import OrganismConfig

PRESETS = Path(__file__).parent / "presets"


class ModularArithmetic(Strict):
    """The task of predicting `a operation b mod p` at the '=' of (a, b, '='), for some pairs.

    operation, p: see `pipeline.inputs.operations`; "compose" is that of p = n! permutations.
    train_share: share of the pairs that are trained on. split_seed: seed of the split.
    split_generator: how the seed makes the split, see `pipeline.inputs.modular.split`.
    """

    kind: Literal["modular_arithmetic"] = "modular_arithmetic"
    p: int = Field(ge=3)
    operation: str = "add"
    train_share: float = Field(default=0.4, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0)
    split_generator: SplitGenerator = "numpy"

    @model_validator(mode="after")
    def _table_exists(self) -> "ModularArithmetic":
        from pipeline.inputs import modular  # imports numpy, which few tasks need
        from pipeline.inputs.operations import check

        # Both raise InputError, which is a ValueError, as pydantic expects of a validator.
        check(self.p, self.operation)
        modular.split(*self.split)
        return self

    @property
    def vocabulary(self) -> int:
        """Number of token ids: the residues and '='."""
        return self.p + 1

    @property
    def context(self) -> int:
        """Number of tokens of (a, b, '=')."""
        return 3

    @property
    def split(self) -> tuple[int, float, int, SplitGenerator, str]:
        """The arguments of `pipeline.inputs.modular.split`."""
        return self.p, self.train_share, self.split_seed, self.split_generator, self.operation

    @property
    def n_train_pairs(self) -> int:
        """Number of pairs that are trained on."""
        from pipeline.inputs import modular

        return int(modular.split(*self.split).sum())


class RepeatedSubstrings(Strict):
    """The task of predicting the next of uniform random tokens in which a substring repeats.

    vocabulary: number of token ids. context: tokens of a sequence. shortest, longest: length of
    the substring, in tokens.
    """

    kind: Literal["repeated_substrings"] = "repeated_substrings"
    vocabulary: int = Field(default=64, ge=2)
    context: int = Field(default=64, ge=2)
    shortest: int = Field(default=8, ge=1)
    longest: int = Field(default=31, ge=1)

    @model_validator(mode="after")
    def _substrings_fit(self) -> "RepeatedSubstrings":
        if not self.shortest <= self.longest <= self.context // 2:
            raise InputError(
                f"shortest = {self.shortest}, longest = {self.longest}: expected shortest <= "
                f"longest <= {self.context // 2}, half the context"
            )
        return self


class Text(Strict):
    """The task of predicting the next byte-pair token of a text, or of Python's standard library.

    path: a UTF-8 text file; None: the library's source, at most `library_bytes` of it. The last
    `held_out_share` of the token stream is never trained on. vocabulary: number of token ids that
    the byte-pair tokenizer has. context: tokens of a sequence.
    """

    kind: Literal["text"] = "text"
    path: Place | None = None
    library_bytes: int = Field(default=8_000_000, ge=100_000)
    vocabulary: int = Field(default=1024, ge=257)
    context: int = Field(default=128, ge=2)
    held_out_share: float = Field(default=0.1, gt=0, lt=1)


Task = Annotated[ModularArithmetic | RepeatedSubstrings | Text, Field(discriminator="kind")]


class Optimizer(Strict):
    """AdamW, or SGD with momentum, on every parameter.

    learning_rate: rises linearly over `warmup_steps` and is constant from then on. betas: of AdamW.
    momentum: of SGD. weight_decay: decoupled from the gradient in AdamW, added to it in SGD, as in
    PyTorch. clip_norm: gradients of all parameters together are scaled down to this norm (L2) where
    theirs is larger.
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    momentum: float = Field(default=0.0, ge=0, lt=1)
    warmup_steps: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> "Optimizer":
        if self.kind == "adamw" and self.momentum:
            raise InputError(
                f"momentum = {self.momentum}: AdamW has betas instead: set them, or kind: sgd"
            )
        return self

    def rate(self, step: int) -> float:
        """Return the learning rate of the step that is taken after `step` steps."""
        return self.learning_rate * min(1.0, (step + 1) / max(self.warmup_steps, 1))


Head = Annotated[str, Field(pattern=r"^L\d+H\d+$")]  # such as L0H1


class Part(Strict):
    """Parameters that are put into the model before step 0, or are kept as they were drawn.

    parameters: names, with `*` for any text, such as `model.embed_tokens.weight`. heads: such as
    L0H1: rows of W_Q, W_K and W_V, and columns of W_O. checkpoint: the folder of a checkpoint of an
    organism with the same sizes, which has the values; None: those that the seed gives. frozen:
    whether they keep these values during training.
    """

    checkpoint: Place | None = None
    parameters: tuple[str, ...] = ()
    heads: tuple[Head, ...] = ()
    frozen: bool = True

    @model_validator(mode="after")
    def _says_what(self) -> "Part":
        if not self.parameters and not self.heads:
            raise InputError("parameters and heads are empty: name at least one")
        if self.checkpoint is None and not self.frozen:
            raise InputError("a part needs a checkpoint, or is frozen: give one of them")
        return self


# Fields that follow from the task or are fixed. `Organism` has all other fields of OrganismFields,
# so that a new one can be set in a training file without being declared twice.
_NOT_CHOSEN = {
    "vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "tie_word_embeddings",
}  # fmt: skip
_CHOICES: dict[str, Any] = {
    field.name: (field.type, field.default)
    for field in fields(OrganismFields)
    if field.name not in _NOT_CHOSEN
}
Organism = create_model("Organism", __base__=Strict, __doc__=OrganismFields.__doc__, **_CHOICES)


class Training(Strict):
    """A training run: task, model, optimizer, number of steps, and the steps to save.

    name: of the run, in progress and messages. output: the run's folder. task: what is predicted.
    model: sizes and choices of the model. optimizer: AdamW or SGD, with its rates. steps: number of
    optimizer steps. checkpoints: the steps that are saved. batch_size: sequences per step; None:
    all train pairs of modular arithmetic. seed: of the weights at step 0, and of batches and
    dropout; data_seed: of batches and dropout, if they are to have another. keep: parts that come
    from other checkpoints, or are not trained. threads: torch threads; runs are equal bit for bit
    only with the same number.
    """

    name: str
    output: Place
    task: Task
    model: Organism = Organism()  # pyright: ignore[reportInvalidTypeForm]
    optimizer: Optimizer
    steps: int = Field(ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    data_seed: int | None = Field(default=None, ge=0)
    keep: tuple[Part, ...] = ()
    threads: int = Field(default=2, ge=1)
    checkpoints: Schedule = Schedule()

    @model_validator(mode="after")
    def _parts_fit(self) -> "Training":
        if not isinstance(self.task, ModularArithmetic):
            if self.batch_size is None:
                raise InputError(f"batch_size is missing: {self.task.kind} has no full batch")
        elif self.batch_size is not None and self.batch_size > self.task.n_train_pairs:
            raise InputError(
                f"batch_size = {self.batch_size}: expected at most {self.task.n_train_pairs}, "
                "the number of train pairs"
            )
        self.fields().validate_architecture()
        return self

    @property
    def batch_seed(self) -> int:
        """Seed of batches and dropout."""
        return self.seed if self.data_seed is None else self.data_seed

    def fields(self) -> OrganismFields:
        """Return the fields of the model's configuration."""
        specials: dict[str, Any] = {}
        if isinstance(self.task, Text):
            from pipeline.inputs.end_of_text import END_OF_TEXT_ID  # imports numpy

            specials = {"bos_token_id": END_OF_TEXT_ID, "eos_token_id": END_OF_TEXT_ID}
        return OrganismFields(
            **self.model.model_dump(),
            **specials,
            vocab_size=self.task.vocabulary,
            max_position_embeddings=self.task.context,
        )

    def organism(self) -> "OrganismConfig":
        """Return the model's configuration."""
        from pipeline.models.organism_config import OrganismConfig  # needs torch

        return OrganismConfig(**asdict(self.fields()))


def tokens_per_step(training: Training) -> int:
    """Return the number of tokens of one optimizer step: sequences times their length."""
    task, n_sequences = training.task, training.batch_size
    if isinstance(task, ModularArithmetic) and n_sequences is None:
        n_sequences = task.n_train_pairs
    assert n_sequences is not None  # as Training has checked
    return task.context * n_sequences


def load_training(source: str | Path) -> Training:
    """Read a training run from a YAML file, or a packaged preset by its name.

    Relative paths in a file are relative to that file; in a preset, to the working directory.
    """
    path, presets = Path(source), {found.stem: found for found in PRESETS.glob("*.yaml")}
    if not path.is_file() and str(source) in presets:
        preset = presets[str(source)]
        return validated(Training, read_yaml(preset), where=f"preset {source}")
    if not path.exists():
        raise InputError(
            f"{source}: there is neither such a file nor such a preset; "
            f"{suggestion(str(source), presets)}"
        )
    return _paths_from(validated(Training, read_yaml(path), where=str(path)), path.parent)


def _paths_from(training: Training, folder: Path) -> Training:
    output = os.path.realpath(folder / training.output)
    task = training.task
    if isinstance(task, Text) and task.path is not None:
        task = task.model_copy(update={"path": os.path.realpath(folder / task.path)})
    keep = tuple(
        part if part.checkpoint is None
        else part.model_copy(update={"checkpoint": os.path.realpath(folder / part.checkpoint)})
        for part in training.keep
    )  # fmt: skip
    return training.model_copy(update={"output": output, "task": task, "keep": keep})


def load_run(folder: str | Path) -> Training:
    """Return the resolved configuration of the run in a folder, with that folder as its output.

    Raises InputError if the folder holds no run of `ontogeny train`.
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        raise InputError(f"{folder}: holds no {RUN_FILE}, expected a run of `ontogeny train`")
    training = validated(Training, read_yaml(path), where=str(path))
    return training.model_copy(update={"output": str(folder)})


def claim(folder: Path, training: Training) -> None:
    """Write the run's configuration into its folder, or check that it is the one there.

    Raises InputError if the folder holds another run, or something that is no run.
    """
    if not (folder / RUN_FILE).exists():
        if found := [path.name for path in folder.iterdir() if not path.name.startswith(".")]:
            raise InputError(
                f"{folder}: holds {found[0]!r} but no {RUN_FILE}, expected an empty folder or a "
                "run of this configuration: choose another output"
            )
        with whole_file(folder / RUN_FILE) as draft:
            draft.write_text(dump_yaml(training.model_dump(mode="json")), encoding="utf-8")
        return
    there, here = flattened(load_run(folder).model_dump()), flattened(training.model_dump())
    # `output` may differ: the folder may have been moved, or be given by another path.
    for key in sorted((there.keys() | here.keys()) - {"output"}):
        if there.get(key) != here.get(key):
            raise InputError(
                f"{folder}: holds a run of another configuration ({key} is {there.get(key)!r} "
                f"there, {here.get(key)!r} here): choose another output, or remove that run"
            )


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping with one level of dotted keys, such as `optimizer.weight_decay`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= flattened(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat
