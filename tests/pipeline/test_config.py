"""A configuration is either understood completely, or refused with one sentence."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.config import Analysis, RepeatedInput, load_analysis, validated
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


BASE = "checkpoints: run\nstore: s\nmeasures: [weight_norm]\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("inputs: {p: {kind: repeated, seed: -1}}", "seed: input should be greater than or equal"),
        ("inputs: {p: {kind: matches, seed: -1}}", "seed: input should be greater than or equal"),
        ("inputs: {p: {kind: table, split_seed: -1}}", "split_seed: input should be greater"),
        ("inputs: {p: {kind: repeated, sequences: true}}", "valid integer, found True"),
        ("inputs: {p: {kind: repeated, sequences: '64'}}", "valid integer, found '64'"),
        ("inputs: {p: {kind: repeated, sequences: 017}}", "valid integer, found '017'"),
        ("inputs: {p: {kind: repeated, sequences: 1:30}}", "valid integer, found '1:30'"),
        ("inputs: {p: {kind: repeated, sequences: 1.5}}", "valid integer, got a number with a"),
        ("inputs: {p: {kind: repeated, sequences: 2026-13-45}}", "found '2026-13-45'"),
        ("inputs: {p: {kind: repeated, sequences: 99999999999999999999}}", "more than 19 digits"),
        ("inputs: {p: {kind: repeated, bos: 1}}", "valid boolean, found 1"),
        ("inputs: {p: {kind: repeated, ids: [0, true]}}", "ids.1: input should be a valid integer"),
        ("inputs: {p: {kind: repeated, skip_rarest: .nan}}", "finite number, found nan"),
        ("inputs: {'../x': {kind: held_out}}", "no word of letters"),
        ("inputs: {p: {kind: text, path: ''}}", "inputs.p.text.path: it is empty"),
        ("select: {steps: [0, yes]}", "select.steps.1: input should be a valid integer"),
        ("workers: {gpus: .inf}", "workers.gpus: input should be a finite number, found inf"),
        ("workers: {timeout: true}", "workers.timeout: input should be a valid number, found True"),
        ("model: {eps: yes}", "model: eps: input should be a valid number, found 'yes'"),
        ("tokens_per_step: on", "tokens_per_step: input should be a valid integer, found 'on'"),
        ("trust_remote_code: maybe", "trust_remote_code: input should be a valid boolean"),
    ],
)
def test_a_value_of_another_type_is_not_converted(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_analysis(written(tmp_path, BASE + text))
    assert says in str(caught.value) and len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("measures", "says"),
    [
        ("[[a]]", "measures: expected names of measures, found ['a']"),
        ("[a, a]", "measures: 'a' is given twice"),
        ("[]", "at least 1 item"),
        ("{a: 3}", "measures.a: input should be a valid dictionary, found 3"),
        ("3", "measures: input should be a valid dictionary, found 3"),
        ('{"x\\ny.py:A": {}}', "line break"),
    ],
)
def test_measures_of_another_form_are_refused(measures: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_analysis(written(tmp_path, BASE.replace("[weight_norm]", measures)))
    assert says in str(caught.value) and len(caught.value.lines) == 1


def test_words_and_whole_floats_are_read_as_they_are_meant(tmp_path: Path) -> None:
    text = BASE + "inputs: {p: {kind: repeated, bos: no, vary: on, sequences: 1e2}}\n"
    spec = load_analysis(written(tmp_path, text)).inputs["p"]
    assert spec == RepeatedInput(bos=False, vary=True, sequences=100)


@pytest.mark.parametrize("path", ["/x\\ntouch a\\n#", "/x\\0", "/x\\u2028y", "/x\\x85y", "/x\\r"])
@pytest.mark.parametrize("key", ["store", "checkpoints"])
def test_a_path_with_a_line_break_is_refused(key: str, path: str, tmp_path: Path) -> None:
    text = BASE.replace(f"{key}: ", f'{key}: "{path}"\n#')
    with pytest.raises(InputError, match=f"{key}: it holds a line break or a NUL"):
        load_analysis(written(tmp_path, text))


def test_all_faults_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    """List every fault with its key, and count those beyond the first ones."""
    text = (
        GOOD.replace("store:", "stor:").replace("length: 64", "length: 1") + "tokens_per_step: 0\n"
    )
    with pytest.raises(InputError) as caught:
        load_analysis(written(tmp_path, text))
    first, *faults = caught.value.lines
    assert first == f"{tmp_path / 'analysis.yaml'}: 3 faults"
    assert sorted(fault.split()[0] for fault in faults) == [
        "inputs.prose.text.length:", "tokens_per_step:", "unknown",
    ]  # fmt: skip
    text = f"{BASE}select: {{steps: [{', '.join('x' * 50)}]}}\n"
    with pytest.raises(InputError) as caught:
        load_analysis(written(tmp_path, text))
    assert len(caught.value.lines) == 14 and caught.value.lines[-1] == "  and 38 more"


def test_a_model_of_settings_repeats_no_input_in_the_messages_of_pydantic() -> None:
    with pytest.raises(ValidationError) as caught:
        Analysis.model_validate({"checkpoints": ["hush"], "store": "s", "measures": {"a": {}}})
    assert "hush" not in str(caught.value)


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


def test_values_within_values_end_in_a_sentence() -> None:
    deep: list[object] = []
    for _ in range(5_000):
        deep = [deep]
    content = {"checkpoints": "a", "store": "b", "measures": deep, "workers": deep}
    with pytest.raises(InputError, match=r"2 faults") as caught:
        validated(Analysis, content, "here")
    assert all(len(line) < 200 for line in caught.value.lines)
