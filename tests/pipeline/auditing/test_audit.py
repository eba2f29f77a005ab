import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from s3fs import S3FileSystem
from safetensors.torch import load_file, save_file

from pipeline.auditing import KINDS, Fault, audit, sketches
from pipeline.auditing.faults import MASKED
from pipeline.auditing.trend import distances_between, off_trend
from pipeline.checkpoints import list_checkpoints
from pipeline.checkpoints.unfinished import SETTLED_AFTER
from pipeline.errors import InputError
from tests.pipeline.checkpoints import runs
from tests.pipeline.checkpoints.test_local import age

LAST = 400
SHARD = "model-00002-of-00006.safetensors"


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> dict[str, Path]:
    """Make real runs without faults, by name."""
    threads, root = torch.get_num_threads(), tmp_path_factory.mktemp("clean")
    torch.set_num_threads(1)
    made = {make.__name__: make(root / make.__name__) for make in runs.CLEAN}
    torch.set_num_threads(threads)
    return made


@pytest.fixture
def run(clean, tmp_path) -> Path:
    """Copy a clean run in six shards, to plant faults into."""
    shutil.copytree(clean["pythia_like"], tmp_path / "run")
    return tmp_path / "run"


def faults_in(place: str | Path, deep: bool = False) -> set[tuple[int, str]]:
    return {(fault.step, fault.kind) for fault in audit(str(place), deep).faults}


def step(run: Path, number: int) -> Path:
    return run / f"step-{number}"


def shards(run: Path, number: int) -> list[Path]:
    return sorted(step(run, number).glob("*.safetensors"))


