"""The web server of our Prefect servers."""

from collections.abc import Callable

import uvicorn

from flows.prefect_server.app import create_app


class _Server(uvicorn.Server):
    """A web server that calls a function as soon as it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list | None = None) -> None:
        """Start; then call the function."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def make_server(ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Make a server of the application, to be run on sockets that are bound already."""
    config = uvicorn.Config(
        create_app(),
        lifespan="on",
        log_level="error",
        timeout_graceful_shutdown=3,
        proxy_headers=False,
        server_header=False,
    )
    return _Server(config, ready)
