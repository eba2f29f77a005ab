"""Reports where a browser can open them: a folder of links to them, served to this machine."""

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
def served(folder: Path, host: str, port: int) -> Iterator[None]:
    """What is offered in the folder can be read at the port during the block."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ThreadingHTTPServer((host, port), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def offer(page: Path, folder: Path) -> str:
    """Link a page's folder into the one that is served; returns the URL of the page in it."""
    source = page.resolve().parent
    link = folder / f"{source.name}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(source, target_is_directory=True)
    return quote(f"{link.name}/{page.name}")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads who asked for what."""
