"""The site as a whole: its numbers are those of the store, and its links lead somewhere."""

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import urldefrag

import numpy as np
import pytest

from pipeline import open_run
from pipeline.errors import InputError
from pipeline.report import write_report
from pipeline.report.site.run_data import opened
from tests.pipeline.report import fake
from tests.pipeline.report.site import pages, stores

EVIL = "<script>alert(1)</script>\"'&{{ 7*7 }}\x1b[2J"
HEADS = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]


@pytest.fixture(scope="module")
def language(tmp_path_factory) -> tuple[str, Path]:
    """Write the site of a language model; return its store and its folder."""
    folder = tmp_path_factory.mktemp("language")
    uri = stores.language(f"{folder}/run.zarr")
    return uri, write_report([uri], folder / "site").parent


def check_links(site: Path) -> int:
    """Check that each link and file of each page is there, with its anchor; return how many."""
    found = {path.resolve(): pages.read(path) for path in site.rglob("*.html")}
    count = 0
    for path, page in found.items():
        assert len(set(page.ids)) == len(page.ids), path
        for link in page.links:
            address, anchor = urldefrag(link)
            target = (path.parent / address).resolve() if address else path
            assert target in found, (path, link)
            assert not anchor or anchor in found[target].ids, (path, link)
            count += 1
        for spec in page.specs.values():
            for href in hrefs_of(spec):
                assert not href or (path.parent / href).resolve() in found, (path, href)
        for file in page.files:
            in_assets = "assets/" in file  # copied as they are, whatever they are
            assert in_assets or (path.parent / file).is_file(), (path, file)
    return count


def hrefs_of(value):
    if isinstance(value, dict):
        for key, one in value.items():
            yield from one if key == "hrefs" else [one] if key == "href" else hrefs_of(one)
    elif isinstance(value, list):
        for one in value:
            yield from hrefs_of(one)


def test_every_number_of_a_heads_figures_is_that_of_open_run(language):
    uri, site = language
    run, seen = open_run(uri), set()
    for name in HEADS:
        layer, head = int(name[1]), int(name[3])
        for spec in pages.read(site / "run" / f"head-{name}.html").specs.values():
            for one, x in pages.all_series(spec):
                if "of" not in one:
                    continue
                group, variable = one["of"].split("/")
                stored = run[group][variable]
                if "head" in stored.dims:
                    stored = stored.sel(layer=layer, head=head)
                given = pages.numbers(one["values"])
                assert given.astype(stored.dtype).tobytes() == stored.values.tobytes(), one["of"]
                assert pages.numbers(x["values"]).tolist() == stored["step"].values.tolist()
                seen.add((name, one["of"]))
    for group, names in (
        ("head_scores", list(run["head_scores"].data_vars)),
        ("head_ablation", ["loss", "repeated_loss"]),
    ):
        assert {(h, f"{group}/{name}") for h in HEADS for name in names} <= seen


def test_the_area_below_the_rule_ends_a_threshold_above_the_null(language):
    uri, site = language
    run, seen = open_run(uri), 0
    for name in HEADS:
        specs = pages.read(site / "run" / f"head-{name}.html").specs
        drawn = [specs["main"], *specs["others-1"]["panels"]]
        for spec in drawn:
            null = next(one for one in spec["series"] if one["name"] == "null")
            variable = null["of"].split("/")[1]
            stored = run["head_scores"][variable]
            stored = (
                stored.sel(layer=int(name[1]), head=int(name[3])) if stored.ndim > 1 else stored
            )
            ends = [pages.numbers(one["high"]) for one in spec["series"] if "high" in one]
            ends += [np.full(len(stored), rule["y"]) for rule in spec["rules"]]
            assert len(ends) == 1
            np.testing.assert_allclose(ends[0], stored.values + 0.3, rtol=1e-6)
            seen += 1
    assert seen == 5 * len(HEADS)


def test_titles_of_a_heads_figures_differ(language):
    titles = pages.read(language[1] / "run" / "head-L1H1.html").titles
    assert len(set(titles)) == len(titles) == 5
    assert "Effect on the loss over training" in titles


