"""What a page about an adapter is made of: the chain, waivers, the time line, and what is missing."""

import datetime
import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.catalog import STATES, WAIVED, Purge, find_adapter
from sovereign_pipeline.record.manifest import READABLE
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.release.standing import standings_of_adapter
from sovereign_pipeline.web import views
from sovereign_pipeline.web.rendering import HERE, adapter_file, translate
from sovereign_pipeline.web.views import OnRecord, next_step, time_line
from sovereign_pipeline_tests.evidence.conftest import FIRST, SECOND
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.web.conftest import HOSTILE, THIRD, Site, changed

pytestmark = pytest.mark.slow


def test_the_chain_leads_from_the_record_to_the_source_files(site: Site) -> None:
    view = site.view(FIRST)
    nodes = {node.id: node for node in view.nodes}
    reached = {view.nodes[0].id}
    while more := {below for id in reached for below in nodes[id].made_of} - reached:
        reached |= more
    assert reached == set(nodes)
    kinds = [node.name for node in view.nodes]
    assert kinds[0] == "registered_adapter" and kinds[-1] == "letters"
    assert {"evaluation_report", "sft_adapter", "training_dataset", "base_model", "raw_corpus"} <= set(kinds)
    assert [node.level for node in view.nodes if node.name == "letters"] == [None]
    # The line learns no preferences, so nothing but the record has this dataset; what the report was made of is not
    # named twice.
    assert {nodes[id].name for id in view.nodes[0].made_of} == {"evaluation_report", "preference_dataset"}


def test_every_digest_has_a_command_that_prints_what_is_stated(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    view = site.view(FIRST)
    assert [each.what for each in view.digests][:2] == ["weights", "registered_adapter"]
    for each in view.digests[:-1]:
        printed = subprocess.run(each.command.split(), cwd=site.settings.home, capture_output=True, text=True)
        assert printed.stdout.split()[0] == each.prints, each.what
    assert view.digests[-1].what == "letters" and view.digests[-1].command == "sha256sum sources/letters.jsonl"
    assert "raw_corpus" in {each.what for each in view.digests}
    purge = Purge(FIRST, datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC), (), "Frees the disk.", "Ines Farah")
    monkeypatch.setattr(views, "purge_of", lambda *_: purge)
    view = site.view(FIRST)
    assert view.weights_purged == "2026-11-27" and "weights" not in {each.what for each in view.digests}
    assert "Its weights were removed" in {each.what for each in view.time_line}


def test_what_was_waived_is_named_with_person_reason_and_what_it_is_bound_to(site: Site) -> None:
    view = site.view(FIRST)
    gate, recall = view.waived
    assert gate.what == "capability_not_inferior (evaluation_report)" and gate.outcome == "inconclusive"
    assert gate.reason == "The suite is being enlarged." and gate.holds_for.startswith("evaluation_report ")
    assert (recall.what, recall.person, recall.reason) == ("recall-1", "Omar Nasser", "The desk asked for a day.")
    (shown,) = view.not_passed
    assert (shown.gate, shown.waived) == ("capability_not_inferior", gate)
    assert shown.message == "0.61 and 0.58."
    assert view.recalls == () and [each.id for each in site.view(SECOND).recalls] == ["recall-1"]


@pytest.mark.security_case(
    "Another program changes a waiver's text or subject in the ledger",
    "the page shows the waiver as the officer signed it",
)
def test_a_waiver_is_shown_as_it_was_signed(site: Site) -> None:
    before = site.view(FIRST)
    dataset = next(node.sha256 for node in before.nodes if node.name == "training_dataset")
    other = {"reason": "It passed.", "artifact": dataset, "record": "0" * 64, "kind": "override"}
    true = {
        entry.sequence: entry.subjects
        for entry in entries(site.registry)
        if entry.action == WAIVED and entry.subjects["stage"] == "evaluation_report"
    }
    assert true

    def say(subjects: dict[int, dict[str, Any]]) -> None:
        def attack(session: Session) -> None:
            for sequence in subjects:
                session.get_one(AuditEntry, sequence).subjects = subjects[sequence]

        forge(site.registry, attack)

    try:
        say({sequence: {**said, **other} for sequence, said in true.items()})
        after = site.view(FIRST)
    finally:
        say(true)
    assert after.waived == before.waived and after.time_line == before.time_line


