"""Serve reports over HTTP on this machine, each under a path that nobody can guess."""

import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from flows.prefect_server.hosts import is_own_host
from flows.prefect_server.records import made_home
from flows.prefect_server.secret import keyed_digest

_HEADERS = {
    # A report holds its own script and styles, and needs nothing from elsewhere.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@contextmanager
def served(listening: socket.socket) -> Iterator[None]:
    """Serve the linked reports on a bound socket during the block."""
    server = ThreadingHTTPServer(listening.getsockname(), _ReportHandler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    # A daemon thread: a request that is still served does not delay the end of the process.
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()


def reports_folder() -> Path:
    """Return the folder of links to the reports that the persistent server serves."""
    folder = made_home() / "ontogeny-reports"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def add_link(page: Path) -> str:
    """Link a page's folder into the served folder; return the page's URL relative to that.

    Every user of this machine can reach the server: who has not been given the URL cannot know it.
    """
    source = page.resolve().parent
    link = reports_folder() / _link_name(source)
    with suppress(FileExistsError):
        link.symlink_to(source, target_is_directory=True)
    return quote(f"{link.name}/{page.name}")


def _link_name(source: Path) -> str:
    return f"{source.name}-{keyed_digest(str(source))}"


def _file_at(path: str) -> Path | None:
    """Return the file of a linked report at the path of a URL; None if there is none."""
    parts = unquote(urlsplit(path).path, errors="strict").lstrip("/").split("/")
    if len(parts) < 2 or any(part in ("", ".", "..") or "\0" in part for part in parts):
        return None
    link = reports_folder() / parts[0]
    report, file = link.resolve(), link.joinpath(*parts[1:]).resolve()
    if not (link.is_symlink() and link.name == _link_name(report)):
        return None
    # A link in a report's folder must not lead out of it.
    return file if file.is_relative_to(report) and stat.S_ISREG(file.stat().st_mode) else None


class _ReportHandler(SimpleHTTPRequestHandler):
    """Answers requests for the files of linked reports, and nothing else."""

    def send_head(self) -> Any:
        """Send the headers of a file, or of a refusal."""
        if not is_own_host(self.headers.get_all("Host", [])):
            self.send_error(HTTPStatus.BAD_REQUEST, "Open this server as 127.0.0.1 or localhost")
            return None
        file = None
        with suppress(OSError, ValueError):
            file = _file_at(self.path)
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        self._file = file
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """Return the file that `send_head` has found."""
        return str(self._file)

    def end_headers(self) -> None:
        """Send the security headers too."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        """Return the name of this server, without versions."""
        return "ontogeny"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: by default each request is printed to stderr."""
