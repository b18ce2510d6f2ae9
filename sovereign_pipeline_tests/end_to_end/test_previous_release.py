"""An installation that release 0.1.0 made: the present code verifies it, finds its records, and makes nothing again but
what was raised on purpose."""

import json
import tarfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.artifacts import making
from sovereign_pipeline.artifacts.confined import left_in_home
from sovereign_pipeline.artifacts.gate_records import waiver_in
from sovereign_pipeline.artifacts.gate_status import gate_statuses
from sovereign_pipeline.artifacts.gates import evaluate_gates
from sovereign_pipeline.artifacts.manifest import MANIFEST_FILE, ArtifactRef, Manifest
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Config, Stage
from sovereign_pipeline.artifacts.staleness import explain, stale_kinds
from sovereign_pipeline.cli import app
from sovereign_pipeline.evaluation.report.gates import CRITERIA
from sovereign_pipeline.ledger.catalog import list_adapters, list_datasets
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.ledger.signed_artifacts.sealing import open_store
from sovereign_pipeline.ledger.signed_artifacts.taken_over import list_file
from sovereign_pipeline.orchestration.chain import CHAIN, chain_with
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.registry.building import registered_adapter_stage
from sovereign_pipeline.registry.record import RECORD_FILE, read_record
from sovereign_pipeline.registry.registration import register
from sovereign_pipeline.registry.verification import verify_adapter, verify_dataset
from sovereign_pipeline.workplace import move_unscrubbed_text, open_workplace
from sovereign_pipeline_tests.end_to_end.conftest import Installation
from sovereign_pipeline_tests.trusted import trust_demonstration

HOME = Path(__file__).parent / "previous_release" / "home.tar.xz"
LINE = "harbour"
ADAPTERS = ["harbour-1.0.0", "harbour-1.0.1"]

RAISED = {
    # Columns are found in any letter case and searched for personal data; a row without the others' level is broken.
    "raw_corpus": "2",
    "classified_corpus": "2",  # spellings of one case file inherit one level
    # Spellings of a case share their placeholders; findings.json states the mapping's digest; more spellings are found.
    "scrubbed_corpus": "3",
    "leakage_safe_split": "2",  # spellings of one case file or author, and contained texts, stay together
    # The card finds more (ellipses, notes that a reply goes on) and names the rows that the recipe excludes.
    "training_dataset": "3",
    "preference_dataset": "3",  # the same, contradicting preferences, and near-empty rejected replies
    "sft_adapter": "3",  # packs are about equally full
    "capability_scores": "5",  # prompts are read as trees, and answered together by their tokens
    "private_scores": "5",  # intervals are over case files in one spelling
    "red_team_report": "5",  # the judge of refusals is fitted on what answers deliver; labels have a style
    "evaluation_report": "5",  # the judges' table is by style too
}
"""Stages whose code version was raised since, with their version in 0.1.0, and why."""
RAISED_GATES = {
    "rows_accounted_for": "2",  # compares each document with its row
    "classification_inherited": "1",  # one level for all spellings of a case file
    "no_identifier_left": "2",  # reads more spellings
    "no_crossing_groups": "2",  # spellings of one case file or author; contained texts
    "digests_verified": "3",  # compares with the card, which finds more
    **dict.fromkeys((criterion.name for criterion in CRITERIA), "4"),  # intervals over case files in one spelling
    "not_contaminated": "1",  # compares with the line's own held-out documents too
}
"""The same for gates."""
ADDED_GATES = ("links_name_rows", "columns_kept", "sample_judged")
"""Gates that 0.1.0 did not have."""
ADDED_STAGES = ("reward_model",)
"""Stages that 0.1.0 did not have."""


Policy = Callable[[Institution, Line], Config]

ADDED_LIBRARIES = ("detect-secrets", "presidio-analyzer")
"""Libraries with which 0.1.0 made nothing."""


def _raw_config_as_released(line: Line) -> Config:
    """Without what becomes of personal data in columns, which 0.1.0 did not look into."""
    return {name: part for name, part in CHAIN[0].config(line).items() if name != "columns"}


PRECISION_ADDED = ("capability_scores", "private_scores", "red_team_report")
"""Stages whose precision 0.1.0 left to the device: float32 on every processor."""


def _without_precision(config: Callable[[Line], Config]) -> Callable[[Line], Config]:
    return lambda line: {name: part for name, part in config(line).items() if name != "precision"}


ADDED_KINDS = ("CREDENTIAL", "COORDINATES")
"""Kinds of personal data that 0.1.0 did not know."""


