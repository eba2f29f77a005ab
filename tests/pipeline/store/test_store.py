"""The store's guarantees: rows exist when their marker does, and nothing else is visible."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store import Store
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.markers import Commit, latest, parse
from pipeline.store.objects import store_name
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, row_of, scores, values_of, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic.run(tmp_path / "run.zarr", [scores()], [])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestFingerprints:
    def test_the_digest_is_that_of_canonical_json(self):
        # printf '{"a":[1,2.5],"b":null}' | sha256sum
        assert digest_of({"b": None, "a": [1, 2.5]}).startswith("f66b2c50ccae61e3")
        assert digest_of({"a": np.arange(3)}) == digest_of({"a": [0, 1, 2]})
        assert digest_of({"a": 1}) != digest_of({"a": 1.0})

    def test_not_a_number_has_no_digest(self):
        with pytest.raises(ValueError, match="JSON"):
            digest_of(float("nan"))

    def test_every_part_changes_the_class(self):
        one = variant_id(measure="m", version=1, input="abc")
        assert one == variant_id(input="abc", version=1, measure="m")
        assert one != variant_id(measure="m", version=2, input="abc")
        assert len(one) == 16

    def test_a_marker_is_understood_by_its_name_alone(self):
        made = Commit("token_loss.code", 0, 12, fingerprint("ab" * 8, "0123456789abcdef" * 4))
        assert made.key == "_commits/token_loss.code/0.12.abababababababab-0123456789abcdef"
        assert parse(made.key) == made
        assert (made.variant, made.weights) == ("ab" * 8, "0123456789abcdef")
        assert parse("_commits/token_loss.code/0.12.partial") is None

    def test_the_row_that_was_reserved_last_stands(self):
        a, b = fingerprint("aa" * 8, "1" * 64), fingerprint("aa" * 8, "2" * 64)
        other = fingerprint("bb" * 8, "1" * 64)
        commits = [Commit("g", 8, 10, b), Commit("g", 8, 9, a), Commit("g", 2, 30, other)]
        assert latest(commits, "aa" * 8) == {8: Commit("g", 8, 10, b)}


class TestPlace:
    def test_the_same_run_is_opened_again(self, store: Store):
        store.create_or_open(synthetic.IDENTITY)
        assert store.catalogue().identity == synthetic.IDENTITY

    def test_another_run_is_refused_by_what_differs(self, store: Store):
        with pytest.raises(InputError, match=r"architecture is 'synthetic' there, expected 'x'"):
            store.create_or_open({"architecture": "x"})

    def test_a_folder_with_other_files_is_left_alone(self, tmp_path: Path):
        (tmp_path / "thesis.tex").write_text("mine")
        with pytest.raises(InputError, match=r"found 'thesis.tex' in it: choose another"):
            Store(str(tmp_path)).create_or_open({})
        assert files(tmp_path) == {"thesis.tex"}

    def test_a_file_is_no_place_for_a_store(self, tmp_path: Path):
        (tmp_path / "a").write_text("mine")
        with pytest.raises(InputError, match="is a file"):
            Store(str(tmp_path / "a")).create_or_open({})

    def test_another_layout_is_refused(self, store: Store):
        path = Path(store.uri) / "rows/zarr.json"
        path.write_text(path.read_text().replace('"layout": 1', '"layout": 7'))
        for attempt in (lambda: open_run(store), lambda: store.create_or_open({})):
            with pytest.raises(InputError, match="has layout 7, this version reads layout 1"):
                attempt()

    def test_damaged_metadata_is_one_sentence(self, store: Store):
        path = Path(store.uri) / "rows/zarr.json"
        path.write_text(path.read_text()[:100])
        with pytest.raises(InputError, match=r"rows/zarr.json is damaged"):
            open_run(store)

    def test_there_is_nothing_to_open_where_no_store_is(self, tmp_path: Path):
        with pytest.raises(InputError, match="there is no store here"):
            open_run(tmp_path / "nothing.zarr")
        assert files(tmp_path) == set()

    def test_an_unknown_kind_of_storage_is_refused(self):
        with pytest.raises(InputError, match="cannot keep a store on ftp://"):
            Store("ftp://host/run.zarr")

    def test_a_relative_path_means_the_same_place_in_every_process(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert Store("run.zarr") == Store(str(tmp_path / "run.zarr")) == Store("./run.zarr/")

    def test_a_store_is_sent_as_its_uri(self, store: Store):
        write(store, scores(), 0)
        assert pickle.loads(pickle.dumps(store)) == store
        assert len(pickle.dumps(store)) < 500

    def test_a_disk_that_is_full_is_one_sentence(self, store: Store, monkeypatch):
        (row,) = store.reserve("scores", scores().variant, 1)

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("zarr.storage._local._put", full)
        with pytest.raises(InputError, match="the disk is full"):
            write(store, scores(), 0, row=row)


class TestTemplates:
    def test_preparing_twice_changes_no_file(self, store: Store):
        before = {name: (Path(store.uri) / name).read_text() for name in files(Path(store.uri))}
        store.require_groups([scores()])
        after = {name: (Path(store.uri) / name).read_text() for name in files(Path(store.uri))}
        assert before == after

    def test_arrays_say_what_they_hold(self, store: Store):
        group = zarr.open_group(f"{store.uri}/rows", mode="r")[f"scores/{scores().variant}"]
        array = group["induction"]
        assert array.metadata.dimension_names == ("step", "layer", "head")
        assert array.chunks == (1, 2, 3)
        assert array.attrs.asdict() == {
            "unit": "1",
            "definition": "A score.",
            "references": "A paper",
        }

    def test_one_class_never_changes_its_shapes(self, store: Store):
        write(store, scores(), 0)
        other = replace(scores(layers=4), variant=scores().variant)
        with pytest.raises(InputError, match=r"layer of group 'scores' is 2 values \[0, 1\] there"):
            store.require_groups([other])
        assert synthetic.wrong_rows(open_run(store), [scores()]) == []

    def test_one_class_never_changes_its_dtypes(self, store: Store):
        variables = tuple(replace(variable, dtype="float64") for variable in scores().variables)
        with pytest.raises(InputError, match="choose another store"):
            store.require_groups([replace(scores(), variables=variables)])

    def test_definitions_may_be_worded_anew(self, store: Store):
        write(store, scores(), 0)
        store.require_groups(
            [replace(scores(), attributes={"version": 1, "definition": "Better."})]
        )
        assert open_run(store)["scores"].attrs["definition"] == "Better."
        assert open_run(store)["scores"].sizes["step"] == 1

    def test_a_dimension_without_coordinates_is_refused(self):
        with pytest.raises(ValueError, match=r"no coordinates for \['head'\]"):
            replace(scores(), coordinates={"layer": np.arange(2)})

    @pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b"])
    def test_a_group_name_must_be_a_plain_name(self, name: str):
        with pytest.raises(InputError, match="letters, digits"):
            replace(scores(), group=name)


class TestRows:
    def test_no_row_is_handed_out_twice(self, store: Store):
        assert store.reserve("scores", scores().variant, 3) == range(0, 3)
        assert store.reserve("scores", scores().variant, 0) == range(0)
        assert Store(store.uri).reserve("scores", scores().variant, 2) == range(3, 5)

    def test_rows_of_a_killed_reservation_are_not_handed_out(self, store: Store):
        array = zarr.open_array(f"{store.uri}/rows/scores/{scores().variant}/step", mode="r+")
        array.resize((8,))
        assert store.reserve("scores", scores().variant, 1) == range(8, 9)

    def test_reserved_rows_are_invisible(self, store: Store):
        store.reserve("scores", scores().variant, 5)
        assert list(open_run(store).children) == []
        write(store, scores(), 6)
        assert open_run(store)["scores"]["step"].values.tolist() == [6]

    def test_chunks_without_a_marker_are_invisible(self, store: Store):
        write(store, scores(), 4)
        (Path(store.uri) / write(store, scores(), 8).key).unlink()
        assert open_run(store)["scores"]["step"].values.tolist() == [4]

    def test_step_0_is_a_step_and_arrival_is_no_order(self, store: Store):
        for step in (8, 0, 1024, 2):
            write(store, scores(), step)
        run = open_run(store)
        assert run["scores"]["step"].values.tolist() == [0, 2, 8, 1024]
        assert synthetic.wrong_rows(run, [scores()]) == []

    def test_a_row_of_nan_is_committed_and_written(self, store: Store):
        values = {"induction": np.full((2, 3), np.nan, np.float32), "count": np.int64(0)}
        (row,) = store.reserve("scores", scores().variant, 1)
        store.write("scores", row_of(scores(), 4, row), values)
        shown = open_run(store)["scores"]
        assert shown["step"].values.tolist() == [4]
        assert np.isnan(shown["induction"].values).all()
        chunk = f"rows/scores/{scores().variant}/induction/c/{row}/0/0"
        assert (Path(store.uri) / chunk).exists()

    def test_unknown_tokens_are_nan(self, store: Store):
        write(store, scores(), 1), write(store, scores(), 2)
        assert np.array_equal(
            open_run(store)["scores"]["tokens_seen"].values, [np.nan, 2000], equal_nan=True
        )

    def test_a_row_that_was_not_reserved_is_refused(self, store: Store):
        with pytest.raises(ValueError, match=r"row 3 of 'scores' was never reserved \(0 are\)"):
            write(store, scores(), 0, row=3)
        with pytest.raises(ValueError, match="never reserved"):
            write(store, scores(), 0, row=-1)

    def test_a_class_that_was_not_prepared_is_refused(self, store: Store):
        with pytest.raises(ValueError, match=r"was not prepared: call require_groups\(\)"):
            write(store, scores(version=2), 0, row=0)
        with pytest.raises(ValueError, match="was not prepared"):
            store.set_current("scores", scores(version=2).variant)

    def test_an_open_worker_sees_rows_reserved_later(self, store: Store):
        write(store, scores(), 0)
        Store(store.uri).reserve("scores", scores().variant, 4)
        write(store, scores(), 1, row=3)
        assert len(store.commits()) == 2

    def test_a_retry_of_a_committed_row_changes_nothing(self, store: Store):
        commit = write(store, scores(), 4)
        assert write(store, scores(), 4, row=commit.row) == commit
        assert store.commits() == [commit]

    def test_a_committed_row_is_never_overwritten(self, store: Store):
        commit = write(store, scores(), 4)
        other = values_of(scores(), 5)
        with pytest.raises(ValueError, match="committed with other values"):
            store.write("scores", row_of(scores(), 4, commit.row), other)
        assert synthetic.wrong_rows(open_run(store), [scores()]) == []

    def test_the_marker_says_what_the_row_follows_from(self, store: Store):
        marker = store.marker(write(store, scores(), 4, edition=3))
        assert marker["details"] == {"edition": 3}
        assert (marker["uri"], marker["tokens_seen"]) == ("run/step-4", 4000)
        assert set(marker["checksums"]) == {
            *("induction", "count", "step", "tokens_seen", "uri", "digest")
        }

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"induction": np.zeros((3, 2), np.float32)}, r"shape \(3, 2\), expected \(2, 3\)"),
            ({"induction": np.zeros(3, np.float32)}, "would not fill the one chunk"),
            ({"induction": np.zeros((2, 3), complex)}, "dtype complex128, expected float32"),
            ({"count": np.float32(2.5)}, "dtype float32, expected int64"),
            ({"extra": np.zeros(2)}, r"found \['count', 'extra', 'induction'\]"),
        ],
    )
    def test_values_that_do_not_fit_are_refused_before_anything_is_written(
        self, store: Store, change, sentence
    ):
        (row,) = store.reserve("scores", scores().variant, 1)
        before = files(Path(store.uri))
        with pytest.raises(ValueError, match=sentence):
            store.write("scores", row_of(scores(), 4, row), {**values_of(scores(), 4), **change})
        assert files(Path(store.uri)) == before

    def test_a_missing_variable_is_refused(self, store: Store):
        (row,) = store.reserve("scores", scores().variant, 1)
        with pytest.raises(ValueError, match="the row would be incomplete"):
            store.write("scores", row_of(scores(), 4, row), {"count": np.int64(1)})

    def test_float64_is_rounded_to_the_declared_float32(self, store: Store):
        (row,) = store.reserve("scores", scores().variant, 1)
        values = {"induction": np.full((2, 3), 1 / 3), "count": np.int32(1)}
        store.write("scores", row_of(scores(), 4, row), values)
        shown = open_run(store)["scores"]["induction"]
        assert shown.dtype == np.float32
        assert (shown.values == np.float32(1 / 3)).all()


class TestRecomputing:
    def test_changed_weights_make_a_new_row_that_is_shown(self, store: Store):
        old = write(store, scores(), 4)
        new = write(store, scores(), 4, edition=1)
        assert new.row > old.row
        assert synthetic.wrong_rows(open_run(store), [scores()], edition=1) == []

    def test_weights_that_changed_back_are_not_done(self, tmp_path: Path):
        store = synthetic.run(tmp_path / "s.zarr", [scores()], [4], edition=0)
        synthetic.run(store.uri, [scores()], [4], edition=1)
        synthetic.run(store.uri, [scores()], [4], edition=0)
        assert len(store.commits()) == 3
        assert synthetic.wrong_rows(open_run(store), [scores()], edition=0) == []

    def test_a_second_run_reserves_and_writes_nothing(self, tmp_path: Path):
        store = synthetic.run(tmp_path / "s.zarr", [scores(), losses()], [0, 1, 2])
        before = files(tmp_path)
        synthetic.run(store.uri, [scores(), losses()], [0, 1, 2])
        assert files(tmp_path) == before

    def test_another_class_is_not_mixed_in(self, store: Store):
        write(store, scores(), 0), write(store, scores(), 4)
        newer = scores(version=2, layers=5)
        store.require_groups([newer])
        write(store, newer, 8)
        shown = open_run(store)
        assert shown["scores"]["step"].values.tolist() == [0, 4]
        assert shown["scores"].attrs["version"] == 1
        store.set_current("scores", newer.variant)
        shown = open_run(store)
        assert shown["scores"]["step"].values.tolist() == [8]
        assert shown["scores"].sizes["layer"] == 5
        assert synthetic.wrong_rows(shown, [newer]) == []
        old = open_run(store, variants={"scores": scores().variant})
        assert synthetic.wrong_rows(old, [scores()]) == []

    def test_an_open_reader_keeps_what_it_has(self, store: Store):
        write(store, scores(), 4)
        reader = open_run(store)
        write(store, scores(), 4, edition=1)
        write(store, scores(), 5)
        store.require_groups([scores(version=2)])
        store.set_current("scores", scores(version=2).variant)
        assert reader["scores"]["step"].values.tolist() == [4]
        assert synthetic.wrong_rows(reader, [scores()]) == []

    def test_a_measure_that_is_added_leaves_the_others_alone(self, tmp_path: Path):
        store = synthetic.run(tmp_path / "s.zarr", [scores()], [0, 1])
        before = {f: (tmp_path / f).read_bytes() for f in files(tmp_path) if "/c/" in f}
        synthetic.run(store.uri, [scores(), losses()], [0, 1, 2])
        assert {f: (tmp_path / f).read_bytes() for f in before} == before
        assert synthetic.wrong_rows(open_run(store), [scores(), losses()]) == []


class TestInputsAndReferences:
    def test_an_input_comes_back_as_it_was_saved(self, store: Store):
        tokens, is_train = np.arange(6).reshape(2, 3), np.array([True, False])
        store.save_input("text", "ab" * 32, tokens, {"is_train": is_train}, {"kind": "text"})
        found, extras, attributes = store.load_input("text", "ab" * 32)
        assert np.array_equal(found, tokens) and found.dtype == np.int64
        assert np.array_equal(extras["is_train"], is_train)
        assert attributes == {"kind": "text"}

    def test_an_input_is_written_once(self, store: Store):
        for value in (1, 2):
            store.save_input("text", "ab" * 32, np.full((1, 2), value), {}, {})
        assert store.load_input("text", "ab" * 32)[0].tolist() == [[1, 1]]

    def test_an_input_that_is_not_there_is_named(self, store: Store):
        with pytest.raises(InputError, match="input 'text'"):
            store.load_input("text", "cd" * 32)

    def test_the_first_reference_stands(self, store: Store):
        assert store.load_reference("scores", "k") is None
        assert store.save_reference("scores", "k", {"frequencies": [1, 5]}) == {
            "frequencies": [1, 5]
        }
        assert store.save_reference("scores", "k", {"frequencies": [2]}) == {"frequencies": [1, 5]}
        assert store.load_reference("scores", "k") == {"frequencies": [1, 5]}


def test_every_metadata_file_is_valid_json(tmp_path: Path):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    synthetic.run(tmp_path / "s.zarr", [scores(), losses()], [0, 1])
    found = [path for path in tmp_path.rglob("*") if path.name.endswith(".json")]
    found += list((tmp_path / "s.zarr/_commits").rglob("*-*"))
    assert len(found) > 10
    for path in found:
        json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://bucket/runs/pythia-70m.zarr", "pythia-70m"),
        ("results/seed-1.zarr/", "seed-1"),
        ("results/rate-0.5", "rate-0.5"),
        ("/", "/"),
    ],
)
def test_a_store_is_named_by_the_end_of_its_address(uri: str, name: str) -> None:
    assert store_name(uri) == name