def test_partners_of_every_head_are_those_of_open_run(language):
    uri, site = language
    last = open_run(uri)["composition"].isel(step=-1)
    for name in HEADS:
        layer, head = int(name[1]), int(name[3])
        side = "to" if layer else "from"
        own = last.sel({f"layer_{side}": layer, f"head_{side}": head})
        above = np.concatenate([(own[p] - own[f"{p}_baseline"]).values.ravel() for p in "kqv"])
        values = np.concatenate([own[path].values.ravel() for path in "kqv"])
        place = np.argsort(-np.nan_to_num(above, nan=-1))[:8]
        expected = [(float(values[i]), float(above[i])) for i in place if above[i] > 0]
        cells = [value for value, _ in pages.read(site / "run" / f"head-{name}.html").cells]
        given = {(float(a), float(b)) for a, b in pairwise(cells) if _is_number(a, b)}
        assert expected and {a for a, _ in expected} <= {a for a, _ in given}
        for value, more in expected:
            assert any(a == value and b == pytest.approx(more, abs=1e-7) for a, b in given)


def _is_number(*texts: str) -> bool:
    return all(re.fullmatch(r"-?[\d.]+(e-?\d+)?", text) for text in texts)


def test_the_threshold_of_the_labels_decides_which_heads_are_vestigial(tmp_path):
    scores, labels = fake.head_scores(), fake.head_scores()
    # L0H3's previous-token score rises to 0.25 above its null, and falls again.
    null = float(scores["uniform_null"][0])
    steps = np.arange(scores.sizes["step"])
    bump = null + 0.25 * np.exp(-(((steps - 0.4 * len(steps)) / (0.1 * len(steps))) ** 2))
    scores["previous_token"].loc[{"layer": 0, "head": 3}] = bump.astype("f4")
    found = {}
    for threshold in (0.1, 0.3):
        given = labels[["induction"]].copy()
        given.attrs = {**labels.attrs, "measure": "head_labels",
                       "parameters": {"threshold": threshold}}  # fmt: skip
        uri = stores.stored(str(tmp_path / f"{threshold}.zarr"), head_scores=scores,
                            head_labels=given)  # fmt: skip
        table = opened({"run": uri})[0].vestigial("head_scores")
        at = np.flatnonzero(
            (table["variable"].values == "previous_token")
            & (table["layer"].values == 0) & (table["head"].values == 3)
        )  # fmt: skip
        found[threshold] = float(table["formed"].values[at[0]])
    # NaN: not judged, since it never exceeds its null by the threshold.
    assert np.isfinite(found[0.1]) and np.isnan(found[0.3])


def test_the_tables_of_a_head_have_its_numbers_with_all_digits(language):
    uri, site = language
    run = open_run(uri)
    page = pages.read(site / "run" / "head-L1H1.html")
    values = {value for value, _ in page.cells}
    for name in ("induction", "previous_token", "first_token"):
        own = run["head_scores"][name].sel(layer=1, head=1).values
        assert {repr(float(own[-1])), repr(float(own.max()))} <= values
        assert repr(int(run["head_scores"]["step"].values[own.argmax()])) in values
    last = run["composition"].isel(step=-1).sel(layer_to=1, head_to=1, layer_from=0)
    best = max(float(last[path].max()) for path in "kqv")
    assert repr(best) in values
    effect = float(run["head_ablation"]["repeated_loss"].sel(layer=1, head=1)[-1])
    assert repr(effect) in values


def test_every_link_of_every_page_resolves(language):
    assert check_links(language[1]) > 200


def test_a_page_says_the_label_the_onset_and_the_rule(language):
    text = pages.read(language[1] / "run" / "head-L1H1.html").text
    # L1H1's induction score passes 0.3 above its null (0) between the checkpoints 850 and 900.
    score = fake.head_scores()["induction"].sel(layer=1, head=1)
    first = int(score["step"][np.flatnonzero(score.values < 0.3)[-1] + 1])
    assert f"steps {first - 50:,} to {first:,}" in text
    assert "at least 0.3 above it" in text
    assert "L1H0" in text and "L1H2" in text  # previous and next
    assert "no label" in pages.read(language[1] / "run" / "head-L1H0.html").text