def _policy_as_released(policy: Policy) -> Policy:
    def without_added_kinds(institution: Institution, line: Line) -> Config:
        known = policy(institution, line)
        return {
            name: {kind: each for kind, each in part.items() if kind not in ADDED_KINDS}
            if name == "sensitive"
            else part
            for name, part in known.items()
        }

    return without_added_kinds


def _no_policy(institution: Institution, line: Line) -> Config:
    return {}


def chain_of_the_release() -> tuple[Stage, ...]:
    """The present chain under the code versions of 0.1.0: everything else of every identity is the present code's."""

    def as_released(stage: Stage) -> Stage:
        gates = tuple(
            replace(
                gate,
                code_version=RAISED_GATES.get(gate.name, gate.code_version),
                policy=_policy_as_released(gate.policy),
            )
            for gate in stage.gates
            if gate.name not in ADDED_GATES
        )
        libraries = tuple(name for name in stage.libraries if name not in ADDED_LIBRARIES)
        version = RAISED.get(stage.kind, stage.code_version)
        policy = _policy_as_released(stage.policy)
        config = _without_precision(stage.config) if stage.kind in PRECISION_ADDED else stage.config
        stage = replace(stage, code_version=version, gates=gates, libraries=libraries, policy=policy, config=config)
        return (
            replace(stage, config=_raw_config_as_released, policy=_no_policy) if stage.kind == "raw_corpus" else stage
        )

    released = {stage.kind: as_released(stage) for stage in CHAIN[:-1]}
    chain = {stage.kind: stage for stage in chain_with(released)}
    record = as_released(registered_adapter_stage(tuple(chain[each.kind] for each in CHAIN[-1].inputs)))
    whole = chain_with({**released, record.kind: record})[: len(CHAIN)]
    return tuple(stage for stage in whole if stage.kind not in ADDED_STAGES)


def with_all_below(kinds: Collection[str]) -> list[str]:
    """These stages and everything that is made from them, in the order of the chain."""
    found = set(kinds)
    for stage in CHAIN:
        if any(each.kind in found for each in stage.inputs):
            found.add(stage.kind)
    return [stage.kind for stage in CHAIN if stage.kind in found]


@pytest.fixture
def previous(tmp_path: Path) -> Installation:
    with tarfile.open(HOME) as packed:
        packed.extractall(tmp_path, filter="data")
    installation = Installation(tmp_path)
    trust_demonstration(installation.settings)
    return installation


