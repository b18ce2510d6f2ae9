"""When the newest adapter of a line is due: by the calendar, by an event, after a review, without its recipe."""

import datetime
from collections.abc import Callable

import pytest
import yaml

from sovereign_pipeline.base.errors import InputError, NotFoundError
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.release.cadence import REVIEWED, Due, due_reviews, record_review
from sovereign_pipeline.release.recall import Question
from sovereign_pipeline_tests.officers import officer, recall
from sovereign_pipeline_tests.release.holders import Ask, Holders

pytestmark = pytest.mark.slow

EVENTS = ["base_superseded", "template_changed", "source_withdrawn", "policy_changed"]


def due(holders: Holders, after: int = 0) -> Due:
    """The review of the line lamps, so many days from the day on which its first adapter was registered."""
    registered = find_adapter(holders.registry, "lamps-1.0.0").registered_at.date()
    reviews = due_reviews(holders.registry, holders.bench.settings, registered + datetime.timedelta(days=after))
    return next(each for each in reviews if each.line == "lamps")


def rewrite(holders: Holders, **changes: object) -> None:
    holders.bench.recipe.update(changes)
    holders.bench.institution.write()


def test_the_recipe_comes_before_the_institution_and_the_newest_adapter_counts(holders: Holders) -> None:
    first = holders.register()
    assert first.review_date == first.registered_at.date() + datetime.timedelta(days=180)
    assert [due(holders, days).state for days in (0, 179, 180, 210, 211)] == [
        *("not due", "not due", "due", "due", "overdue")
    ]
    rewrite(holders, review={"every": "30 days"})
    assert due(holders).on == first.registered_at.date() + datetime.timedelta(days=30)
    second = holders.register(sft={"learning_rate": 1e-4})
    assert second.review_date == second.registered_at.date() + datetime.timedelta(days=30)
    rewrite(holders, review={"every": "1 year"})
    assert (due(holders).adapter, due(holders).on) == (second.id, second.review_date)  # not put off
    assert due(holders, 30).key == f"lamps:{second.review_date.year}"


def test_a_review_starts_the_time_anew_and_is_on_record(holders: Holders, ask: Ask) -> None:
    adapter = holders.register()
    at, signer = adapter.registered_at + datetime.timedelta(days=170), officer(holders.bench.settings)
    record_review(holders.registry, adapter.id, "Read ten answers; it stays.", signer, at)
    assert due(holders, 349).state == "not due"
    assert due(holders, 350).state == "due"
    entry = audit_log.entries(holders.registry)[-1]
    assert (entry.actor, entry.action, entry.subjects["adapter"]) == (f"officer:{signer.keyid}", REVIEWED, adapter.id)
    key = str(holders.bench.settings.keys / "officer-1.key")
    assert ask("adapters", "reviewed", adapter.id, "--text", "Stays.", "--key", key).exit_code == 0
    for name, text, error in (("lamps-9.0.0", "Stays.", NotFoundError), (adapter.id, " ", InputError)):
        with pytest.raises(error):
            record_review(holders.registry, name, text, signer, at)


def supersede(holders: Holders) -> None:
    card = holders.bench.settings.data / "models" / "tiny.yaml"
    content = yaml.safe_load(card.read_text())
    content["files"]["model.safetensors"] = "0" * 64
    card.write_text(yaml.safe_dump(content))


def change_template(holders: Holders) -> None:
    card = holders.bench.settings.data / "models" / "tiny.yaml"
    content = yaml.safe_load(card.read_text())
    content["files"]["chat_template.jinja"] = "0" * 64
    card.write_text(yaml.safe_dump(content))


def remove_file(holders: Holders) -> None:
    holders.bench.institution.source.unlink()


def rename_source(holders: Holders) -> None:
    recipe = holders.bench.settings.data / "lines" / "lamps.yaml"
    recipe.write_text(recipe.read_text().replace("name: letters", "name: new-letters"))


def recall_document(holders: Holders) -> None:
    recall(holders.registry, Question(document="R-00011"))


def change_ladder(holders: Holders) -> None:
    path = holders.bench.settings.data / "institution.yaml"
    path.write_text(path.read_text().replace("- SECRET", "- SECRET\n- TOP SECRET"))


@pytest.mark.parametrize(
    ("change", "event", "says"),
    [
        (supersede, "base_superseded", "the line's base model is now tiny"),
        (change_template, "template_changed", "chat_template.jinja changed in the base model"),
        (remove_file, "source_withdrawn", "sources/letters.jsonl no longer exists"),
        (rename_source, "source_withdrawn", "no longer names the source 'letters'"),
        (recall_document, "source_withdrawn", "recall-1 applies"),
        (change_ladder, "policy_changed", "the classification ladder changed"),
    ],
)
def test_an_event_that_the_recipe_names_makes_it_due_at_once(
    holders: Holders, change: Callable[[Holders], None], event: str, says: str
) -> None:
    holders.bench.recipe["review"] = {"on": EVENTS}
    adapter = holders.register()
    assert due(holders).state == "not due"
    change(holders)
    found = due(holders)
    assert (found.state, found.key) == ("due", f"lamps:{event}:{adapter.id}")
    assert [(cause.event, says in cause.what) for cause in found.causes] == [(event, True)]
    recipe = holders.bench.settings.data / "lines" / "lamps.yaml"
    others = [each for each in EVENTS if each != event]
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**content, "review": {"on": others}}))
    assert due(holders).state == "not due"
