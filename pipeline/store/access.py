"""The errors of a storage: refusals for good, with the reason, and those that may pass."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import InputError
from pipeline.retrying import is_one_of, lacks_credentials

_DENIED = "access is denied: check the permissions, or the bucket's policy and your keys"
_REFUSED = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EROFS: "the file system is read-only: choose a place that can be written",
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
}


@contextmanager
def access(uri: str) -> Iterator[None]:
    """Raise InputError where the storage refuses access for good, with the reason.

    Errors that may be temporary become an OSError that names the URI. FileNotFoundError,
    FileExistsError and NotADirectoryError pass unchanged.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, NotADirectoryError, InputError):
        raise
    except Exception as error:
        of_s3 = is_one_of(error, "botocore.exceptions", "BotoCoreError", "ClientError")
        if not (of_s3 or isinstance(error, OSError)):
            raise
        reason = _REFUSED.get(getattr(error, "errno", None) or 0)
        if isinstance(error, PermissionError) or lacks_credentials(error):
            reason = reason or _DENIED
        if reason is not None:
            raise InputError(f"{uri}: {reason}; what was committed is safe") from error
        raise OSError(f"{uri}: cannot be reached ({error}): try again later") from error
