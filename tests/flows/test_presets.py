"""Presets of public suites, the table of them in the docs, and `ontogeny presets`."""

import json
from pathlib import Path

import pytest

from flows.cli.presets import table
from pipeline.analysis.file_schemas import analysis_schema
from pipeline.checkpoints.hub_address import parse_address
from pipeline.checkpoints.names import parse_name
from pipeline.config import RunLayout, load_analysis, load_preset
from pipeline.config.suites import FOLDER, Suite, suite_of, suites
from pipeline.errors import InputError
from tests.flows.test_cli import ontogeny

ROOT = Path(__file__).resolve().parents[2]
ANALYSED = sorted(name for name, suite in suite_of().items() if not suite.refused)


@pytest.mark.parametrize("preset", ANALYSED)
def test_every_member_of_a_suite_has_an_analysis_of_its_own(preset: str) -> None:
    analysis, suite = load_preset(preset), suite_of()[preset]
    assert load_analysis(preset) == analysis
    assert analysis.store == f"{preset}.zarr" and analysis.measures
    assert analysis.checkpoints == suite.address(preset)
    assert analysis.tokens_per_step == suite.tokens_of(preset)


def test_addresses_are_those_of_different_repositories() -> None:
    addresses = [suite_of()[preset].address(preset) for preset in ANALYSED]
    assert len(set(addresses)) == len(addresses)
    assert all(str(parse_address(one)) == one for one in addresses if "://" in one)


def test_what_was_known_before_is_still_known_by_its_name() -> None:
    assert load_preset("pythia-1.4b").checkpoints == "hf://EleutherAI/pythia-1.4b"
    assert load_preset("pythia-70m").tokens_per_step == 1024 * 2048
    small = load_preset("stanford-gpt2-small")
    assert small.checkpoints == "hf://stanford-crfm/alias-gpt2-small-x21"
    assert small.select and small.select.log_spaced == 200
    assert load_preset("olmo-2-1b").checkpoints == "hf://allenai/OLMo-2-0425-1B@stage1-*"
    assert "composition" not in load_preset("attn-only-1l").measures
    assert "composition" in load_preset("attn-only-2l").measures


def test_a_suite_that_cannot_be_analysed_is_refused_with_the_reason() -> None:
    reasons = {
        "multiberts": "later tokens",
        "crystalcoder": "code of its own",
        "pico-decoder-tiny": "trust_remote_code: true",
    }
    for name, reason in reasons.items():
        with pytest.raises(InputError, match=f"{name}: .*{reason}"):
            load_preset(name)


def test_a_list_of_addresses_is_packaged_with_its_suite() -> None:
    path = Path(load_preset("tinyllama-1.1b").checkpoints)
    rows = json.loads(path.read_text())
    assert path.is_relative_to(FOLDER) and len(rows) == 7
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    for row in rows:  # a batch has 2,097,152 tokens; the names round
        parse_address(row["address"])
        assert row["tokens"] == pytest.approx(row["step"] * 2_097_152, rel=0.01)


@pytest.mark.parametrize(
    ("preset", "branch"),
    [
        ("olmo-1b", "step20000-tokens84B"),
        ("olmo-1b", "step700000-tokens2936B"),
        ("olmo-2-1b", "stage1-step10000-tokens21B"),
        ("olmo-2-1b", "stage1-step1907359-tokens4001B"),
        ("olmo-2-7b", "stage1-step50000-tokens210B"),
        ("olmo-2-7b", "stage1-step928646-tokens3896B"),
        ("olmo-2-13b", "stage1-step102500-tokens860B"),
        ("olmo-2-13b", "stage1-step596057-tokens5001B"),
        ("olmo-2-32b", "stage1-step467000-tokens3918B"),
        ("olmo-2-32b", "stage1-step721901-tokens6056B"),
        ("olmoe-1b-7b", "step5000-tokens21B"),
        ("olmoe-1b-7b", "step1200000-tokens5033B"),
    ],
)
def test_tokens_of_a_step_agree_with_the_names_of_branches(preset: str, branch: str) -> None:
    named, each = parse_name(branch), suite_of()[preset].tokens_of(preset)
    assert named and named.step and named.tokens_seen and each
    # The names give billions, rounded to the nearest or up.
    assert -0.5e9 <= named.tokens_seen - named.step * each < 1e9


