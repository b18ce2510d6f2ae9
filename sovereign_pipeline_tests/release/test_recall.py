"""Recalls: asked, opened, waived, in force until each adapter is retired or waived; on record in the ledger."""

from typing import Any

import pytest
from sqlalchemy import text

from sovereign_pipeline.base.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    RecipeError,
    SovereignError,
)
from sovereign_pipeline.cli.doctor import examine
from sovereign_pipeline.privacy.detection import SECRET_FILE
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.audit_log import REGISTERED, SEALED, Parsed
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.in_force import POLICY_CHANGED, TRUST_NAMED
from sovereign_pipeline.record.keys import write_key
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline.release.recall import (
    OPENED,
    WAIVED,
    Question,
    open_recall,
    open_recalls,
    recalls_in_force,
    waive_recall,
)
from sovereign_pipeline.release.recall import ask as ask_for
from sovereign_pipeline_tests.officers import officer, recall
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.release.conftest import TO_PRODUCTION, Office
from sovereign_pipeline_tests.release.holders import CHANGES_OF_CONTENTS, Ask, Holders, change_contents, letters

pytestmark = pytest.mark.slow

REASON = ("--reason", "The letter was withdrawn.")


def key(holders: Holders) -> tuple[str, str]:
    """The option for an officer's key."""
    officer(holders.bench.settings)
    return "--key", str(holders.bench.settings.keys / "officer-1.key")


def in_force(holders: Holders) -> dict[str, list[str]]:
    with holders.registry.reading() as session:
        found = {
            name: [each.id for each in held]
            for name, held in recalls_in_force(session, holders.registry.settings).items()
        }
        for name in found:
            assert [each.id for each in open_recalls(session, holders.registry.settings, name)] == found[name]
    return found


NOT_DECIDED = {REGISTERED, SEALED, POLICY_CHANGED, TRUST_NAMED}


def decided(registry: Registry) -> list[Parsed]:
    """The entries of the ledger but those of registrations, artifacts, rules and the trust root."""
    return [each for each in audit_log.entries(registry) if each.action not in NOT_DECIDED]


def test_asking_changes_nothing_and_opening_names_every_adapter(holders: Holders) -> None:
    first = holders.register()
    child = holders.register("buoys", letters(100, 112), start_from=first.id)
    other = holders.register("ropes", letters(200, 212))
    answer = ask_for(holders.registry, Question(document=" R-00011 "))
    assert [(each.adapter, each.line, each.directly) for each in answer.holders] == [
        (child.id, "buoys", False),
        (first.id, "lamps", True),
    ]
    assert in_force(holders) == {}
    assert decided(holders.registry) == []
    opened = recall(holders.registry, Question(document="R-00011"), reason=" The writer\n withdrew it.")
    keyid = officer(holders.bench.settings).keyid
    assert (opened.id, opened.officer, opened.reason) == ("recall-1", keyid, "The writer withdrew it.")
    assert in_force(holders) == {child.id: ["recall-1"], first.id: ["recall-1"]}
    (entry,) = decided(holders.registry)
    assert (entry.actor, entry.action) == (f"officer:{keyid}", OPENED)
    assert entry.subjects["adapters"] == [child.id, first.id]
    assert entry.subjects["document"] == "R-00011"
    with holders.registry.reading() as session:
        assert open_recalls(session, holders.registry.settings, other.id) == []


def test_an_adapter_that_is_registered_later_is_held_by_the_recall_too(holders: Holders) -> None:
    holders.register()
    recall(holders.registry, Question(document="R-00011"))
    again = holders.register(sft={"learning_rate": 1e-4})
    assert in_force(holders) == {"lamps-1.0.0": ["recall-1"], again.id: ["recall-1"]}
    without = holders.register(rows=letters(0, 11))
    assert without.id not in in_force(holders)


def test_nothing_is_continued_from_an_adapter_under_an_open_recall(holders: Holders) -> None:
    adapter = holders.register()
    recall(holders.registry, Question(base_model=adapter.base_model_digest))
    with pytest.raises(RecipeError):
        holders.register("lanterns", letters(20, 32), start_from=adapter.id)
    waive_recall(holders.registry, "recall-1", adapter.id, officer(holders.bench.settings, 2), "It is looked at.")
    assert holders.register("lanterns", letters(20, 32), start_from=adapter.id)


