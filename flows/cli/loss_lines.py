"""Lines that say what the losses of one run say, for readers who have not read docs/losses.md."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.findings.number_format import counted

Answer = Mapping[str, Any]
_P = 0.05
_WIDER = 1.05  # times the bandwidth asked for, from which on another one is said to be used
_NAMES = {
    "mean_loss": "mean loss",
    "in_context_score": "the in-context score",
    "position": "position in the sequence",
    "log_frequency": "token frequency",
    "repetition": "repeated or new token",
    "bigram_loss": "bigrams",
}


def loss_lines(found: Answer) -> Iterator[str]:
    """Yield the lines of the answers of one run, as of `pipeline.query.losses.loss_answers`."""
    yield f"{counted(found['steps'], 'checkpoint')} of the losses in {found['group']}."
    yield ""
    yield "Loss space: principal components, over checkpoints, of the losses on all tokens"
    yield from _indented(_space(found))
    yield "In-context learning: the loss falls along the context"
    yield from _indented(_in_context(found))
    yield "Speed of learning: derivative of the mean loss by the log of training"
    yield from _indented(_derivative(found["derivative"]))
    yield "Learning curves of single tokens"
    yield from _indented(_tokens(found["tokens"]))


def percent(share: float | None) -> str:
    """Return a share as a percentage with three digits or fewer; "unknown" for None."""
    return "unknown" if share is None else f"{100 * share:.3g}%"


def unknown(answer: Answer) -> str | None:
    """Return the line that says why there is no answer, or None where there is one."""
    return f"No answer: {answer['unknown']}." if "unknown" in answer else None


def span(change: Answer) -> str:
    """Return the steps from onset to end of a transition."""
    return f"steps {change['onset']:,.0f} to {change['end']:,.0f}"


def _indented(lines: Iterator[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines)
    yield ""


def _space(found: Answer) -> Iterator[str]:
    space = found["space"]
    if line := unknown(space):
        yield line
        return
    yield f"Components 1 to {len(space['shares'])} explain {_shares(space)} of the variance."
    if space["left_out"]:
        steps = ", ".join(str(one["step"]) for one in space["left_out"])
        yield f"Left out, as losses are not finite: steps {steps}."
    yield from _axes(found["axes"])
    yield from _corner(found["corner"], found["changes"]["induction"])
    yield from _logits(found["logits"], found["changes"]["induction"])


def _shares(space: Answer) -> str:
    return ", ".join(percent(share) for share in space["shares"])


def _axes(axes: Answer) -> Iterator[str]:
    if line := unknown(axes):
        yield f"Of the components: {line}"
        return
    first = axes["components"][0]
    yield f"Is the first component overall loss? (if more than {percent(axes['threshold'])})"
    for of, what in (
        ("scores", "its scores follow the mean loss over checkpoints"),
        ("loadings", "its loadings are the same for all tokens"),
    ):
        (mean,) = (one for one in first[of] if one["feature"] == "mean_loss")
        verdict = axes["first_is_overall_loss"][of]
        yield f"  {what}: {_with_interval(mean)}: {verdict}."
    yield "What explains each component, each feature alone (share of variance, 90% interval):"
    for one in axes["components"]:
        yield f"  {one['component']} over checkpoints: {_best(one['scores'])}"
        yield f"  {one['component']} over tokens:      {_best(one['loadings'])}"


def _with_interval(row: Answer) -> str:
    return f"{percent(row['share'])} ({percent(row['low'])} to {percent(row['high'])})"


def _best(rows: Sequence[Answer]) -> str:
    """Return the two features that explain most, of those that explain more than chance."""
    told = [row for row in rows if row["share"] is not None and row["p"] is not None]
    told = [row for row in told if row["p"] <= _P and (row["low"] is None or row["low"] > 0)]
    if not told:
        return "no feature more than chance"
    best = [row for row in told if row["share"] >= 0.01][:2] or told[:1]
    named = ", ".join(f"{_NAMES[row['feature']]} {_with_interval(row)}" for row in best)
    return named if best[0]["share"] >= 0.1 else f"little: {named}"


def _corner(corner: Answer, induction: Answer | None) -> Iterator[str]:
    if line := unknown(corner):
        yield f"Of a corner: {line}"
        return
    if corner["step"] is None:
        yield (
            f"Corner of the trajectory: cannot tell. The sharpest is at step "
            f"{corner['candidate']:,}, and up to {percent(corner['p'])} of random walks (the "
            "largest share of any kind) have as sharp a one."
        )
        return
    yield (
        f"The trajectory turns a corner of {corner['angle']:.0f} degrees at step "
        f"{corner['step']:,} ({corner['low']:,} to {corner['high']:,}; "
        f"at most {percent(corner['p'])} of random walks of any kind have as sharp a one)."
    )
    if induction is None:
        yield "No induction head forms suddenly, so that the corner can be compared with none."
        return
    where = "within" if corner["in_induction"] else "not within"
    yield (
        f"The corner is {where} the transition of induction head L{induction['layer']}"
        f"H{induction['head']} ({span(induction)}); {percent(corner['by_chance'])} of the sharpest "
        "corners of random walks lie there."
    )


def _logits(logits: Answer | None, induction: Answer | None) -> Iterator[str]:
    if logits is None:
        yield "Control by the logits' components: no logits are kept in this store."
        return
    if line := unknown(logits):
        yield f"Control by {logits['variable']}: {line}"
        return
    followed = ", ".join(percent(one) for one in logits["mean_loss_share"])
    yield (
        f"Control, components of {logits['variable']}: {_shares(logits)} of the variance; mean "
        f"loss explains {followed} of their scores."
    )
    for line in _corner(logits["corner"], induction):
        yield f"  In the logits: {line}"


def _in_context(found: Answer) -> Iterator[str]:
    score, positions = found["in_context"], found["positions"]
    if line := unknown(score):
        yield line
    else:
        yield (
            f"Score at step {score['step']:,}, the loss at token {score['late_token']} less that "
            f"at token {score['early_token']}: {score['score']:.3f} nats{_error(score)}."
        )
    jump = found["changes"]["in_context_score"]
    yield (
        _UNSUDDEN[found["shapes"].get("in_context_score", "not stored")]
        if jump is None
        else f"It changes suddenly over {span(jump)}, half of it by step {jump['midpoint']:,.0f} "
        f"(90% interval {jump['low']:,.0f} to {jump['high']:,.0f})."
    )
    if line := unknown(positions):
        yield line
        return
    if positions["at"]:
        at = ", ".join(
            f"{one['mean']:.3f} at token {one['token']}{_error(one)}" for one in positions["at"]
        )
        yield f"Loss by position at step {positions['step']:,}, in nats: {at}."
    for key, why in (("not_finite", "not finite"), ("beyond", "beyond the sequences")):
        if positions[key]:
            yield f"Tokens whose loss is {why}: {', '.join(map(str, positions[key]))}."


_UNSUDDEN = {
    "smooth": "The score changes smoothly.",
    "none": "The score does not change beyond its noise.",
    "cannot tell": "Whether the score changes suddenly cannot be told.",
    "not stored": "The score over checkpoints is not stored, so that its change is unknown.",
}


def _error(row: Answer) -> str:
    error = row["standard_error"]
    return "" if error is None else f" (standard error {error:.2g})"


def _derivative(steep: Answer) -> Iterator[str]:
    if line := unknown(steep):
        yield line
        return
    yield (
        f"Steepest at step {steep['step']:,}: {steep['derivative']:.2f} nats for each e-fold of "
        f"{steep['axis']} (90% interval {steep['low']:.2f} to {steep['high']:.2f})."
    )
    if steep["bandwidth_used"] > _WIDER * steep["bandwidth"]:
        yield (
            f"Checkpoints are sparse there: the line is fitted {steep['bandwidth_used']:.2g} "
            f"e-folds wide, not {steep['bandwidth']:g}, and a sudden fall is steeper than that."
        )
        return
    widths = ", ".join(f"{value:.2f} at {width}" for width, value in steep["by_bandwidth"].items())
    yield f"It depends on the bandwidth of the fit, in e-folds: {widths}."


def _tokens(tokens: Answer) -> Iterator[str]:
    if line := unknown(tokens):
        yield line
        return
    age = (
        "" if tokens["median_age"] is None else f", the median at step {tokens['median_age']:,.0f}"
    )
    yield (
        f"{tokens['with_age']:,} of {tokens['tokens']:,} tokens fall along a curve that gives them "
        f"an age of acquisition{age}; {tokens['rising']:,} rise as clearly."
    )
    if tokens["forgotten_share"] is not None:
        yield (
            f"{percent(tokens['forgotten_share'])} of the {tokens['learned']:,} tokens that were "
            "learned (probability above 1/2) were forgotten (below 1/4) at least once."
        )
    if line := unknown(tokens["kinds"]):
        yield f"By kind of token: {line}"
        return
    for row in tokens["kinds"]["repetition"]:
        yield f"{row['kind']}: {_kind(row)}."
    bins = tokens["kinds"]["frequency_bin"]
    if len(bins) > 1:
        yield f"rarest fifth of the tokens: {_kind(bins[0])}."
        yield f"most frequent fifth: {_kind(bins[-1])}."


def _kind(row: Answer) -> str:
    if not row["tokens"]:
        return "there is none"
    age = row["age_of_acquisition"]
    return (
        f"{row['tokens']:,} tokens, final loss {row['final_surprisal']:.2f} nats, "
        f"{percent(row['with_age'])} have an age"
        + ("" if age is None else f" (mean {age:,.0f} steps)")
        + (
            ""
            if row["forgotten"] is None
            else f", {percent(row['forgotten'])} of the {row['learned_tokens']:,} learned were "
            "forgotten"
        )
    )
