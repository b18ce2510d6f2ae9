"""An adapter that an officer let pass: its acceptance is carried into record and registry, shown, and verified."""

import json
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import GateRefused, InputError, IntegrityError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.dagster import chain as chain_of_the_pipeline
from sovereign_pipeline.record.catalog import show_adapter, waivers_of_line
from sovereign_pipeline.record.stage import Gate, Inputs, Outcome, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.registry.record import disagreements, read_record
from sovereign_pipeline.registry.verification import verify_adapter
from sovereign_pipeline_tests.officers import PERSON, officer, waive
from sovereign_pipeline_tests.registry.bench import EVALUATION_REPORT, Bench, chain_with

GATE = "capability_not_inferior"
HEADINGS = ["stage", "gate", "outcome", "message", "waiver"]


class Demanding(Bench):
    """The chain with a gate of the report that gives `outcome`, under the recipe's section `gates.capability`."""

    def demand(self, outcome: Outcome) -> None:
        def evaluate(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
            return Verdict(outcome == "pass", "0.61 and 0.58.", {"rows": 48}, inconclusive=outcome == "inconclusive")

        gate = Gate(
            GATE,
            "Is it as able as its base?",
            outcome,
            evaluate,
            config=lambda line: {"margin": line.gates.capability.margin},
            officer_may=lambda line: line.gates.capability.officer_may,
        )
        self.report = replace(EVALUATION_REPORT, gates=(gate,))
        self.chain = chain_with(self.report)

    def may(self, officer_may: str) -> None:
        self.recipe["gates"] = {"capability": {"officer_may": officer_may}}

    def waive(self, reason: str = "The suite is being enlarged.") -> None:
        workplace = self.workplace()
        waive(self.report, self.report.gates[0], workplace, self.refs["evaluation_report"], reason)

    @property
    def key(self) -> str:
        """The file of an officer's key."""
        officer(self.settings)
        return str(self.settings.keys / "officer-1.key")


@pytest.fixture
def demanding(bench: Bench) -> Demanding:
    demanding = Demanding(bench.institution)
    demanding.demand("inconclusive")
    return demanding


def accepted(demanding: Demanding) -> Any:
    demanding.may("accept_inconclusive")
    demanding.run(until=demanding.report)
    demanding.waive()
    return demanding.register()


def test_the_acceptance_is_in_the_record_and_in_the_registry_with_name_and_reason(demanding: Demanding) -> None:
    adapter = accepted(demanding)
    record = read_record(demanding.artifact("registered_adapter"))
    (facts,) = [each for each in record.gates if each.gate == GATE]
    assert facts.outcome == "inconclusive"
    assert facts.waiver is not None
    assert (facts.waiver.kind, facts.waiver.officer) == ("accept", officer(demanding.settings).keyid)
    registry = demanding.open_registry()
    (shown,) = show_adapter(registry, adapter.id)["waivers"]
    assert (shown["gate"], shown["outcome"], shown["reason"]) == (GATE, "inconclusive", "The suite is being enlarged.")
    assert shown["digest"] == facts.waiver.digest
    assert waivers_of_line(registry, "lamps") == [{"adapter": adapter.id, **shown}]
    assert waivers_of_line(registry, "lanterns") == []


def test_verification_reads_the_acceptance_and_names_it_when_a_byte_changed(demanding: Demanding) -> None:
    adapter = accepted(demanding)
    registry, store, settings = demanding.open_registry(), demanding.store, demanding.settings
    report = verify_adapter(registry, store, settings, adapter.id)
    (checked,) = [each for each in report.checked if each.what == "gate_waiver"]
    path = store.path_of(checked.digest) / "waiver.json"
    path.write_text(path.read_text().replace("enlarged", "reduced"))
    with pytest.raises(IntegrityError, match="waiver"):
        verify_adapter(registry, store, settings, adapter.id)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"waiver": None}, "and no officer waived it"),
        ({"outcome": "pass"}, "is 'inconclusive'"),
        ({"outcome": "fail"}, "is 'inconclusive'"),
    ],
)
def test_a_record_that_hides_the_acceptance_is_contradicted(
    change: dict[str, Any], problem: str, demanding: Demanding
) -> None:
    accepted(demanding)
    artifact = demanding.artifact("registered_adapter")
    record = read_record(artifact)
    gates = tuple(each.model_copy(update=change if each.gate == GATE else {}) for each in record.gates)
    (found,) = disagreements(demanding.store, record.model_copy(update={"gates": gates}), artifact.manifest)
    assert problem in found


