"""The store's promises: a row exists when its object does, and nothing else is ever shown."""

import json
import os
import pickle
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.query import open_run
from pipeline.store import Store
from pipeline.store.commits import Commit, latest, parse
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.sealed import seal
from pipeline.store.store_names import store_name
from pipeline.store.versions import key_of
from pipeline.store.writer import Writer
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, row_of, scores, values_of, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return synthetic.run(tmp_path / "run.zarr", [scores()], [])


def commit_values(store: Store, values: dict) -> None:
    """Commit a row of scores with other numbers than its own."""
    writer = Writer(store, store.version().number, [scores()])
    writer.write([("scores", row_of(scores(), 4), values)])


def close(store: Store) -> None:
    """Close the open generation, as who seals it does first."""
    store.versions.change(
        lambda version: replace(version, closing=version.unsealed, open=version.open + 1)
    )


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

    def test_every_part_changes_the_variant(self):
        one = variant_id(measure="m", version=1, input="abc")
        assert one == variant_id(input="abc", version=1, measure="m")
        assert one != variant_id(measure="m", version=2, input="abc")
        assert len(one) == 16

    def test_a_row_is_understood_by_its_name_alone(self):
        mark = fingerprint("ab" * 8, "0123456789abcdef" * 4)
        made = Commit("token_loss.code", 0, 12, "f" * 16, mark, 3)
        name = f"0.12.{'f' * 16}.abababababababab-0123456789abcdef"
        assert made.key == f"packs/3/token_loss.code/{name}"
        assert parse(made.key) == made
        assert (made.variant, made.weights) == ("ab" * 8, "0123456789abcdef")
        for foreign in (f"{made.key}.partial", "packs/x/a/b", "packs/3/token_loss.code/.DS_Store"):
            assert parse(foreign) is None

    def test_the_row_that_was_planned_last_stands(self):
        a, b = fingerprint("aa" * 8, "1" * 64), fingerprint("aa" * 8, "2" * 64)
        other = fingerprint("bb" * 8, "1" * 64)
        newer = Commit("g", 8, 10, "0" * 16, b, 1)
        commits = [newer, Commit("g", 8, 9, "f" * 16, a, 2), Commit("g", 2, 30, "a" * 16, other, 1)]
        assert latest(commits, "aa" * 8) == {8: newer}


class TestPlace:
    def test_the_same_run_is_opened_again(self, store: Store):
        store.create_or_open(synthetic.IDENTITY)
        assert store.version().identity == synthetic.IDENTITY

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
        newer = key_of(store.version().number + 1)
        store.objects.create(newer, seal({"layout": 7}))
        for attempt in (lambda: open_run(store), lambda: store.create_or_open({})):
            with pytest.raises(InputError, match="has layout 7, this version of ontogeny reads"):
                attempt()

    @pytest.mark.parametrize("content", [b"", b"{", seal({"a": 1})[:-9], b"\x00" * 300])
    def test_a_damaged_version_is_one_sentence(self, store: Store, content: bytes):
        newest = Path(store.uri) / key_of(store.version().number)
        newest.write_bytes(content)
        with pytest.raises(InputError, match=rf"{newest.name} .*: run `ontogeny store verify"):
            open_run(store)

    def test_foreign_files_are_not_read(self, store: Store):
        write(store, scores(), 4)
        for folder in ("versions", "packs/1/scores", "packs", "_inputs", "."):
            for name in (".DS_Store", ".nfs00000000012c", "v0000.txt"):
                target = Path(store.uri) / folder / name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(b"\x00")
        assert open_run(store)["scores"]["step"].values.tolist() == [4]
        write(store, scores(), 5)
        assert len(store.commits()) == 2

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
        number = store.version().number

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(InputError, match="the disk is full"):
            write(store, scores(), 0, number=number)
        monkeypatch.undo()
        assert store.commits() == []


