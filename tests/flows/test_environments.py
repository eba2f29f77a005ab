"""Environments in which a run works, or is refused in one sentence before it starts anything."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import MakeAnalysis
from tests.flows.test_cli import errors_in

pytestmark = pytest.mark.timeout(900)  # on a busy machine each process takes a minute to import

ROOT = Path(__file__).parents[2]
FAULTS = "from flows import environment; print(*environment.faults(), sep='\\n')"
# A user without an entry in passwd who can read all files, since those of this repository and of
# Python may be readable only for root.
NOBODY = [
    *("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
]
needs_root = pytest.mark.skipif(
    os.getuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0,
    reason="needs root, to make mount namespaces and to act as another user",
)
UNSET = (
    "HOME", "USER", "LOGNAME", "PREFECT_HOME", "ONTOGENY_CACHE", "PREFECT_API_URL",
    "TORCHINDUCTOR_CACHE_DIR",  # set by torch in the process of the tests
)  # fmt: skip


def run(
    command: Sequence[Any],
    *,
    wrap: Sequence[str] = (),
    shell: str = "",
    unset: Sequence[str] = (),
    **variables: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a command of Python in an environment. shell: commands that are run before it."""
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [*wrap, "bash", "-c", f'{shell}\nexec "$@"', "-", sys.executable, *map(str, command)],
        env=environment | {"PYTHONPATH": str(ROOT)} | {k: str(v) for k, v in variables.items()},
        capture_output=True,
        text=True,
        timeout=600,
    )


def mounted_over(*places: str, options: str = "nr_inodes=30") -> str:
    """Return the commands that put an empty file system over places, but keep this repository."""
    commands = [f"mount --bind {ROOT} /mnt"]
    for place in places:
        commands.append(f"mount -t tmpfs -o {options} tmpfs {place}")
        if ROOT.is_relative_to(place):
            commands += [f"mkdir -p {ROOT}", f"mount --bind /mnt {ROOT}"]
    return "\n".join([*commands, ""])


def filled(*places: str) -> str:
    """Return the commands that use up all inodes of file systems."""
    return "".join(f"while touch {at}/$RANDOM$RANDOM 2>/dev/null; do :; done\n" for at in places)


def faults(**how: Any) -> list[str]:
    """Return the faults that are found in an environment."""
    found = run(["-c", FAULTS], **how)
    assert found.returncode == 0, found.stderr
    return [fault for fault in found.stdout.splitlines() if fault]


def write_analysis(make_analysis: MakeAnalysis, folder: Path, **changes: Any) -> Path:
    quick = {"measures": ["weight_norm"], "inputs": {}, "workers": {"count": 1}}
    config = folder / "analysis.yaml"
    config.write_text(json.dumps(make_analysis(**quick, **changes).model_dump(mode="json")))
    return config


@pytest.fixture
def config(make_analysis: MakeAnalysis, tmp_path: Path) -> Path:
    return write_analysis(make_analysis, tmp_path)


def test_this_environment_has_no_fault() -> None:
    assert faults() == []


