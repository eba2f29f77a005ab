"""An S3 server for tests: Ceph's RADOS Gateway with one monitor and one disk in memory.

    python infra/s3/ceph.py start FOLDER [--port 7480]     prints the environment of its clients
    python infra/s3/ceph.py stop FOLDER
    python infra/s3/ceph.py requests FOLDER                number of requests by method

On Debian: apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common
It listens on the loopback interface only. All data are lost when it is stopped.
"""

import argparse
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")
USER = "ontogeny"
SECONDS = 120  # time for all daemons to start on a busy machine

# Without "ms mon client mode" the gateway hangs where authentication is off. Admin sockets are off,
# because a socket's path may have no more than 107 bytes.
_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{monitor}
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms bind msgr2 = false
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
mon allow pool size one = true
mon osd full ratio = 0.99
mon data avail crit = 1
run dir = {folder}
admin socket =
pid file = {folder}/$name.pid
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
mon data = {folder}/mon
osd data = {folder}/osd
osd max object name len = 256
osd max object namespace len = 64
rgw data = {folder}/rgw
debug rgw = 1
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw lifecycle work time = 00:00-00:01
"""

# A program that fetches its configuration from the monitor has no cluster id until that answers. A
# command before that is refused ("wrong fsid"), which ends the disk's daemon. Daemons do not need
# that configuration; the command `ceph` does, and is retried.
_NO_MON_CONFIG = "--no-mon-config"

_REQUEST = re.compile(r'beast: .* "(?P<method>[A-Z]+) (?P<path>\S+) HTTP')


class Ceph:
    """An S3 server whose files and process ids are in `folder`."""

    def __init__(self, folder: str | Path, port: int = 7480) -> None:
        self.folder, self.port = Path(folder).absolute(), port

    def start(self) -> dict[str, str]:
        """Start all daemons; return the environment that a client needs."""
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise RuntimeError(f"{', '.join(missing)} not found; see {Path(__file__).name}")
        self.folder.mkdir(parents=True)
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> dict[str, str]:
        (self.folder / "rgw").mkdir()
        fsid, monitor = str(uuid.uuid4()), free_port()
        self._configuration.write_text(
            _CONFIGURATION.format(
                fsid=fsid, monitor=monitor, folder=self.folder, port=self.port
            ).lstrip()
        )
        disk = str(uuid.uuid4())
        self._start_monitor(fsid, monitor, disk)
        self._start_disk(disk)
        keys = {
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10).upper(),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        }
        self._run(
            "radosgw-admin", "user", "create", f"--uid={USER}", f"--display-name={USER}",
            f"--access-key={keys['AWS_ACCESS_KEY_ID']}",
            f"--secret-key={keys['AWS_SECRET_ACCESS_KEY']}",
        )  # fmt: skip
        environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", **keys}
        lines = [f"export {name}={value}\n" for name, value in environment.items()]
        (self.folder / "environment").write_text("".join(lines))
        self.start_gateway()
        return environment

    def start_gateway(self) -> None:
        """Start only the gateway, as after `kill_gateway`."""
        process = self._spawn("radosgw", "-n", "client.rgw")
        self._wait_for("radosgw", process, lambda: _answers(self.port))

    def kill_gateway(self) -> None:
        """Kill the gateway by SIGKILL; acknowledged writes are kept."""
        self._kill("radosgw")

    def stop(self) -> None:
        """Kill all daemons."""
        for name in ("radosgw", "ceph-osd", "ceph-mon"):
            self._kill(name)

    def requests(self) -> list[tuple[str, str]]:
        """Return method and path of every request, from the gateway's log."""
        log = self.folder / "client.rgw.log"
        return [(m["method"], m["path"]) for m in _REQUEST.finditer(log.read_text())]

    @property
    def _configuration(self) -> Path:
        return self.folder / "ceph.conf"

    def _start_monitor(self, fsid: str, port: int, disk: str) -> None:
        monmap = str(self.folder / "monmap")
        address = f"[v1:127.0.0.1:{port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        process = self._spawn("ceph-mon", "-i", "a")
        self._wait_for("ceph-mon", process, lambda: self._ask_monitor("osd", "new", disk) != "")

    def _start_disk(self, disk: str) -> None:
        (self.folder / "osd").mkdir()
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        process = self._spawn("ceph-osd", "-i", "0")
        self._wait_for("ceph-osd", process, lambda: "1 up" in self._ask_monitor("osd", "stat"))

    def _run(self, program: str, *arguments: str) -> None:
        self._output(program, *arguments)

    def _output(self, program: str, *arguments: str) -> str:
        command = [program, *arguments]
        if program != "monmaptool":
            command += ["--conf", str(self._configuration), _NO_MON_CONFIG]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def _ask_monitor(self, *command: str) -> str:
        """Return the monitor's answer to a command; empty if it does not answer (yet)."""
        try:
            return self._output("ceph", "--connect-timeout", "5", *command)
        except (RuntimeError, subprocess.TimeoutExpired):
            return ""

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen:
        command = [program, "--foreground", *arguments, "--conf", str(self._configuration)]
        with self._output_of(program).open("a") as output:
            process = subprocess.Popen(
                [*command, _NO_MON_CONFIG],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        (self.folder / f"{program}.process").write_text(str(process.pid))
        return process

    def _wait_for(self, program: str, process: subprocess.Popen, is_up: Callable[[], bool]) -> None:
        """Wait until a daemon is up; raise RuntimeError if it ends or takes too long."""
        until = time.monotonic() + SECONDS
        while not is_up():
            code = process.poll()
            if code is not None or time.monotonic() > until:
                how = f"did not come up in {SECONDS} s" if code is None else f"ended with {code}"
                raise RuntimeError(
                    f"{program} {how}: {self._output_of(program).read_text()[-2000:]}"
                )
            time.sleep(0.3)

    def _output_of(self, program: str) -> Path:
        return self.folder / f"{program}.out"

    def _kill(self, program: str) -> None:
        note = self.folder / f"{program}.process"
        if not note.exists():
            return
        process = int(note.read_text())
        try:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        note.unlink()


@contextmanager
def running() -> Iterator[Ceph]:
    """Run a server in a temporary folder, and set the environment of its clients."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        server = Ceph(f"{folder}/ceph", free_port())
        os.environ.update(server.start())
        try:
            yield server
        finally:
            server.stop()
            os.environ.clear()
            os.environ.update(before)


def free_port() -> int:
    """Return a free port of the loopback interface.

    Below the ports that the system gives to connections, so that none takes it later.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return bool(connection.recv(1))
    except OSError:
        return False


def main() -> None:
    """Start or stop a server, or count its requests."""
    parser = argparse.ArgumentParser(description="Start or stop a server, or count its requests.")
    parser.add_argument("action", choices=("start", "stop", "requests"))
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=7480)
    given = parser.parse_args()
    server = Ceph(given.folder, given.port)
    if given.action == "start":
        try:
            server.start()
        except RuntimeError as error:
            raise SystemExit(str(error)) from None
        print((server.folder / "environment").read_text(), end="")
    elif given.action == "stop":
        server.stop()
    else:
        for method, count in Counter(method for method, _ in server.requests()).items():
            print(f"{method}\t{count}")


if __name__ == "__main__":
    main()