def test_the_mosaic_has_the_scores_and_a_link_in_each_cell(language):
    uri, site = language
    spec = pages.read(site / "run" / "heads.html").specs["mosaic"]
    assert spec["hrefs"] == [f"head-L{x}H{y}.html" for x in (1, 0) for y in range(4)]
    frames = spec["frames"]
    by_name = {one["name"]: one for one in frames["scores"]}
    stored = open_run(uri)["head_scores"]["induction"].transpose("step", "layer", "head").values
    assert np.array_equal(pages.numbers(by_name["induction"]["values"]), stored[:, ::-1])


def test_data_files_hold_the_matrices_of_each_step(language):
    uri, site = language
    spec = pages.read(site / "run" / "composition.html").specs["composition-v"]
    stored = open_run(uri)["composition"]["v"]
    assert spec["rows"] == [f"L1H{i}" for i in range(4)]
    assert spec["columns"] == [f"L0H{i}" for i in range(4)]
    assert spec["frames"]["steps"] == stored["step"].values.tolist()
    for name, step in zip(spec["frames"]["files"], spec["frames"]["steps"], strict=True):
        named, value = pages.data_of(site / "run" / "data" / f"{name}.js")
        at = stored.sel(step=step).transpose("layer_to", "head_to", "layer_from", "head_from")
        # A head of layer 0 reads no other, and one of the last layer is read by none.
        matrix = at.sel(layer_to=[1], layer_from=[0]).values.reshape(4, 4)
        assert np.isnan(at.values).sum() == 64 - 16
        assert named == name
        # A step of the colours is 1/254 of the range: half of it is the largest error.
        np.testing.assert_allclose(pages.numbers(value), matrix, atol=0.5 / 254 * value["high"])


@pytest.mark.parametrize("name", HEADS)
def test_attention_has_a_text_for_each_sequence(language, name):
    uri, site = language
    spec = pages.read(site / "run" / f"head-{name}.html").specs["attention"]
    at = {"layer": int(name[1]), "head": int(name[3])}
    stored = open_run(uri)["attention_patterns"]["attention"].sel(at)
    assert [len(text["tokens"]) for text in spec["texts"]] == [5, 5]
    for i, text in enumerate(spec["texts"]):
        at = stored.sel(sequence=i, step=text["frames"]["steps"])
        given = pages.numbers(text["frames"]["values"])
        np.testing.assert_allclose(given, at.values, atol=0.5 / 254)


def test_what_is_undefined_is_left_out_and_named_in_the_footer(language):
    _, site = language
    text = pages.read(site / "run" / "head-L0H0.html").text
    assert "Left out: in-context score of head ablation (undefined)" in text
    assert "head_ablation: in-context score" not in text


def test_each_thing_left_out_has_its_own_reason_once(tmp_path):
    ablation = stores.ablation()
    ablation["together_loss"] = ablation["loss"].isel(layer=0, head=0, drop=True) * np.nan
    ablation["together_loss"].attrs = ablation["loss"].attrs
    ablation.attrs["undefined"] = (
        "in_context_score: NaN, because its sequences have 50 tokens; together_loss: NaN, because "
        "`some_heads` is not given"
    )
    scores = fake.head_scores()
    scores["first_token"][:] = 0.25
    uri = stores.stored(str(tmp_path / "run.zarr"), head_scores=scores, head_ablation=ablation)
    site = write_report([uri], tmp_path / "site").parent
    text = pages.read(site / "run" / "overview.html").text
    assert text.partition("Left out: ")[2].startswith(
        "in-context score of head ablation (its sequences have 50 tokens); first token of head "
        "scores (constant); together loss of head ablation (some heads is not given)."
    )


def test_hostile_texts_are_escaped_everywhere(tmp_path):
    norms = fake.weight_norm(parameters=[EVIL, "plain", "other"])
    norms.attrs["definition"] = f"A measure {EVIL}"
    norms["sum_of_squares"].attrs["definition"] = EVIL
    scores = fake.head_scores(parameters={"given": EVIL})
    uri = stores.stored(str(tmp_path / "run.zarr"), weight_norm=norms, head_scores=scores)
    site = write_report([uri], tmp_path / "site").parent
    check_links(site)
    for path in site.rglob("*.html"):
        text = path.read_text()
        assert "<script>alert" not in text and "\x1b" not in text, path
        assert "49" not in re.findall(r"\{\{.*?\}\}|'&(\d+)", text), path
        assert len(re.findall(r"<script", text)) == len(re.findall(r"</script>", text)), path
    method = pages.read(site / "run" / "method.html")
    assert "<script>alert(1)</script>" in method.text and "{{ 7*7 }}" in method.text


