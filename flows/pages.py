"""Serve reports over HTTP on this machine, from a folder of links to them."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote


@contextmanager
def serve_folder(folder: Path, host: str, port: int) -> Iterator[None]:
    """Serve the files of a folder at a port during the block."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer((host, port), partial(_QuietHandler, directory=str(folder)))
    # A daemon thread: a request that is still served does not delay the end of the process.
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def add_link(page: Path, folder: Path) -> str:
    """Link a page's folder into the served folder; return the page's URL relative to that."""
    source = page.resolve().parent
    # Many reports lie in folders of the same name: the digest of the path tells them apart.
    link = folder / f"{source.name}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(source, target_is_directory=True)
    return quote(f"{link.name}/{page.name}")


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: by default each request is printed to stderr."""
