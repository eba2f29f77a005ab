"""`ontogeny store …`, and commands on damaged stores, which never exit with code 0."""

import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from pipeline.store import Store
from tests.flows.test_cli import answer, ontogeny, refused
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, scores
from tests.pipeline.store.test_old_stores import ARCHIVE

QUERY = ("losses/loss", "--step", "1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic.run(tmp_path / "run.zarr", [scores(), losses()], range(3))


def pack(store: Store) -> Path:
    """The row of losses at step 1."""
    return next(Path(store.uri).glob("packs/*/losses/1.*"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def failed(result: Result) -> str:
    assert result.exit_code == 1, result.output
    return result.stderr


HARM = {"a flipped bit": (flip, "is damaged"), "a torn row": (tear, "is damaged")}


@pytest.mark.parametrize("harm", HARM)
def test_harm_is_told_by_query_and_verify_and_repaired(harm: str, store: Store) -> None:
    do, says = HARM[harm]
    assert ontogeny("store", "verify", store.uri).exit_code == 0
    do(pack(store))
    sentence = refused("query", store.uri, *QUERY)
    assert says in sentence and "ontogeny store verify" in sentence
    told = failed(ontogeny("store", "verify", store.uri))
    assert "losses at step 1 (packs/1/losses/1." in told
    found = ontogeny("store", "verify", store.uri, "--repair", "--json")
    assert "run the analysis again" in failed(found)
    assert json.loads(found.stdout)["repaired"]
    synthetic.run(store.uri, [scores(), losses()], range(3))
    assert answer("store", "verify", store.uri, "--json")["faults"] == []
    assert ontogeny("query", store.uri, *QUERY).exit_code == 0


def test_what_was_recomputed_is_reclaimed(store: Store) -> None:
    synthetic.run(store.uri, [scores(), losses()], range(3), edition=1)
    kept = answer("store", "gc", store.uri, "--json")
    assert kept["rows"] == 0, "they are younger than a day"
    would = answer("store", "gc", store.uri, "--older-than", "0", "--dry-run", "--json")
    assert would["rows"] == 6 and len(store.commits()) == 12
    assert answer("store", "gc", store.uri, "--older-than", "0", "--json") == would
    assert len(store.commits()) == 6


def test_trajectories_hold_every_number(store: Store) -> None:
    said = ontogeny("store", "trajectories", store.uri).stdout.splitlines()
    assert said[0] == "losses: digest, loss, mean, tokens_seen, uri"


def test_a_store_is_unlocked(store: Store) -> None:
    assert ontogeny("store", "unlock", store.uri).stdout == f"{store.uri}: free already\n"
    content = b'{"host": "h", "process": 1, "machine": null, "started": 1, "token": "t",'
    content += b' "released": false, "seconds": 600, "beat": "b"}'
    store.objects.put({"_lease/00000001.json": content})
    said = ontogeny("store", "unlock", store.uri).stdout
    assert said == f"{store.uri}: free; it was owned by process 1 on h\n"


def test_an_old_store_is_upgraded(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    uri = str(tmp_path / "small.zarr")
    assert answer("query", uri, "weight_norm/sum_of_squares", "--json")
    assert "store upgrade" in refused("store", "verify", uri)
    assert answer("store", "upgrade", uri, "--json") == {"rows": 6, "left_out": {}}
    assert answer("store", "verify", uri, "--json")["faults"] == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_sentence(
    small_disk: Path,
    make_analysis: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = small_disk / "run.zarr"
    config = tmp_path / "analysis.yaml"
    analysis = make_analysis(measures=["token_loss"], store=str(store))
    parameters = {"token_loss": {"early_token": 4, "late_token": 30}}
    config.write_text(json.dumps(analysis.model_dump(mode="json") | {"measures": parameters}))
    refused_before = ontogeny("analyze", config, "--serial")
    assert refused_before.exit_code == 2 and not store.exists()
    assert "are free, expected at least 16.8 MB" in refused_before.stderr

    monkeypatch.setattr("pipeline.analysis.preflight._LEAST_FREE", 0)  # as if it filled up later
    full = ontogeny("analyze", config, "--serial")
    assert full.exit_code == 2, full.output
    assert full.stderr.splitlines()[-1] == (
        f"{store}: the disk is full: free some space; what was committed is safe"
    )
    assert ontogeny("store", "verify", store).exit_code == 0