class TestTemplates:
    def test_preparing_twice_changes_no_file(self, store: Store):
        before = {name: (Path(store.uri) / name).read_text() for name in files(Path(store.uri))}
        store.require_groups([scores()])
        after = {name: (Path(store.uri) / name).read_text() for name in files(Path(store.uri))}
        assert before == after

    def test_one_variant_never_changes_its_shapes(self, store: Store):
        write(store, scores(), 0)
        other = replace(scores(layers=4), variant=scores().variant)
        with pytest.raises(InputError, match=r"layer of group 'scores' is 2 values \[0, 1\] there"):
            store.require_groups([other])
        assert synthetic.wrong_rows(open_run(store), [scores()]) == []

    def test_one_variant_never_changes_its_dtypes(self, store: Store):
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
    def test_groups_without_rows_are_not_shown(self, store: Store):
        assert list(open_run(store).children) == []
        write(store, scores(), 6)
        assert open_run(store)["scores"]["step"].values.tolist() == [6]

    def test_a_large_variable_without_its_pack_is_invisible(self, store: Store, monkeypatch):
        monkeypatch.setattr("pipeline.store.packs.LARGE", 8)
        write(store, losses(), 4)
        commit = write(store, losses(), 8)
        assert (Path(store.uri) / commit.large_key("loss")).exists()
        assert synthetic.wrong_rows(open_run(store), [losses()]) == []
        (Path(store.uri) / commit.key).unlink()
        assert open_run(store)["losses"]["step"].values.tolist() == [4]

    def test_step_0_is_a_step_and_arrival_is_no_order(self, store: Store):
        for step in (8, 0, 1024, 2):
            write(store, scores(), step)
        run = open_run(store)
        assert run["scores"]["step"].values.tolist() == [0, 2, 8, 1024]
        assert synthetic.wrong_rows(run, [scores()]) == []

    def test_a_row_of_nan_is_committed_and_read(self, store: Store):
        values = {"induction": np.full((2, 3), np.nan, np.float32), "count": np.int64(0)}
        commit_values(store, values)
        shown = open_run(store)["scores"]
        assert shown["step"].values.tolist() == [4]
        assert np.isnan(shown["induction"].values).all()

    def test_unknown_tokens_are_nan(self, store: Store):
        write(store, scores(), 1), write(store, scores(), 2)
        assert np.array_equal(
            open_run(store)["scores"]["tokens_seen"].values, [np.nan, 2000], equal_nan=True
        )

    def test_an_unknown_variant_is_not_shown(self, store: Store):
        with pytest.raises(ValueError, match=r"is unknown: call require_groups\(\) first"):
            synthetic.show(store, scores(version=2))

    def test_a_row_that_was_written_twice_is_shown_once(self, store: Store):
        """A retry may not know that its first attempt succeeded."""
        number = store.require_groups([scores()], plan=True).number
        for _ in range(2):
            write(store, scores(), 4, number=number)
        assert len(store.commits()) == 2
        assert open_run(store)["scores"]["step"].values.tolist() == [4]

    def test_rows_that_were_planned_earlier_never_hide_later_ones(self, store: Store):
        early = store.require_groups([scores()], plan=True).number
        late = store.require_groups([scores()], plan=True).number
        write(store, scores(), 4, edition=1, number=late)
        write(store, scores(), 4, edition=0, number=early)
        assert synthetic.wrong_rows(open_run(store), [scores()], edition=1) == []

    def test_the_header_says_what_the_row_follows_from(self, store: Store):
        pack = store.pack(write(store, scores(), 4, edition=3))
        assert pack.header["details"] == {"edition": 3}
        assert (pack.labels["uri"], pack.labels["tokens_seen"]) == ("run/step-4", 4000)
        assert set(pack.checksums) == {"induction", "count"}

    def test_a_row_of_a_closed_generation_is_written_again(self, store: Store):
        """The process that closed it may have listed its rows before this one was there."""
        writer = Writer(store, store.version().number, [scores()])

        def row(step: int) -> tuple:
            return "scores", row_of(scores(), step), values_of(scores(), step)

        writer.write([row(0)])
        close(store)
        (commit,) = writer.write([row(1)])
        assert commit.generation == store.version().open == 2
        assert len([c for c in store.commits() if c.step == 1]) == 2
        assert synthetic.wrong_rows(open_run(store), [scores()]) == []

    def test_a_store_that_is_gone_ends_the_run_at_the_next_row(self, store: Store):
        writer = Writer(store, store.version().number, [scores()])
        writer.write([("scores", row_of(scores(), 0), values_of(scores(), 0))])
        shutil.rmtree(store.uri)
        with pytest.raises(InputError, match="there is no store here"):
            writer.write([("scores", row_of(scores(), 1), values_of(scores(), 1))])
        assert files(Path(store.uri)) == set()

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"induction": np.zeros((3, 2), np.float32)}, r"shape \(3, 2\), expected \(2, 3\)"),
            ({"induction": np.zeros(3, np.float32)}, r"shape \(3,\), expected \(2, 3\)"),
            ({"induction": np.zeros((2, 3), complex)}, "dtype complex128, expected float32"),
            ({"count": np.float32(2.5)}, "dtype float32, expected int64"),
            ({"extra": np.zeros(2)}, r"found \['count', 'extra', 'induction'\]"),
        ],
    )
    def test_values_that_do_not_fit_are_refused_before_anything_is_written(
        self, store: Store, change, sentence
    ):
        before = files(Path(store.uri))
        with pytest.raises(ValueError, match=sentence):
            commit_values(store, {**values_of(scores(), 4), **change})
        assert files(Path(store.uri)) == before

    def test_a_missing_variable_is_refused(self, store: Store):
        with pytest.raises(ValueError, match="the row would be incomplete"):
            commit_values(store, {"count": np.int64(1)})

    def test_float64_is_rounded_to_the_declared_float32(self, store: Store):
        commit_values(store, {"induction": np.full((2, 3), 1 / 3), "count": np.int32(1)})
        shown = open_run(store)["scores"]["induction"]
        assert shown.dtype == np.float32
        assert (shown.values == np.float32(1 / 3)).all()


