"""The secret that this user's Prefect servers ask for, made once and kept in Prefect's folder."""

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from flows.prefect_server.records import made_home, prefect_home
from pipeline.errors import InputError

_NAME = "ontogeny-secret"
# Prefect's own setting: a server's operator may have chosen the string.
_OWN = "PREFECT_SERVER_API_AUTH_STRING"


def server_secret() -> str:
    """Return the string that our servers ask for: that of the user's settings, else of the file.

    The file is created if it is absent. Raises InputError if another user may know its content.
    """
    return os.environ.get(_OWN) or _read_or_create(made_home() / _NAME)


def has_secret() -> bool:
    """Return whether there is a secret, which a command would otherwise make."""
    file = prefect_home() / _NAME
    return _OWN in os.environ or file.is_symlink() or file.exists()


def keyed_digest(text: str) -> str:
    """Return a name for a text that only who knows the secret can compute."""
    return hmac.new(server_secret().encode(), text.encode(), hashlib.sha256).hexdigest()[:32]


def _read_or_create(file: Path) -> str:
    with suppress(FileNotFoundError):
        return _read(file)
    _create(file)
    return _read(file)


def _read(file: Path) -> str:
    remedy = "remove it, the next command makes another; then restart `ontogeny ui`"
    try:
        # A link could lead to a file that others can read.
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}): {remedy}") from None
    with os.fdopen(opened, encoding="utf-8", errors="replace") as content:
        status = os.fstat(opened)
        if status.st_uid != os.geteuid():
            raise InputError(
                f"{file}: belongs to user {status.st_uid}, not to you: {remedy}, or set "
                "PREFECT_HOME to a folder of your own"
            )
        if mode := stat.S_IMODE(status.st_mode) & 0o077:
            raise InputError(
                f"{file}: other users may have read or changed it (mode "
                f"{mode | stat.S_IMODE(status.st_mode):o}, expected 600): {remedy}"
            )
        secret = content.read().strip()
    if len(secret) < 16 or not secret.isascii() or not secret.isprintable():
        raise InputError(f"{file}: holds no secret (it is empty or damaged): {remedy}")
    return secret


def _create(file: Path) -> None:
    """Create the file with its whole content, or keep that of a process that was faster."""
    # The form user:password suits clients of HTTP basic authentication such as curl.
    secret = f"ontogeny:{secrets.token_urlsafe(32)}"
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{_NAME}-") as draft:  # mode 600
        draft.write(secret.encode())
        draft.flush()
        os.fsync(draft.fileno())
        with suppress(FileExistsError):
            os.link(draft.name, file)
