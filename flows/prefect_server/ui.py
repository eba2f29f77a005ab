"""`ontogeny ui`: a persistent Prefect server with its UI, and a server of reports."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import quote

from flows import pages
from flows.prefect_server import LOCAL
from flows.prefect_server.records import protect_records
from flows.prefect_server.registry import registered
from flows.prefect_server.secret import server_secret
from flows.prefect_server.settings import server_settings
from pipeline.errors import InputError


def serve_ui(port: int, say: Callable[[str], object]) -> None:
    """Run a Prefect server with its UI until this process is interrupted or terminated.

    The reports of its runs are served at the next port. say: called with the addresses as soon as
    the server answers. Raises InputError if a port is in use.
    """
    with _bound(port) as server_socket, _bound(port + 1, port) as reports_socket:
        os.umask(0o077)
        protect_records()
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.update(server_settings(port))
        from flows.prefect_server.serving import make_server  # reads the settings

        with pages.served(reports_socket), ExitStack() as until_end:

            def ready() -> None:
                until_end.enter_context(registered(port))
                say(_addresses(port))

            server = make_server(ready)
            try:
                server.run(sockets=[server_socket])
            except KeyboardInterrupt:  # the server has ended, and passes the signal on
                return
            if not server.started:
                raise InputError("the Prefect server did not start: correct the errors above")


def _addresses(port: int) -> str:
    from flows.prefect_server.app import LOGIN

    return (
        f"http://{LOCAL}:{port}{LOGIN}#{quote(server_secret(), safe=':')}\n"
        "shows the runs and their reports; the link holds your secret: give it to nobody. "
        "Ctrl-C ends the server, not the runs"
    )


@contextmanager
def _bound(port: int, first: int | None = None) -> Iterator[socket.socket]:
    """Bind a port of the loopback interface during the block. first: that of the server."""
    try:
        listening = socket.create_server((LOCAL, port))
    except OSError as error:
        raise InputError(_why_not_bound(error, port, first or port)) from None
    with listening:
        yield listening


def _why_not_bound(error: OSError, port: int, first: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is in use, maybe by another `ontogeny ui`: open http://{LOCAL}:{first}, "
            "or choose another with --port (reports use the next one)"
        )
    return f"port {port} cannot be used ({error.strerror}): choose another with --port"