@pytest.mark.security_case(
    "A source file's name would run a command in the shell of a reader who pastes the displayed check",
    "the name is quoted",
)
def test_a_command_hashes_one_file_whatever_its_name(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("x;touch owned", "$(touch owned)", "-c"):
        monkeypatch.setattr(views, "_files", lambda *_, path=path: [("letters", path, "0" * 64)])
        program, file = shlex.split(site.view(FIRST).digests[-1].command)
        assert (program, file) == ("sha256sum", path if path != "-c" else "./-c")


def test_the_time_line_tells_who_asked_approved_recalled_and_reviewed(site: Site) -> None:
    view = site.view(FIRST)
    assert [each.at for each in view.time_line] == sorted(each.at for each in view.time_line)
    told = [(each.what, each.about) for each in view.time_line]
    assert [about for what, about in told if what == "Its state changed"] == [
        "in review → approved",
        "approved → staged",
        "staged → production",
    ]
    promoted = [each for each in view.time_line if each.about == "staged → production" and each.approved_by][-1]
    assert promoted.by == "Layla Haddad" and promoted.approved_by == ("Omar Nasser", "Ines Farah")
    for expected in ("A gate was waived", "A recall was waived", "A known issue was added", "It was reviewed and kept"):
        assert expected in {what for what, _ in told}
    assert [each.is_waiver for each in view.time_line].count(True) == 2
    (review,) = view.reviews
    assert review["ballots"] > 0 and review["operators"] > 1
    rejected = [each for each in site.view(SECOND).time_line if each.what == "A change was requested, but not made"]
    assert rejected and "Omar Nasser rejected it" in rejected[0].words


def test_what_superseded_it_is_told_without_the_words_of_a_request_about_another(site: Site) -> None:
    made = {"at": "2026-11-27T05:01:00+00:00", "transition": "supersede", "from": "production", "to": "superseded"}
    asked = {"requested_by": "Layla Haddad", "approved_by": ["Omar Nasser"], "reason": "Its SECRET letters help."}
    nothing: dict[str, Any] = dict.fromkeys(
        ("requests", "recalls", "recall_waivers", "issues", "reviews", "waived", "holds_accepted"), ()
    )
    adapter, trust = find_adapter(site.registry, FIRST), trust_root(site.settings)
    told = time_line(OnRecord(adapter=adapter, trust=trust, history=[{**made, **asked}], purge=None, **nothing))
    (superseded,) = [each for each in told if each.about == "production → superseded"]
    assert (superseded.by, superseded.words) == ("Layla Haddad", "")


def test_what_is_missing_for_the_next_step_is_what_the_transition_is_refused_for(site: Site) -> None:
    assert site.view(FIRST).next_step is None
    staged = site.view(SECOND).next_step
    assert staged is not None and (staged.transition, staged.after) == ("promote", "production")
    missing = [each.what for each in staged.missing]
    assert f"{SECOND} is under recall-1, so 'promote' is not allowed." in missing
    assert missing[-1] == "A request by an officer and 2 approvals by others."
    asked = site.view(THIRD).next_step
    assert asked is not None and asked.transition == "approve"
    assert any(each.what.startswith("2 more approvals of request ") for each in asked.missing)
    due = site.view(THIRD).due
    assert due is not None and due.state == "not due" and site.view(FIRST).due is None
    recipe = site.settings.data / "lines" / "lamps.yaml"
    aside = recipe.rename(recipe.with_suffix(".aside"))
    try:
        without = site.view(SECOND).next_step
    finally:
        aside.rename(recipe)
    assert without is not None and "lamps" in without.missing[0].what


def test_a_request_that_was_overtaken_needs_no_approvals(site: Site) -> None:
    adapter, trust = find_adapter(site.registry, THIRD), trust_root(site.settings)
    with site.registry.reading() as session:
        (asked,) = standings_of_adapter(session, site.settings, trust, THIRD)
    changes: list[dict[str, Any]] = [{"incumbent": "lamps-0.9.0"}, {"evidence": {"gates": 0}}]
    for change in changes:
        overtaken = replace(asked, predicate={**asked.predicate, **change})
        step = next_step(site.registry, adapter, "registered", [overtaken])
        assert step is not None
        told, last = [each.what for each in step.missing][-2:]
        assert "lamps" not in told and last.startswith("A request by an officer and ")


def test_a_file_holds_everything_and_no_text_of_a_document(site: Site) -> None:
    sent = [row for row in site.office.bench.institution.rows if row["id"]]
    texts = {text for row in sent for text in (row["request"], row["response"], row["subject"])}
    for language in ("en", "ar"):
        page = adapter_file(site.view(FIRST), language)
        assert not [text for text in texts if text in page]
        assert HOSTILE not in page and page.count("<script") == 0 and "src=" not in page.replace("img src=x", "")
        assert "&lt;script&gt;" in page
        assert "default-src &#39;none&#39;; style-src &#39;sha256-" in page
        assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page


def test_every_sentence_has_its_arabic() -> None:
    said = {
        sentence
        for path in (HERE / "templates").iterdir()
        for sentence in re.findall(r'say\("([^"]+)"\)', path.read_text(encoding="utf-8"))
    }
    said |= {*STATES, "pass", "fail", "inconclusive", "due", "not due", "overdue"}
    source = (HERE / "views.py").read_text(encoding="utf-8")
    said |= set(re.findall(r'(?<!")"((?:A|An|It|Its) [a-z][^"{.]+)"', source))
    said |= set(re.findall(r'_message\(request, \d+, "([^"]+)"\)', (HERE / "routes.py").read_text(encoding="utf-8")))
    said |= {label for files in READABLE.values() for label in files.values()}
    arabic = json.loads((HERE / "arabic.json").read_text(encoding="utf-8"))
    assert len(said) > 80
    assert sorted(said - set(arabic)) == []
    assert sorted(set(arabic) - said - {"an answer"}) == []
    assert translate("Gates", "ar") == arabic["Gates"]


@pytest.mark.security_case(
    "Someone changes a manifest or an adapter's row that a registry page shows",
    "the page is rejected, and names the changed item",
)
def test_what_was_changed_is_not_shown(site: Site) -> None:
    path = next(
        site.settings.artifacts / node.sha256 / "manifest.json"
        for node in site.view(FIRST).nodes
        if node.name == "training_dataset"
    )
    with (
        changed(path, lambda whole: whole.replace(b'"PUBLIC"', b'"SECRET"', 1)),
        pytest.raises(IntegrityError, match="manifest"),
    ):
        site.view(FIRST)
    with pytest.raises(NotFoundError, match="no registered adapter"):
        site.view("lamps-9.0.0")


def test_the_command_writes_one_file_and_no_other(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in site.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["adapters", "show", FIRST, "--html", str(page), "--arabic"])
    assert done.exit_code == 0, done.output
    assert f"{FIRST}, PUBLIC" in done.output and 'dir="rtl"' in page.read_text(encoding="utf-8")
    again = CliRunner().invoke(app, ["adapters", "show", FIRST, "--html", str(page)])
    assert isinstance(again.exception, InputError) and "the path exists already" in str(again.exception)
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
