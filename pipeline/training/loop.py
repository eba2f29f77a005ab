"""The training loop: seeded, and resumed after an interruption with bit-identical results."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer
from transformers.utils import logging

from pipeline.errors import InputError
from pipeline.models.organism import OrganismForCausalLM
from pipeline.progress import TrainingProgress
from pipeline.training.config import Training, claim
from pipeline.training.parts import Frozen, put_in
from pipeline.training.tasks import StepLoss, dropout_seed, step_loss, tokenise_text
from pipeline.writing import whole_file, whole_folder

# Changed whenever the same configuration gives other weights.
TRAINING_VERSION = 1

_STATE = ".resume.pt"
_LOCK = ".lock"


def train(training: Training, progress: TrainingProgress | None = None) -> Path:
    """Train one organism and return its folder: `training.yaml`, `step-N/` for every saved step.

    An interrupted run is resumed from its last checkpoint and gives the same checkpoints as an
    uninterrupted one (with the same number of threads); a finished run is left as it is. `progress`
    is called after every step with the number of steps taken, their total, and the loss in nats
    before the step.

    Raises InputError if the folder holds another run, another process trains into it, or the loss
    is not finite.
    """
    folder = Path(training.output)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder), _settings(training.threads):
        claim(folder, training)
        if missing := [step for step in _steps(training) if not _place(folder, step).exists()]:
            tokenise_text(training)
            _train_from(missing[0], training, progress)
            (folder / _STATE).unlink()
    return folder


def _steps(training: Training) -> list[int]:
    return training.checkpoints.steps(training.steps)


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step}"


def _train_from(first_missing: int, training: Training, progress: TrainingProgress | None) -> None:
    folder, to_save = Path(training.output), set(_steps(training))
    model, frozen = _fresh(training)
    optimizer = _optimizer(training, model)
    start = _resume(folder, model, optimizer, at_most=first_missing)
    loss_of = step_loss(training)
    for step in range(start, training.steps + 1):
        if step in to_save:
            # The checkpoint first: a run that is killed between the two resumes from an earlier
            # state, and finds a checkpoint that is the same as the one it would write.
            _save(folder, step, model)
            _save_state(folder, step, model, optimizer)
        if step < training.steps:
            loss = _take_step(step, loss_of, model, optimizer, training, frozen)
            if progress is not None:
                progress(step + 1, training.steps, loss)


def _fresh(training: Training) -> tuple[OrganismForCausalLM, list[Frozen]]:
    """Return the model at step 0, and the parts of it that stay as they are."""
    # fork_rng: transformers initialises from torch's global generator, which is the caller's.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = OrganismForCausalLM(training.organism())
    return model.train(), put_in(model, training.keep)


def _optimizer(training: Training, model: OrganismForCausalLM) -> Optimizer:
    settings = training.optimizer
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.kind == "sgd":
        return SGD(model.parameters(), rate, settings.momentum, weight_decay=decay)
    return AdamW(model.parameters(), rate, settings.betas, weight_decay=decay)


def _take_step(
    step: int,
    loss_of: StepLoss,
    model: OrganismForCausalLM,
    optimizer: Optimizer,
    training: Training,
    frozen: list[Frozen],
) -> float:
    """Take the step after `step` steps and return the loss (nats) before it."""
    # Set from the step, not by a torch scheduler, whose state would have to be saved and resumed.
    for group in optimizer.param_groups:
        group["lr"] = training.optimizer.rate(step)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(dropout_seed(training, step))  # so that a resumed run drops the same
        loss = loss_of(model, step)
    value = loss.item()
    if not math.isfinite(value):
        raise InputError(
            f"{training.name}: the loss is {value} after {step} steps: "
            "lower optimizer.learning_rate, or lengthen optimizer.warmup_steps"
        )
    optimizer.zero_grad()
    loss.backward()
    for part in frozen:
        part.drop_gradient()
    if training.optimizer.clip_norm is not None:
        clip_grad_norm_(model.parameters(), training.optimizer.clip_norm)
    optimizer.step()
    for part in frozen:
        part.restore()
    return value


def _save(folder: Path, step: int, model: OrganismForCausalLM) -> None:
    """Write `step-N/` atomically, with the run's tokenizer beside the weights."""
    place = _place(folder, step)
    if place.exists():
        return
    with whole_folder(place, folder / f".step-{step}") as draft:
        model.save_pretrained(draft)
        for path in folder.glob("tokenizer*.json"):
            shutil.copy(path, draft)


def _save_state(folder: Path, step: int, model: OrganismForCausalLM, optimizer: Optimizer) -> None:
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with whole_file(folder / _STATE, folder / f"{_STATE}.new") as draft:
        torch.save(state, draft)


def _resume(folder: Path, model: OrganismForCausalLM, optimizer: Optimizer, at_most: int) -> int:
    """Load the state of an interrupted run and return its step; 0 if there is no usable state.

    A state is not usable if it is later than a missing checkpoint, which must be trained again.
    """
    if not (folder / _STATE).exists():
        return 0
    # A state that was cut off does not exist: `_save_state` replaces it atomically.
    state = torch.load(folder / _STATE, weights_only=True)
    if state["step"] > at_most:
        return 0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the operating system releases even if the process is killed."""
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(
            f"{folder}: another process is training into it: wait for it, or choose another output"
        ) from error
    try:
        yield
    finally:
        # Removed before it is released: afterwards another process might hold a lock on this file,
        # and a third one, finding no file, would lock a new one at the same time.
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


@contextmanager
def _settings(threads: int) -> Iterator[None]:
    """Set the number of torch threads and hide transformers' progress bars within the block."""
    threads_before, bars_before = torch.get_num_threads(), logging.is_progress_bar_enabled()
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        if bars_before:
            logging.enable_progress_bar()
