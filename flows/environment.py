"""The environment of a run: adapted to Prefect and Ray where possible, otherwise refused.

`prepare` runs when `flows` is imported, before Prefect and Ray read their settings. `faults` says
what is wrong in spite of it, for a run before it starts anything, and for `ontogeny doctor`.
"""

import getpass
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Servers of ours on this machine, which no proxy can reach.
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")

_SOCKET_BYTES = 107  # Linux allows no longer path of a Unix socket
_SOCKET = "/ontogeny-abcdefgh/session_2026-01-02_03-04-05_123456_1234567/sockets/plasma_store"
_FREE_BYTES = 64 * 2**20  # Ray's logs; nothing large passes through Ray
_FREE_FILES = 1000
_OPEN_FILES = 256  # Ray's processes and the Prefect server need about 100 each


def prepare() -> None:
    """Adapt the environment variables and standard streams of this process and its children."""
    _open_standard_streams()
    _exempt_loopback_from_proxies()
    _set_home()
    if not _user_name():
        # Ray and torch ask for a name, which a user id without an entry in passwd does not have.
        os.environ["LOGNAME"] = str(os.getuid())


def require() -> None:
    """Raise InputError, naming all faults, if a run cannot succeed in this environment."""
    from pipeline.errors import InputError

    if found := faults():
        raise InputError("; ".join(found))


def faults() -> list[str]:
    """Return a sentence for each fault of the environment that would end a run."""
    return [fault for check in _CHECKS for fault in check()]


def working_folder_fault() -> str:
    """Return a sentence if the working folder does not exist; otherwise an empty text."""
    try:
        Path.cwd()
    except OSError:
        return "the working folder was deleted: change to one that exists"
    return ""


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable during the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def temporary_folder() -> Path:
    """Return an existing folder for temporary files, with room, and short enough for Ray's sockets.

    Raises OSError if there is none.
    """
    tried = dict.fromkeys(_temporary_folders())
    for folder in tried:
        if not _unusable(folder):
            return Path(folder)
    reasons = ", ".join(f"{folder} {_unusable(folder)}" for folder in tried)
    raise OSError(f"no folder for temporary files: {reasons}: free some, or set TMPDIR to another")


# Standard streams


def _open_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed.

    Otherwise the next file that is opened gets its number, and whatever a child prints is written
    into that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, which is this one.
            opened = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(opened, True)
            if getattr(sys, name) is None:
                setattr(sys, name, os.fdopen(opened, mode, encoding="utf-8", closefd=False))


# Working folder


def _working_folder_faults() -> Iterator[str]:
    if fault := working_folder_fault():
        yield fault


# Proxies


def _exempt_loopback_from_proxies() -> None:
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in before.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in _LOOPBACK if host not in hosts]
    # Some libraries read the one, some the other.
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)


def _proxy_faults() -> Iterator[str]:
    import httpx

    try:
        httpx.Client().close()
    except Exception as error:
        names = [one for name in _PROXIES for one in (name, name.upper()) if os.environ.get(one)]
        names += [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        reason = str(error).splitlines()[0].rstrip(". ")
        yield f"no HTTP client can be made ({reason}): correct or unset {', '.join(names)}"


# Home and user


def _set_home() -> None:
    """Name folders that can be written for records and caches where the home folder cannot be."""
    home = _home()
    if home is not None:
        os.environ["HOME"] = str(home)  # some libraries read only the variable
        if _writable(home):
            return
    folder = _substitute_home()
    if home is None:
        os.environ["HOME"] = str(folder)
    # A home that can only be read may hold a token and models, so it stays the home.
    os.environ.setdefault("PREFECT_HOME", str(folder / ".prefect"))
    os.environ.setdefault("ONTOGENY_CACHE", str(folder / ".cache"))


def _home() -> Path | None:
    """Return the home folder of the user; None if none is known or it does not exist."""
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in passwd
        return None
    return home if home.is_absolute() and home.is_dir() else None


def _substitute_home() -> Path:
    """Return the folder in place of a home that cannot be written, and create it.

    It is the same for all runs of a user, so that they find the records of each other.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"ontogeny-{os.getuid()}"
    except FileNotFoundError:  # no folder for temporary files at all, see `_temporary_faults`
        folder = Path(tempfile.gettempprefix()).absolute()
    with suppress(OSError):
        folder.mkdir(mode=0o700)
    return folder


def _home_faults() -> Iterator[str]:
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    substitute = home.parent
    if substitute.name == f"ontogeny-{os.getuid()}" and not _private(substitute):
        yield f"{substitute}: belongs to another user or is open to others: set HOME to your folder"
    elif not _writable(home):
        yield (
            f"{home}: cannot be written, where Prefect keeps its records: set PREFECT_HOME to "
            "another folder"
        )


def _private(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def _writable(folder: Path) -> bool:
    """Return whether the folder, or the nearest of its parents that exists, can be written."""
    for one in (folder, *folder.parents):
        if os.path.lexists(one):
            return one.is_dir() and os.access(one, os.W_OK | os.X_OK)
    return False


def _user_name() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None


# Temporary files


def _temporary_folders() -> Iterator[str]:
    for name in ("RAY_TMPDIR", "TMPDIR", "TEMP", "TMP"):
        if folder := os.environ.get(name):
            yield str(Path(folder).absolute())
    yield from ("/tmp", "/var/tmp", "/dev/shm")
    if folder := os.environ.get("XDG_RUNTIME_DIR"):
        yield folder


def _unusable(folder: str) -> str:
    """Return the reason why Ray cannot work in a folder, or an empty text."""
    if len(os.fsencode(folder)) + len(_SOCKET) > _SOCKET_BYTES:
        return "is too long for Ray's sockets"
    try:
        disk = os.statvfs(folder)
        with tempfile.TemporaryDirectory(prefix="ontogeny-", dir=folder):
            pass
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    if disk.f_bavail * disk.f_frsize < _FREE_BYTES:
        return "is full"
    if disk.f_files and disk.f_favail < _FREE_FILES:
        return "has no room for more files"
    return ""


def _temporary_faults() -> Iterator[str]:
    try:
        temporary_folder()
    except OSError as error:
        yield str(error)


# Limits


def _limit_faults() -> Iterator[str]:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < _OPEN_FILES:
        yield f"a process may open only {most} files: raise the limit by `ulimit -n 4096`"


_CHECKS: tuple[Callable[[], Iterator[str]], ...] = (
    _working_folder_faults,
    _proxy_faults,
    _home_faults,
    _temporary_faults,
    _limit_faults,
)
