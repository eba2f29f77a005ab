"""Real HTTP servers: a substitute for the Hub, and a proxy in front of an S3 server.

Both record their requests, and can be made to fail: a share of the requests is answered with status
500 or 429, or is cut in the middle of the body.
"""

import hashlib
import http.client
import json
import random
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 64 * 2**10  # files from this size on are kept by their sha256, with a redirect to them


@dataclass
class Faults:
    """Faults of a server: they affect `share` of its requests, drawn with `seed`.

    first: statuses for the first requests, one each. latency: seconds before every answer.
    """

    share: float = 0.0
    seed: int = 0
    first: list[int] = field(default_factory=list)
    latency: float = 0.0
    done: int = 0

    def __post_init__(self) -> None:
        self._random, self._lock = random.Random(self.seed), threading.Lock()

    def draw(self) -> str | int | None:
        """Return a status to answer with, "cut", or None for a good answer."""
        with self._lock:
            if self.first:
                self.done += 1
                return self.first.pop(0)
            if self._random.random() >= self.share:
                return None
            self.done += 1
            return self._random.choice([500, 503, 429, "cut", "cut"])


class Server(AbstractContextManager):
    """An HTTP server in its own thread; `requests` are (method, path, headers)."""

    def __init__(self, handler: type["Handler"]) -> None:
        self.faults = Faults()
        self.requests: list[tuple[str, str, Mapping[str, str]]] = []
        self.bytes_sent = 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._http.owner = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def forget(self) -> None:
        """Forget all requests."""
        self.requests, self.bytes_sent = [], 0

    def paths(self, method: str = "GET", containing: str = "") -> list[str]:
        """Return the paths that were requested."""
        return [path for verb, path, _ in self.requests if verb == method and containing in path]


class Handler(BaseHTTPRequestHandler):
    """A handler that answers through `answer`, or with the fault that was drawn."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def owner(self) -> Server:
        return self.server.owner  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass

    def setup_request(self) -> str | int | None:
        """Record the request, wait for the latency, and return the fault to answer with."""
        self.owner.requests.append((self.command, self.path, dict(self.headers.items())))
        time.sleep(self.owner.faults.latency)
        return self.owner.faults.draw()

    def answer(
        self, status: int, body: bytes, headers: Mapping[str, str], fault: str | int | None
    ) -> None:
        if isinstance(fault, int):
            extra = {"Retry-After": "0"} if fault == 429 else {}
            status, body, headers = fault, b"told to fail", extra
        elif fault == "cut" and not body:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        sent = body[: len(body) // 2] if fault == "cut" else body
        self.owner.bytes_sent += len(sent)
        self.wfile.write(sent)
        if fault == "cut":
            self.close_connection = True

    def ranged(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        """Return status, bytes and headers of the part that the request asks for."""
        asked = self.headers.get("Range")
        if asked is None:
            return 200, body, {"Accept-Ranges": "bytes"}
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first)
        stop = min(int(last) + 1 if last else len(body), len(body))
        if start >= len(body):
            return 416, b"", {"Content-Range": f"bytes */{len(body)}"}
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}
        return 206, body[start:stop], headers


# The Hub


@dataclass
class Repository:
    """A repository: commits by their hash, each a folder's files by name; refs by name."""

    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, folder: Path, name: str, tag: bool = False) -> str:
        """Make a branch (or tag) of a folder's files; return its commit hash."""
        files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
        return self.commit_files(files, name, tag)

    def commit_files(self, files: dict[str, Path], name: str, tag: bool = False) -> str:
        """Make a branch (or tag) of files by their paths in the repository; return its commit."""
        state = name + "".join(f"{key} {_sha256(path)}" for key, path in files.items())
        commit = hashlib.sha1(state.encode()).hexdigest()
        self.commits[commit] = files
        (self.tags if tag else self.branches)[name] = commit
        return commit


