"""The application of our servers: Prefect's own behind checks of who asks, and a page to log in."""

import base64
import hmac
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.prefect_server import REPORTS
from flows.prefect_server.hosts import is_own_host

LOGIN = "/ontogeny-login"

# Prefect's pages about its API need no secret in Prefect itself.
_DOCUMENTATION = ("/docs", "/redoc", "/openapi.json")
_HIGHEST_PORT = 65_535
_NOT_KEPT = {"Cache-Control": "no-store"}
_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class GuardedApp:
    """An ASGI application that refuses foreign hosts and origins before Prefect's sees a request.

    secret: what Prefect itself asks for at its API. origins: those of our own pages, or "*".
    has_reports: whether the next port serves reports.
    """

    def __init__(
        self, app: ASGIApp, secret: str, origins: list[str], has_reports: bool = False
    ) -> None:
        self._app, self._origins, self._has_reports = app, set(origins), has_reports
        self._token = base64.b64encode(secret.encode()).decode()
        self._headers = {**_HEADERS, "Content-Security-Policy": _security_policy(origins)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on; every answer gets the security headers."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        answer = self._answer(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _answer(self, scope: Scope) -> Response | None:
        """Return our own answer; None if Prefect's application is to answer."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if not is_own_host(hosts):
            return PlainTextResponse("open this server as 127.0.0.1 or localhost", 400)
        if not all(self._is_own_origin(one, hosts[0]) for one in headers.getlist("origin")):
            return JSONResponse({"exception_message": "pages of other sites may not ask"}, 403)
        path = scope["path"]
        if path.startswith(_DOCUMENTATION) and not self._has_secret(headers):
            return JSONResponse({"exception_message": "Unauthorized"}, 401)
        if scope["type"] != "http":
            return None
        if self._has_reports and path.startswith(REPORTS):
            return _redirect_to_report(hosts[0], path)
        return _LOGIN_PAGES.get(path)

    def _is_own_origin(self, origin: str, host: str) -> bool:
        # A tunnel may lead to this server from another port of the user's machine.
        return "*" in self._origins or origin in self._origins or origin == f"http://{host}"

    def _has_secret(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme == "Basic" and hmac.compare_digest(token.encode(), self._token.encode())


def create_app() -> GuardedApp:
    """Create the application from Prefect's settings."""
    from prefect.server.api.server import create_app as create_prefect_app
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    secret = settings.api.auth_string
    if secret is None or not secret.get_secret_value():
        raise RuntimeError(
            "PREFECT_SERVER_API_AUTH_STRING is not set: set it before Prefect starts"
        )
    origins = settings.api.cors_allowed_origins.split(",")
    app = create_prefect_app(final=True)
    # The server that a run brings has neither the UI nor a server of reports beside it.
    return GuardedApp(app, secret.get_secret_value(), origins, settings.ui.enabled)


def _redirect_to_report(host: str, path: str) -> Response:
    """Send the browser to the report at the next port, also behind a tunnel of both ports."""
    name, _, port = host.rpartition(":")
    if not name or host.endswith("]"):  # no port: an IPv6 address has colons of its own
        name, port = host, "80"
    if not (port.isdecimal() and int(port) < _HIGHEST_PORT):
        return PlainTextResponse("the port is not one of this server", 400)
    address = f"http://{name}:{int(port) + 1}/{quote(path.removeprefix(REPORTS))}"
    return RedirectResponse(address, headers=_NOT_KEPT)


def _security_policy(origins: list[str]) -> str:
    """Return the Content-Security-Policy: pages load and ask nothing but this server."""
    ours = " ".join(["'self'", *origins, *(o.replace("http", "ws", 1) for o in origins)])
    rules = {
        "default-src": "'self'",
        "script-src": "'self' 'unsafe-eval'",  # the chart of a flow run compiles its shaders
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "worker-src": "'self' blob:",
        "connect-src": ours,
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


# The secret is in the link's fragment, which a browser sends to no server and puts in no log. Both
# UIs of Prefect read it from this entry of the browser's storage.
_SCRIPT = """
async function logIn() {
  const token = btoa(decodeURIComponent(location.hash.slice(1)));
  history.replaceState(null, "", location.pathname);
  const answer = await fetch("/api/admin/version", {headers: {Authorization: "Basic " + token}});
  if (!answer.ok) throw new Error(answer.statusText);
  localStorage.setItem("prefect-password", token);
  location.replace("/");
}
logIn().catch(() => {
  document.body.textContent =
    "This link holds no valid secret: open the link that `ontogeny ui` has printed.";
});
"""
_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Ontogeny</title></head>
<body>Opening the Prefect UI (this page needs JavaScript).
<script src="{LOGIN}.js"></script></body></html>
"""
_LOGIN_PAGES: dict[str, Response] = {
    LOGIN: HTMLResponse(_PAGE, headers=_NOT_KEPT),
    f"{LOGIN}.js": Response(_SCRIPT, media_type="text/javascript", headers=_NOT_KEPT),
}
