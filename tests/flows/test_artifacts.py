"""Keys and order of what the Prefect UI shows; no server."""

import re
from pathlib import Path

import pytest
from prefect.client.schemas.actions import ArtifactCreate

from flows.artifacts import artifact_key
from flows.observer import in_order


def test_each_store_has_a_key_that_prefect_accepts(tmp_path: Path) -> None:
    stores = [
        str(tmp_path / "a/run.zarr"), str(tmp_path / "b/run.zarr"), "s3://bucket/run.zarr",
        str(tmp_path / "Größe, 2_x.zarr"), str(tmp_path / "---.zarr"), str(tmp_path / ("x" * 300)),
    ]  # fmt: skip
    keys = [artifact_key(kind, store) for store in stores for kind in ("report", "audit")]
    assert len(set(keys)) == 2 * len(stores)
    assert [ArtifactCreate(key=key).key for key in keys] == keys
    assert re.fullmatch(r"report-run-[0-9a-f]{8}", keys[0])
    assert max(map(len, keys)) <= 80


def test_a_store_has_one_key_however_its_address_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    same = ["run.zarr", "./run.zarr", "run.zarr/", str(tmp_path / "run.zarr")]
    assert len({artifact_key("findings", store) for store in same}) == 1


def test_failures_stand_first_then_what_is_not_finite() -> None:
    rows = [
        {"step": step, "failure": failure, "not_finite": not_finite}
        for step, failure, not_finite in [
            (0, "", ""), (8, "gone", ""), (2, "", "token_loss"), (4, "damaged", ""), (1, "", ""),
        ]
    ]  # fmt: skip
    assert [row["step"] for row in in_order(rows)] == [4, 8, 2, 0, 1]