@pytest.mark.security_case(
    (
        "Someone with write access to the database removes or changes a dataset's contents, so that a "
        "recall misses an adapter"
    ),
    "no recall is answered or decided: the registration has the digest",
)
@pytest.mark.parametrize("change", CHANGES_OF_CONTENTS)
def test_whoever_changes_what_a_dataset_holds_frees_no_adapter_of_a_recall(holders: Holders, change: str) -> None:
    holders.registry = registry = holders.bench.open_registry()
    settings = registry.settings
    first = holders.register()
    recall(registry, Question(document="R-00011"))
    later = holders.register(rows=letters(5, 17))
    change_contents(registry, later, change)
    for act in (
        lambda session: open_recalls(session, settings, later.id),
        lambda session: recalls_in_force(session, settings),
    ):
        with registry.reading() as session, pytest.raises(IntegrityError):
            act(session)
    with registry.reading() as session:
        assert [each.id for each in open_recalls(session, settings, first.id)] == ["recall-1"]
    for asked in (Question(document="R-00012"), Question(source="letters"), Question("R-00012", "letters")):
        with pytest.raises(IntegrityError):
            recall(registry, asked)
    with pytest.raises(IntegrityError):
        verify_registry(open_registry(settings, from_first_entry=True))
    (finding,) = [each for each in examine(settings) if each.what == "recalls"]
    assert not finding.ok


def test_a_waiver_ends_it_for_one_adapter_and_is_on_record(holders: Holders) -> None:
    first = holders.register()
    second = holders.register(sft={"learning_rate": 1e-4})
    registry = holders.registry
    recall(registry, Question(source="letters"))
    second_officer = officer(holders.bench.settings, 2)
    waive_recall(registry, "recall-1", first.id, second_officer, "Serves nobody.")
    assert in_force(holders) == {second.id: ["recall-1"]}
    entry = decided(registry)[-1]
    assert (entry.actor, entry.action) == (f"officer:{second_officer.keyid}", WAIVED)
    said = {"recall": "recall-1", "adapter": first.id, "reason": "Serves nobody."}
    assert said.items() <= entry.subjects.items()
    assert not [each for each in decided(registry) if "Demonstration Officer" in str(audit_log.as_dict(each))]
    refused: list[tuple[str, str, type[SovereignError]]] = [
        ("recall-1", first.id, ConflictError),
        ("recall-9", first.id, NotFoundError),
        ("recall-1", "lamps-9.0.0", InputError),
    ]
    for name, adapter, error in refused:
        with pytest.raises(error):
            waive_recall(registry, name, adapter, second_officer, "Serves nobody.")
    assert len(decided(registry)) == 2


def test_a_recall_forbids_release_until_the_adapter_is_retired(office: Office) -> None:
    first, second = office.adapter(), office.adapter()
    office.move("approve", first)
    asked = office.ask("stage", first)
    recall(office.registry, Question(source="letters"), office.officers["layla"])
    with pytest.raises(ConflictError, match="is under recall-1, so 'stage' is not allowed"):
        office.decide(asked, "omar")
    with pytest.raises(ConflictError, match="is under recall-1, so 'approve' is not allowed"):
        office.ask("approve", second)
    office.move("retire", first)
    with office.registry.reading() as session:
        assert {
            name: [each.id for each in held]
            for name, held in recalls_in_force(session, office.registry.settings).items()
        } == {second.id: ["recall-1"]}
        assert open_recalls(session, office.registry.settings, first.id) == []
    answer = ask_for(office.registry, Question(source="letters"))
    assert {each.adapter: each.state for each in answer.holders} == {first.id: "retired", second.id: "registered"}
    waive_recall(office.registry, "recall-1", second.id, office.officers["omar"], "It holds nothing of it any more.")
    assert office.ask("approve", second).ended is None


@pytest.mark.security_case("Another program inserts or removes a waiver or a recall", "rejected; the row is named")
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO recall_waiver SELECT 'recall-1', id, 'None.', 'Nobody', registered_at, "
        "(SELECT statement FROM recall) FROM adapter",
        "INSERT INTO recall SELECT 'recall-2', NULL, 'letters', NULL, NULL, 'None.', 'Nobody', registered_at, "
        "(SELECT statement FROM recall) FROM adapter",
        "DELETE FROM recall_adapter",
        "UPDATE recall SET source = 'notes'",
    ],
)
def test_a_recall_is_neither_waived_nor_opened_past_this_program(office: Office, statement: str) -> None:
    """By somebody who has the log's key too."""
    adapter = office.adapter()
    recall(office.registry, Question(source="letters"), office.officers["layla"])
    forge(office.registry, lambda session: session.execute(text(statement)))
    with pytest.raises(IntegrityError):
        office.ask("approve", adapter)
    with pytest.raises(IntegrityError), office.registry.reading() as session:
        recalls_in_force(session, office.registry.settings)


