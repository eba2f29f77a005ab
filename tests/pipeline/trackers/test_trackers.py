"""Scalars and findings in experiment trackers, read back by the trackers' own readers."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from flows.cli import app
from pipeline import InputError, open_run
from pipeline.config.trackers import DISTRIBUTIONS, LogTo
from pipeline.findings import findings
from pipeline.store import Store
from pipeline.store.verify import verify
from pipeline.trackers import Sent, send
from tests.pipeline.query.questions import fill, templates

STEPS = (0, 10, 20)


@pytest.fixture
def store(tmp_path: Path) -> str:
    uri = str(tmp_path / "run.zarr")
    fill(uri, made(), STEPS)
    return uri


def made() -> dict[str, object]:
    return templates(layers=2, heads=2, sequences=2, positions=101)


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_receives_each_number_once(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "tb"
    to = LogTo(tensorboard=str(folder))
    first = send(store, to)
    run = open_run(store)
    loss = run["token_loss"]["mean"]

    found = events(folder)
    assert "token_loss/mean" in found.Tags()["scalars"]
    assert [one.step for one in found.Scalars("token_loss/mean")] == list(STEPS)
    np.testing.assert_allclose([one.value for one in found.Scalars("token_loss/mean")], loss)
    largest = run["head_scores"]["induction"].max(("layer", "head"))
    sent = found.Scalars("head_scores/induction.max")
    np.testing.assert_allclose([one.value for one in sent], largest)
    text = found.Tensors("findings")[0].tensor_proto.string_val[0].decode()
    assert text == "\n".join(f"- {sentence}" for sentence in findings(store))
    numbers = sum(len(found.Scalars(tag)) for tag in found.Tags()["scalars"])
    assert first == [Sent("tensorboard", str(folder), numbers, True)]

    assert send(store, to) == [Sent("tensorboard", str(folder))]
    fill(store, made(), (30,))
    assert send(store, to)[0].numbers == numbers / len(STEPS)
    again = events(folder).Scalars("token_loss/mean")
    assert [one.step for one in again] == [*STEPS, 30]
    assert not verify(Store(store)).foreign  # the record is known to be the store's


def test_a_changed_number_is_sent_again(store: str, tmp_path: Path) -> None:
    to = LogTo(tensorboard=str(tmp_path / "tb"))
    send(store, to)
    objects = Store(store).objects
    record = json.loads(objects.read("_sent.json") or b"")
    record[f"tensorboard: {tmp_path / 'tb'}"]["scalars"]["token_loss/mean"]["10"] = -1.0
    objects.put({"_sent.json": json.dumps(record).encode()})
    assert send(store, to)[0].numbers == 1
    place = f"tensorboard: {tmp_path / 'tb'}"
    odd = json.dumps({place: {"run": "a", "scalars": {"token_loss/mean": 3}}})
    for damaged in ("{", "[]", odd):
        objects.put({"_sent.json": damaged.encode()})
        assert send(store, to)[0].numbers > 1


def test_changed_findings_replace_the_others(store: str, tmp_path: Path) -> None:
    to = LogTo(tensorboard=str(tmp_path / "tb"))
    send(store, to)
    objects = Store(store).objects
    record = json.loads(objects.read("_sent.json") or b"")
    record[f"tensorboard: {tmp_path / 'tb'}"]["findings"] = ["something else"]
    objects.put({"_sent.json": json.dumps(record).encode()})
    assert send(store, to) == [Sent("tensorboard", str(tmp_path / "tb"), 0, True)]
    assert {one.step for one in events(tmp_path / "tb").Tensors("findings")} == {STEPS[-1]}


def test_undefined_numbers_are_not_sent(store: str, tmp_path: Path) -> None:
    send(store, LogTo(tensorboard=str(tmp_path / "tb")))
    found = events(tmp_path / "tb")
    for tag in found.Tags()["scalars"]:
        assert np.isfinite([one.value for one in found.Scalars(tag)]).all(), tag


def test_wandb_receives_them_offline(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="the Python package wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    to = LogTo(wandb="a-project")
    (tmp_path / "own").mkdir()
    quiet = wandb.Settings(silent=True, console="off")
    own = wandb.init(project="own", dir=str(tmp_path / "own"), settings=quiet)
    assert send(store, to)[0].error == ""
    assert wandb.run is own  # which is neither written to nor ended
    own.finish()
    assert not list(wandb_rows(tmp_path / "own"))
    rows = list(wandb_rows(tmp_path / "wandb"))
    expected = open_run(store)["token_loss"]["mean"]
    assert [row["step"] for row in rows] == list(STEPS)
    np.testing.assert_allclose([row["token_loss/mean"] for row in rows], expected)
    assert send(store, to)[0].numbers == 0
    assert wandb.run is None


def wandb_rows(folder: Path) -> Iterator[dict[str, float]]:
    """Yield what W&B recorded, from its own file of an offline run."""
    from wandb.proto import wandb_internal_pb2

    for path in sorted(folder.rglob("*.wandb")):
        for content in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") == "history":
                yield {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }


def log_records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a file in the form of LevelDB's log, after a header of 7 bytes.

    It has blocks of 32 KiB; each part of a record follows its checksum, length and type: 1 whole,
    2 first, 3 middle, 4 last.
    """
    at, parts = 7, b""
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_a_missing_client_is_one_sentence(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.config.trackers.find_spec", lambda name: None)
    for name, distribution in DISTRIBUTIONS.items():
        with pytest.raises(InputError) as refused:
            send(store, LogTo.model_validate({name: str(tmp_path / "place")}))
        expected = f"log_to: {name}: its client is not installed here: `pip install {distribution}`"
        assert str(refused.value) == expected
    assert list(tmp_path.glob("place*")) == []


def test_a_failing_tracker_is_said(store: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (failed,) = send(store, LogTo(tensorboard=str(tmp_path / "file" / "tb")))
    assert "not sent (" in failed.sentence() and failed.numbers == 0
    assert Store(store).objects.read("_sent.json") is None


def test_a_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="the address holds credentials"):
        LogTo(mlflow="https://someone:secret@host/experiment")


def test_an_analysis_sends_its_results(tmp_path: Path) -> None:
    from pipeline.models.organism import OrganismForCausalLM
    from pipeline.models.organism_config import OrganismConfig

    config = OrganismConfig(vocab_size=20, hidden_size=8, num_attention_heads=2)
    for step in (0, 1):
        OrganismForCausalLM(config).save_pretrained(tmp_path / "run" / f"step-{step}")
    analysis = tmp_path / "analysis.yaml"
    text = "checkpoints: run\nstore: run.zarr\nmeasures: [weight_norm]\nlog_to: {tensorboard: tb}\n"
    analysis.write_text(text)
    result = CliRunner().invoke(app, ["analyze", str(analysis), "--serial"])
    assert result.exit_code == 0, result.output
    assert f"2 new numbers and the findings sent to tensorboard: {tmp_path / 'tb'}" in result.stdout
    sent = events(tmp_path / "tb").Scalars("weight_norm/sum_of_squares")
    assert [one.step for one in sent] == [0, 1]

    # A folder that cannot be made: the analysis is stored, and the exit code says what is not.
    (tmp_path / "tb2").write_text("")
    analysis.write_text(text.replace("tensorboard: tb", "tensorboard: tb2/inner"))
    result = CliRunner().invoke(app, ["analyze", str(analysis), "--serial"])
    assert result.exit_code == 1 and "log_to: tensorboard: " in result.stderr
