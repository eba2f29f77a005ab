"""Zero ablation of heads that acts through keys, queries or values of later heads alone."""

from itertools import product

import numpy as np
from pydantic import Field

from pipeline.engine.record import HeadChange, Kept, Pass
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.head_ablation import chosen_heads, mean_losses, refuse_absent
from pipeline.models.facts import ModelFacts
from pipeline.schema import Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
_HEAD_PATH = ("step", "layer", "head", "through")
_LETTERS: dict[str, Kept] = {"k": "keys", "q": "queries", "v": "values"}
TOGETHER = "together_loss, together_repeated_loss"
PATHS = ("direct", "k", "q", "v", "kq", "kv", "qv", "kqv")


class PathAblation(Measure):
    """Increase of the loss when a head's output is zero, by the paths on which that acts.

        loss[l, h, through] = mean loss with head h of layer l at zero, where all heads keep the
                           queries, keys or values not in `through` - mean loss

    A head of an earlier layer reaches the logits directly (and through MLPs), and through the keys,
    queries and values of later heads. `through` names those of the three that the ablation reaches;
    the others are those of the pass without ablation. The direct path is always part of it:
    "direct" is that alone, "kqv" is everything (`head_ablation`), "v" keeps all attention patterns
    (`pattern_preserving_ablation`), "k" shows composition by keys, "qv" what remains without it.
    Paths interact, so that effects do not add up.

    The paper keeps patterns; keys and queries apart are a refinement of it. `repeated_loss` is the
    same over the predictions that repetition determines, on repeated random tokens.

    `heads` lists the heads to ablate as [layer, head]; without it, all are, each for 8 passes from
    its layer on. `together_loss` and `together_repeated_loss` are the increases when all of `heads`
    are ablated at once: heads that stand in for each other show their effect there. Padding does
    not count. NaN for heads that were not ablated, `together_loss` where `heads` is not given, and
    the losses of repeated tokens on inputs of another kind. Refused for models that compute
    attention in code of their own (GPT-J, GPT-Neo, Bloom, Falcon, MPT, CodeGen, XGLM), where
    nothing of it can be kept.
    """

    name = "path_ablation"
    version = 1
    default_input = "repeated"
    needs_heads = True
    variables = (
        Variable("loss", _HEAD_PATH, "nats",
                 "Increase of the mean loss without the head, on some paths.", _OLSSON),
        Variable("repeated_loss", _HEAD_PATH, "nats",
                 "Increase of the mean loss of repeated tokens without the head, on some paths.",
                 _OLSSON),
        Variable("together_loss", ("step", "through"), "nats",
                 "Increase of the mean loss without all the named heads, on some paths."),
        Variable("together_repeated_loss", ("step", "through"), "nats",
                 "Increase of the mean loss of repeated tokens without all the named heads, on "
                 "some paths."),
    )  # fmt: skip

    heads: tuple[tuple[int, int], ...] | None = Field(None, min_length=1)

    def check(self, setting: Setting) -> None:
        """Raise InputError for heads that the model lacks."""
        refuse_absent(self.name, self.heads or (), setting.model)

    def why_undefined(self, setting: Setting) -> str:
        """Return which variables are undefined on this input or with these parameters, and why."""
        repeats = setting.input.kind == "repeated"
        without = f"input {setting.input.name!r} has no repeated random tokens"
        return "; ".join(
            ([] if repeats else [f"repeated_loss, together_repeated_loss: NaN, because {without}"])
            + ([] if self.heads else [f"{TOGETHER}: NaN, because `heads` is not given"])
        )

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the paths."""
        return {"through": np.array(PATHS)}

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return a pass without ablation, and one for each head and path."""
        changes = [
            HeadChange(heads, kept=_kept(path))
            for heads, path in product(self._ablated(setting.model), PATHS)
        ]
        name = setting.input.name
        return tuple(Pass(name, losses=True, change=change) for change in [None, *changes])

    def _ablated(self, model: ModelFacts) -> list[tuple[tuple[int, int], ...]]:
        """Return the heads that are ablated at once: each alone, and at last all named ones."""
        alone = [(head,) for head in chosen_heads(self.heads, model)]
        return [*alone, *([self.heads] if self.heads else [])]

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        model, heads = context.model, chosen_heads(self.heads, context.model)
        clean, *ablated = [mean_losses(record) for record in context.records]
        shape = model.n_layers, model.n_heads, len(PATHS)
        values = {}
        for name in ("loss", "repeated_loss"):
            increases = np.array([of[name] - clean[name] for of in ablated])
            by_path = increases.reshape(-1, len(PATHS))
            values[name] = np.full(shape, np.nan)
            for (layer, head), increase in zip(heads, by_path, strict=False):
                values[name][layer, head] = increase
            together = by_path[-1] if self.heads else np.full(len(PATHS), np.nan)
            values[f"together_{name}"] = together
        return values


def _kept(path: str) -> frozenset[Kept]:
    """Return what a path does not contain."""
    reached = "" if path == "direct" else path
    return frozenset(kept for letter, kept in _LETTERS.items() if letter not in reached)
