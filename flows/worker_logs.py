"""What is logged while a worker works: kept there as records, and said again in the task's log."""

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_NAMES = ("pipeline", "py.warnings")


class _Ear(logging.Handler):
    """Keeps the records of one thread, made ready for sending: no arguments, no traceback."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.thread, self.heard = threading.get_ident(), list[logging.LogRecord]()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record of this thread."""
        if record.thread == self.thread:
            message = self.format(record)
            self.heard.append(
                logging.makeLogRecord(
                    {**record.__dict__, "msg": message, "args": None, "exc_info": None}
                )
            )


@contextmanager
def overheard() -> Iterator[list[logging.LogRecord]]:
    """What this thread logs in the block, of the pipeline and as Python's warnings."""
    ear = _Ear()
    loggers = [logging.getLogger(name) for name in _NAMES]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(ear)
    try:
        yield ear.heard
    finally:
        for logger in loggers:
            logger.removeHandler(ear)


def say_again(records: Iterable[logging.LogRecord]) -> None:
    """Log here what was logged elsewhere."""
    for record in records:
        logging.getLogger(record.name).handle(record)


def tell_prefect() -> None:
    """Have Prefect enter what these loggers say into the log of the task in which they say it.

    That is what PREFECT_LOGGING_EXTRA_LOGGERS does; but a process of a Prefect worker has read its
    settings before this package can set any.
    """
    for name in _NAMES:
        logger = logging.getLogger(name)
        for handler in logging.getLogger("prefect.extra").handlers:
            if handler not in logger.handlers:
                logger.addHandler(handler)
