"""Checks on a GPU (or, for the check's own tests, a CPU) that Ontogeny computes what it should.

    python -m tests.gpu.check [--device cuda|cpu] [--small] [--budget SECONDS] [--out DIR] [PART …]

Every part runs in a process of its own and prints a line of JSON for each figure. The lines go to
DIR/figures.jsonl as they come; summary.json and summary.md follow at the end. Returns 1 if a figure
is outside its limit or a part failed; what was skipped is listed, and does not fail.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.gpu import summary

# Name -> module, and the seconds that it may take on a card. The most valuable come first.
PARTS: dict[str, tuple[str, float]] = {
    "kernels": ("tests.gpu.kernels", 60),
    "losses": ("tests.gpu.losses", 40),
    "reductions": ("tests.gpu.reductions", 30),
    "measures": ("tests.gpu.measures", 40),
    "end_to_end": ("tests.gpu.end_to_end", 90),
    "out_of_memory": ("tests.gpu.out_of_memory", 40),
    "shared_gpu": ("tests.gpu.shared_gpu", 40),
    "swap": ("tests.gpu.swap", 60),
    "engine": ("tests.gpu.engine", 100),
}
MACHINE = "machine"  # always first
MACHINE_SECONDS = 60.0
LEAST = 0.5  # of these seconds, without which a part is not begun
# On a GPU, whose time is short, a part that takes this many times its seconds hangs.
HANGS = 3.0
SMALL = 0.25  # of these seconds, which small shapes take at most


def main(arguments: Sequence[str], parts: Mapping[str, tuple[str, float]] = PARTS) -> int:
    """Run the requested parts, and write and print their summary. Returns the exit status."""
    asked = _parsed(arguments, list(parts))
    asked.out.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + asked.budget
    with (asked.out / "figures.jsonl").open("w") as file:
        check = Check(asked.device, asked.small, asked.out, until, file)
        check.run(MACHINE, "tests.gpu.machine", MACHINE_SECONDS)
        usable = not any("failed" in line for line in check.lines)
        for name in asked.parts or parts:
            if usable:
                check.run(name, *parts[name])
            else:
                check.add({"part": name, "skipped": name, "why": "the machine cannot run it"})
    return summary.write(check.lines, asked.out)


class Check:
    """Runs parts one after the other, and collects their lines."""

    def __init__(self, device: str, small: bool, out: Path, until: float, file: IO[str]) -> None:
        self.device, self.small, self.out = device, small, out
        self.until, self.file = until, file
        self.lines: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        """Take a line: keep, write and print it."""
        self.lines.append(line)
        text = json.dumps(line)
        print(text, file=self.file, flush=True)
        print(text, flush=True)

    def run(self, part: str, module: str, seconds: float) -> None:
        """Run a part in a process of its own, unless too little time is left for it."""
        began = time.monotonic()
        left = self.until - began
        seconds *= SMALL if self.small else 1
        if LEAST * seconds > left:
            why = f"it needs {LEAST * seconds:.0f} s at least, and {max(left, 0):.0f} s are left"
            self.add({"part": part, "skipped": part, "why": why})
            return
        allowed = min(left, HANGS * seconds) if self.device == "cuda" else left
        given = {"module": module, "part": part, "device": self.device, "small": self.small}
        given |= {"out": str(self.out), "until": began + allowed}
        self._process(part, [sys.executable, "-m", "tests.gpu.part", json.dumps(given)], allowed)
        took = round(time.monotonic() - began, 1)
        self.add({"part": part, "name": "seconds", "value": took, "unit": "s", "holds": None})

    def _process(self, part: str, command: list[str], allowed: float) -> None:
        before = len(self.lines)
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
            reader = threading.Thread(target=self._read, args=(process,))
            reader.start()
            why = _ended(process, allowed)
            reader.join(timeout=10)
            own = any(_fails(line) for line in self.lines[before:])
            # A part returns 1 after lines that say why; everything else is said here.
            if why is not None and not (own and process.returncode == 1):
                why = f"{why}\n{_tail(errors)}".strip()
                self.add({"part": part, "failed": f"the process of part {part}", "why": why})

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for text in process.stdout:
            try:
                line = json.loads(text)
                self.add(line if isinstance(line, dict) else {"part": "?", "said": text})
            except ValueError:
                print(text, end="", file=sys.stderr)  # something a library printed


def _ended(process: subprocess.Popen[str], allowed: float) -> str | None:
    """Wait for a process, and end all of its group. Returns why it failed, if it did."""
    why = None
    try:
        if status := process.wait(timeout=allowed):
            why = f"exit status {status}" if status > 0 else signal.Signals(-status).name
    except subprocess.TimeoutExpired:
        why = f"it was ended after {allowed:.0f} s"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return why


def _fails(line: Mapping[str, Any]) -> bool:
    return "failed" in line or line.get("holds") is False


def _tail(errors: IO[bytes], characters: int = 3000) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace")[-characters:]


def _parsed(arguments: Sequence[str], parts: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.check")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small shapes, for a CPU")
    parser.add_argument("--budget", type=float, default=450, metavar="SECONDS")
    out = Path(os.environ.get("OUT") or "build/gpu")
    parser.add_argument("--out", type=Path, default=out, metavar="DIR", help=f"default: {out}")
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.parts) - set(parts)):
        parser.error(f"no part {', '.join(unknown)}: there are {', '.join(parts)}")
    return asked


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