def change(file: Path, how: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Save a weight file again, with all its tensors changed."""
    save_file({name: how(tensor) for name, tensor in load_file(file).items()}, file)


def replaced(run: Path, number: int, by: int) -> None:
    shutil.rmtree(step(run, number))
    shutil.copytree(step(run, by), step(run, number))


def rounded(run: Path, number: int, of: int) -> None:
    """Return the weights of another step, rounded to bfloat16."""
    replaced(run, number, of)
    for shard in shards(run, number):
        change(shard, lambda tensor: tensor.bfloat16().float())


# The faults, each as a function that plants it and the (step, kind) that must be found.


def byte_identical(run: Path) -> None:
    replaced(run, 120, by=80)


def final_weights(run: Path) -> None:
    replaced(run, 32, by=LAST)


def missing_step(run: Path) -> None:
    shutil.rmtree(step(run, 160))


def missing_file(run: Path) -> None:
    shards(run, 180)[1].unlink()


def empty_file(run: Path) -> None:
    shards(run, 200)[0].write_bytes(b"")


def truncated_file(run: Path) -> None:
    file = shards(run, 220)[3]
    file.write_bytes(file.read_bytes()[:-100])


class Run:
    def __reduce__(self):
        return (print, ("code that ran when a file was read",))


def unreadable_file(run: Path) -> None:
    for shard in shards(run, 240):
        shard.unlink()
    (step(run, 240) / "model.safetensors.index.json").unlink()
    (step(run, 240) / "pytorch_model.bin").write_bytes(pickle.dumps(Run()))


def foreign_shard(run: Path) -> None:
    shutil.copy(step(run, 4) / SHARD, step(run, 260) / SHARD)


def non_finite(run: Path) -> None:
    file = shards(run, 280)[2]
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, file)


def shape_mismatch(run: Path) -> None:
    file = step(run, 300) / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"hidden_size": 48}))


def unrelated_start(run: Path) -> None:
    shutil.rmtree(step(run, 0))
    runs.neox(seed=99).save_pretrained(step(run, 0), max_shard_size="20KB")


def near_duplicate(run: Path) -> None:
    rounded(run, 340, of=320)


FAULTS = {
    byte_identical: 120, final_weights: 32, missing_step: 160, missing_file: 180, empty_file: 200,
    truncated_file: 220, unreadable_file: 240, foreign_shard: 260, non_finite: 280,
    shape_mismatch: 300, unrelated_start: 0, near_duplicate: 340,
}  # fmt: skip
DEEP = (non_finite, unrelated_start, near_duplicate, unreadable_file)  # a pickle must be read


def expected(plant: Callable) -> tuple[int, str]:
    return FAULTS[plant], plant.__name__.replace("_", "-")


@pytest.mark.parametrize("name", [make.__name__ for make in runs.CLEAN])
@pytest.mark.parametrize("deep", [False, True])
def test_a_clean_run_raises_no_alarm(clean, name, deep):
    verdict = audit(str(clean[name]), deep)
    assert verdict.faults == ()
    assert verdict.checkpoints == len(list_checkpoints(str(clean[name]))) >= 14
    assert "no fault found" in verdict.sentence()


@pytest.mark.parametrize("plant", FAULTS)
def test_each_planted_fault_is_found_and_nothing_else(run, plant):
    plant(run)
    wanted = {expected(plant)}
    if plant is near_duplicate:  # of two neighbours that are equal the distances clear none
        wanted.add((320, "near-duplicate"))
    assert faults_in(run, deep=True) == wanted


def test_twelve_of_twelve_planted_faults_are_found_in_one_run(run, capsys):
    for plant in FAULTS:
        plant(run)
    wanted = {expected(plant) for plant in FAULTS}
    assert len(wanted) == len({kind for _, kind in wanted}) == 12
    assert faults_in(run, deep=True) - {(320, "near-duplicate")} == wanted
    assert "code that ran" not in capsys.readouterr().out


def test_metadata_alone_find_all_but_what_only_bytes_show(run):
    for plant in FAULTS:
        plant(run)
    # Without bytes nothing says which of two equal checkpoints, or shards, is in its place.
    unsure = {(80, "byte-identical"), (4, "foreign-shard")}
    assert faults_in(run) == {expected(plant) for plant in FAULTS if plant not in DEEP} | unsure


def test_a_config_of_its_own_is_told_from_one_that_does_not_fit(run):
    file = step(run, 100) / "config.json"
    config = json.loads(file.read_text())
    config["rope_parameters"]["rope_theta"] = 500
    file.write_text(json.dumps(config))
    verdict = audit(str(run))
    assert [(f.step, f.kind) for f in verdict.faults] == [(100, "other-config")]
    assert "rotary" in verdict.faults[0].detail or "rope" in verdict.faults[0].detail


def test_weights_of_another_run_are_off_the_trend(run):
    shutil.rmtree(step(run, 200))
    runs.neox(seed=7).save_pretrained(step(run, 200), max_shard_size="20KB")
    assert faults_in(run) == set()
    assert faults_in(run, deep=True) == {(200, "off-trend")}


def test_the_last_step_in_disguise_is_found_when_its_bytes_differ(run):
    rounded(run, 32, of=LAST)
    assert faults_in(run) == set()
    assert faults_in(run, deep=True) == {(32, "final-weights")}


def test_a_last_step_that_is_an_earlier_one_is_blamed_itself(run):
    replaced(run, LAST, by=100)
    assert faults_in(run) == {(100, "final-weights")}
    assert faults_in(run, deep=True) == {(LAST, "near-duplicate")}


def test_a_shard_of_another_step_is_found_when_its_bytes_differ(run):
    shutil.copy(step(run, 4) / SHARD, step(run, 260) / SHARD)
    change(step(run, 260) / SHARD, lambda tensor: tensor.bfloat16().float())
    assert faults_in(run, deep=True) == {(260, "foreign-shard")}


def test_a_matrix_that_turned_into_zeros_is_found(run):
    change(shards(run, 300)[0], torch.zeros_like)
    assert (300, "empty-file") in faults_in(run, deep=True)


def test_a_file_of_zeros_is_empty(run):
    file = shards(run, 300)[0]
    file.write_bytes(bytes(file.stat().st_size))
    assert faults_in(run) == {(300, "empty-file")}


def test_a_missing_config_and_a_hostile_index_are_faults_of_their_step(run):
    (step(run, 100) / "config.json").unlink()
    (step(run, 120) / "config.json").write_text("{")
    index = step(run, 140) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../../etc/passwd"}}))
    age(step(run, 140), 2 * SETTLED_AFTER)
    assert faults_in(run) == {
        (100, "missing-file"), (120, "unreadable-file"), (140, "unreadable-file"),
    }  # fmt: skip


def test_most_steps_in_disguise_are_all_found(run):
    disguised = [1, 2, 4, 8, 16, 32, 64, 80, 100, 120, 140, 160, 180, 200, 220]
    for number in disguised:
        replaced(run, number, by=LAST)
    wanted = {(number, "final-weights") for number in disguised}
    assert faults_in(run) == wanted
    assert faults_in(run, deep=True) == wanted


def test_a_verdict_is_json_and_masks_what_would_look_right(run):
    final_weights(run)
    truncated_file(run)
    verdict = audit(str(run))
    content = json.loads(json.dumps(verdict.as_json()))
    assert content.keys() == {"uri", "checkpoints", "faults", "left_out", "notes"}
    assert content["checkpoints"] == 25
    assert [(f["step"], f["kind"]) for f in content["faults"]] == [
        (32, "final-weights"), (220, "truncated-file"),
    ]  # fmt: skip
    assert all(fault["detail"] for fault in content["faults"])
    assert list(verdict.masked) == [32]
    assert "2 faults at 2 steps: 32, 220" in verdict.sentence()
    assert KINDS.keys() > MASKED


def test_a_deep_audit_reads_weights_once(run, monkeypatch, tmp_path):
    monkeypatch.setenv("ONTOGENY_CACHE", str(tmp_path / "cache"))
    reads = []
    read = sketches.read_weights
    monkeypatch.setattr(sketches, "read_weights", lambda *of: reads.append(of) or read(*of))
    first = audit(str(run), deep=True)
    once = len(reads)
    assert once in (24, 25)  # steps 0 and 1 have the same weights: both are read if at once
    assert audit(str(run), deep=True) == first
    assert len(reads) == once


def test_a_place_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no finished checkpoint"):
        audit(str(tmp_path))


# The trend, on paths of which everything is known.


def walk(count: int, seed: int = 0) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(size=(count, 500))
    return np.cumsum(steps, axis=0) + 30


def judged(points: np.ndarray, steps=None) -> list[tuple[int, str, int | None]]:
    steps = list(steps or range(1, len(points) + 1))
    norms = np.linalg.norm(points, axis=1).tolist()
    findings = off_trend(steps, distances_between(points), norms)
    return sorted((finding.step, finding.kind, finding.of) for finding in findings)


def test_distances_are_those_of_numpy_even_for_near_points():
    points = walk(9)
    points[5] = points[4] + 1e-6
    direct = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.testing.assert_allclose(distances_between(points), direct, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_random_walk_and_a_straight_line_raise_no_alarm(seed):
    assert judged(walk(30, seed)) == []
    assert judged(np.linspace(0, 1, 30)[:, None] * walk(1, seed)) == []


@pytest.mark.parametrize(("wrong", "right"), [(3, 20), (20, 3), (10, 12), (29, 5), (8, 29)])
def test_a_copy_is_blamed_and_its_original_is_cleared(wrong, right):
    points = walk(30)
    points[wrong] = points[right]
    assert judged(points) == [(wrong + 1, "near", right + 1)]


def test_a_pace_that_drops_a_hundredfold_raises_no_alarm():
    points = walk(30)
    points[15:] = points[15] + (points[15:] - points[15]) / 100
    assert judged(points) == []


def test_a_run_too_short_to_judge_raises_no_alarm():
    for count in (1, 2, 3):
        assert judged(walk(count), range(count)) == []


def test_fault_order_is_by_step():
    assert sorted([Fault(2, "a", ""), Fault(1, "b", "")])[0].step == 1


# Elsewhere than on a disk.


def test_the_metadata_of_154_branches_take_few_requests_and_no_weights(hub, write_large, tmp_path):
    steps = [0, *(2**k for k in range(10)), *range(1000, 144000, 1000)]
    for number in steps:
        write_large(tmp_path / f"run/step{number}", number)
    for number in (3000, 4000, 5000):
        shutil.rmtree(tmp_path / f"run/step{number}")
        shutil.copytree(tmp_path / "run/step143000", tmp_path / f"run/step{number}")
    repository = hub.add_run("EleutherAI/pythia", tmp_path / "run")
    del repository.branches["step77000"]
    hub.forget()
    verdict = audit("hf://EleutherAI/pythia")
    weights = sum(f.stat().st_size for f in (tmp_path / "run").rglob("*.safetensors"))
    print(f"{hub.count} requests, {hub.cdn.bytes_sent} of {weights} bytes of weight files")
    assert len(steps) == 154 and verdict.checkpoints == 153
    assert {(f.step, f.kind) for f in verdict.faults} == {
        (3000, "final-weights"), (4000, "final-weights"), (5000, "final-weights"),
        (77000, "missing-step"),
    }  # fmt: skip
    assert hub.count < 320
    with (tmp_path / "run/step0/model.safetensors").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    assert hub.cdn.bytes_sent == header  # of one file, for all of its name and size


def test_the_audit_finds_the_same_in_a_folder_on_s3_and_on_the_hub(hub, s3, run):
    for plant in (final_weights, missing_step, missing_file, shape_mismatch, foreign_shard):
        plant(run)
    for path in sorted(run.iterdir()):
        if path.name not in [f"step-{n}" for n in (0, 1, 2, 4, 32, 140, 180, 260, 300, 320, 400)]:
            shutil.rmtree(path)
    S3FileSystem(use_listings_cache=False).put(str(run), "runs/a", recursive=True)
    hub.add_run("owner/name", run)
    expected_everywhere = faults_in(run)
    assert {kind for _, kind in expected_everywhere} == {
        "final-weights", "missing-file", "shape-mismatch", "foreign-shard",
    }  # fmt: skip
    assert faults_in("s3://runs/a") == faults_in("hf://owner/name") == expected_everywhere
    assert faults_in("s3://runs/a", deep=True) == faults_in("hf://owner/name", deep=True)
