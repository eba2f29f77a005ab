"""Logs of workers: captured as records where a worker runs, replayed in the log of its task."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# "py.warnings" is the logger of `logging.captureWarnings`.
_LOGGERS = ("pipeline", "py.warnings")


# Of the call that runs in this context: an actor computes one checkpoint in one thread while it
# reads the next in another. The threads of a pass have their caller's context.
_CAPTURE: ContextVar["_RecordCapture | None"] = ContextVar("capture", default=None)


class _RecordCapture(logging.Handler):
    """A handler that keeps the records of one call, formatted, so that they can be pickled."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record of this call."""
        if _CAPTURE.get() is self:
            # Arguments and tracebacks may hold objects that cannot be pickled.
            message = self.format(record)
            self.records.append(
                logging.makeLogRecord(
                    {**record.__dict__, "msg": message, "args": None, "exc_info": None}
                )
            )


@contextmanager
def capture_records() -> Iterator[list[logging.LogRecord]]:
    """Collect in a list the log records of `pipeline`, and the warnings, of this context."""
    capture = _RecordCapture()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(capture)
    token = _CAPTURE.set(capture)
    try:
        yield capture.records
    finally:
        _CAPTURE.reset(token)
        for logger in loggers:
            logger.removeHandler(capture)


class LoggedWorker:
    """A worker of the pipeline whose log records are returned with its answers.

    worker: its class, made with the argument.
    """

    def __init__(self, worker: type, argument: Any) -> None:
        logging.captureWarnings(True)
        self._worker = worker(argument)

    def call(self, method: str, *arguments: Any) -> tuple[Any, list[logging.LogRecord]]:
        """Call a method; return its answer and the records that it logged.

        The notes of an exception are the messages of these records.
        """
        with capture_records() as records:
            try:
                return getattr(self._worker, method)(*arguments), records
            except Exception as error:
                for record in records:
                    error.add_note(record.getMessage())
                raise


def replay(records: Iterable[logging.LogRecord]) -> None:
    """Handle records of another process with the loggers of this one."""
    for record in records:
        logging.getLogger(record.name).handle(record)


def add_prefect_handlers() -> None:
    """Add Prefect's handlers to our loggers, so that their records appear in the task's log.

    The setting PREFECT_LOGGING_EXTRA_LOGGERS would do the same, but a process of a Prefect worker
    has read its settings before this package can set any.
    """
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        for handler in logging.getLogger("prefect.extra").handlers:
            if handler not in logger.handlers:
                logger.addHandler(handler)
