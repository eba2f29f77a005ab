"""What a thread logs while it works, kept as records that can be sent elsewhere."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
    loggers = [logging.getLogger(name) for name in ("pipeline", "py.warnings")]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(ear)
    try:
        yield ear.heard
    finally:
        for logger in loggers:
            logger.removeHandler(ear)