def test_where_the_batch_grew_no_number_of_tokens_a_step_is_claimed() -> None:
    for preset in ("bloom-560m", "bloom-7b1", "bloom", "apertus-8b", "olmo-7b-0424"):
        assert suite_of()[preset].tokens_of(preset) is None


def test_members_of_unknown_tokens_a_step_are_not_left_out_of_the_table() -> None:
    (row,) = (line for line in table(suites()).splitlines() if line.startswith("| SmolLM2 "))
    assert "`smollm2-1.7b` 2,097,152, others in the names, or unknown" in row


def test_facts_have_sources_and_faults_have_members() -> None:
    for suite in suites():
        assert any(source.startswith("https://") for source in suite.sources), suite.suite
        assert all(fault.source.startswith("https://") for fault in suite.faults)
        assert not suite.refused or not suite.checkpoints
    with pytest.raises(ValueError, match="which is no member"):
        Suite.model_validate(
            {"suite": "A", "about": "B", "members": {"a": None}, "sources": ["c"], "refused": "d",
             "faults": [{"what": "e", "source": "f", "members": ["g"]}]}
        )  # fmt: skip


def test_the_table_in_the_docs_is_made_from_the_suites() -> None:
    assert table(suites()) in (ROOT / "docs/hub.md").read_text()


def test_presets_are_listed_described_and_written_as_json() -> None:
    listed = ontogeny("presets").stdout
    assert all(suite.suite in listed for suite in suites()) and "induction" in listed
    described = ontogeny("presets", "pythia-12b", "multiberts").stdout
    assert "pythia/issues/206" in described and "pythia/issues/205" not in described
    assert "refused: BERT" in described
    (one,) = json.loads(ontogeny("presets", "pythia-12b", "--json").stdout)
    assert one["checkpoints"] == "hf://EleutherAI/pythia-12b" and len(one["faults"]) == 3
    assert len(json.loads(ontogeny("presets", "--json").stdout)) == len(suite_of())
    assert ontogeny("presets", "--format", "markdown").stdout.strip() == table(suites())


def test_an_unknown_preset_is_refused_in_a_line() -> None:
    for name, advice in (("pythia-71m", "did you mean"), ("xyzzy", "`ontogeny presets` lists")):
        result = ontogeny("presets", name)
        assert result.exit_code == 2 and advice in result.stderr and len(result.stderr) < 200


def test_the_schema_accepts_every_suites_analysis() -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(analysis_schema())
    for preset in ANALYSED:
        assert validator.is_valid(json.loads(json.dumps(suite_of()[preset].content(preset))))


@pytest.mark.parametrize(
    ("name", "step", "tokens"),
    [("step512", 512, None), ("checkpoint-400000", 400_000, None), ("ckpt_000", 0, None),
     ("step1200000-tokens5033B", 1_200_000, 5033 * 10**9), ("stage1-step0", 0, None),
     ("stage1-step928646-tokens3896B", 928_646, 3896 * 10**9), ("global_step1000", 1000, None),
     ("stage1-step-40000", 40_000, None), ("step-125000", 125_000, None),
     ("step-001000-2BT", 1000, 2 * 10**9), ("step2627139-tokens15T", 2_627_139, 15 * 10**12)],
)  # fmt: skip
def test_names_of_the_suites_are_understood(name: str, step: int, tokens: int | None) -> None:
    found = parse_name(name)
    assert found is not None and (found.step, found.tokens_seen) == (step, tokens)


def test_the_advised_pattern_names_the_branches_of_crystalcoder() -> None:
    layout = RunLayout(names="CrystalCoder_phase1_checkpoint_{step}")
    found = parse_name("CrystalCoder_phase1_checkpoint_055500", layout)
    assert found is not None and found.step == 55_500
    assert layout.names and layout.names in suite_of()["crystalcoder"].refused