def test_a_record_that_names_another_officer_or_a_recipe_that_allowed_none_is_contradicted(
    demanding: Demanding,
) -> None:
    accepted(demanding)
    artifact = demanding.artifact("registered_adapter")
    record = read_record(artifact)
    (facts,) = [each for each in record.gates if each.gate == GATE]
    assert facts.waiver is not None
    other = facts.model_copy(update={"waiver": facts.waiver.model_copy(update={"officer": "B. Officer"})})
    (found,) = disagreements(demanding.store, record.model_copy(update={"gates": (other,)}), artifact.manifest)
    assert "is not the one in the record" in found
    strict = Demanding(demanding.institution)
    strict.demand("inconclusive")
    strict.may("nothing")
    strict.run(until=strict.report)
    records = [ref for ref in _gate_records(strict, strict.refs["evaluation_report"].digest) if ref != facts.record]
    borrowed = facts.model_copy(update={"record": records[0]})
    (found,) = disagreements(demanding.store, record.model_copy(update={"gates": (borrowed,)}), artifact.manifest)
    assert "lets no officer waive" in found


def _gate_records(bench: Bench, judged: str) -> list[str]:
    manifests = [path.parent.name for path in bench.store.root.glob("*/verdict.json")]
    return [
        digest
        for digest in manifests
        if judged in bench.store.read_manifest(bench.store.ref_of(digest)).inputs.values()
    ]


@pytest.fixture
def ask(demanding: Demanding, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SOVEREIGN_HOME", str(demanding.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(demanding.settings.data))
    monkeypatch.setattr(chain_of_the_pipeline, "CHAIN", demanding.chain)
    return lambda *arguments: CliRunner().invoke(app, ["gates", *arguments])


def test_an_officer_accepts_on_the_command_line_and_sees_it_listed(demanding: Demanding, ask: Any) -> None:
    demanding.may("accept_inconclusive")
    demanding.run(until=demanding.report)
    before = {row["gate"]: row for row in json.loads(ask("list", "lamps", "--json").stdout)}
    assert (before[GATE]["outcome"], before[GATE]["waiver"]) == ("inconclusive", None)
    assert before[GATE]["officer_may"] == "accept_inconclusive"
    assert {row["outcome"] for name, row in before.items() if name != GATE} == {"pass"}
    said = ask("waive", "lamps", GATE, "--key", demanding.key, "--reason", "Enlarged next week.")
    assert said.exit_code == 0 and f"waived by {PERSON} (accept)" in said.stdout
    assert said.stdout.index("0.61 and 0.58.") < said.stdout.index(f"Signing as {PERSON}")
    (row,) = [row for row in json.loads(ask("list", "lamps", "--json").stdout) if row["gate"] == GATE]
    assert row["waiver"]["officer"] == officer(demanding.settings).keyid
    assert row["waiver"]["person"] == PERSON
    assert row["waiver"]["at"].endswith("+00:00")
    listed = ask("list", "lamps").stdout
    assert [name.strip() for name in listed.splitlines()[2].split("┃")[1:-1]] == HEADINGS
    assert "? inconclusive" in listed and "✓ pass" in listed
    assert f"waived by {PERSON}" in listed and "(accept, " in listed and "Enlarged next week." in listed
    assert demanding.register().id == "lamps-1.0.0"


def test_exit_status_is_1_where_the_recipe_says_no_and_2_for_a_mistake(demanding: Demanding, ask: Any) -> None:
    demanding.may("nothing")
    demanding.run(until=demanding.report)
    name = ("--key", demanding.key, "--reason", "Because.")
    refused = ask("waive", "lamps", GATE, *name)
    assert isinstance(refused.exception, GateRefused) and refused.exception.exit_status == 1
    unknown = ask("waive", "lamps", "capability_not_inferor", *name)
    assert isinstance(unknown.exception, InputError) and f"did you mean '{GATE}'?" in str(unknown.exception)
    shared = ask("waive", "lamps", "not_empty", *name)
    assert "several gates have the name 'not_empty'" in str(shared.exception)
    assert "training_dataset.not_empty" in str(shared.exception)
    passed = ask("waive", "lamps", "training_dataset.not_empty", *name)
    assert isinstance(passed.exception, InputError) and "nothing to waive" in str(passed.exception)
    assert ask("waive", "lamps", GATE, "--key", demanding.key).exit_code == 2
