"""The index of what adapters hold: filled at registration, asked without a scan, rebuilt from the artifacts."""

import pytest
from sqlalchemy import event, text

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.release.recall import Question, ask, assert_complete, holds
from sovereign_pipeline.release.recall import holders as holders_of
from sovereign_pipeline.release.recall_index import rebuild
from sovereign_pipeline_tests.registry.rewarded import TRAINING, with_reward_model
from sovereign_pipeline_tests.release.holders import Holders, letters

pytestmark = pytest.mark.slow


def held_by(registry: Registry, **asked: str) -> dict[str, bool]:
    with registry.reading() as session:
        found = holders_of(session, Question(**asked))
        for adapter in found:
            assert holds(session, adapter, Question(**asked))
        return found


def test_an_adapter_holds_what_it_was_trained_on_and_not_what_was_held_out(holders: Holders, database: str) -> None:
    holders.registry = holders.bench.open_registry()
    adapter = holders.register()
    registry = holders.registry
    assert held_by(registry, document="R-00011") == {adapter.id: True}
    assert held_by(registry, document="R-00000") == {}  # the first third is held out
    assert held_by(registry, document="R-99999") == {}
    assert held_by(registry, source="letters") == {adapter.id: True}
    assert held_by(registry, document="R-00011", source="letters") == {adapter.id: True}
    assert held_by(registry, document="R-00011", source="pairs") == {}
    assert held_by(registry, dataset=adapter.dataset_digest) == {adapter.id: True}
    assert held_by(registry, base_model=adapter.base_model_digest) == {adapter.id: True}
    with registry.reading() as session:
        for asked in (Question(document="R-00000"), Question(source="pairs"), Question(dataset="0" * 64)):
            assert not holds(session, adapter.id, asked)


def test_pairs_and_labels_are_held_as_letters_are(holders: Holders) -> None:
    holders.bench.with_preferences()
    adapter = holders.register(preference={"method": "dpo"})
    rows = [row["id"] for row in map(dict, holders.bench.institution.rows)]
    pairs = {row for row in rows if held_by(holders.registry, document=f"P-{row}", source="pairs")}
    assert len(pairs) == 12
    assert held_by(holders.registry, dataset=adapter.preference_dataset_digest or "") == {adapter.id: True}


def test_a_pair_that_only_the_reward_model_saw_is_held_by_the_adapter_that_it_rewarded(holders: Holders) -> None:
    with_reward_model(holders.bench)
    adapter = holders.register(**TRAINING)
    manifest = holders.bench.store.read_manifest(holders.bench.store.ref_of(adapter.adapter_digest))
    assert manifest.inputs["reward_model"] == holders.bench.refs["reward_model"].digest
    assert held_by(holders.registry, document="P-R-00011", source="pairs") == {adapter.id: True}
    assert held_by(holders.registry, dataset=adapter.preference_dataset_digest or "") == {adapter.id: True}
    assert [each.adapter for each in ask(holders.registry, Question(document="P-R-00011")).holders] == [adapter.id]


def test_what_a_parent_adapter_was_trained_on_is_held_by_its_children(holders: Holders) -> None:
    first = holders.register()
    child = holders.register("buoys", letters(100, 112), start_from=first.id)
    grandchild = holders.register("ropes", letters(200, 212), start_from=child.id)
    registry = holders.registry
    assert held_by(registry, document="R-00011") == {first.id: True, child.id: False, grandchild.id: False}
    assert held_by(registry, document="R-00111") == {child.id: True, grandchild.id: False}
    assert held_by(registry, document="R-00211") == {grandchild.id: True}
    assert held_by(registry, dataset=first.dataset_digest) == {first.id: True, child.id: False, grandchild.id: False}


def test_what_a_base_model_was_made_of_here_is_held_by_all_that_rests_on_it(holders: Holders) -> None:
    tuned = holders.register(sft={"adapter": "none"})
    holders.base_model_of(tuned, "own")
    resting = holders.register("buoys", letters(100, 112), base_model="own")
    assert resting.base_model_digest != tuned.base_model_digest
    assert held_by(holders.registry, document="R-00011") == {tuned.id: True, resting.id: False}
    assert held_by(holders.registry, base_model=tuned.base_model_digest) == {tuned.id: True, resting.id: False}
    assert held_by(holders.registry, base_model=resting.base_model_digest) == {resting.id: True}


def test_an_index_that_was_changed_is_what_the_artifacts_say_again_and_the_difference_is_told(
    holders: Holders, database: str
) -> None:
    holders.registry = holders.bench.open_registry()
    first = holders.register()
    second = holders.register("buoys", letters(100, 112))
    registry, store = holders.registry, holders.bench.store
    assert rebuild(registry, store, silent).differing == ()
    with registry.engine.begin() as connection:
        connection.execute(text("DELETE FROM dataset_document WHERE dataset = 1"))
        connection.execute(text("INSERT INTO held_dataset (id, digest) VALUES (9, :digest)"), {"digest": "9" * 64})
        connection.execute(text("INSERT INTO document (id, name) VALUES (900, 'R-90000')"))
        connection.execute(text("INSERT INTO dataset_document (document, dataset) VALUES (900, 9)"))
        connection.execute(text("DELETE FROM held_dataset WHERE digest = :id"), {"id": second.dataset_digest})
    with registry.reading() as session, pytest.raises(IntegrityError, match=f"lacks rows: adapter {second.id}"):
        assert_complete(session)
    done = rebuild(registry, store, silent)
    assert (done.adapters, done.datasets, done.documents) == (2, 2, 16)
    expected = {each[:12] for each in (first.dataset_digest, second.dataset_digest, "9" * 64)}
    assert set(done.differing) == {f"dataset {each}" for each in expected}
    assert held_by(registry, document="R-00011") == {first.id: True}
    assert rebuild(registry, store, silent).differing == ()


