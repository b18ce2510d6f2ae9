"""When the newest adapter of a line is due: by the calendar, by an event, after a review, without its recipe."""

import datetime
from collections.abc import Callable

import pytest
import yaml

from sovereign_pipeline.errors import InputError, NotFoundError
from sovereign_pipeline.ledger import audit_log
from sovereign_pipeline.release.cadence import REVIEWED, Due, due_reviews, record_review
from sovereign_pipeline.release.holdings import Question
from sovereign_pipeline.release.recall import open_recall
from sovereign_pipeline_tests.release.conftest import Ask, Office, letters

pytestmark = pytest.mark.slow

EVENTS = ["base_superseded", "template_changed", "source_withdrawn", "policy_changed"]
NOW = datetime.datetime.now(datetime.UTC)
TODAY = NOW.date()


def due(office: Office, after: int = 0) -> Due:
    """The review of the line lamps, so many days from today."""
    reviews = due_reviews(office.registry, office.bench.settings, TODAY + datetime.timedelta(days=after))
    return next(each for each in reviews if each.line == "lamps")


def rewrite(office: Office, **changes: object) -> None:
    office.bench.recipe.update(changes)
    office.bench.institution.write()


def test_the_recipe_comes_before_the_institution_and_the_newest_adapter_counts(office: Office) -> None:
    first = office.register()
    assert first.review_date == TODAY + datetime.timedelta(days=180)
    assert [due(office, days).state for days in (0, 179, 180, 210, 211)] == [
        *("not due", "not due", "due", "due", "overdue")
    ]
    rewrite(office, review={"every": "30 days"})
    assert due(office).on == TODAY + datetime.timedelta(days=30)
    second = office.register(sft={"learning_rate": 1e-4})
    assert second.review_date == TODAY + datetime.timedelta(days=30)
    rewrite(office, review={"every": "1 year"})
    assert (due(office).adapter, due(office).on) == (second.id, second.review_date)  # not put off
    assert due(office, 30).key == f"lamps:{second.review_date.year}"


def test_a_review_starts_the_time_anew_and_is_on_record(office: Office, ask: Ask, database: str) -> None:
    office.registry = office.bench.open_registry()
    adapter = office.register()
    at = NOW + datetime.timedelta(days=170)
    record_review(office.registry, adapter.id, "Read ten answers; it stays.", "A. Officer", at)
    assert due(office, 349).state == "not due"
    assert due(office, 350).state == "due"
    entry = audit_log.entries(office.registry)[-1]
    assert (entry.actor, entry.action, entry.subjects["adapter"]) == ("A. Officer", REVIEWED, adapter.id)
    assert ask("adapters", "reviewed", adapter.id, "--text", "Stays.", "--officer", "B").exit_code == 0
    for name, text, error in (("lamps-9.0.0", "Stays.", NotFoundError), (adapter.id, " ", InputError)):
        with pytest.raises(error):
            record_review(office.registry, name, text, "A. Officer", at)


def test_a_line_without_a_recipe_keeps_its_day(office: Office) -> None:
    adapter = office.register()
    office.register("buoys", letters(100, 112))
    recipe = office.bench.settings.data / "lines" / "lamps.yaml"
    for break_it in (lambda: recipe.write_text("line: lamps\nlime: 3\n"), recipe.unlink):
        break_it()
        found = due(office, 180)
        assert (found.on, found.state, found.has_recipe, found.retrain) == (adapter.review_date, "due", False, False)
    assert len(due_reviews(office.registry, office.bench.settings, TODAY)) == 2


def supersede(office: Office) -> None:
    card = office.bench.settings.data / "models" / "tiny.yaml"
    content = yaml.safe_load(card.read_text())
    content["files"]["model.safetensors"] = "0" * 64
    card.write_text(yaml.safe_dump(content))


def change_template(office: Office) -> None:
    card = office.bench.settings.data / "models" / "tiny.yaml"
    content = yaml.safe_load(card.read_text())
    content["files"]["chat_template.jinja"] = "0" * 64
    card.write_text(yaml.safe_dump(content))


def remove_file(office: Office) -> None:
    office.bench.institution.source.unlink()


def rename_source(office: Office) -> None:
    recipe = office.bench.settings.data / "lines" / "lamps.yaml"
    recipe.write_text(recipe.read_text().replace("name: letters", "name: new-letters"))


def recall_document(office: Office) -> None:
    open_recall(office.registry, Question(document="R-00011"), "A. Officer", "Withdrawn.")


def change_ladder(office: Office) -> None:
    path = office.bench.settings.data / "institution.yaml"
    path.write_text(path.read_text().replace("- SECRET", "- SECRET\n- TOP SECRET"))


@pytest.mark.parametrize(
    ("change", "event", "says"),
    [
        (supersede, "base_superseded", "the line's base model is tiny"),
        (change_template, "template_changed", "chat_template.jinja of the base model changed"),
        (remove_file, "source_withdrawn", "sources/letters.jsonl is gone"),
        (rename_source, "source_withdrawn", "no longer names the source 'letters'"),
        (recall_document, "source_withdrawn", "recall-1 holds"),
        (change_ladder, "policy_changed", "the classification ladder changed"),
    ],
)
def test_an_event_that_the_recipe_names_makes_it_due_at_once(
    office: Office, change: Callable[[Office], None], event: str, says: str
) -> None:
    office.bench.recipe["review"] = {"on": EVENTS}
    adapter = office.register()
    assert due(office).state == "not due"
    change(office)
    found = due(office)
    assert (found.state, found.key) == ("due", f"lamps:{event}:{adapter.id}")
    assert [(cause.event, says in cause.what) for cause in found.causes] == [(event, True)]
    recipe = office.bench.settings.data / "lines" / "lamps.yaml"
    others = [each for each in EVENTS if each != event]
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**content, "review": {"on": others}}))
    assert due(office).state == "not due"


def test_an_event_that_cannot_be_told_counts_as_one(office: Office) -> None:
    office.bench.recipe["review"] = {"on": ["base_superseded"]}
    office.register()
    (office.bench.settings.data / "models" / "tiny.yaml").unlink()
    (cause,) = due(office).causes
    assert "cannot be told" in cause.what and "tiny" in cause.what


def test_the_command_lists_what_is_due(office: Office, ask: Ask) -> None:
    office.bench.recipe["review"] = {"on": EVENTS}
    office.register()
    (row,) = ask.json("adapters", "due")
    assert (row["line"], row["state"], row["run"], row["causes"]) == ("lamps", "not due", None, [])
    remove_file(office)
    shown = ask("adapters", "due")
    assert shown.exit_code == 0
    assert "source_withdrawn" in shown.stdout and "is gone" in shown.stdout
