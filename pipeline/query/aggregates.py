"""Answers over all checkpoints of a run: computed once, and stored beside its rows.

A stored result holds for the rows from which it was computed, and for nothing else (see
`pipeline.store.results`): after a new checkpoint, the next call computes the answer again.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import xarray as xr

from pipeline.aggregate import derivative, run_transitions
from pipeline.aggregate import learning_curves as curves
from pipeline.aggregate import loss_space as spaces
from pipeline.errors import InputError, first_line, suggestion
from pipeline.query.datasets import dataset_of, described
from pipeline.query.run import open_run
from pipeline.store import OldLayoutError, Store
from pipeline.store.results import Question, encoded, keep, opened
from pipeline.store.sealed import DamagedError

Compute = Callable[[xr.DataTree], xr.Dataset]
_log = logging.getLogger(__name__)
_is_stored = ContextVar("_is_stored", default=True)


@contextmanager
def results_not_stored() -> Iterator[None]:
    """Store no results during the block; those that are stored are read.

    For a run in progress: after each new checkpoint, a result would no longer be read.
    """
    token = _is_stored.set(False)
    try:
        yield
    finally:
        _is_stored.reset(token)


def stored_result(
    store: str | Path | Store,
    name: str,
    version: int,
    parameters: Mapping[str, Any],
    groups: Iterable[str] | None,
    compute: Compute,
) -> xr.Dataset:
    """Return a result from the store, where it is there, or compute it and store it.

    name: of the result, such as "loss_space". version: of the code; another where the same rows
    give other numbers. parameters: all else that the numbers follow from, as JSON. groups: those
    that are read; None for all. compute(run) is given these groups and no others, as
    `open_run(store, chunks="stored")` returns them. Its dataset consists of numbers and texts, with
    attributes that are JSON: tuples become lists.

    Where the store cannot be written, the result is computed each time, and a warning says so once;
    a damaged one is computed again and replaced, with a warning. Raises InputError where there is
    no store, and for a group without rows.
    """
    place = store if isinstance(store, Store) else Store(str(store))
    question = Question(name, version, parameters, None if groups is None else tuple(groups))
    try:
        snapshot = place.snapshot()
    except OldLayoutError:
        _warn_once(f"{place.uri}: a store of layout 1 keeps no results: they are computed anew")
        return compute(_only(place.uri, open_run(place, chunks="stored"), question))
    key, damaged = question.key(snapshot), False
    try:
        if (content := place.objects.read(key)) is not None:
            return dataset_of(opened(key, content))
    except DamagedError as error:
        damaged = True
        _log.warning("%s: %s %s: it is computed again", place.uri, key, error)
    run = open_run(place, chunks="stored", snapshot=snapshot)
    result = compute(_only(place.uri, run, question))
    content = encoded(question, snapshot, *described(result))
    if _is_stored.get():
        try:
            keep(place.objects, key, content, damaged)
        except (InputError, OSError) as error:
            _warn_once(f"results are not stored, and computed each time: {first_line(error)}")
    # As it will be read, so that the first answer and all later ones are the same.
    return dataset_of(opened(key, content))


def transitions(store: str | Path | Store) -> xr.Dataset:
    """Return the transitions of all series: `aggregate.run_transitions.transitions_of`."""
    version = run_transitions.VERSION
    return stored_result(store, "transitions", version, {}, None, run_transitions.transitions_of)


def loss_space(
    store: str | Path | Store, group: str = "token_loss", components: int = 10
) -> xr.Dataset:
    """Return the loss space of one run, by the name "run": `aggregate.loss_space.loss_space`."""

    def compute(run: xr.DataTree) -> xr.Dataset:
        return spaces.loss_space({"run": run[group].to_dataset()}, components)

    parameters = {"components": components}
    return stored_result(store, "loss_space", spaces.VERSION, parameters, [group], compute)


def loss_derivative(
    store: str | Path | Store,
    group: str = "token_loss",
    bandwidth: float = derivative.BANDWIDTH,
) -> xr.Dataset:
    """Return the derivative of the mean loss: `aggregate.derivative.loss_derivative`."""

    def compute(run: xr.DataTree) -> xr.Dataset:
        return derivative.loss_derivative(run[group].to_dataset(), bandwidth)

    parameters = {"bandwidth": bandwidth}
    return stored_result(store, "loss_derivative", derivative.VERSION, parameters, [group], compute)


def learning_curves(store: str | Path | Store, group: str = "token_loss") -> xr.Dataset:
    """Return how each token was learned: `aggregate.learning_curves.learning_curves`."""

    def compute(run: xr.DataTree) -> xr.Dataset:
        return curves.learning_curves(run[group].to_dataset())

    return stored_result(store, "learning_curves", curves.VERSION, {}, [group], compute)


def _only(uri: str, run: xr.DataTree, question: Question) -> xr.DataTree:
    """Return the groups that a question is about, so that its answer follows from no others."""
    if question.groups is None:
        return run
    if missing := sorted(set(question.groups) - set(run.children)):
        known = suggestion(missing[0], [str(name) for name in run.children])
        raise InputError(f"{uri}: there are no rows of {missing[0]!r}; {known}")
    kept = xr.DataTree.from_dict({name: run[name].to_dataset() for name in question.groups})
    kept.attrs = run.attrs
    return kept


@cache
def _warn_once(message: str) -> None:
    _log.warning(message)