@pytest.mark.security_case(
    "A row of the recall index is deleted, so that an adapter seems not to hold what is recalled",
    "Nothing is answered until the index is rebuilt",
)
@pytest.mark.parametrize(
    ("deleted", "question"),
    [
        ("dataset_document WHERE document = :number", Question(document="R-00008")),
        ("document WHERE name = 'R-00008'", Question(document="R-00008")),
        ("dataset_source WHERE dataset = 1", Question(source="letters")),
        ("held_dataset WHERE id = 1", Question(source="letters")),
    ],
    ids=["pair", "document", "source", "dataset"],
)
def test_a_row_that_is_gone_is_missed(holders: Holders, deleted: str, question: Question) -> None:
    first = holders.register()
    child = holders.register("buoys", letters(100, 112), start_from=first.id)
    registry = holders.registry
    with registry.engine.begin() as connection:
        number = connection.scalar(text("SELECT id FROM document WHERE name = 'R-00008'"))
        connection.execute(text(f"DELETE FROM {deleted.replace(':number', str(number))}"))
    with pytest.raises(IntegrityError, match="lacks rows"):
        ask(registry, question)
    with registry.reading() as session, pytest.raises(IntegrityError, match="lacks rows"):
        holds(session, child.id, question)
    rebuild(registry, holders.bench.store, silent)
    assert held_by(registry, document="R-00008") == {first.id: True, child.id: False}
    assert rebuild(registry, holders.bench.store, silent).differing == ()


@pytest.mark.security_case(
    "Whoever may update the recall index renames a document, or moves it to another dataset, and counts stay right",
    "Nothing is answered: the entries of registrations state what is in each dataset",
)
@pytest.mark.parametrize(
    "changes",
    [
        ["UPDATE document SET name = 'R-77777' WHERE name = 'R-00008'"],
        ["UPDATE dataset_source SET source = 'notes' WHERE dataset = 1"],
    ],
    ids=["document", "source"],
)
def test_a_row_that_was_changed_is_missed_although_the_counts_are_right(holders: Holders, changes: list[str]) -> None:
    first = holders.register()
    child = holders.register("buoys", letters(100, 112), start_from=first.id)
    with holders.registry.engine.begin() as connection:
        for change in changes:
            connection.execute(text(change))
    question = Question(document="R-00008")
    with pytest.raises(IntegrityError):
        ask(holders.registry, question)
    with holders.registry.reading() as session, pytest.raises(IntegrityError):
        holds(session, child.id, question)
    rebuild(holders.registry, holders.bench.store, silent)
    assert held_by(holders.registry, document="R-00008") == {first.id: True, child.id: False}


def test_a_registry_without_an_index_gets_one_from_its_artifacts(holders: Holders) -> None:
    adapter = holders.bench.register()  # as earlier releases did
    registry = holders.registry
    with registry.reading() as session, pytest.raises(IntegrityError, match="lacks rows: adapter lamps-1"):
        assert_complete(session)
    assert len(rebuild(registry, holders.bench.store, silent).differing) == 1
    assert held_by(registry, document="R-00011") == {adapter.id: True}


def test_a_dataset_that_was_changed_stops_the_rebuilding(holders: Holders) -> None:
    holders.register()
    file = holders.bench.artifact("training_dataset").file("train.jsonl")
    file.write_bytes(file.read_bytes().replace(b"R-00011", b"R-99911"))
    with pytest.raises(IntegrityError, match=r"train\.jsonl"):
        rebuild(holders.registry, holders.bench.store, silent)
    assert held_by(holders.registry, document="R-00011")


def test_what_the_ledger_tells_alone_needs_no_index(holders: Holders) -> None:
    adapter = holders.bench.register()
    for question in (Question(dataset=adapter.dataset_digest), Question(base_model=adapter.base_model_digest)):
        assert [each.adapter for each in ask(holders.registry, question).holders] == [adapter.id]


def test_no_question_scans_a_large_table(holders: Holders) -> None:
    holders.register()
    asked: list[str] = []
    engine = holders.registry.engine
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    for question in (Question(document="R-00011"), Question(source="letters"), Question("R-00011", "letters")):
        with holders.registry.reading() as session:
            assert holders_of(session, question)
    large = ("document", "dataset_document", "dataset_source")
    plans = [each for each in asked if each.startswith("SELECT") and any(name in each for name in large)]
    assert plans
    with engine.connect() as connection:
        for each in plans:
            values = ("x",) * each.count("?")
            steps = [str(row[-1]) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {each}", values)]
            assert not [step for step in steps if step.startswith("SCAN") and step.split()[1] in large], steps
