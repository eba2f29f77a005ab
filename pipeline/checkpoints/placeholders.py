"""Recognise placeholders of files: pointers of git-lfs and git-annex whose content was not fetched,
and web pages that were saved under a file's name.
"""

from pipeline.outside import pointer_of

_PAGES = (b"<!doctype html", b"<html")
_ENOUGH = 64  # bytes
BEGINNING = 128  # bytes of a file, with which it can be recognised


def placeholder_of(start: bytes) -> str | None:
    """Return a description of the placeholder that begins so, None if it is no placeholder."""
    # A web page may begin with the byte order mark of UTF-8.
    beginning = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:_ENOUGH]
    if found := pointer_of(beginning):
        return found
    if beginning.lower().startswith(_PAGES):
        return "is a web page, not the file: download the file itself"
    return None
