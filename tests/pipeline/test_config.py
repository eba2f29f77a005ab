"""A configuration is either understood completely, or refused with one sentence."""

from pathlib import Path

import pytest

from pipeline.config import RepeatedInput, load_analysis
from pipeline.errors import InputError

GOOD = """
checkpoints: run
store: out.zarr
inputs:
  probe: {kind: repeated, block_length: 10}
  prose: {kind: text, path: prose.txt, length: 64}
measures:
  head_scores.probe:
  token_loss.prose: {early_token: 5, late_token: 60}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "analysis.yaml"
    path.write_text(text)
    return path


def test_relative_paths_are_relative_to_the_file_not_to_where_one_stands(tmp_path: Path) -> None:
    analysis = load_analysis(written(tmp_path, GOOD))
    assert analysis.checkpoints == str(tmp_path / "run")
    assert analysis.store == str(tmp_path / "out.zarr")
    assert analysis.inputs["prose"].path == str(tmp_path / "prose.txt")  # type: ignore[union-attr]


def test_uris_stay_as_they_are(tmp_path: Path) -> None:
    text = GOOD.replace("store: out.zarr", "store: s3://bucket/out.zarr")
    assert load_analysis(written(tmp_path, text)).store == "s3://bucket/out.zarr"


def test_a_measure_without_parameters_has_its_defaults(tmp_path: Path) -> None:
    analysis = load_analysis(written(tmp_path, GOOD))
    assert analysis.measures["head_scores.probe"] == {}
    assert analysis.inputs["probe"] == RepeatedInput(block_length=10)


def test_measures_may_be_a_plain_list(tmp_path: Path) -> None:
    text = "checkpoints: a\nstore: b\nmeasures: [weight_norm]\n"
    assert load_analysis(written(tmp_path, text)).measures == {"weight_norm": {}}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("store: out.zarr", "stor: out.zarr", ["'stor'", "did you mean 'store'?"]),
        ("length: 64", "lenght: 64", ["'inputs.prose.text.lenght'", "did you mean 'length'?"]),
        ("block_length: 10", "block_length: ten", ["block_length", "integer", "'ten'"]),
        ("kind: repeated", "kind: repeat", ["'repeat'", "'repeated'"]),
        ("store: out.zarr", "", ["'store' is missing"]),
        ("store: out.zarr", "store: [", ["not valid YAML", "line"]),
        ("checkpoints: run", "workers: {count: 0}\ncheckpoints: run", ["workers.count", "found 0"]),
    ],
)
def test_what_cannot_be_understood_gets_one_sentence(
    tmp_path: Path, old: str, new: str, says: list[str]
) -> None:
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_analysis(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in [str(path), *says]:
        assert part in message


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: there is neither such a file"):
        load_analysis(tmp_path / "absent.yaml")


def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds list"):
        load_analysis(written(tmp_path, "- a\n- b\n"))


@pytest.mark.parametrize("word", ["off", "no", "false", '"off"'])
def test_an_audit_is_switched_off_as_yaml_writes_it(word: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"checkpoints: run\nstore: s\naudit: {word}\nmeasures: [weight_norm]\n")
    assert load_analysis(file).audit == "off"


@pytest.mark.parametrize("word", ["on", "1", "quick"])
def test_an_audit_is_no_other_word(word: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"checkpoints: run\nstore: s\naudit: {word}\nmeasures: [weight_norm]\n")
    with pytest.raises(InputError, match="'off', 'metadata' or 'deep'"):
        load_analysis(file)
