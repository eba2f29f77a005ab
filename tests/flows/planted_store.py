"""A store whose losses fall, and in which a head forms, at a known step."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from flows.cli import app
from pipeline.schema import Variable
from pipeline.store import Row, Store, Template
from pipeline.store.fingerprint import digest_of, fingerprint, variant_id
from pipeline.store.writer import Writer
from tests.pipeline.store.synthetic import show

STEPS = np.unique(np.geomspace(1, 100_000, 60).round().astype(int))
LATE = np.arange(19) >= 9
TOKENS = np.random.default_rng(1).integers(0, 30, (8, 20))


@dataclass(frozen=True)
class Planted:
    """A run of 60 checkpoints, with one layer of two heads.

    middle: the step at which half of the change is done. head: the one that forms. late: nats that
    tokens from 10 on lose more after the change. counted: the tokens seen are known, 100 a step.
    means: the mean loss and the in-context score are stored too.
    """

    middle: int = 1000
    head: int = 1
    seed: int = 0
    late: float = 0.0
    tokens: np.ndarray = field(default_factory=lambda: TOKENS)
    counted: bool = True
    means: bool = True

    def write(self, uri: Path) -> str:
        """Write the store and return its URI."""
        made = Store(str(uri))
        made.create_or_open({"architecture": f"planted {self.seed}"}, f"planted-{self.seed}")
        digest = digest_of(self.tokens.tolist())
        heads, losses = _heads(), self._losses_template(digest)
        made.save_input("text", digest, self.tokens, {}, {"kind": "array"})
        plan = made.require_groups([heads, losses], plan=True).number
        writer = Writer(made, plan, [heads, losses])
        rng = np.random.default_rng(self.seed)
        for step in STEPS:
            writer.write([*self._rows(rng, int(step), heads, losses)])
        show(made, heads, losses)
        return str(uri)

    def _losses_template(self, digest: str) -> Template:
        return Template(
            "token_loss", variant_id(measure="token_loss"),
            (Variable("loss", ("step", "sequence", "position"), "nats", "A loss.", dtype="float32"),
             Variable("mean", ("step",), "nats", "Its mean.", dtype="float64"),
             Variable("in_context_score", ("step",), "nats", "", dtype="float64"),
             )[: self.means * 2 + 1],
            {"sequence": np.arange(8), "position": np.arange(19)},
            {"version": 1, "input": {"name": "text", "digest": digest},
             "parameters": {"early_token": 3, "late_token": 18}},
        )  # fmt: skip

    def _rows(
        self, rng: np.random.Generator, step: int, heads: Template, losses: Template
    ) -> Iterator[tuple[str, Row, dict[str, np.ndarray]]]:
        done = 1 / (1 + (self.middle / step) ** 8)
        rises = 0.8 * done * (np.arange(2) == self.head)
        scores = {
            "induction": 0.02 + rises[None] + rng.normal(0, 0.01, (1, 2)),
            "induction_null": np.full((1, 2), 0.05),
        }
        loss = 4 - 2 * done + self.late * done * LATE + rng.normal(0, 0.1, (8, 19))
        score = loss[:, 17].mean() - loss[:, 2].mean()
        means = {"loss": loss, "mean": loss.mean(), "in_context_score": score}
        weights, seen = digest_of(step), step * 100 if self.counted else None
        for of, numbers in ((heads, scores), (losses, means)):
            row = Row(step, fingerprint(of.variant, weights), weights, f"step{step}", seen)
            dtypes = {variable.name: variable.dtype for variable in of.variables}
            yield of.group, row, {n: np.asarray(numbers[n], dtype) for n, dtype in dtypes.items()}


def _heads() -> Template:
    return Template(
        "head_scores", variant_id(measure="head_scores"),
        (Variable("induction", ("step", "layer", "head"), "1", "A score.", dtype="float32"),
         Variable("induction_null", ("step", "layer", "head"), "1", "Its null.", dtype="float32")),
        {"layer": np.arange(1), "head": np.arange(2)}, {"version": 1},
    )  # fmt: skip


def ontogeny(*arguments: str) -> str:
    """Run the command in this process; return what it printed."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout
