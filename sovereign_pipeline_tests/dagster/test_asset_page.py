"""What asset pages show: figures as numbers, the verdict first, digests last, and no document text."""

from collections.abc import Iterator

import dagster as dg
import pytest

from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.dagster.conftest import CORPUS, Line, metadata


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Line, dg.ExecuteInProcessResult]]:
    """A line whose corpus was materialized once."""
    rows = [letter(number) for number in range(40)]
    with dg.instance_for_test() as instance:
        line = Line(DemoInstitution(tmp_path_factory.mktemp("institution"), minimal_recipe(), rows), instance)
        yield line, line.materialize(CORPUS)


Made = tuple[Line, dg.ExecuteInProcessResult]


def test_pages_show_counts_classification_and_links_and_no_document_text(made: Made) -> None:
    line, result = made
    page = metadata(result, "training_dataset")
    assert page["classification"].value == "PUBLIC"
    assert page["dagster/row_count"].value > 30
    assert isinstance(page["data card"], dg.UrlMetadataValue)
    assert page["data card"].value == f"{line.institution.settings.pages_url}/{page['sha256'].value}/card.md"
    assert page["input leakage_safe_split"] == dg.MetadataValue.asset(dg.AssetKey("leakage_safe_split"))
    assert [record.data["artifact"] for record in page["inputs"].records] == ["leakage_safe_split"]
    assert [record.data for record in page["contamination"].records] == [
        {"suite": "red-team prompts", "items": 4, "items_in_rows": 0, "rows": 0},
        {"suite": "suite", "items": 2, "items_in_rows": 0, "rows": 0},
    ]
    findings = {record.data["finding"]: record.data for record in page["quality"].records}
    assert (findings["clipped answers"]["look"], findings["HTML left in"]["look"]) == ("yes", "")
    assert findings["clipped answers"]["first row ids"].startswith("R-0000")
    secret_words = [f"w{number}x" for number in range(40)]
    for kind in CORPUS:
        shown = repr(metadata(result, kind))
        assert not any(word in shown for word in secret_words), kind


FIRST = {
    "raw_corpus": ["documents", "quarantined", "share quarantined"],
    "classified_corpus": ["documents", "documents at the ceiling", "raised by their case file"],
    "scrubbed_corpus": ["documents with personal data", "replacements", "ambiguous names"],
    "leakage_safe_split": ["share held out", "rows held out", "rows for training"],
    "training_dataset": ["rows", "findings to look at", "rows over the token limit"],
}


def test_a_page_begins_with_the_verdict_and_three_numbers_and_ends_with_digests(made: Made) -> None:
    _, result = made
    for kind, figures in FIRST.items():
        page = metadata(result, kind)
        assert list(page)[:4] == ["verdict", *figures]
        assert list(page)[-3:] == ["sha256", "dagster/uri", "manifest"]
        for name in figures:
            assert page[name].value == f"{page[f'lamps: {name}'].value:,}", (kind, name)
        numbers = {name for name in page if isinstance(page[name], dg.IntMetadataValue | dg.FloatMetadataValue)}
        assert numbers - {"dagster/row_count"} == {f"lamps: {name}" for name in figures}  # no curve of two lines
        assert "gates passed" in page["verdict"].value
        assert float(page["seconds to make"].value) >= 0
    assert len(str(metadata(result, "raw_corpus")["manifest"].value)) > 1000  # Dagster folds from there on


def test_a_page_says_why_the_artifact_was_made_again_and_shows_each_excluded_row(line: Line) -> None:
    assert "why it was made" not in metadata(line.materialize(CORPUS[:1]), "raw_corpus")
    assert "why it was made" not in metadata(line.materialize(CORPUS[:1]), "raw_corpus")
    line.institution.rows[0]["response"] += " Indeed."
    changed = metadata(line.materialize(CORPUS[:1]), "raw_corpus")["why it was made"].records
    assert [(each.data["changed"], each.data["name"]) for each in changed] == [("outside file", "source:letters")]
    exclusion = {"id": "R-00003", "reason": "withdrawn on request"}
    line.institution.recipe["sources"][0]["exclude"] = [exclusion]
    page = metadata(line.materialize(CORPUS[:1]), "raw_corpus")
    assert page["excluded"].value == "1"
    assert [record.data for record in page["excluded by the recipe"].records] == [
        {"source": "letters", **exclusion, "rows": 1}
    ]
