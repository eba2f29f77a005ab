"""Training batches of each task, and held-out data.

The batch of a step is a function of the seed and the step alone, so that a resumed run sees the
same batches as an uninterrupted one.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.checkpoints.files import RUN_FILE
from pipeline.errors import InputError
from pipeline.inputs import modular, repeats, text
from pipeline.models.organism import OrganismForCausalLM
from pipeline.models.table_forward import factorises, pair_logits
from pipeline.training.config import (
    ModularArithmetic,
    RepeatedSubstrings,
    Text,
    Training,
    load_run,
)
from pipeline.writing import whole_file

# Spawn keys of numpy's SeedSequence: independent streams of one seed, so that held-out sequences
# are not training sequences. Changing a key changes every model that is trained.
TRAINING, HELD_OUT, DROPOUT = 0, 1, 2

StepLoss = Callable[[OrganismForCausalLM, int], Float[Tensor, ""]]


def _generator(seed: int, *stream: int) -> np.random.Generator:
    # A new generator for each step, so that a batch does not depend on the steps before it.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


def step_loss(training: Training) -> StepLoss:
    """Return a function of a model and a step: the differentiable loss (nats) on that batch."""
    task = training.task
    if isinstance(task, ModularArithmetic):
        return _answer_loss(task, training)
    n_sequences = training.batch_size
    assert n_sequences is not None  # as Training has checked
    if isinstance(task, RepeatedSubstrings):
        return _next_token_loss(lambda g: _substrings(task, n_sequences, g), training.batch_seed)
    stream, _ = _streams(training)
    length, seed = task.context, training.batch_seed
    return _next_token_loss(lambda g: _windows(stream, n_sequences, length, g), seed)


def dropout_seed(training: Training, step: int) -> int:
    """Return the seed of what is dropped in the step that is taken after `step` steps."""
    return int(_generator(training.batch_seed, DROPOUT, step).integers(2**63))


def _answer_loss(task: ModularArithmetic, training: Training) -> StepLoss:
    """Return the loss function of answers at '=', over all train pairs or a sample per step."""
    tokens, labels, is_train = map(torch.from_numpy, table_and_split(task))
    train_pairs = is_train.nonzero().flatten()

    def loss(model: OrganismForCausalLM, step: int) -> Float[Tensor, ""]:
        pairs = train_pairs
        if training.batch_size is not None:
            drawn = _generator(training.batch_seed, TRAINING, step).permutation(len(pairs))
            pairs = pairs[torch.from_numpy(drawn[: training.batch_size])]
        if training.batch_size is None and factorises(model):
            logits = pair_logits(model, task.p, pairs)  # the same for some 0.6 of the work
        else:
            logits = model(tokens[pairs], last_position_only=True).logits[:, -1]
        # float64: in float32 the softmax of a memorised pair rounds to 1 and its gradient to 0
        # (Prieto et al. 2025, arXiv 2501.04697), long before the model generalises
        return cross_entropy(logits.double(), labels[pairs])

    return loss


def _next_token_loss(
    draw: Callable[[np.random.Generator], Int[np.ndarray, "sequence position"]], seed: int
) -> StepLoss:
    """Return the loss function of the next token, averaged over all positions of a batch."""

    def loss(model: OrganismForCausalLM, step: int) -> Float[Tensor, ""]:
        tokens = torch.from_numpy(draw(_generator(seed, TRAINING, step)))
        logits = model(tokens[:, :-1]).logits
        return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    return loss


def _substrings(
    task: RepeatedSubstrings, n_sequences: int, generator: np.random.Generator
) -> Int[np.ndarray, "sequence position"]:
    return repeats.repeated_substrings(
        n_sequences, task.vocabulary, task.context, task.shortest, task.longest, generator
    )


def _windows(
    stream: Integer[np.ndarray, " token"],
    n_sequences: int,
    length: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, "sequence position"]:
    """Return sequences that start at uniformly drawn places of the stream."""
    # endpoint=True: the last start is that of the window that ends with the stream.
    starts = generator.integers(len(stream) - length, size=(n_sequences, 1), endpoint=True)
    return stream[starts + np.arange(length)].astype(np.int64)


def _streams(
    training: Training,
) -> tuple[Integer[np.ndarray, " trained"], Integer[np.ndarray, " held_out"]]:
    """Return the token streams to train on and to hold out, from the run's folder.

    Raises InputError if they are missing or shorter than one context.
    """
    assert isinstance(training.task, Text)
    path = Path(training.output) / "corpus.npy"
    if not path.exists():
        raise InputError(f"{path}: is missing, expected the run's token stream: train it first")
    stream, held_out = text.split_stream(np.load(path), training.task.held_out_share)
    shortest = min(len(stream), len(held_out))
    if shortest < training.task.context:
        raise InputError(
            f"{training.task.path}: its smaller part has {shortest} tokens, expected at least one "
            f"context of {training.task.context}: give more text"
        )
    return stream, held_out


def tokenise_text(training: Training) -> None:
    """Train the tokenizer of a text run and tokenise its corpus, once, into the run's folder.

    The tokens are kept, because the text may change: each version of Python has another library.
    """
    folder = Path(training.output)
    if not isinstance(training.task, Text) or (folder / "corpus.npy").exists():
        return
    task = training.task
    files = text.standard_library(task.library_bytes) if task.path is None else [Path(task.path)]
    texts = [text.read(path) for path in files]
    tokenizer = text.train_tokenizer(texts, task.vocabulary)
    tokenizer.save_pretrained(folder)
    ids = text.tokenise_corpus(texts, tokenizer)
    with whole_file(folder / "corpus.npy") as draft:
        np.save(draft, ids.astype(np.uint32))  # half the size of int64; ids fit by far


def table_and_split(
    task: ModularArithmetic,
) -> tuple[Int[np.ndarray, "pair 3"], Int[np.ndarray, " pair"], Bool[np.ndarray, " pair"]]:
    """Return all problems (a, b, '='), their answers, and a mask of the train pairs."""
    tokens, labels = modular.table(task.p, task.operation)
    return tokens, labels, modular.split(*task.split)


def table_of(folder: str | Path) -> dict[str, object]:
    """Return table and split of a modular run, as fields of its task; {} for other folders."""
    if not (Path(folder) / RUN_FILE).is_file():
        return {}
    task = load_run(folder).task
    if not isinstance(task, ModularArithmetic):
        return {}
    said = task.model_dump(exclude={"kind"})
    # Left out, since runs of before the field existed have inputs that do not name it.
    if said["split_generator"] == "numpy":
        del said["split_generator"]
    return said


def trained_vocabulary(folder: str | Path) -> int | None:
    """Return the number of token ids in the training.yaml of a folder; None without such a file."""
    if not (Path(folder) / RUN_FILE).is_file():
        return None
    return load_run(folder).task.vocabulary


def held_out(
    run: Training | str | Path, n_sequences: int, seed: int
) -> Integer[np.ndarray, "sequence position"]:
    """Return sequences [n, context] of a run's training distribution that it was not trained on.

    Repeated substrings come from a random stream disjoint from every training stream; text from
    the held-out end of the corpus, without overlap. Raises InputError for modular arithmetic,
    whose test pairs are the table's own, and where the held-out text is too short.
    """
    training = run if isinstance(run, Training) else load_run(run)
    task = training.task
    if isinstance(task, ModularArithmetic):
        raise InputError(
            f"{training.output}: modular arithmetic has no held-out sequences but its test pairs: "
            "use an input of kind 'table'"
        )
    generator = _generator(seed, HELD_OUT)
    if isinstance(task, RepeatedSubstrings):
        return _substrings(task, n_sequences, generator)
    sequences = text.cut(_streams(training)[1], task.context).astype(np.int64)
    if len(sequences) < n_sequences:
        raise InputError(
            f"{training.output}: its held-out text has {len(sequences)} sequences of "
            f"{task.context} tokens, expected {n_sequences}: ask for fewer"
        )
    return sequences[np.sort(generator.permutation(len(sequences))[:n_sequences])]
