"""The indirect object identification task: its logit difference, and the heads that produce it."""

import numpy as np
import torch
from jaxtyping import Float

from pipeline.engine.record import HeadChange, KeyMap, OutputOn, Pass, Record
from pipeline.errors import InputError
from pipeline.inputs import Input
from pipeline.measures.base import Context, Measure, Setting, require_kind
from pipeline.measures.head_ablation import chosen_heads, refuse_absent
from pipeline.models.assumptions import HEADS_ADD, LOGITS, relying
from pipeline.models.circuits import circuits
from pipeline.models.readout import Readout, head_shares
from pipeline.models.weights import ModelWeights
from pipeline.schema import Values, Variable

_WANG = "Wang et al. 2023, Interpretability in the Wild"
_HEAD = ("step", "layer", "head")


class IndirectObject(Measure):
    """Indirect object identification: "When Mary and John went to the store, John gave a book to".

    The next token is Mary's name, the indirect object; John is the subject. Over prompts,

    - `logit_difference` is the mean of logit(indirect object) - logit(subject) at the last token,
      `accuracy` is the share of prompts in which it is positive;
    - `corrupted_logit_difference` is the same mean (of the same two names) on the corrupted
      prompts, in which the giver is the other of the two, so that the answer is the other name;
    - `direct` is the head's direct contribution to the logit difference: its output at the last
      token, through the final norm with its scale there, times the difference of the two names'
      columns of W_U. It is positive for name movers and negative for negative name movers;
    - `attention_to_indirect_object`, `attention_to_subject`: attention of the last token to the
      indirect object, and to the subject, summed over its two positions;
    - `patching` is the share of the difference that is lost when the head's output at every token
      is replaced by its output on the corrupted prompt: (difference - difference when patched) /
      (difference - corrupted difference). 0: the head's output does not affect the answer; 1: it
      determines it. A ratio of means, and of noise until the model has learned the task.

    Each head that is patched costs a forward pass from its layer on; `heads` lists them as
    [layer, head]: all without it, none if empty. Names are drawn from those that are one token of
    the run's tokenizer; the two prompts are aligned token by token. The paper corrupts with three
    new names; here only the giver is exchanged, and everything else is unchanged.

    NaN: `patching` for heads that were not patched, or where both prompts have the same
    difference; `direct` where there is a norm between the heads and the stream, and for model
    families whose circuits are not defined (see `pipeline.models.circuits`). A logit softcap is
    left out of `direct`.
    """

    name = "indirect_object"
    version = 2
    default_input = "indirect_object"
    input_kind = "indirect_object"
    needs_heads = True
    variables = (
        Variable("logit_difference", ("step",), "nats",
                 "Mean logit of the indirect object minus that of the subject.", _WANG),
        Variable("corrupted_logit_difference", ("step",), "nats",
                 "The same on prompts with the other person as the subject."),
        Variable("accuracy", ("step",), "1",
                 "Share of prompts in which the indirect object's logit is the greater."),
        Variable("direct", _HEAD, "nats",
                 "Direct contribution of the head to the logit difference.", _WANG),
        Variable("attention_to_indirect_object", _HEAD, "1",
                 "Mean attention of the last token to the indirect object.", _WANG),
        Variable("attention_to_subject", _HEAD, "1",
                 "Mean attention of the last token to both places of the subject.", _WANG),
        Variable("patching", _HEAD, "1",
                 "Share of the logit difference lost with the head's output on the corrupted "
                 "prompt.", _WANG),
    )  # fmt: skip
    relies_on = relying(direct=HEADS_ADD | LOGITS)

    heads: tuple[tuple[int, int], ...] | None = None
    corrupted: str = "indirect_object_corrupted"

    @property
    def other_inputs(self) -> tuple[str, ...]:
        """The corrupted prompts."""
        return (self.corrupted,)

    def check(self, setting: Setting) -> None:
        """Raise InputError unless the inputs are clean and corrupted forms of the same prompts."""
        refuse_absent(self.name, self.heads or (), setting.model)
        clean = setting.input
        other = require_kind(self.name, setting.others[self.corrupted], self.input_kind)
        same = clean.tokens.shape == other.tokens.shape and all(
            np.array_equal(clean.arrays[key], other.arrays[key]) for key in clean.arrays
        )
        if not same or (clean.attributes["corrupted"], other.attributes["corrupted"]) != (0, 1):
            raise InputError(
                f"measure 'indirect_object': input {other.name!r} is not the corrupted form of "
                f"{clean.name!r}: give both the same settings, and this one `corrupted: true`"
            )

    def passes(self, setting: Setting) -> tuple[Pass, ...]:
        """Return one pass over each input, and one for each head that is patched."""
        made = setting.input
        layers, elsewhere = setting.model.n_layers, OutputOn(self.corrupted)
        clean = Pass(
            made.name,
            attention=frozenset(_keys(made)),
            logit_positions=(-1,),  # all prompts have one length
            head_outputs=tuple(range(layers)),
            hidden_states=(layers,),
        )
        patched = (
            Pass(made.name, logit_positions=(-1,), change=HeadChange((one,), elsewhere))
            for one in chosen_heads(self.heads, setting.model)
        )
        return (clean, Pass(self.corrupted, logit_positions=(-1,)), *patched)

    def compute(self, context: Context) -> Values:
        clean, model = context.records[0], context.model
        difference, corrupted, *patched = (_differences(record) for record in context.records)
        attention = [_at_the_end(clean, request) for request in _keys(clean.input)]
        patching = np.full((model.n_layers, model.n_heads), np.nan)
        whole = difference.mean() - corrupted.mean()
        divides = np.isfinite(whole) and whole != 0  # numpy would warn, and return an infinity
        for where, of in zip(chosen_heads(self.heads, model), patched, strict=True):
            patching[where] = (difference.mean() - of.mean()) / whole if divides else np.nan
        return {
            "logit_difference": difference.mean(),
            "corrupted_logit_difference": corrupted.mean(),
            "accuracy": np.asarray(share_positive(difference)),
            "direct": _direct(clean, context.weights),
            "attention_to_indirect_object": attention[0],
            "attention_to_subject": attention[1] + attention[2],
            "patching": patching,
        }


