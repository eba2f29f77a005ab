"""A state machine of random operations on a store, compared with a model of a few lines.

A kill is simulated where it happens: the n-th change to the file system, and every one after it,
raises, as nothing that a dead process still wanted to do takes place. `ONTOGENY_MACHINE_STEPS`
says how many steps to take in all (2,000 take some minutes).
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.query import open_run
from pipeline.store import Store, Template, lease
from pipeline.store.commits import latest
from pipeline.store.fingerprint import fingerprint
from pipeline.store.reclaim import reclaim, seal
from pipeline.store.trajectories import publish
from pipeline.store.verify import verify
from pipeline.store.writer import Writer
from tests.pipeline.store import synthetic
from tests.pipeline.store.synthetic import losses, row_of, scores, values_of, weights_of

STEPS = int(os.environ.get("ONTOGENY_MACHINE_STEPS", "120"))
TEMPLATES = [scores(), scores(version=2, layers=3), losses()]
VARIANTS = {template.variant: template for template in TEMPLATES}
_CHANGES = {"os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}

templates = st.sampled_from(TEMPLATES)
steps = st.integers(0, 5)
editions = st.integers(0, 2)


class Killed(BaseException):
    """Raised in place of the death of the process."""


class _Reaper:
    """A limit on the number of changes to the file system, after which it raises `Killed`.

    life: how many processes have died; it stands for when a process began, by which a lease knows
    whether its owner is dead.
    """

    left: int | None = None
    life = 0

    def watch(self, event: str, args: tuple[Any, ...]) -> None:
        if self.left is None:
            return
        flags = args[2] if event == "open" and isinstance(args[2], int) else 0
        if event in _CHANGES or flags & (os.O_WRONLY | os.O_RDWR):
            self.left -= 1
            if self.left < 0:
                raise Killed


_reaper = _Reaper()
sys.addaudithook(_reaper.watch)


def killed_after(changes: int, function: Callable[[], Any]) -> bool:
    """Run a function; return whether it was killed after so many changes."""
    _reaper.left = changes
    try:
        function()
    except Killed:
        _reaper.life += 1
        return True
    finally:
        _reaper.left = None
    return False


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(lease, "_started", lambda process: _reaper.life)
        self.folder = tempfile.mkdtemp()
        self.store = Store(f"{self.folder}/run.zarr")
        self.store.create_or_open(synthetic.IDENTITY)
        # The model: what stands at each step of a variant, and the current one of each group.
        self.standing: dict[str, dict[int, int]] = {}
        self.current: dict[str, str] = {}
        self.readers: list[tuple[Any, Any]] = []
        # Coordinators that planned and have slept since: a writer, its template, and its number.
        self.sleepers: list[tuple[Writer, Template, int]] = []
        self.numbers: dict[tuple[str, int], int] = {}  # of the plan of the row that stands

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.folder)

    def planned(self, template: Template) -> None:
        """A group shows the variant that it is given as long as no row of its own is there."""
        self.standing.setdefault(template.variant, {})
        current = self.current.get(template.group)
        if current is None or not self.standing.get(current):
            self.current[template.group] = template.variant

    def stands(self, template: Template, step: int, edition: int, number: int) -> None:
        """A row was written: it stands unless one that was planned later is there."""
        key = (template.variant, step)
        if number >= self.numbers.get(key, 0):
            self.numbers[key] = number
            self.standing.setdefault(template.variant, {})[step] = edition

    def catch_up(self) -> None:
        """After a kill the model learns what took place; it must be one of what may have."""
        version = self.store.version()
        for name, entry in version.groups.items():
            for variant in entry["variants"]:
                self.standing.setdefault(variant, {})
            self.current[name] = entry["current"]

    @rule(template=templates)
    def prepare(self, template: Template) -> None:
        self.store.require_groups([template])
        self.planned(template)

    @rule(template=templates, changes=st.integers(0, 60))
    def prepare_and_die(self, template: Template, changes: int) -> None:
        if not killed_after(changes, lambda: self.store.require_groups([template])):
            self.planned(template)
        self.catch_up()

    @rule(template=templates, step=steps, edition=editions)
    def write(self, template: Template, step: int, edition: int) -> None:
        number = self.store.require_groups([template], plan=True).number
        self.planned(template)
        synthetic.write(self.store, template, step, edition, number)
        self.stands(template, step, edition, number)

    @rule(template=templates, step=steps, edition=editions, changes=st.integers(0, 12))
    def write_and_die(self, template: Template, step: int, edition: int, changes: int) -> None:
        number = self.store.require_groups([template], plan=True).number
        self.planned(template)
        killed_after(changes, lambda: synthetic.write(self.store, template, step, edition, number))
        done = latest(self.store.commits(template.group), template.variant)
        if step in done and done[step].number == number:
            self.stands(template, step, edition, number)

    @rule(template=templates, step=steps, edition=editions)
    def plan_write_and_sleep(self, template: Template, step: int, edition: int) -> None:
        number = self.store.require_groups([template], plan=True).number
        self.planned(template)
        writer = Writer(self.store, number, [template])
        self._write_by(writer, template, step, edition, number)
        self.sleepers = [*self.sleepers[-2:], (writer, template, number)]

    @precondition(lambda self: self.sleepers)
    @rule(data=st.data(), step=steps, edition=editions, ends=st.booleans())
    def a_sleeper_goes_on(self, data: st.DataObject, step: int, edition: int, ends: bool) -> None:
        """It knows the version of then, and goes through the end of its analysis as well."""
        writer, template, number = data.draw(st.sampled_from(self.sleepers))
        self.store.require_groups([template])
        self.planned(template)
        self._write_by(writer, template, step, edition, number)
        if ends:
            synthetic.show(self.store, template)
            self.current[template.group] = template.variant
            seal(self.store)
            publish(self.store)

    def _write_by(
        self, writer: Writer, template: Template, step: int, edition: int, number: int
    ) -> None:
        row, values = row_of(template, step, edition), values_of(template, step, edition)
        before = self.numbers.get((template.variant, step), 0)
        (commit,) = writer.write([(template.group, row, values)])
        if number == before:  # two rows of one plan and step: either stands
            done = latest(self.store.commits(template.group), template.variant)
            if done[step] != commit:
                return
        self.stands(template, step, edition, number)

    @rule(grown=st.integers(1, 6), edition=editions)
    def run_an_analysis(self, grown: int, edition: int) -> None:
        template = scores()
        synthetic.run(self.store.uri, [template], range(grown), edition)
        self.planned(template)
        self.current[template.group] = template.variant
        rows = latest(self.store.commits(template.group), template.variant)
        for step in range(grown):
            self.stands(template, step, edition, rows[step].number)

    @precondition(lambda self: self.standing)
    @rule(data=st.data())
    def set_current(self, data: st.DataObject) -> None:
        template = VARIANTS[data.draw(st.sampled_from(sorted(self.standing)))]
        self.store.require_groups([template])
        self.planned(template)
        synthetic.show(self.store, template)
        self.current[template.group] = template.variant

    @rule()
    def seal(self) -> None:
        seal(self.store)

    @rule(changes=st.integers(0, 12))
    def seal_and_die(self, changes: int) -> None:
        killed_after(changes, lambda: seal(self.store))

    @rule()
    def publish(self) -> None:
        publish(self.store)

    @rule(changes=st.integers(0, 80))
    def publish_and_die(self, changes: int) -> None:
        killed_after(changes, lambda: publish(self.store))

    @precondition(lambda self: any(self.standing.values()))
    @rule(data=st.data())
    def invalidate(self, data: st.DataObject) -> None:
        """A row was found to be damaged: the step is to be computed again."""
        written = sorted(variant for variant, rows in self.standing.items() if rows)
        variant = data.draw(st.sampled_from(written))
        step = data.draw(st.sampled_from(sorted(self.standing[variant])))
        commits = self.store.commits(VARIANTS[variant].group)
        self.store.drop(c for c in commits if (c.variant, c.step) == (variant, step))
        del self.standing[variant][step]
        del self.numbers[variant, step]

    @rule()
    def reclaim(self) -> None:
        reclaim(self.store, older_than=-60)
        self.readers.clear()  # a reader is safe for as long as waste is left alone, here not at all
        for variant in list(self.standing):
            if self.current[VARIANTS[variant].group] != variant:
                self.standing[variant] = {}
                self.numbers = {k: n for k, n in self.numbers.items() if k[0] != variant}

    @rule(changes=st.integers(0, 30))
    def reclaim_and_die(self, changes: int) -> None:
        killed_after(changes, lambda: reclaim(self.store, older_than=-60, keep_variants=True))
        self.readers.clear()

    @rule()
    def open_and_keep(self) -> None:
        reader = open_run(self.store)
        self.readers = [*self.readers[-1:], (reader, reader.copy(deep=True).load())]

    @invariant()
    def what_is_shown_is_what_stands(self) -> None:
        tree = open_run(self.store)
        expected = {g for g, variant in self.current.items() if self.standing.get(variant)}
        assert set(tree.children) == expected
        for group in expected:
            variant = self.current[group]
            standing, template = self.standing[variant], VARIANTS[variant]
            shown = tree[group].to_dataset().load()
            assert shown["step"].values.tolist() == sorted(standing)
            for step, edition in standing.items():
                at = shown.sel(step=step)
                assert at["digest"].item() == weights_of(step, edition)
                for name, value in values_of(template, step, edition).items():
                    assert at[name].values.tobytes() == value.tobytes()

    @invariant()
    def what_is_done_is_what_stands(self) -> None:
        commits = self.store.commits()
        for variant, standing in self.standing.items():
            ours = [c for c in commits if c.group == VARIANTS[variant].group]
            done = {step: c.fingerprint for step, c in latest(ours, variant).items()}
            expected = {s: fingerprint(variant, weights_of(s, e)) for s, e in standing.items()}
            assert done == expected

    @invariant()
    def an_open_reader_keeps_what_it_has(self) -> None:
        for reader, kept in self.readers[-1:]:
            for group in kept.children:
                assert reader[group]["step"].identical(kept[group]["step"])

    @rule()
    def everything_is_sound(self) -> None:
        assert verify(self.store).faults == ()


_LENGTH = 40
StoreMachine.TestCase.settings = settings(
    max_examples=max(STEPS // _LENGTH, 1),
    stateful_step_count=_LENGTH,
    suppress_health_check=list(HealthCheck),
    database=None,
    print_blob=True,
)
TestStoreMachine = pytest.mark.timeout(3600)(StoreMachine.TestCase)


def test_a_kill_is_noticed(tmp_path: Path):
    assert killed_after(0, lambda: (tmp_path / "a").write_text("x"))
    assert not killed_after(1, lambda: (tmp_path / "a").write_text("x"))
