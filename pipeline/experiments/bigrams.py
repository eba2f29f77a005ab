"""A model without layers predicts by bigrams, the most that its direct path can express."""

from collections.abc import Iterator, Mapping

import numpy as np

from pipeline.experiments.claims import Below, Claim, Effect, Finding, finding
from pipeline.experiments.experiment import Experiment
from pipeline.experiments.runs import Result, Run, Runs
from pipeline.experiments.settings import TEXT_INPUTS, text
from pipeline.experiments.sources import ELHAGE

BIGRAMS = Claim("no-layers-bigrams", "A model without layers learns the bigrams.", ELHAGE)

_MOST = 4000  # sequences of training text in which pairs are counted
_LENGTH = 256  # tokens


def _answer(runs: Runs) -> Iterator[Finding]:
    steps = 1000 if runs.quick else 2000
    trainings = [text(0, seed, steps, steps, task={"path": runs.text}) for seed in range(3)]
    last = {"steps": [steps]}
    # The text that they trained on is known once they are trained.
    trained = runs.results([Run(of, {"weight_norm": {}}, select=last) for of in trainings])
    results = runs.results(
        [Run(of.run.training, {"bigrams": {}}, _inputs(of), last) for of in trained]
    )
    found = {one.seed: one.group("bigrams").isel(step=-1).load() for one in results}
    shares = {seed: float(of.direct_path / of.from_unigrams) for seed, of in found.items()}
    yield finding(
        BIGRAMS,
        Effect("divergence of the predictions from the bigrams, over that from the unigrams", "1",
               shares),
        Below(0.25),  # a quarter: much nearer to the bigrams than to the unigrams
    )  # fmt: skip


def _inputs(trained: Result) -> Mapping[str, Mapping]:
    """Return held-out sequences, and the text in which pairs are counted: that of the training."""
    path = trained.checkpoints / "corpus.npy"
    share = 1 - trained.run.training.task.held_out_share  # pyright: ignore[reportAttributeAccessIssue]
    available = int(share * len(np.load(path, mmap_mode="r"))) // _LENGTH
    corpus = {"kind": "array", "path": str(path), "length": _LENGTH,
              "sequences": min(_MOST, available)}  # fmt: skip
    # Few, since each of their tokens takes a row of the vocabulary.
    return {"text": {**TEXT_INPUTS["text"], "sequences": 64}, "corpus": corpus}


EXPERIMENT = Experiment("bigrams", "A model without layers learns the bigrams", (BIGRAMS,), _answer)