def _differences(record: Record) -> Float[np.ndarray, " sequence"]:
    logits, arrays = record.logits[-1].double().numpy(), record.input.arrays
    # The same two names for every record, so that all differences have the sign of the clean task.
    row = np.arange(len(logits))
    return logits[row, arrays["indirect_object"]] - logits[row, arrays["subject"]]


def share_positive(differences: Float[np.ndarray, " sequence"]) -> float:
    """Return the share of positive differences; NaN where any is not finite."""
    # A comparison with NaN is False: it would count as a wrong answer.
    return float((differences > 0).mean()) if np.isfinite(differences).all() else np.nan


def _keys(made: Input) -> tuple[KeyMap, KeyMap, KeyMap]:
    """Return the keys of the last token: the indirect object, and both positions of the subject."""
    places = (made.arrays["indirect_object_at"], *made.arrays["subject_at"].T)
    maps = []
    for place in places:
        index = np.full(made.tokens.shape, -1)
        index[:, -1] = place
        maps.append(KeyMap(index))
    return tuple(maps)  # pyright: ignore[reportReturnType]


def _at_the_end(record: Record, request: KeyMap) -> Float[np.ndarray, "layer head"]:
    return record.attention[request][..., -1].double().mean(dim=1).numpy()


def _direct(record: Record, weights: ModelWeights) -> Float[np.ndarray, "layer head"]:
    shares = np.full((weights.facts.n_layers, weights.facts.n_heads), np.nan)
    model = circuits(weights)
    if model is None or model.heads_are_normed:
        return shares
    readout = Readout(model)
    names = (record.input.arrays[name] for name in ("indirect_object", "subject"))
    right, wrong = (readout.directions(torch.from_numpy(name)) for name in names)
    scale = readout.scale(record.hidden_states[model.n_layers][:, -1])
    for layer in range(model.n_layers):
        z = record.head_outputs[layer][:, -1]
        of_heads = head_shares(z, model.layer(layer).W_O, right - wrong, scale)
        shares[layer] = of_heads.double().mean(dim=0)
    return shares