def test_nothing_is_recalled_by_mistake(holders: Holders) -> None:
    holders.register()
    refused: list[tuple[Question, type[SovereignError], str]] = [
        (Question(), InputError, "A search names"),
        (Question(document="R-00011", dataset="0" * 64), InputError, "A search names"),
        (Question(document=" "), InputError, "empty"),
        (Question(document="R-00000"), InputError, "No registered adapter was trained on document 'R-00000'"),
        (Question(source="lettres"), NotFoundError, "Known sources: letters"),
        (Question(dataset="000000"), NotFoundError, "Known digests"),
        (Question(dataset=""), InputError, "6 hex digits"),
        (Question(base_model="%%%%%%"), InputError, "6 hex digits"),
    ]
    for question, error, says in refused:
        with pytest.raises(error) as refusal:
            recall(holders.registry, question)
        assert says in f"{refusal.value.message} {refusal.value.hint}"
    assert decided(holders.registry) == []


def test_a_document_is_found_by_any_spelling_of_the_id_in_its_file(holders: Holders) -> None:
    """The datasets have a pseudonym for an id with personal data, which the officer does not know."""
    plain, personal = letters(0, 20), letters(20, 40)
    for number, row in enumerate(personal):
        row["id"] = f"2024-00123{number:02}-77"
    holders.register(rows=[*plain, *personal])

    def found(id: str) -> bool:
        return bool(ask_for(holders.registry, Question(document=id)).holders)

    (trained, *_), (of_person, *_) = ([row["id"] for row in rows if found(row["id"])] for rows in (plain, personal))
    for id in (trained, of_person):
        assert found(id.lower()) and found(id.replace("-", "\N{EN DASH}")) and not found(id.replace("-", "-1"))
    recall(holders.registry, Question(document=of_person))
    assert [held for held in in_force(holders).values()] == [["recall-1"]]
    assert not any(of_person in str(each.subjects) for each in audit_log.entries(holders.registry))
    (holders.bench.settings.vault / SECRET_FILE).unlink()
    assert found(trained)
    with pytest.raises(IntegrityError):
        found(of_person)


def test_a_recall_needs_a_reason_and_the_answer_that_was_shown(holders: Holders) -> None:
    holders.register()
    with pytest.raises(InputError, match="needs a reason or findings"):
        recall(holders.registry, Question(source="letters"), reason=" ")
    shown = ask_for(holders.registry, Question(source="letters"))
    holders.register(sft={"learning_rate": 1e-4})
    with pytest.raises(ConflictError, match="has changed since it was shown"):
        open_recall(holders.registry, shown, officer(holders.bench.settings), "Withdrawn.")
    assert decided(holders.registry) == []


def test_the_command_answers_opens_and_waives_and_doctor_lists_and_shows_tell_it(holders: Holders, ask: Ask) -> None:
    adapter = holders.register()
    digest = adapter.dataset_digest[:8]
    asked: Any = ask.json("recall", "--dataset", digest)
    expected = {"adapter": adapter.id, "line": "lamps", "state": "registered", "directly": True}
    assert asked == {"asked": {"dataset": adapter.dataset_digest}, "recall": None, "adapters": [expected]}
    assert "No registered adapter was trained on document 'R-00000'" in ask("recall", "--document", "R-00000").stdout
    assert isinstance(ask("recall", "--document", "R-00011", "--open").exception, InputError)
    opened = ask("recall", "--document", "R-00011", "--open", *REASON, *key(holders))
    assert opened.exit_code == 0 and "recall-1: open for 1 adapter" in opened.stdout
    (listed,) = ask.json("adapters", "list")
    reason = "The letter was withdrawn."
    assert listed["recalls"] == [{"id": "recall-1", "recalled": "document 'R-00011'", "reason": reason}]
    assert "recall-1" in ask("adapters", "list").stdout
    assert "Recalls that apply to the adapter" in ask("adapters", "show", adapter.id).stdout
    (finding,) = [each for each in examine(holders.bench.settings) if each.what == "recall-1"]
    assert not finding.ok and adapter.id in finding.found
    assert ask.json("recall", "list")[0]["holds_for"] == [adapter.id]
    assert ask("recall", "waive", "recall-1", adapter.id, *REASON, *key(holders)).exit_code == 0
    assert ask.json("recall", "list")[0]["holds_for"] == []
    assert ask.json("adapters", "show", adapter.id)["recalls"] == []
    assert [each.ok for each in examine(holders.bench.settings) if each.what == "recalls"] == [True]


def test_a_recall_says_what_goes_dark_and_asks(office: Office, ask: Ask) -> None:
    adapter = office.adapter(*TO_PRODUCTION)
    key = office.bench.settings.keys / "omar.key"
    write_key(key, office.officers["omar"], None)
    opening = ("recall", "--document", "R-00011", "--open", *REASON, "--key", str(key))
    refused = ask(*opening)
    assert isinstance(refused.exception, InputError)
    assert "answers nobody" in " ".join(refused.output.split()) and adapter.id in refused.output
    with office.registry.reading() as session:
        assert open_recalls(session, office.registry.settings, adapter.id) == []
    opened = ask(*opening, "--yes")
    assert opened.exit_code == 0, opened.output
    assert f"lamps ({adapter.id}, production)" in opened.output
