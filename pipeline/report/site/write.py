"""The site of one run or several, written page by page."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.report.site.arrays import script_json
from pipeline.report.site.blocks import Page, Section
from pipeline.report.site.changes import changes_page
from pipeline.report.site.composition.data import Composition, composition_of
from pipeline.report.site.composition.page import composition_page, data_files, graph
from pipeline.report.site.composition.partners import partners
from pipeline.report.site.folder import SiteFolder
from pipeline.report.site.head.attention import patterns_of
from pipeline.report.site.head.page import RunHeads, head_page
from pipeline.report.site.heads import heads_in, main_scores
from pipeline.report.site.losses.page import losses_page, profiles
from pipeline.report.site.measures import others_page, progress_page
from pipeline.report.site.method import checkpoints_page, method_page, settings
from pipeline.report.site.mosaic import mosaic_figure
from pipeline.report.site.overview import heads_table, overview_page
from pipeline.report.site.render import rendered
from pipeline.report.site.run_data import Run, opened
from pipeline.report.site.scores import scores_of
from pipeline.report.site.several.page import index_page
from pipeline.report.site.specs import Figure
from pipeline.store.store_names import store_names

INDEX, DATA, HEADS = "index.html", "data", "heads.js"


def write_report(stores: Sequence[str], folder: str | Path) -> Path:
    """Write the site of the stores at the given URIs to a folder; return its `index.html`.

    A folder for each run, with a page for each head; `assets` with styles and scripts. Nothing else
    is needed: no network, no server. Where a site is there already, its files are replaced one by
    one, each only once it is complete, and those that are left of it are removed.

    Raises InputError, before anything is written, where there is no store.
    """
    return _write_site(stores, folder, lambda runs: index_page(runs) if len(runs) > 1 else None)


def write_report_with(
    stores: Sequence[str], folder: str | Path, page_of: Callable[[Sequence[Run]], Page]
) -> Path:
    """Write the site of stores as `write_report` does, with another first page.

    page_of: returns it, given the runs; it links to them by their slugs.
    """
    return _write_site(stores, folder, page_of)


def _write_site(
    stores: Sequence[str], folder: str | Path, page_of: Callable[[Sequence[Run]], Page | None]
) -> Path:
    """Write a site; without a first page, `index.html` leads to the pages of the only run."""
    runs = opened(store_names([str(store) for store in stores]))
    site = SiteFolder(Path(folder))
    site.copy_assets()
    first = page_of(runs)
    heads = [entry for run in runs for entry in _write_run(run, site, several=first is not None)]
    if first is None:
        content = {"href": f"{runs[0].slug}/overview.html", "run_name": runs[0].name}
        index = site.write(INDEX, rendered("redirect.html.j2", content))
    else:
        site.write(HEADS, _search(heads))
        index = site.write(INDEX, _html(first, _site_content(runs)))
    site.finish()
    return index


def _write_run(run: Run, site: SiteFolder, several: bool) -> list[dict[str, Any]]:
    """Write the pages of a run; return the entries of the search, as the index needs them."""
    heads, scores = run.once(heads_in), run.once(scores_of)
    found = composition_of(run)
    group, main = main_scores(run) or ("", None)
    read = {} if found is None else partners(found)
    shared = RunHeads(run, heads, group, main, scores, read, _last(found), patterns_of(run))
    for name, value in data_files(found) if found is not None else ():
        text = f"ontogeny.data({script_json(name)},{script_json(value)});\n"
        site.write(f"{run.slug}/{DATA}/{name}.js", text)
    entries = [_entry(head) for head in heads]
    site.write(f"{run.slug}/{DATA}/{HEADS}", _search(entries))
    pages = list(_pages(shared, found))
    content = _run_content(run, pages, bool(heads), several)
    for page in pages:
        site.write(f"{run.slug}/{page.file}", _html(page, content))
    for place in range(len(heads)):
        page = head_page(shared, place)
        site.write(f"{run.slug}/{page.file}", _html(page, content))
    prefixed = [entry | {"href": f"{run.slug}/{entry['href']}", "run": run.name}
                for entry in entries]  # fmt: skip
    return prefixed


def _pages(shared: RunHeads, found: Composition | None) -> Iterator[Page]:
    """Yield the pages of a run, but for those of its heads."""
    run, heads = shared.run, shared.heads
    mosaic = mosaic_figure(run, list(heads), shared.scores)
    small = mosaic_figure(run, list(heads), shared.scores[:1])
    progress, losses = progress_page(run), losses_page(run)
    below: list[Figure] = [small] if small else []
    if found is not None:
        below.append(graph(run, found, list(heads), over_training=False))
    if (first := run.first("token_loss")) and (made := profiles(run, *first)):
        below.append(made)
    if progress is not None:
        below += [one for one in progress.figures if not one.id.startswith("progress-strips")]
    yield overview_page(shared, below[:3])
    if heads:
        items = [*([mosaic] if mosaic else []), heads_table(shared)]
        sections = [Section("heads", "All heads over training", items)]
        yield Page("heads.html", "Heads", "All heads", f"{len(heads):,} heads", sections)
    if found is not None:
        yield composition_page(run, found, list(heads))
    changes = changes_page(run, {head.name for head in heads})
    for page in (losses, progress, changes, others_page(run)):
        if page is not None:
            yield page
    yield checkpoints_page(run)
    yield method_page(run)


def _last(found: Composition | None) -> int | None:
    return None if found is None else int(found.rows["step"].values[-1])


def _entry(head: Any) -> dict[str, Any]:
    words = [f"layer {head.layer}", f"head {head.head}", *head.onsets]
    return {"name": head.name, "href": head.href, "label": head.label, "layer": head.layer,
            "score": head.score, "words": words}  # fmt: skip


def _search(entries: list[dict[str, Any]]) -> str:
    """Return the script that gives the search its heads."""
    return (
        f"window.ontogeny=Object.assign(window.ontogeny||{{}},{{heads:{script_json(entries)}}});\n"
    )


def _run_content(run: Run, pages: list[Page], heads: bool, several: bool) -> dict[str, Any]:
    """Return what all pages of a run show around their content."""
    return {
        "root": "../", "site_name": run.name, "run_name": run.name, "several": several,
        "heads_file": f"{DATA}/{HEADS}", "step_scale": run.step_scale,
        "nav": [(page.nav, page.file) for page in pages],
        "left_out": run.said_left_out(), "provenance": _provenance(run),
    }  # fmt: skip


def _site_content(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "root": "", "site_name": "Runs", "run_name": "", "several": True, "heads_file": HEADS,
        "step_scale": runs[0].step_scale, "nav": [], "left_out": "",
        "provenance": f"{len(runs)} runs. {_made()}",
    }  # fmt: skip


def _provenance(run: Run) -> str:
    """Return model, versions of the measures, and the date, in a line."""
    identity = settings(run.tree.attrs.get("identity", {}))
    versions = [
        f"{name} v{group.attrs.get('version', '?')}"
        for of_measure in run.groups.values()
        for name, group in of_measure.items()
    ]
    return f"{identity}. {', '.join(versions)}. {_made()}"


def _made() -> str:
    try:
        number = f" {version('ontogeny')}"
    except PackageNotFoundError:
        number = ""
    return f"Written on {datetime.now(UTC):%d %B %Y} by ontogeny{number}."


def _html(page: Page, content: dict[str, Any]) -> str:
    return rendered(page.template, {**content, "page": page})
