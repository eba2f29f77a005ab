"""Sentences of `ontogeny transitions --together`: what transitions have to do with each other."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.findings.number_format import listed
from pipeline.models.head_names import head_name

_LISTED = 10  # series that rose and fell, the largest ones


def together_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield sentences on the answers of `pipeline.query.together.together_answers`."""
    for name, run in found["runs"].items():
        if len(found["runs"]) > 1:
            yield f"{name}:"
        yield from _coincidence_lines(run["coincidence"])
        yield from _step_lines(run["steps"])
        yield from _vestigial_lines(run["vestigial"])
    yield from _induction_lines(found["induction_share"])


def _coincidence_lines(found: Mapping[str, Any]) -> Iterator[str]:
    for pair in found["pairs"]:
        yield f"{pair['first']} and {pair['second']}: {pair['verdict']}; {_pair_line(pair)}."
    if found["pairs"]:
        shares = found["false_alarm_shares"]
        yield (
            f"Together: a lag of at most {found['near']:g} decades, and an overlap beyond that of "
            f"shifted series. Of pairs that are independent, {shares['p_shift']:.0%} have such an "
            f"overlap at p = 0.05, and {shares['together']:.0%} are called together."
        )
    reasons: dict[str, list[str]] = {}
    for name, reason in found["left_out"].items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        yield f"Not compared, because {reason}: {listed(names)}."


def _pair_line(pair: Mapping[str, Any]) -> str:
    low, high = sorted((abs(pair["lag_low"]), abs(pair["lag_high"])))
    steps = f"{abs(pair['lag_steps']):,.0f} steps"
    if pair["lag_low"] <= 0 <= pair["lag_high"]:
        line = f"at most {high:.2f} decades apart ({steps})"
    else:
        order = "after" if pair["lag"] > 0 else "before"
        line = f"the second {abs(pair['lag']):.2f} decades [{low:.2f} to {high:.2f}] ({steps}) "
        line += f"{order} the first"
    if pair["p_shift"] is not None:
        line += (
            f"; rates of change overlap by {pair['overlap']:.0%} (p = {pair['p_shift']:.2g}, "
            f"adjusted for all pairs {pair['q']:.2g})"
        )
    if pair["p_heads"] is not None:
        line += f"; {pair['p_heads']:.0%} of the head series that change suddenly are as near"
    return line


def _step_lines(found: Mapping[str, Any]) -> Iterator[str]:
    for which in dict.fromkeys(row["which"] for row in found["shares"]):
        rows = {row["kind"]: row for row in found["shares"] if row["which"] == which}
        own = rows["series"]
        if own["share"] is None:
            if which == "changing":
                yield _no_steps(own)
            continue
        told = own["sudden_count"] + own["smooth_count"]
        yield (
            f"Head series {_WHICH[which]}: {own['sudden_count']} of {told} change in a step "
            f"({_interval(own)}); {own['cannot_tell_count']} more cannot be told."
        )
        compared = [
            f"{_interval(rows[kind])} of {text}"
            for kind, text in _NULLS.items()
            if rows[kind]["share"] is not None
        ]
        yield f"  By the same rule, so do {listed(compared)}."
        if quartiles := found["widths"][which]:
            yield (
                f"  Widths of their steps: median {quartiles[2]:.2f} decades, half of them "
                f"{quartiles[1]:.2f} to {quartiles[3]:.2f}."
            )
        if which == "changing":
            yield f"  Do head series change in steps? {_VERDICTS[found['verdict']]}"


def _no_steps(row: Mapping[str, Any]) -> str:
    unknown = row["cannot_tell_count"]
    return (
        f"No head series is known to change in a step or smoothly; {unknown} cannot be told. "
        "Series that are not finite at every step, or too short, are left out."
    )


_WHICH = {"changing": "that change", "with a pattern": "that reach a pattern above the null"}
_NULLS = {
    "smooth nulls": "smooth curves with the same noise",
    "random walks": "random walks that change",
    "steps resampled": "the same steps with other noise",
}
_VERDICTS = {
    "more often than smooth curves and random walks": "More often than smooth curves and random "
    "walks.",
    "more often than smooth curves, not than random walks": "More often than smooth curves; but "
    "random walks do so as often.",
    "cannot tell": "Cannot tell: not more often than smooth curves.",
}


def _vestigial_lines(found: Mapping[str, Any]) -> Iterator[str]:
    rows: Sequence[Mapping[str, Any]] = found["found"]
    judged = found["series"] - found["left_out"]
    if not judged:
        yield "No series of a head or a frequency is long enough to have risen and fallen."
        return
    line = f"{len(rows)} of {judged} series of heads and frequencies rose and fell beyond noise"
    if any(row["formed"] is not None for row in rows):
        formed = sum(row["formed"] == 1 for row in rows)
        line += f"; {formed} of these reached a pattern above the null"
    yield f"{line}."
    for row in sorted(rows, key=lambda row: row["formed"] != 1)[:_LISTED]:
        if row["frequency"] >= 0:
            of = f"frequency {row['frequency']}"
        else:
            of = head_name(row["layer"], row["head"])
        yield (
            f"  {row['group']}/{row['variable']} {of}: rose by {row['rise']:.3g} up to step "
            f"{row['peak_step']:,.0f}, then fell by {row['fall']:.3g}."
        )
    if len(rows) > _LISTED:
        yield f"  and {len(rows) - _LISTED} that rose by less."
    if found["left_out"]:
        yield f"  {found['left_out']} series are too short, or not finite, to tell."


def _induction_lines(found: Mapping[str, Any]) -> Iterator[str]:
    for run in found["sizes"]:
        rows = [row for row in found["shares"] if row["run"] == run and row["share"] is not None]
        if rows:
            counts = ", ".join(f"{row['count']} at {row['threshold']:g}" for row in rows)
            middle = rows[len(rows) // 2]
            yield (
                f"{run}: {_interval(middle)} of {middle['heads']} heads are induction heads at the "
                f"end (threshold {middle['threshold']:g} above the null; {counts})."
            )
    if len(found["sizes"]) > 1:
        yield (
            f"The share of induction heads over model size ({_SIZES[found['size']]}): "
            f"{found['verdict']}."
        )
    if found["left_out"]:
        yield f"Left out, without a null of induction: {listed(found['left_out'])}."


_SIZES = {"heads": "number of heads", "given": "as given"}


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['share']:.0%} [{row['low']:.0%} to {row['high']:.0%}]"
