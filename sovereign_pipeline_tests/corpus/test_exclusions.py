"""Rows that a recipe leaves out by their ids: counted, recorded with the reason, and never by mistake."""

import json
from typing import Any

import pytest

from sovereign_pipeline.base.errors import PrivacyError, RecipeError, SourceError
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.stages import RAW_CORPUS, SOURCES, read_sources
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline_tests.conftest import DemoInstitution

WITHDRAWN = {"id": "R-00003", "reason": "withdrawn on request"}


def excluding(institution: DemoInstitution, *exclusions: dict[str, str], **source: Any) -> Workplace:
    institution.recipe["sources"][0] |= {"exclude": [*exclusions], **source}
    return institution.workplace()


def read(workplace: Workplace) -> tuple[ArtifactRef, list[str]]:
    """The raw corpus with the ids of its documents, once its gates have passed."""
    ref = produce(RAW_CORPUS, workplace, {}).ref
    assert all(verdict.passed for verdict in evaluate_gates(RAW_CORPUS, workplace, ref).values())
    documents = read_documents(workplace.store.open(ref).file("documents.jsonl"))
    return ref, [document.id for document in documents]


def test_an_excluded_row_is_counted_and_recorded_with_its_reason(institution: DemoInstitution) -> None:
    institution.rows[3]["response"] = ""  # a broken row can be excluded too
    told: list[str] = []
    institution.recipe["sources"][0]["exclude"] = [WITHDRAWN, {"id": " R-00005 ", "reason": "copy of a form"}]
    workplace = institution.workplace(progress=told.append)
    ref, ids = read(workplace)
    assert len(ids) == 38 and not {"R-00003", "R-00005"} & {*ids}
    raw = workplace.store.open(ref)
    (source,) = read_sources(raw)
    assert source["exclusions"] == [{**WITHDRAWN, "rows": 1}, {"id": "R-00005", "reason": "copy of a form", "rows": 1}]
    assert (source["rows"], source["documents"], source["quarantined"], source["excluded"]) == (40, 38, 0, 2)
    assert raw.manifest.summary["excluded"] == 2
    assert "source 'letters': 38 documents, 0 rows quarantined, 2 excluded, 0 not selected" in told
    message = evaluate_gates(RAW_CORPUS, workplace, ref)["rows_accounted_for"].message
    assert message.startswith("40 rows = 38 documents + 0 quarantined + 2 excluded + 0 not selected")


def test_every_row_with_the_id_is_excluded_in_any_spelling_or_by_its_number(institution: DemoInstitution) -> None:
    for number, row in enumerate(institution.rows):
        row["id"] = f"{number + 100}.0"
    institution.rows[9].update(id="103", author=None)
    del institution.rows[6]["id"]
    named = [{"id": id, "reason": "withdrawn"} for id in ("103", "104.00", "letters-7")]
    workplace = excluding(institution, *named, id_from_row=True)
    ref, ids = read(workplace)
    (source,) = read_sources(workplace.store.open(ref))
    assert len(ids) == 36 and not {"103", "104", "letters-7"} & {*ids}
    assert source["excluded"] == 4 and [each["rows"] for each in source["exclusions"]] == [2, 1, 1]


@pytest.mark.security_case(
    "A recipe excludes a row by an id that is a civil number, or gives a person's name as the reason",
    "the line stops without writing either; the row can be excluded by its id's pseudonym",
)
def test_personal_data_in_an_exclusion_is_not_recorded(institution: DemoInstitution) -> None:
    civil = "NID 10457832"
    institution.rows[3]["id"] = civil
    for wrong in ({"id": civil, "reason": "withdrawn"}, {"id": "R-00004", "reason": "asked by Mr Salim Al Harthi"}):
        with pytest.raises(PrivacyError, match=r"exclude 1: the (id|reason) contains personal data") as stop:
            produce(RAW_CORPUS, excluding(institution, wrong), {})
        assert "10457832" not in str(stop.value) and "Harthi" not in str(stop.value)
    _, ids = read(excluding(institution))
    key = next(id for id in ids if id.startswith("id-"))
    workplace = excluding(institution, {"id": key, "reason": "withdrawn"})
    ref, ids = read(workplace)
    assert len(ids) == 39 and key not in ids
    raw = workplace.store.open(ref)
    for file in (raw.file(SOURCES), raw.path / "manifest.json"):
        assert "10457832" not in file.read_text()


def test_an_exclusion_that_says_too_little_is_refused(institution: DemoInstitution) -> None:
    for exclusions, said in (
        ([{"id": "R-00003"}], "'exclude.0.reason' is missing"),
        ([{"id": "R-00003", "reason": "  "}], "'exclude.0.reason': is empty"),
        ([WITHDRAWN, WITHDRAWN], "exclude lists the id 'R-00003' twice"),
    ):
        with pytest.raises(RecipeError, match=said):
            excluding(institution, *exclusions)


def test_a_row_at_which_the_reading_itself_fails_is_named_by_its_number(institution: DemoInstitution) -> None:
    def kinds_in_columns(config: Any) -> Any:
        def kinds_in(value: str) -> frozenset[Any]:
            if value == "R-00003":
                raise RuntimeError(f"cannot read {institution.rows[3]}")
            return frozenset()

        return kinds_in

    with pytest.raises(SourceError, match=r"letters\.jsonl, row 4: conversion failed with RuntimeError at") as stop:
        produce(RAW_CORPUS, institution.workplace(kinds_in_columns=kinds_in_columns), {})
    assert institution.rows[3]["request"] not in str(stop.value) and "exclude" in stop.value.hint


@pytest.mark.security_case(
    "An artifact claims that a row was excluded that the recipe does not exclude",
    "the gate counts the sources' excluded rows again, and fails",
)
def test_the_gate_counts_the_excluded_rows_again(institution: DemoInstitution) -> None:
    workplace = excluding(institution, WITHDRAWN)
    ref = produce(RAW_CORPUS, workplace, {}).ref
    artifact = workplace.store.open(ref)
    path = artifact.file(SOURCES)
    sources = json.loads(path.read_bytes())
    sources[0]["excluded"] = 2
    path.chmod(0o600)
    path.write_text(json.dumps(sources))
    gate = next(each for each in RAW_CORPUS.gates if each.name == "rows_accounted_for")
    assert not gate.evaluate(workplace, artifact, {}).passed