@pytest.fixture
def same_libraries(previous: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the installed libraries have the versions with which the installation was made."""
    recorded = {
        name: version
        for manifest in previous.store.root.glob(f"*/{MANIFEST_FILE}")
        for name, version in Manifest.from_file(manifest).producer.libraries.items()
    } | dict.fromkeys(ADDED_LIBRARIES, "1")
    monkeypatch.setattr(making, "library_versions", lambda names: {name: recorded[name] for name in sorted(names)})


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_verifies(previous: Installation, adapter: str) -> None:
    report = verify_adapter(open_registry(previous.settings), previous.store, previous.settings, adapter)
    assert {each.what for each in report.checked} >= {"gate_record", "base_model_files", "source_file", "suite_file"}
    assert report.notes == ()
    of_no_artifact = {"base_model_files", "source_file", "suite_file"}
    assert all(each.unsigned for each in report.checked if each.what not in of_no_artifact) and report.unsigned > 20


def test_what_was_made_before_signatures_is_listed_once_and_stated(
    previous: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in previous.settings.to_environment().items():
        monkeypatch.setenv(variable, value)
    shown = CliRunner().invoke(app, ["adapters", "verify", ADAPTERS[0]])
    assert shown.exit_code == 0, shown.output
    assert "artifacts are unsigned: made before signatures" in shown.stdout and "demonstration keys" in shown.stdout
    rows = [json.loads(line) for line in list_file(previous.settings).read_text().splitlines()]
    assert len(rows) == len(list(previous.store.root.glob(f"*/{MANIFEST_FILE}")))
    gates = json.loads(CliRunner().invoke(app, ["gates", "list", LINE, "--json"]).stdout)
    assert {each["signed"] for each in gates} <= {False, None}


@pytest.mark.parametrize("name", ["suites/suite.jsonl", "red_team/prompts.jsonl"])
def test_a_suite_that_grew_is_a_note(previous: Installation, name: str) -> None:
    path = previous.settings.data / name
    path.write_text(path.read_text() + "\n")
    registry = open_registry(previous.settings)
    (note,) = verify_adapter(registry, previous.store, previous.settings, ADAPTERS[0]).notes
    assert str(path) in note


def test_a_row_that_was_withdrawn_since_is_named(previous: Installation) -> None:
    path = previous.settings.data / "sources/letters.jsonl"
    withdrawn, *kept = path.read_text().splitlines(keepends=True)
    path.write_text("".join(kept))
    report = verify_adapter(open_registry(previous.settings), previous.store, previous.settings, ADAPTERS[0])
    (changed,) = report.changed_sources
    assert changed.rows is not None
    assert changed.rows.withdrawn == (json.loads(withdrawn)["id"],)
    assert (changed.rows.reclassified, changed.rows.reworded, changed.rows.added) == ((), (), 0)


def test_unscrubbed_text_in_the_home_is_read_there_until_a_run_moves_it(previous: Installation) -> None:
    registry, settings = open_registry(previous.settings), previous.settings
    before = verify_adapter(registry, previous.store, settings, ADAPTERS[0])
    told: list[str] = []
    move_unscrubbed_text(settings, told.append)
    assert sum("moved the documents of" in each for each in told) == len(told) >= 2
    after = verify_adapter(registry, previous.store, settings, ADAPTERS[0])
    assert before.outcomes == after.outcomes == ("verified",)
    assert (before.files, before.bytes) == (after.files, after.bytes)
    assert list(left_in_home(settings.artifacts)) == []
    withheld = verify_adapter(registry, open_store(settings), settings, ADAPTERS[0])
    assert withheld.outcomes == ("verified", "corpus withheld")
    assert withheld.files + sum(each.files for each in withheld.withheld) == after.files


def test_the_registry_is_read_and_every_dataset_verifies(previous: Installation) -> None:
    registry = open_registry(previous.settings)
    assert [row["id"] for row in list_adapters(registry, LINE)] == ADAPTERS
    for row in list_datasets(registry, LINE):
        verify_dataset(registry, previous.store, previous.settings, row["digest"])


@pytest.mark.usefixtures("same_libraries")
def test_exactly_what_was_raised_on_purpose_is_stale(previous: Installation) -> None:
    workplace = open_workplace(previous.settings, LINE)
    assert stale_kinds(chain_of_the_release(), workplace) == []
    raised = {
        stage.kind
        for stage in CHAIN
        if stage.kind in (*RAISED, *ADDED_STAGES) or {g.name for g in stage.gates} & RAISED_GATES.keys()
    }
    assert stale_kinds(CHAIN, workplace) == with_all_below(raised)


def test_nothing_else_but_the_versions_of_libraries_makes_a_stage_stale(previous: Installation) -> None:
    explanations = explain(chain_of_the_release(), open_workplace(previous.settings, LINE))
    assert [each.kind for each in explanations] == [stage.kind for stage in CHAIN if stage.kind not in ADDED_STAGES]
    reasons = [reason for each in explanations for reason in each.reasons if reason.cause != "upstream stale"]
    assert {reason.cause for reason in reasons} <= {"identity changed"}
    assert {change.field for reason in reasons for change in reason.changes} <= {"library"}


@pytest.mark.usefixtures("same_libraries")
def test_every_stage_reuses_its_artifact_and_every_gate_its_record(previous: Installation) -> None:
    workplace = open_workplace(previous.settings, LINE)
    before = sorted(workplace.store.root.iterdir())
    current: dict[str, ArtifactRef] = {}
    chain = chain_of_the_release()
    for stage in chain:
        production = produce(stage, workplace, {each.kind: current[each.kind] for each in stage.inputs})
        assert production.reused
        assert production.ref == workplace.store.current(LINE, stage.kind)
        current[stage.kind] = production.ref
        if stage.passthrough_of(workplace.line) is None:
            assert evaluate_gates(stage, workplace, production.ref).keys() == {gate.name for gate in stage.gates}
    registry = open_registry(previous.settings)
    assert register(registry, workplace, current[chain[-1].kind], chain[-1]).id == ADAPTERS[-1]
    assert sorted(workplace.store.root.iterdir()) == before


def test_the_record_of_every_gate_and_the_waiver_are_found(previous: Installation) -> None:
    workplace = open_workplace(previous.settings, LINE)
    statuses = list(gate_statuses(chain_of_the_release(), workplace))
    recorded = {each.gate.name: each.recorded for each in statuses if each.recorded is not None}
    assert recorded.keys() == {each.gate.name for each in statuses}
    (waived,) = [each for each in recorded.values() if not each.verdict.passed]
    assert waived.waiver is not None
    assert waiver_in(workplace, waived.waiver).officer == "A. Officer"


@pytest.mark.parametrize("adapter", range(len(ADAPTERS)))
def test_a_record_is_written_as_it_was(previous: Installation, adapter: int) -> None:
    row = list_adapters(open_registry(previous.settings), LINE)[adapter]
    artifact = previous.store.open(previous.store.ref_of(row["record_digest"]))
    record = read_record(artifact)
    assert record.to_json() == artifact.file(RECORD_FILE).read_bytes()
