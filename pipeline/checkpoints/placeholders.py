"""Recognise placeholders of files: pointers of git-lfs and git-annex whose content was not fetched,
and web pages that were saved under a file's name.
"""

from pathlib import Path

from pipeline.errors import InputError
from pipeline.outside import opened

_POINTERS = (
    (b"version https://git-lfs.github.com/spec/", "is a git-lfs pointer", "run git lfs pull"),
    (b"version https://hawser.github.com/spec/", "is a git-lfs pointer", "run git lfs pull"),
    (b"/annex/objects/", "is a git-annex pointer", "run git annex get"),
)
_PAGES = (b"<!doctype html", b"<html")
_ENOUGH = 64  # bytes


def placeholder_of(start: bytes) -> str | None:
    """Return a description of the placeholder that begins so, None if it is no placeholder."""
    # A web page may begin with the byte order mark of UTF-8.
    beginning = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:_ENOUGH]
    for mark, what, remedy in _POINTERS:
        if beginning.startswith(mark):
            return f"{what}, not the file: {remedy}"
    if beginning.lower().startswith(_PAGES):
        return "is a web page, not the file: download the file itself"
    return None


def placeholder_in(file: Path) -> str | None:
    """Return the same for a local file; None also if it cannot be read."""
    try:
        with opened(file, InputError) as stream:
            return placeholder_of(stream.read(2 * _ENOUGH))
    except (InputError, OSError):
        return None
