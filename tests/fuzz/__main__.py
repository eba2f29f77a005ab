"""Damage small runs at random, read them, and count what went wrong: `python -m tests.fuzz`.

Prints one line of JSON: mutations, tracebacks, code_run, others_lost (other checkpoints of a run
that were not computed, or otherwise), too_slow, too_large, worst_seconds and worst_mb (above the
memory in use before). The exit code is 0 only if nothing went wrong; each failure is printed with
the command that repeats it.
"""

import argparse
import faulthandler
import json
import logging
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MOST_SECONDS, MOST_MB = 10.0, 500.0
_WAITS = 60  # seconds, longer than a busy machine delays one mutation
_HANGS = 120  # seconds, after which the process ends itself
_ADDRESS_SPACE = 12 * 2**30  # bytes above those in use: what is larger fails instead of swapping
_WHOLE_EVERY = 8  # mutations: of a whole analysis, which takes longest


@dataclass
class Result:
    """The outcome of a number of mutations."""

    mutations: int = 0
    tracebacks: int = 0
    code_run: int = 0
    others_lost: int = 0
    too_slow: int = 0
    too_large: int = 0
    worst_seconds: float = 0.0
    worst_mb: float = 0.0
    failures: list[str] = field(default_factory=list)


class Fuzzer:
    """Damage copies of valid runs, one file at a time, and read them."""

    def __init__(self, folder: Path) -> None:
        from tests.fuzz.probe import INPUTS, losses, write_analysis
        from tests.fuzz.runs import make_inputs, make_runs

        self._folder = folder
        self._originals = folder / "originals"
        self._runs = make_runs(self._originals)
        make_inputs(self._originals)
        self._inputs = INPUTS
        self._expected: dict[tuple[str, int], Mapping[int, float]] = {}
        for name, run in self._runs.items():
            for number, given in enumerate(INPUTS[:2]):
                self._expected[name, number] = losses(write_analysis(run, given))
        self.result = Result()

    def run(self, seed: int) -> None:
        """Apply the mutation of one seed, and enter what happened in `result`."""
        from tests.fuzz.mutations import CANARY, mutate
        from tests.fuzz.probe import read_all, write_analysis

        random_ = random.Random(seed)
        name = random_.choice(list(self._runs))
        number = random_.choice((0, 0, 1, 2))
        place = self._folder / "damaged"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        run = shutil.copytree(self._runs[name], place / name)
        for file in self._originals.glob("*.*"):
            shutil.copy(file, place)
        analysis = write_analysis(run, self._inputs[number])
        canary = self._folder / "canary"
        os.environ[CANARY] = str(canary)
        file = _chosen(run, self._inputs[number]["path"], random_)
        what = f"{file.relative_to(place)}: {mutate(file, random_)}"
        _write_code(file.parent, canary)
        whole = seed % _WHOLE_EVERY == 0
        if not whole:
            _let_age(place)
        before, started = _memory(reset=True), (time.perf_counter(), time.process_time())
        faulthandler.dump_traceback_later(_HANGS, exit=True)
        print(f"seed {seed}: {what}", file=sys.stderr) if os.environ.get("VERBOSE") else None
        try:
            found = read_all(run, analysis, whole)
            if number < 2 and file.parent != place and file.name != "training.yaml":
                self._compare(seed, what, name, number, file, found)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            self.result.tracebacks += 1
            self._tell(seed, what, "".join(traceback.format_exception(error)[-12:]))
        faulthandler.cancel_dump_traceback_later()
        waited, computed = time.perf_counter() - started[0], time.process_time() - started[1]
        # Of a busy machine, only the processor's time counts; a long wait is one for something.
        seconds = computed if waited < _WAITS else waited
        self._measure(seed, what, seconds, _memory() - before)
        if canary.exists():
            canary.unlink()
            self.result.code_run += 1
            self._tell(seed, what, "code of the checkpoint ran")

    def _compare(
        self, seed: int, what: str, name: str, number: int, file: Path, found: Any
    ) -> None:
        """Check that the checkpoints that were not damaged have their losses."""
        damaged = {int(digits) for digits in _digits(file)}
        expected = {
            step: loss for step, loss in self._expected[name, number].items() if step not in damaged
        }
        got = {step: loss for step, loss in (found or {}).items() if step in expected}
        same = got.keys() == expected.keys() and all(
            abs(got[step] - expected[step]) < 1e-5 for step in expected
        )
        if not same:
            self.result.others_lost += 1
            self._tell(seed, what, f"expected {expected}, found {found}")

    def _measure(self, seed: int, what: str, seconds: float, megabytes: float) -> None:
        result = self.result
        result.mutations += 1
        result.worst_seconds = max(result.worst_seconds, round(seconds, 2))
        result.worst_mb = max(result.worst_mb, round(megabytes, 1))
        if seconds > MOST_SECONDS:
            result.too_slow += 1
            self._tell(seed, what, f"took {seconds:.1f} s")
        if megabytes > MOST_MB:
            result.too_large += 1
            self._tell(seed, what, f"took {megabytes:.0f} MB")

    def _tell(self, seed: int, what: str, trouble: str) -> None:
        again = f"python -m tests.fuzz --mutations 1 --seed {seed}"
        self.result.failures.append(f"{what}: {trouble.splitlines()[-1]} ({again})")
        print(f"{what}\n{trouble}\nrepeat it by: {again}\n", file=sys.stderr)


def _chosen(run: Path, given: str, random_: random.Random) -> Path:
    """Return the file to damage: of one checkpoint, of the run, or of the inputs."""
    inputs = [run.parent / given, run.parent / "analysis.yaml"]
    places = sorted(path for path in run.iterdir() if path.is_dir())
    if not places:  # files of state dicts
        return random_.choice([*sorted(run.iterdir()), *inputs])
    inside = sorted(random_.choice(places).iterdir())
    beside = [path for path in run.iterdir() if path.is_file()]
    weights = [path for path in inside if "model" in path.name or path.name == "config.json"]
    return random_.choice([*inside, *weights * 2, *beside * 2, *inputs])


def _digits(file: Path) -> list[str]:
    name = file.stem if file.suffix == ".pth" else file.parent.name
    return ["".join(one for one in name if one.isdigit())]


def _write_code(folder: Path, canary: Path) -> None:
    """Put Python code into a folder, which a config may name."""
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\n")


def _let_age(folder: Path) -> None:
    """Date everything in a folder an hour back.

    A damaged file that has just changed may be one that is being written: each reading would wait a
    second for it to grow, which takes longer than all else.
    """
    then = time.time() - 3600
    for path in folder.rglob("*"):
        os.utime(path, (then, then), follow_symlinks=False)


def _memory(reset: bool = False) -> float:
    """Return the peak of this process's memory since it was last reset, in megabytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutation")
    given = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        os.environ["ONTOGENY_CACHE"] = str(Path(folder) / "cache")
        import torch

        torch.set_num_threads(1)
        fuzzer = Fuzzer(Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE,) * 2)
        for seed in range(given.seed, given.seed + given.mutations):
            fuzzer.run(seed)
            shutil.rmtree(Path(folder) / "cache", ignore_errors=True)
    result = fuzzer.result
    print(json.dumps(asdict(result)))
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main())
