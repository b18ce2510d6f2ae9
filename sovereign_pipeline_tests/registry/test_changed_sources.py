"""Rows that are withdrawn, reclassified or reworded in their source after they were read: nothing more is made of them,
nothing is registered, and an adapter that is registered already is reported."""

import copy
import json
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import StaleInput
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.corpus.stages import ChangedRows
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.registration import register
from sovereign_pipeline.registry.verification import VerificationReport, verify_adapter, verify_dataset
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.registry.bench import (
    EVALUATION_REPORT,
    REGISTERED_ADAPTER,
    SFT_ADAPTER,
    TRAINING_DATASET,
    Bench,
)

pytestmark = pytest.mark.slow


def reclassify(bench: Bench) -> None:
    bench.institution.rows[7]["classification"] = "SECRET"


def withdraw(bench: Bench) -> None:
    del bench.institution.rows[7]


def break_one(bench: Bench) -> None:
    bench.institution.rows[7]["classification"] = "UNKNOWN"


def reword(bench: Bench) -> None:
    bench.institution.rows[7]["response"] = "Another reply."


def add(bench: Bench) -> None:
    bench.institution.rows.append(letter(900))


CHANGES = [
    (reclassify, r"1 row reclassified \(R-00007\)"),
    (withdraw, r"1 row withdrawn \(R-00007\)"),
    (break_one, r"1 row withdrawn \(R-00007\)"),
    (reword, r"1 row reworded \(R-00007\)"),
    (add, r"has changed since it was read: 1 row added"),
]


@pytest.mark.security_case(
    "A row is reclassified or withdrawn in its source after the gates passed, and the adapter is registered",
    "registration compares every ancestor with today's files and rejects it, naming the row",
)
@pytest.mark.security_case(
    (
        "A row is reclassified or withdrawn in its source after the gates passed, and only a downstream "
        "asset is materialized"
    ),
    "the asset is rejected, because one of its inputs is stale",
)
def test_registration_and_every_stage_refuse_and_name_the_row(bench: Bench) -> None:
    record, rows = bench.run(), bench.institution.rows
    for change, named in CHANGES:
        bench.institution.rows = copy.deepcopy(rows)
        change(bench)
        with pytest.raises(StaleInput, match=named):
            register(bench.open_registry(), bench.workplace(), record, REGISTERED_ADAPTER)
        for stage in (TRAINING_DATASET, SFT_ADAPTER, EVALUATION_REPORT, REGISTERED_ADAPTER):
            with pytest.raises(StaleInput, match=r"raw_corpus .* is stale.*source:letters"):
                produce(stage, bench.workplace(), {each.kind: bench.refs[each.kind] for each in stage.inputs})
    _nothing_is_registered(bench)


@pytest.mark.security_case(
    (
        "After the gates passed, the recipe or the program changes so that a stage would build another "
        "artifact, and the adapter is registered"
    ),
    "registration compares the whole identity of every ancestor and names the differences",
)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"quarantine": {"max_share": 0.5}}, r"raw_corpus .* is stale\. .*: quarantine\."),
        ({"training": {"sft": {"learning_rate": 1e-5}}}, r"sft_adapter .*recipe learning_rate"),
    ],
)
def test_registration_compares_the_recipe_of_every_ancestor(bench: Bench, change: dict[str, Any], named: str) -> None:
    record = bench.run()
    for section, values in change.items():
        bench.recipe[section] = {**bench.recipe.get(section, {}), **values}
    with pytest.raises(StaleInput, match=named):
        register(bench.open_registry(), bench.workplace(), record, REGISTERED_ADAPTER)
    _nothing_is_registered(bench)


@pytest.mark.security_case(
    "A row of a registered adapter is reclassified or withdrawn in its source.",
    "`adapters verify` reports the row as a separate outcome; with `--strict-sources` it exits with status 1",
)
def test_verification_reports_the_rows_as_an_outcome_of_its_own(bench: Bench) -> None:
    adapter = bench.register()
    assert verify(bench, adapter).outcomes == ("verified",)
    bench.institution.rows[7]["classification"] = "SECRET"
    bench.institution.rows[8]["response"] = "Another reply."
    del bench.institution.rows[9:11]
    bench.institution.rows.append(letter(900))
    bench.institution.write()
    report = verify(bench, adapter)
    assert (report.outcomes, report.notes) == (("verified", "sources changed"), ())
    (changed,) = report.changed_sources
    assert (changed.name, changed.state) == ("letters", "changed")
    assert changed.rows == ChangedRows(("R-00009", "R-00010"), ("R-00007",), ("R-00008",), 1)
    of_dataset = verify_dataset(bench.open_registry(), bench.store, bench.settings, adapter.dataset_digest)
    assert of_dataset.changed_sources == (changed,)
    bench.institution.source.unlink()
    (missing,) = verify(bench, adapter).changed_sources
    assert (missing.state, missing.rows) == ("missing", None)


def test_one_source_of_two_is_compared_alone(bench: Bench) -> None:
    bench.with_preferences()
    adapter = bench.register()
    pairs = bench.settings.data / "sources" / "preferences.jsonl"
    pairs.write_text("".join(pairs.read_text().splitlines(keepends=True)[1:]))
    (changed,) = verify(bench, adapter).changed_sources
    assert changed.name == "pairs"
    assert changed.rows == ChangedRows(("P-R-00000",), (), (), 0)


def test_the_command_line_counts_them_and_ends_as_it_is_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVEREIGN_HOME", str(bench.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(bench.settings.data))
    adapter = bench.register()

    def ask(*arguments: str) -> tuple[int, str]:
        answer = CliRunner().invoke(app, list(arguments))
        return answer.exit_code, answer.stdout

    for subject in (("adapters", "verify", adapter.id), ("datasets", "verify", adapter.dataset_digest)):
        assert ask(*subject, "--strict-sources")[0] == 0
    reclassify(bench)
    bench.institution.write()
    for subject in (("adapters", "verify", adapter.id), ("datasets", "verify", adapter.dataset_digest)):
        status, shown = ask(*subject)
        assert status == 0
        assert "1 row reclassified (R-00007)" in shown
        assert "1 source file is missing or changed" in shown
        assert ask(*subject, "--strict-sources")[0] == 1
        status, shown = ask(*subject, "--json", "--strict-sources")
        assert status == 1
        report = json.loads(shown)
        assert report["outcomes"] == ["verified", "sources changed"]
        assert [each["rows"]["reclassified"] for each in report["changed_sources"]] == [["R-00007"]]


def verify(bench: Bench, adapter: Adapter) -> VerificationReport:
    return verify_adapter(bench.open_registry(), bench.store, bench.settings, adapter.id)


def _nothing_is_registered(bench: Bench) -> None:
    with bench.open_registry().reading() as session:
        assert session.scalars(select(Adapter)).all() == []
