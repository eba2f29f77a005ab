"""Log records without secrets and raw characters, whichever handler shows them.

Messages and tracebacks name files and tensors, and those of other libraries the addresses that they
asked, which may be signed.
"""

import logging
from collections.abc import Callable
from typing import Any

from pipeline.printable import printable

_KEPT = "\n\t"
_FORMATTER = logging.Formatter()


def clean_records() -> None:
    """Let this process make log records with printable text only."""
    made_by = logging.getLogRecordFactory()
    if not isinstance(made_by, _Factory):
        logging.setLogRecordFactory(_Factory(made_by))


class _Factory:
    """A factory of log records whose message and traceback are text already."""

    def __init__(self, made_by: Callable[..., logging.LogRecord]) -> None:
        self._made_by = made_by

    def __call__(self, *arguments: Any, **options: Any) -> logging.LogRecord:
        record = self._made_by(*arguments, **options)
        # Uvicorn's formatter reads the arguments of a record. `logging.makeLogRecord` names none.
        if (record.name or "").startswith("uvicorn"):
            return record
        try:
            message = record.getMessage()
        except Exception:  # logging itself reports arguments that do not fit
            return record
        record.msg, record.args = printable(message, kept=_KEPT), None
        if record.exc_info and record.exc_info[0]:
            text = _FORMATTER.formatException(record.exc_info)
            record.exc_text = printable(text, kept=_KEPT)
        return record
