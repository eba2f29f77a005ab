"""The sections of a run's report, which follow from the content of its store.

Measures with figures of their own are listed in `_DRAWN`; figures of every other measure, including
the user's own, follow from the dimensions of its variables.
"""

from collections.abc import Callable, Iterator
from inspect import cleandoc

import xarray as xr

from pipeline.aggregate.phases import RULES, SOLVED, milestones, phases
from pipeline.aggregate.transitions import scan_series
from pipeline.findings.gaps import has_numbers
from pipeline.findings.grokking import key_frequencies
from pipeline.findings.heads import Heads, heads_of
from pipeline.findings.in_context import compared_tokens
from pipeline.findings.number_format import in_words, listed, number, why_undefined
from pipeline.findings.sentences import by_measure, without_heads
from pipeline.measures.head_patterns import NULL_IN_WORDS, NULLS
from pipeline.report import combined_figures
from pipeline.report.downsample import downsampled
from pipeline.report.figures import heat_map, lines, parameter_lines
from pipeline.report.heads import head_lines, mosaic
from pipeline.report.phases import three_phases
from pipeline.report.plates import Plate, Section

MOST_FRAMES = 60  # steps of a mosaic
MOST_STEPS = 200  # steps of a line, where there are many lines, and of a heat map

# The order of sections; measures that are not named come before the last.
_TITLES = {
    "modular_addition": "Progress measures",
    "token_loss": "Loss and in-context learning",
    "head_scores": "Attention heads",
    "weight_norm": "Weights",
}


def sections(run: xr.DataTree) -> list[Section]:
    """Return the sections of an opened run, in reading order."""
    groups = by_measure(run)
    scores = next(iter(groups.get("head_scores", {})), None)
    # One group of head scores for all figures: the first, on the default input if that exists.
    heads = None if scores is None else heads_of(groups, scores)
    if heads is not None and (
        without_heads(heads.scores) or not has_numbers(heads.scores["induction"])
    ):
        heads = None
    first, last = list(_TITLES)[:-1], list(_TITLES)[-1:]
    order = [*first, *(name for name in groups if name not in _TITLES), *last]
    return [
        _section(measure, name, group, heads)
        for measure in order
        for name, group in groups.get(measure, {}).items()
    ]


def _section(measure: str, name: str, group: xr.Dataset, heads: Heads | None) -> Section:
    title = _TITLES.get(measure, in_words(measure).capitalize())
    if given := name.partition(".")[2]:
        title += f" on input '{given}'"
    draw = _DRAWN.get(measure)
    plates = draw(group, heads) if draw else _by_dimensions(group)
    undrawn = () if draw else tuple(_described(v) for v in _undrawn(group))
    return Section(
        name,
        title,
        cleandoc(str(group.attrs.get("definition", ""))),
        tuple(plates),
        undrawn,
        str(group.attrs.get("undefined", "")),
        tuple(_empty(group)),
    )


# Measures with figures of their own


def _token_loss(group: xr.Dataset, heads: Heads | None) -> Iterator[Plate]:
    shown = [name for name in ("mean", "in_context_score") if has_numbers(group[name])]
    caption = _meanings(group, *shown)
    if scan_series(group["in_context_score"]).largest is not None:
        caption += " Band: 10 to 90% of the largest transition of the in-context score."
    if heads is not None:
        caption += _above_null(heads)
    if (figure := combined_figures.losses_and_heads(group, heads)) is not None:
        yield Plate("What happened when", caption, (figure,), wide=True)
    if has_numbers(group["mean_by_position"]):
        yield from _by_position(group)


def _above_null(heads: Heads) -> str:
    excess = heads.excess("induction")
    if excess is None or not has_numbers(excess):
        return " The head scores have no null here and are not drawn."
    return (
        " Below: what any head's score exceeds its null by, at most; dotted, the first checkpoint "
        "from which on a head's induction (prefix-matching) score stays "
        f"at least {heads.threshold:g} above its null."
    )


def _by_position(group: xr.Dataset) -> Iterator[Plate]:
    by_position, note = downsampled(group["mean_by_position"], MOST_STEPS)
    yield Plate(
        "Loss by position over training",
        f"{_meaning(by_position)} {note}",
        (combined_figures.loss_by_position(by_position),),
    )
    caption, tokens = (
        "The same at checkpoints evenly spaced in log(1 + step).",
        compared_tokens(group),
    )
    if tokens is not None:
        caption += " Dotted: the tokens that the in-context score compares."
    yield Plate(
        "Loss by position at a few checkpoints",
        caption,
        (combined_figures.loss_profiles(group["mean_by_position"], tokens or ()),),
    )


def _modular_addition(group: xr.Dataset, heads: Heads | None) -> Iterator[Plate]:
    losses = [name for name in combined_figures.LOSSES if has_numbers(group[name])]
    if losses:
        caption = _meanings(group, *losses)
        if any(step is not None for step in milestones(group).values()):
            caption += (
                f" Dotted verticals: the checkpoint from which on a loss stays below {SOLVED} nats."
            )
        yield Plate("Progress measures", caption, (combined_figures.progress(group),), wide=True)
    if found := phases(group):
        yield Plate(
            "Three phases",
            f"The same losses on a linear axis. {RULES} (Nanda et al. 2023, section 5.2, describes "
            "the phases and gives no rule.)",
            (three_phases(group, found),),
            wide=True,
        )
    if has_numbers(group["embedding_norm"]):
        norms, note = downsampled(group["embedding_norm"], MOST_STEPS)
        keys = key_frequencies(group)
        pointed = "Arrows: the key frequencies." if keys else ""
        yield Plate(
            "Frequencies in the embedding",
            f"{_meaning(norms)} {pointed} {note}",
            (combined_figures.frequencies(norms, keys),),
        )
    every = ("gini_embedding", "gini_neuron_logit", "logit_variance_explained")
    if shares := [name for name in every if has_numbers(group[name])]:
        yield Plate(
            "Sparsity in the Fourier basis",
            _meanings(group, *shares),
            (lines({in_words(name): group[name] for name in shares}, "share or coefficient"),),
        )