class TestRecomputing:
    def test_changed_weights_make_a_new_row_that_is_shown(self, store: Store):
        old = write(store, scores(), 4)
        new = write(store, scores(), 4, edition=1)
        assert new.number > old.number
        assert synthetic.wrong_rows(open_run(store), [scores()], edition=1) == []

    def test_weights_that_changed_back_are_not_done(self, tmp_path: Path):
        store = synthetic.run(tmp_path / "s.zarr", [scores()], [4], edition=0)
        synthetic.run(store.uri, [scores()], [4], edition=1)
        synthetic.run(store.uri, [scores()], [4], edition=0)
        assert len(store.commits()) == 3
        assert synthetic.wrong_rows(open_run(store), [scores()], edition=0) == []

    def test_a_second_run_writes_no_row(self, tmp_path: Path):
        store = synthetic.run(tmp_path / "s.zarr", [scores(), losses()], [0, 1, 2])
        before = store.commits()
        synthetic.run(store.uri, [scores(), losses()], [0, 1, 2])
        assert store.commits() == before

    def test_another_variant_is_not_mixed_in(self, store: Store):
        write(store, scores(), 0), write(store, scores(), 4)
        newer = scores(version=2, layers=5)
        store.require_groups([newer])
        write(store, newer, 8)
        shown = open_run(store)
        assert shown["scores"]["step"].values.tolist() == [0, 4]
        assert shown["scores"].attrs["version"] == 1
        synthetic.show(store, newer)
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
        synthetic.show(store, scores(version=2))
        assert reader["scores"]["step"].values.tolist() == [4]
        assert synthetic.wrong_rows(reader, [scores()]) == []

    def test_a_measure_that_is_added_leaves_the_others_alone(self, tmp_path: Path):
        store = synthetic.run(tmp_path / "s.zarr", [scores()], [0, 1])
        before = {f: (tmp_path / f).read_bytes() for f in files(tmp_path) if "/packs/" in f}
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
            store.save_input("text", "ab" * 32, np.full((1, 2), value), {}, {"kind": "text"})
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


def test_every_version_is_valid_json(tmp_path: Path):
    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    synthetic.run(tmp_path / "s.zarr", [scores(), losses()], [0, 1])
    found = list((tmp_path / "s.zarr/versions").iterdir())
    assert len(found) == 3, "made, planned, and shown"
    for path in found:
        text, seal = path.read_text().splitlines()
        assert len(seal) == 64
        json.loads(text, parse_constant=refuse)


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


def test_content_is_synced_before_its_name_appears(store: Store, monkeypatch: pytest.MonkeyPatch):
    """And the folder of the name afterwards, before the row is reported."""
    events: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def noted(*args, real=real, name=name, **more):
            events.append("folder" if name == "fsync" and is_folder(args[0]) else name)
            return real(*args, **more)

        monkeypatch.setattr(os, name, noted)
    number = store.version().number
    events.clear()
    write(store, scores(), 3, number=number)
    assert [e for e in events if e != "folder"] == ["fsync", "replace"]
    assert events[-1] == "folder"


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)