@pytest.fixture
def apart(organisms: Path) -> Iterator[Path]:
    """Return a folder outside of /tmp that everybody may write, with a run of checkpoints."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        shutil.copytree(organisms / "run", f"{folder}/run")
        Path(folder).chmod(0o777)
        yield Path(folder)


@needs_root
def test_a_flow_runs_where_almost_nothing_is_as_usual(
    apart: Path, make_analysis: MakeAnalysis
) -> None:
    """Run the flow behind dead proxies, without a home, a name, room in /tmp or a short TMPDIR."""
    long, shadows = apart / ("t" * 90), apart / "shadows"
    for folder in (long, shadows):
        folder.mkdir()
    for module in ("pipeline", "flows", "numpy", "random", "json"):
        (shadows / f"{module}.py").write_text("raise SystemError('a module of the user')")
    config = write_analysis(
        make_analysis, apart, checkpoints=str(apart / "run"), store=str(apart / "store.zarr")
    )
    dead = "http://127.0.0.1:9"
    ran = run(
        [ROOT / "ontogeny.py", "analyze", config],
        wrap=["unshare", "-m"],
        shell=(
            f"{mounted_over('/tmp')}{filled('/tmp')}"
            "mount -t tmpfs -o size=1m tmpfs /dev/shm; chmod 755 /dev/shm\n"
            f"cd {shadows}; umask 000; ulimit -n 256; exec 0<&-\n"
            f'set -- {" ".join(NOBODY)} "$@"'
        ),
        unset=UNSET,
        TMPDIR=long,
        PYTHONPATH="",
        PYTHONSAFEPATH="1",
        http_proxy=dead,
        HTTPS_PROXY=dead,
        ALL_PROXY=dead,
        grpc_proxy=dead,
        LC_ALL="C",
        TERM="dumb",
    )
    assert ran.returncode == 0, ran.stderr
    assert "10 computed" in ran.stdout
    assert "Traceback" not in ran.stderr


@needs_root
def test_a_machine_without_room_for_temporary_files_is_named() -> None:
    places = ("/tmp", "/var/tmp", "/dev/shm")
    full = mounted_over(*places) + filled(*places)
    (fault,) = faults(wrap=["unshare", "-m"], shell=full, TMPDIR="/tmp")
    assert fault.startswith("no folder for temporary files: /tmp ")
    assert "/dev/shm" in fault and "set TMPDIR" in fault


@needs_root
def test_a_folder_of_another_user_in_place_of_a_home_is_refused() -> None:
    mounts = f"{mounted_over('/tmp')}mkdir -m 777 /tmp/ontogeny-12345"
    (fault,) = faults(
        wrap=["unshare", "-m"],
        shell=f'{mounts}; set -- {" ".join(NOBODY)} "$@"',
        unset=UNSET,
        TMPDIR="/tmp",
    )
    assert fault.startswith("/tmp/ontogeny-12345: belongs to another user")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"ALL_PROXY": "socks5h://127.0.0.1:9"}, "ALL_PROXY"),
        ({"https_proxy": "http://[::1"}, "https_proxy"),
        ({"PREFECT_HOME": "/dev/null/home"}, "PREFECT_HOME"),
    ],
)
def test_a_variable_that_ends_every_run_is_named(variables: dict[str, str], named: str) -> None:
    (fault,) = faults(**variables)
    assert named in fault


def test_a_limit_of_open_files_is_named() -> None:
    assert faults(shell="ulimit -n 100") == [
        "a process may open only 100 files: raise the limit by `ulimit -n 4096`"
    ]


def test_a_deleted_working_folder_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    ran = run([ROOT / "ontogeny.py", "checkpoints", "."], shell=f"cd {gone}; rmdir {gone}")
    assert ran.returncode == 2
    assert ran.stderr == "the working folder was deleted: change to one that exists\n"


def test_the_command_refuses_a_run_before_it_starts_anything(config: Path) -> None:
    variables = {"ALL_PROXY": "socks5h://127.0.0.1:9", "PREFECT_HOME": "/dev/null/home"}
    ran = run([ROOT / "ontogeny.py", "analyze", config], **variables)
    assert ran.returncode == 2
    proxy, home = errors_in(ran.stderr)  # both at once
    assert "ALL_PROXY" in proxy and "PREFECT_HOME" in home
    assert not (config.parent / "store.zarr").exists()


def test_names_that_the_locale_cannot_write_are_escaped(tmp_path: Path) -> None:
    missing = tmp_path / "näme.yaml"
    plain = {"LC_ALL": "C", "PYTHONUTF8": 0, "PYTHONCOERCECLOCALE": 0}
    ran = run([ROOT / "ontogeny.py", "analyze", missing, "--serial"], **plain)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr


def test_closed_standard_streams_are_replaced(tmp_path: Path) -> None:
    code = (
        "import flows, os, sys\n"
        f"file = open({str(tmp_path / 'mine')!r}, 'w')\n"
        "print('hidden'); os.system('echo hidden; echo hidden >&2'); sys.stderr.write('hidden')\n"
        "file.write(str(file.fileno()))"
    )
    ran = run(["-c", code], shell="exec 0<&- 1>&- 2>&-")
    assert ran.returncode == 0
    assert int((tmp_path / "mine").read_text()) > 2