def _weight_norm(group: xr.Dataset, heads: Heads | None) -> Iterator[Plate]:
    total, each = group["sum_of_squares"], group["by_parameter"]
    if has_numbers(total):
        yield Plate("All weights", _meaning(total), (lines({"all": total}, "sum of squares"),))
    if has_numbers(each):
        drawn, thin = downsampled(each, MOST_STEPS)
        figure, note = parameter_lines(drawn, "sum of squares")
        yield Plate("By parameter", f"{_meaning(each)} {note} {thin}", (figure,))


_DRAWN: dict[str, Callable[[xr.Dataset, Heads | None], Iterator[Plate]]] = {
    "token_loss": _token_loss,
    "modular_addition": _modular_addition,
    "weight_norm": _weight_norm,
}


# Of the scores of heads, those that name a mechanism come first.
_ORDER = ("induction", "previous_token", "duplicate_token", "first_token", "current_token")


# Any other measure, from the dimensions of its variables


def _by_dimensions(group: xr.Dataset) -> Iterator[Plate]:
    first = [name for name in _ORDER if name in group]
    for name in [*first, *(name for name in group.data_vars if name not in first)]:
        if name in NULLS.values():
            continue  # the captions of the scores state its maximum
        values = group[name]
        if not _is_drawn(values) or not has_numbers(values):
            continue
        title = _capital(in_words(str(name)))
        if values.dims == ("step",):
            plot = lines({title: values}, _axis(values))
            yield Plate(title, _meaning(values), (plot,))
        elif set(values.dims) == {"step", "layer", "head"}:
            yield _heads(title, values, _null_of(group, str(name)))
        elif len(values.dims) == 2:
            yield _over_training(title, values)


def _null_of(group: xr.Dataset, score: str) -> str:
    """Return a sentence on the null of a score and its maximum in this run."""
    null = NULLS.get(score)
    if null is None or null not in group:
        return ""
    highest = float(group[null].max())
    return f"Its null is {NULL_IN_WORDS[null]}: {number(highest)} at most."


def _heads(title: str, score: xr.DataArray, null: str) -> Plate:
    frames, _ = downsampled(score, MOST_FRAMES)
    drawn, note = downsampled(score, MOST_STEPS)
    drawn_here = "Every head over training, and all heads at one step."
    caption = " ".join(part for part in (_meaning(score), null, drawn_here, note) if part)
    plots = (head_lines(drawn, _axis(score)), mosaic(frames))
    steps = tuple(int(step) for step in frames["step"].values)
    return Plate(title, caption, plots, wide=True, frames=steps)


def _over_training(title: str, values: xr.DataArray) -> Plate:
    dim = str(next(dim for dim in values.dims if dim != "step"))
    drawn, note = downsampled(values, MOST_STEPS)
    figure = heat_map(drawn, dim, in_words(dim), _unit(values))
    return Plate(title, f"{_meaning(values)} {note}", (figure,))


def _is_drawn(values: xr.DataArray) -> bool:
    """Return whether a variable has dimensions that a figure can show."""
    return len(values.dims) == 2 or set(values.dims) in ({"step"}, {"step", "layer", "head"})


def _undrawn(group: xr.Dataset) -> list[xr.DataArray]:
    return [values for values in group.data_vars.values() if not _is_drawn(values)]


def _empty(group: xr.Dataset) -> Iterator[str]:
    """Yield the variables without a finite number, and without a stored reason for that."""
    for name, values in group.data_vars.items():
        if _is_drawn(values) and not has_numbers(values) and not why_undefined(group, str(name)):
            yield in_words(str(name))


# Text from a variable's attributes


def _meaning(values: xr.DataArray) -> str:
    """Return the variable's own definition and its source, as sentences."""
    return f"{_definition(values)}{_sources([values])}"


def _meanings(group: xr.Dataset, *names: str) -> str:
    """Return the definitions of several variables, each after its name, and their sources."""
    shown = [group[name] for name in names]
    each = [f"{_capital(in_words(str(one.name)))}: {_definition(one)}" for one in shown]
    return f"{' '.join(each)}{_sources(shown)}"


def _definition(values: xr.DataArray) -> str:
    definition = str(values.attrs.get("definition", "")).strip()
    return definition or f"{_capital(in_words(str(values.name)))}."


def _sources(shown: list[xr.DataArray]) -> str:
    sources = dict.fromkeys(str(one.attrs.get("references", "")) for one in shown)
    named = [source for source in sources if source]
    return f" ({'; '.join(named)}.)" if named else ""


def _described(values: xr.DataArray) -> str:
    return f"{values.name} ({listed([str(dim) for dim in values.dims])})"


def _axis(values: xr.DataArray) -> str:
    unit = _unit(values)
    return f"{in_words(str(values.name))}{f' ({unit})' if unit else ''}"


def _unit(values: xr.DataArray) -> str:
    unit = str(values.attrs.get("unit", values.attrs.get("units", "")))
    return "" if unit == "1" else unit


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
