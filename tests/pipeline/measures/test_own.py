"""Measures of the user's own: named by a path, pickled by value, distinct, and their errors."""

import pickle
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from pipeline.analysis.examination import resolve
from pipeline.analysis.run import analyze
from pipeline.analysis.survey import survey
from pipeline.config import Analysis, load_analysis
from pipeline.errors import InputError
from pipeline.measures import describe, known, measure_class
from pipeline.measures.names import split_key
from pipeline.query import open_run
from pipeline.query.measures import stored_measures

TEXT = '''
import numpy as np
from pipeline import Measure, Variable

class Largest(Measure):
    """The largest weight in absolute value, times `factor`."""
    name = "largest"
    version = 1
    default_input = None
    variables = (Variable("largest", ("step",), "1", "Largest absolute weight."),)
    factor: float = 1.0

    def compute(self, context):
        largest = max(float(w.abs().max()) for w in context.weights.values())
        return {"largest": np.array(self.factor * largest)}
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(TEXT)
    return tmp_path / "mine.py"


def analysis(run: Path, *measures: str, **options) -> Analysis:
    return Analysis(
        checkpoints=str(run), store=str(run.parent / "store.zarr"),
        measures=dict.fromkeys(measures, options), audit="off",
    )  # fmt: skip


def test_a_measure_travels_with_its_text(file: Path):
    sent = pickle.dumps(measure_class(f"{file}:Largest")(factor=3.0))
    module = measure_class(f"{file}:Largest").__module__
    file.unlink()
    del sys.modules[module]  # as in a process that has never seen it
    arrived = pickle.loads(sent)
    assert arrived.factor == 3.0 and type(arrived).__name__ == "Largest"


def test_a_path_is_relative_to_the_yaml_file_that_names_it(file: Path, make_run):
    make_run((0, 1))
    (file.parent / "a.yaml").write_text(
        "checkpoints: run\nstore: store.zarr\nmeasures: {mine.py:Largest: {factor: 2}}\n"
    )
    analyze(load_analysis(file.parent / "a.yaml"))
    (found,) = stored_measures(str(file.parent / "store.zarr"))
    assert found["name"] == "largest" and found["parameters"] == {"factor": 2.0}
    assert found["definition"] == "The largest weight in absolute value, times `factor`."


def test_rows_of_a_changed_file_are_computed_again(file: Path, make_run):
    run, named = make_run((0, 1)), f"{file}:Largest"
    assert analyze(analysis(run, named)).computed == [0, 1]
    assert analyze(analysis(run, named)).complete == 2
    before = open_run(str(run.parent / "store.zarr"))["largest"].largest.values
    file.write_text(TEXT.replace("self.factor *", "10 *"))
    assert analyze(analysis(run, named)).computed == [0, 1]
    after = open_run(str(run.parent / "store.zarr"))["largest"].largest.values
    np.testing.assert_allclose(after, 10 * before, rtol=1e-6)


def test_what_its_code_raises_has_file_and_line(file: Path, make_run):
    file.write_text(TEXT.replace("largest = max", "largest = 1 / 0 + max"))
    line = next(n for n, of in enumerate(file.read_text().splitlines(), 1) if "1 / 0" in of)
    summary = analyze(analysis(make_run((0,)), f"{file}:Largest"))
    said = f"measure 'largest' failed: {file}, line {line}: ZeroDivisionError: division by zero"
    assert said in summary.failed[0]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("import numpy as np", "import numpy as", "line 2: SyntaxError: invalid syntax"),
        ("import numpy", "import numpie", "line 2: ModuleNotFoundError: No module named 'numpie'"),
        ('("step",)', '("layer",)', "line 10: ValueError: variable 'largest': dims"),
        ("class Largest", "class Largset", "defines no measure 'Largest', .* 'Largset'"),
        ('name = "largest"', "", "measure Largest: lacks `name`"),
        ('name = "largest"', 'name = "My Largest"', "is not one word"),
        ('name = "largest"', 'name = "weight_norm"', "there is a measure 'weight_norm' in this"),
        ('"""The largest weight in absolute value, times `factor`."""', "", "has no docstring"),
    ],
)
def test_a_faulty_file_is_one_sentence(file: Path, old: str, new: str, says: str):
    assert old in TEXT
    file.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(InputError, match=says) as error:
        measure_class(f"{file}:Largest")
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_relative_path_is_for_files_only():
    with pytest.raises(InputError, match="named in a YAML file"):
        measure_class("mine.py:Largest")
    with pytest.raises(InputError, match=r"/nowhere/mine\.py: cannot be read"):
        measure_class("/nowhere/mine.py:Largest")


def test_two_classes_of_one_name_are_refused(file: Path, make_run):
    other = file.with_name("other.py")
    other.write_text(TEXT.replace("Largest absolute", "The largest absolute"))
    asked = analysis(make_run((0,)), f"{file}:Largest", f"{other}:Largest")
    with pytest.raises(InputError, match="'largest' would be the name of two groups"):
        resolve(asked, survey(asked))


def test_an_entry_point_is_known_by_its_name(file: Path, monkeypatch):
    monkeypatch.syspath_prepend(file.parent)
    point = EntryPoint("largest", "mine:Largest", "ontogeny.measures")
    monkeypatch.setattr(known, "measures_of_entry_points", lambda: {"largest": point})
    try:
        kind = measure_class("largest")
        assert kind is measure_class("mine:Largest") is type(pickle.loads(pickle.dumps(kind())))
        assert describe()[-1]["defined_in"] == "mine"
    finally:
        sys.modules.pop("mine", None)


def test_keys_name_a_measure_and_perhaps_an_input():
    assert split_key("skew") == ("skew", "")
    assert split_key("skew.text") == ("skew", "text")
    assert split_key("/a.b/my.py:Skew.text") == ("/a.b/my.py:Skew", "text")
    assert split_key("package.module:Skew") == ("package.module:Skew", "")
