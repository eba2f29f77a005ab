"""Logs of workers: captured as records where a worker runs, replayed in the log of its task."""

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# "py.warnings" is the logger of `logging.captureWarnings`.
_LOGGERS = ("pipeline", "py.warnings")


class _RecordCapture(logging.Handler):
    """A handler that keeps the records of one thread, formatted, so that they can be pickled."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.thread, self.records = threading.get_ident(), list[logging.LogRecord]()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record of this thread."""
        # An actor computes one checkpoint in one thread while it reads the next in another.
        if record.thread == self.thread:
            # Arguments and tracebacks may hold objects that cannot be pickled.
            message = self.format(record)
            self.records.append(
                logging.makeLogRecord(
                    {**record.__dict__, "msg": message, "args": None, "exc_info": None}
                )
            )


@contextmanager
def capture_records() -> Iterator[list[logging.LogRecord]]:
    """Collect in a list the log records of `pipeline` and the warnings of this thread."""
    capture = _RecordCapture()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(capture)
    try:
        yield capture.records
    finally:
        for logger in loggers:
            logger.removeHandler(capture)


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
