"""Zero ablation of heads that acts through keys, queries or values of later heads alone."""

from itertools import product

import numpy as np
from pydantic import Field

from pipeline.engine.record import HeadChange, Kept, Pass
from pipeline.measures.base import Context, Measure, Setting
from pipeline.measures.head_ablation import chosen_heads, mean_losses, refuse_absent
from pipeline.schema import Variable

_OLSSON = "Olsson et al. 2022, In-context Learning and Induction Heads"
_HEAD_PATH = ("step", "layer", "head", "through")
_LETTERS: dict[str, Kept] = {"k": "keys", "q": "queries", "v": "values"}
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
    its layer on. Padding does not count. NaN for heads that were not ablated, and `repeated_loss`
    on inputs of another kind. Refused for models that compute attention in code of their own
    (GPT-J, GPT-Neo, Bloom, Falcon, MPT, CodeGen, XGLM), where nothing of it can be kept.
    """

    name = "path_ablation"
    version = 1
    default_input = "repeated"
    variables = (
        Variable("loss", _HEAD_PATH, "nats",
                 "Increase of the mean loss without the head, on some paths.", _OLSSON),
        Variable("repeated_loss", _HEAD_PATH, "nats",
                 "Increase of the mean loss of repeated tokens without the head, on some paths.",
                 _OLSSON),
    )  # fmt: skip

    heads: tuple[tuple[int, int], ...] | None = Field(None, min_length=1)

    def check(self, setting: Setting) -> None:
        """Raise InputError for heads that the model lacks."""
        refuse_absent(self.name, self.heads or (), setting.model)

    def why_undefined(self, setting: Setting) -> str:
        """Return why the loss of repeated tokens is undefined on an input without them."""
        made = setting.input
        if made.kind == "repeated":
            return ""
        return f"repeated_loss: NaN, because input {made.name!r} has no repeated random tokens"

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the paths."""
        return {"through": np.array(PATHS)}

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return a pass without ablation, and one for each head and path."""
        heads = chosen_heads(self.heads, setting.model)
        changes = [HeadChange((head,), kept=_kept(path)) for head, path in product(heads, PATHS)]
        name = setting.input.name
        return tuple(Pass(name, losses=True, change=change) for change in [None, *changes])

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        model = context.model
        clean, *ablated = [mean_losses(record) for record in context.records]
        shape = model.n_layers, model.n_heads, len(PATHS)
        effects = {name: np.full(shape, np.nan) for name in clean}
        where = product(chosen_heads(self.heads, model), range(len(PATHS)))
        for (head, path), losses in zip(where, ablated, strict=True):
            for name, value in losses.items():
                effects[name][*head, path] = value - clean[name]
        return effects


def _kept(path: str) -> frozenset[Kept]:
    """Return what a path does not contain."""
    reached = "" if path == "direct" else path
    return frozenset(kept for letter, kept in _LETTERS.items() if letter not in reached)