@pytest.mark.parametrize(
    "groups",
    [
        {"token_loss": fake.token_loss().drop_vars("loss")},
        {"head_scores": fake.head_scores()},
        {"modular_addition": fake.modular_addition(fake.STEPS)},
        {"weight_norm": fake.weight_norm()},
    ],
    ids=["no heads", "no losses", "modular addition", "weights only"],
)
def test_runs_that_lack_something_have_a_site_of_what_they_have(tmp_path, groups):
    uri = stores.stored(str(tmp_path / "run.zarr"), **groups)
    site = write_report([uri], tmp_path / "site").parent
    check_links(site)
    made = {path.stem for path in (site / "run").glob("*.html")}
    assert {"overview", "method", "checkpoints"} <= made
    assert ("heads" in made) == ("head_scores" in groups)
    assert ("loss" in made) == ("token_loss" in groups)
    assert ("progress" in made) == ("modular_addition" in groups)


def test_a_run_with_one_checkpoint_has_a_site(tmp_path):
    groups = {"head_scores": fake.head_scores(), "token_loss": fake.token_loss().drop_vars("loss"),
              "composition": stores.composition(), "head_ablation": stores.ablation()}  # fmt: skip
    one = {name: group.isel(step=[0]) for name, group in groups.items()}
    uri = stores.stored(str(tmp_path / "run.zarr"), [0], **one)
    site = write_report([uri], tmp_path / "site").parent
    check_links(site)
    assert (site / "run" / "head-L1H3.html").is_file()


def test_phases_of_grokking_are_bands(tmp_path):
    made = fake.modular_addition()
    uri = stores.stored(str(tmp_path / "run.zarr"), made["step"].values, modular_addition=made)
    site = write_report([uri], tmp_path / "site").parent
    spec = pages.read(site / "run" / "progress.html").specs["progress-strips"]
    assert [band["label"] for band in spec["bands"]] == [
        "memorisation", "circuit formation", "cleanup",
    ]  # fmt: skip
    losses = {one["of"]: pages.numbers(one["values"]) for one, _ in pages.all_series(spec)}
    stored = open_run(uri)["modular_addition"]
    for name, values in losses.items():
        assert np.array_equal(values, stored[name.partition("/")[2]].values)


def test_several_runs_are_side_by_side_with_links_into_each(tmp_path):
    means = fake.token_loss().drop_vars("loss")
    uris = [stores.stored(str(tmp_path / f"seed{i}.zarr"), head_scores=fake.head_scores(seed=i),
                          token_loss=means) for i in range(2)]  # fmt: skip
    site = write_report(uris, tmp_path / "site").parent
    check_links(site)
    page = pages.read(site / "index.html")
    assert {"seed0/overview.html", "seed1/overview.html"} <= set(page.links)
    spec = page.specs["runs-token_loss-mean"]
    assert [axis["name"] for axis in spec["axes"]] == ["steps", "tokens", "onset"]
    for one, uri in zip(spec["series"], uris, strict=True):
        assert np.array_equal(pages.numbers(one["values"]), open_run(uri)["token_loss"]["mean"])
    onsets = [pages.numbers(one) for one in spec["axes"][2]["values"]]
    assert all(0 in one.tolist() for one in onsets)


def test_nothing_is_written_without_a_store(tmp_path):
    with pytest.raises(InputError):
        write_report([str(tmp_path / "missing.zarr")], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_page_of_many_heads_is_small(tmp_path):
    # 600 checkpoints: 5 scores and 2 nulls in float32 are 17 kB, and 4/3 of that in base64.
    steps = np.arange(0, 6000, 10)
    scores = fake.head_scores(steps, layers=3, heads=11)
    uri = stores.stored(str(tmp_path / "run.zarr"), steps, head_scores=scores)
    site = write_report([uri], tmp_path / "site").parent
    assert max(path.stat().st_size for path in (site / "run").glob("head-*.html")) < 90_000