class Hub(Server):
    """The part of the Hub's API that reads models; `repositories` by owner/name.

    token: what requests must carry, None for a public hub. Large files are served by `cdn`, another
    host, as the Hub does.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.token: str | None = None
        self.page = 1000
        self.cdn = Server(CdnHandler)
        self.cdn.blobs = {}  # type: ignore[attr-defined]
        self.hashes: dict[Path, str] = {}
        super().__init__(HubHandler)

    def __exit__(self, *details: object) -> None:
        self.cdn.__exit__(*details)
        super().__exit__(*details)

    def add_run(self, repository: str, folder: Path, spelling: str = "{}") -> Repository:
        """Make each folder in `folder` a branch, and the files beside them the main branch."""
        made = self.repositories.setdefault(repository, Repository())
        made.commit(folder, "main")
        for path in sorted(folder.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                made.commit(path, spelling.format(path.name))
        return made

    def forget(self) -> None:
        super().forget()
        self.cdn.forget()

    @property
    def count(self) -> int:
        """All requests, to the Hub itself and to where its files are."""
        return len(self.requests) + len(self.cdn.requests)


class HubHandler(Handler):
    owner: Hub  # type: ignore[assignment]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        fault = self.setup_request()
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if self.owner.token and self.headers.get("Authorization") != f"Bearer {self.owner.token}":
            self._refuse(401, "RepoNotFound", fault)
        elif parts[:2] == ["api", "models"] and len(parts) >= 5:
            self._api("/".join(parts[2:4]), parts[4], parts[5:], parse_qs(url.query), fault)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), fault)
        else:
            self._refuse(404, "RepoNotFound", fault)

    def _api(self, repository: str, what: str, rest: list[str], query: dict, fault) -> None:
        found = self.owner.repositories.get(repository)
        if found is None:
            self._refuse(404, "RepoNotFound", fault)
        elif what == "refs":
            refs = {
                "branches": _refs(found.branches, "heads"),
                "tags": _refs(found.tags, "tags"),
                "converts": [],
            }
            self.answer(200, json.dumps(refs).encode(), {"Content-Type": "application/json"}, fault)
        elif what == "tree" and (files := _files(found, rest[0])) is not None:
            self._tree(_inside(files, "/".join(rest[1:])), query, fault)
        else:
            self._refuse(404, "RevisionNotFound", fault)

    def _tree(self, files: dict[str, Path], query: dict, fault) -> None:
        start, page = int(query.get("cursor", ["0"])[0]), self.owner.page
        rows = [_row(name, path) for name, path in list(files.items())[start : start + page]]
        headers = {"Content-Type": "application/json"}
        if start + page < len(files):
            address = f"{self.owner.url}{urlsplit(self.path).path}?cursor={start + page}"
            headers["Link"] = f'<{address}>; rel="next"'
        self.answer(200, json.dumps(rows).encode(), headers, fault)

    def _resolve(self, repository: str, revision: str, name: str, fault) -> None:
        found = self.owner.repositories.get(repository)
        files = _files(found, revision) if found else None
        if files is None or name not in files:
            self._refuse(404, "EntryNotFound", fault)
            return
        path, commit = files[name], found.branches.get(revision, revision)  # type: ignore[union-attr]
        sha256, size = _sha256(path), path.stat().st_size
        headers = {"X-Repo-Commit": commit}
        if size >= LARGE:
            self.owner.cdn.blobs[sha256] = path  # type: ignore[attr-defined]
            headers |= {
                "Location": f"{self.owner.cdn.url}/{sha256}?signed=yes",
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(size),
            }
            self.answer(302, b"", headers, fault)
            return
        status, body, more = self.ranged(path.read_bytes())
        self.answer(status, body, headers | more | {"ETag": f'"{_git_blob(path)}"'}, fault)

    def _refuse(self, status: int, code: str, fault) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code}
        self.answer(status, json.dumps({"error": code}).encode(), headers, fault)


class CdnHandler(Handler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        fault = self.setup_request()
        path = self.owner.blobs[urlsplit(self.path).path.strip("/")]  # type: ignore[attr-defined]
        status, body, headers = self.ranged(path.read_bytes())
        self.answer(status, body, headers, fault)


def _refs(refs: Mapping[str, str], kind: str) -> list[dict]:
    return [
        {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}
        for name, commit in refs.items()
    ]


def _files(repository: Repository, revision: str) -> dict[str, Path] | None:
    commit = repository.branches.get(revision) or repository.tags.get(revision) or revision
    return repository.commits.get(commit)


def _inside(files: dict[str, Path], folder: str) -> dict[str, Path]:
    """Return the files directly in a folder of a commit; a hostile path is at the top."""
    if not folder:
        return {name: path for name, path in files.items() if "/" not in name or ".." in name}
    start = f"{folder}/"
    return {n: p for n, p in files.items() if n.startswith(start) and "/" not in n[len(start) :]}


def _row(name: str, path: Path) -> dict:
    size = path.stat().st_size
    row = {"type": "file", "oid": _git_blob(path), "size": size, "path": name}
    if size >= LARGE:
        row["lfs"] = {"oid": _sha256(path), "size": size, "pointerSize": 134}
    return row


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _git_blob(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


# In front of S3


class Proxy(Server):
    """A handler that passes requests on to the S3 server at `target`, or lets them fail."""

    def __init__(self, target: str) -> None:
        self.target = target
        super().__init__(ProxyHandler)


class ProxyHandler(Handler):
    owner: Proxy  # type: ignore[assignment]

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        fault = self.setup_request()
        there = http.client.HTTPConnection(self.owner.target)
        there.request(self.command, self.path, content, dict(self.headers.items()))
        came = there.getresponse()
        body = came.read()
        dropped = ("connection", "transfer-encoding", "date", "server")
        headers = {k: v for k, v in came.getheaders() if k.lower() not in dropped}
        self.answer(came.status, body, headers, fault)
        there.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815
