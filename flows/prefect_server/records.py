"""Prefect's folder: its records are readable by this user only."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# The database with its journals, our own files, and files of Prefect that may hold keys.
_RECORDS = ("prefect.db*", "ontogeny-*", "profiles.toml", "memo_store.toml", "storage", "*_leases")


def prefect_home() -> Path:
    """Return Prefect's folder, which need not exist."""
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()


def made_home() -> Path:
    """Return Prefect's folder, which is created if it is absent."""
    home = prefect_home()
    if not home.is_dir():
        home.mkdir(parents=True, mode=0o700, exist_ok=True)
    return home


def protect_records() -> None:
    """Make Prefect's folder and the records in it unreadable to other users."""
    home = made_home()
    for path in (*_folders_of_our_own(home), *_records(home)):
        # A file of another user cannot be changed, and one of Prefect may vanish meanwhile.
        with suppress(OSError):
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & 0o077 and not path.is_symlink():
                path.chmod(mode & ~0o077)


def _folders_of_our_own(home: Path) -> Iterator[Path]:
    """Yield the folder if it serves Prefect alone: not a shared one such as /tmp, nor a home."""
    shared = home.stat().st_mode & stat.S_ISVTX or home.resolve().parent == home.resolve()
    if not shared and home.resolve() != Path("~").expanduser().resolve():
        yield home


def _records(home: Path) -> Iterator[Path]:
    for pattern in _RECORDS:
        yield from home.glob(pattern)
