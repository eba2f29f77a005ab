"""Real HTTP servers: a substitute for the Hub, and a proxy in front of an S3 server.

Both record their requests, and can be made to fail: a share of the requests is answered with status
500 or 429, or is cut in the middle of the body.
"""

import hashlib
import http.client
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Mapping, Sequence
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
    kinds: what may go wrong: a status, "cut" (in the middle of the body), "reset" (of the
    connection, before the answer), "etag" (another one than the object's).
    """

    share: float = 0.0
    seed: int = 0
    first: list[int] = field(default_factory=list)
    latency: float = 0.0
    done: int = 0
    kinds: Sequence[str | int] = (500, 503, 429, "cut", "cut")

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
            return self._random.choice(self.kinds)


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
        elif fault == "reset":
            # Unsent data is dropped, and the other side told so at once.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return
        elif fault == "cut" and not body:
            self.close_connection = True
            return
        elif fault == "etag":
            headers = {k: '"0123456789abcdef"' if k.lower() == "etag" else v
                       for k, v in headers.items()}  # fmt: skip
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
    """A repository: commits by their hash, each with its files by path; refs by name.

    titles: the first line of each commit's message. parents: the commit before each. is_gated:
    whether files are refused to those without the hub's `granted` token.
    """

    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    is_gated: bool = False

    def commit(self, folder: Path, name: str, tag: bool = False) -> str:
        """Make a branch (or tag) of a folder's files; return its commit hash."""
        files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
        return self.commit_files(files, name, tag)

    def commit_folders(self, folder: Path, name: str, title: str = "") -> str:
        """Add a commit to a branch, of all files below a folder; return its hash."""
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return self.commit_files(files, name, title=title)

    def commit_files(
        self, files: dict[str, Path], name: str, tag: bool = False, title: str = ""
    ) -> str:
        """Add a commit to a branch (or make a tag), of files by their paths; return its hash."""
        parent = None if tag else self.branches.get(name)
        state = f"{name}{parent or ''}" if title else name
        state += "".join(f"{key} {_sha256(path)}" for key, path in files.items())
        commit = hashlib.sha1(state.encode()).hexdigest()
        self.commits[commit] = files
        self.titles[commit] = title or "Upload folder using huggingface_hub"
        self.parents.setdefault(commit, parent if parent != commit else None)
        (self.tags if tag else self.branches)[name] = commit
        return commit

    def history(self, commit: str | None) -> list[str]:
        """Return a commit and those before it, newest first."""
        found: list[str] = []
        while commit is not None:
            found.append(commit)
            commit = self.parents.get(commit)
        return found


class Hub(Server):
    """The part of the Hub's API that reads repositories; `repositories` by owner/name, those of
    datasets by datasets/owner/name.

    token: what requests must carry, None for a public hub. granted: the token of a user with access
    to gated repositories. Large files are served by `cdn`, another host, as the Hub does. page: the
    most entries of a tree in one answer; most_commits: those of commits. per_window: requests to
    the API after which status 429 is answered, until `window` seconds have passed.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.token: str | None = None
        self.granted = "hf_granted"
        self.page = self.most_commits = 1000
        self.per_window: int | None = None
        self.window = 1.0
        self.window_began, self.in_window = 0.0, 0
        self.cdn = Server(CdnHandler)
        self.cdn.blobs = {}  # type: ignore[attr-defined]
        self.lock = threading.Lock()
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
        elif parts[0] == "api" and len(parts) >= 5:
            kind = "datasets/" if parts[1] == "datasets" else ""
            name = f"{kind}{'/'.join(parts[2:4])}"
            self._api(name, parts[4], parts[5:], parse_qs(url.query), fault)
        elif parts[0] == "datasets" and len(parts) >= 6 and parts[3] == "resolve":
            self._resolve("/".join(parts[:3]), parts[4], "/".join(parts[5:]), fault)
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), fault)
        else:
            self._refuse(404, "RepoNotFound", fault)

    def _api(self, repository: str, what: str, rest: list[str], query: dict, fault) -> None:
        found = self.owner.repositories.get(repository)
        if (seconds := self._limited()) is not None:
            headers = {"RateLimit": f'"api";r=0;t={seconds}', "Retry-After": str(seconds)}
            self.answer(429, b"", headers, fault)
        elif found is None:
            # Without a token the Hub does not say whether a repository is absent or private.
            self._refuse(404 if "Authorization" in self.headers else 401, "RepoNotFound", fault)
        elif what == "refs":
            refs = {
                "branches": _refs(found.branches, "heads"),
                "tags": _refs(found.tags, "tags"),
                "converts": [],
            }
            self._json(refs, fault)
        elif what == "revision" and (files := _files(found, rest[0])) is not None:
            siblings = [{"rfilename": name} for name in files]
            sha = _commit(found, rest[0])
            self._json({"id": repository, "sha": sha, "siblings": siblings}, fault)
        elif what == "commits" and (commit := _commit(found, rest[0])) in found.commits:
            self._commits(found, commit, query, fault)
        elif what == "tree" and (files := _files(found, rest[0])) is not None:
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            self._tree(_inside(files, "/".join(rest[1:]), recursive), query, fault)
        else:
            self._refuse(404, "RevisionNotFound", fault)

    def _limited(self) -> int | None:
        """Return the seconds until requests are answered again; None if this one is."""
        hub = self.owner
        if hub.per_window is None:
            return None
        with hub.lock:
            passed = time.monotonic() - hub.window_began
            if passed >= hub.window:
                hub.window_began, hub.in_window, passed = time.monotonic(), 0, 0.0
            hub.in_window += 1
            return None if hub.in_window <= hub.per_window else int(hub.window - passed) + 1

    def _commits(self, found: Repository, commit: str, query: dict, fault) -> None:
        # The Hub's own default is 50, and 1,000 the most.
        asked = min(int(query.get("limit", ["50"])[0]), self.owner.most_commits)
        number = int(query.get("p", ["0"])[0])
        every = found.history(commit)
        rows = [
            {"id": one, "title": found.titles[one], "message": "", "authors": [{"user": "owner"}],
             "date": "2024-01-01T00:00:00.000Z"}
            for one in every[number * asked : (number + 1) * asked]
        ]  # fmt: skip
        headers = {"X-Total-Count": str(len(every))}
        if (number + 1) * asked < len(every):
            address = f"{self.owner.url}{urlsplit(self.path).path}?limit={asked}&p={number + 1}"
            headers["Link"] = f'<{address}>; rel="next"'
        self._json(rows, fault, headers)

    def _json(self, value: object, fault, headers: Mapping[str, str] | None = None) -> None:
        given = {"Content-Type": "application/json", **(headers or {})}
        self.answer(200, json.dumps(value).encode(), given, fault)

    def _tree(self, rows: list[dict] | None, query: dict, fault) -> None:
        if rows is None:
            self._refuse(404, "EntryNotFound", fault)
            return
        start, page = int(query.get("cursor", ["0"])[0]), self.owner.page
        headers = {}
        if start + page < len(rows):
            recursive = query.get("recursive", ["false"])[0]
            more = f"recursive={recursive}&cursor={start + page}"
            address = f"{self.owner.url}{urlsplit(self.path).path}?{more}"
            headers["Link"] = f'<{address}>; rel="next"'
        self._json(rows[start : start + page], fault, headers)

    def _resolve(self, repository: str, revision: str, name: str, fault) -> None:
        found = self.owner.repositories.get(repository)
        files = _files(found, revision) if found else None
        granted = self.headers.get("Authorization") == f"Bearer {self.owner.granted}"
        if found and found.is_gated and not granted:
            self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo", fault)
            return
        if files is None or name not in files:
            self._refuse(404, "EntryNotFound", fault)
            return
        path, commit = files[name], _commit(found, revision)  # type: ignore[arg-type]
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


def _commit(repository: Repository, revision: str) -> str:
    return repository.branches.get(revision) or repository.tags.get(revision) or revision


def _files(repository: Repository, revision: str) -> dict[str, Path] | None:
    return repository.commits.get(_commit(repository, revision))


def _inside(files: dict[str, Path], folder: str, recursive: bool) -> list[dict] | None:
    """Return rows of the files and folders in a folder of a commit, None if there is no such one.

    A hostile path is at the top.
    """
    start = f"{folder}/" if folder else ""
    below = {name: path for name, path in files.items() if name.startswith(start)}
    if folder and not below:
        return None
    folders: dict[str, None] = {}
    rows = []
    for name, path in below.items():
        rest = name[len(start) :]
        if ".." not in rest:
            parents = [rest[:i] for i, letter in enumerate(rest) if letter == "/"]
            folders |= dict.fromkeys(parents if recursive else parents[:1])
        if recursive or ".." in rest or "/" not in rest:
            rows.append(_row(name, path))
    return [
        *({"type": "directory", "oid": "0" * 40, "size": 0, "path": f"{start}{name}"}
          for name in folders),
        *rows,
    ]  # fmt: skip


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
    """Passes requests on to an S3 server at `target` (host:port), or lets them fail.

    A request that fails has taken effect, as when the answer to it is lost. ignored: headers, in
    lower case, that the server behind is not told of.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.ignored: set[str] = set()
        super().__init__(ProxyHandler)


class ProxyHandler(Handler):
    owner: Proxy  # type: ignore[assignment]

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        fault = self.setup_request()
        there = http.client.HTTPConnection(self.owner.target)
        given = {k: v for k, v in self.headers.items() if k.lower() not in self.owner.ignored}
        there.request(self.command, self.path, content, given)
        came = there.getresponse()
        body = came.read()
        dropped = ("connection", "transfer-encoding", "date", "server")
        headers = {k: v for k, v in came.getheaders() if k.lower() not in dropped}
        self.answer(came.status, body, headers, fault)
        there.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815
