"""raw_corpus and classified_corpus through the chain's own machinery."""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import CeilingExceeded, GateRefused, QuarantineExceeded, SourceError
from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS, LEFT_OUT, QUARANTINE, RAW_CORPUS, SOURCES
from sovereign_pipeline.record.gates import assert_usable, evaluate_gates
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.conftest import LADDER, DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.corpus.sources import changed_document


def run(institution: DemoInstitution) -> tuple[Artifact, Artifact]:
    workplace = institution.workplace()
    raw = produce(RAW_CORPUS, workplace, {}).ref
    assert all(verdict.passed for verdict in evaluate_gates(RAW_CORPUS, workplace, raw).values())
    workplace.store.make_current("lamps", "raw_corpus", raw)
    classified = produce(CLASSIFIED_CORPUS, workplace, {"raw_corpus": raw}).ref
    assert all(verdict.passed for verdict in evaluate_gates(CLASSIFIED_CORPUS, workplace, classified).values())
    return workplace.store.open(raw), workplace.store.open(classified)


def conversation(number: int) -> dict[str, Any]:
    """A row with a call, in which nothing is in NFC or as it is stored."""
    arguments = '{"owner": "Rene\u0301", "tons": 12.50, "lamps": [1e2, null]}'
    row = {name: value for name, value in letter(number).items() if name not in ("request", "response", "subject")}
    return {
        **row,
        "messages": [
            {"role": "user", "content": f"Is lamp {number} of Rene\u0301 out?"},
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "burns", "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": "a", "content": '{"Rene\u0301": "no"}'},
            {"role": "assistant", "content": f"Lamp {number} is out."},
        ],
        "tools": [{"name": "burns", "description": "Rene\u0301's lamps"}],
    }


@pytest.mark.parametrize("change", [('"tons":12.5', '"tons":13'), ('\\"no\\"', '\\"yes\\"'), ("s lamps", "s lights")])
def test_every_call_result_and_tool_is_accounted_for(institution: DemoInstitution, change: tuple[str, str]) -> None:
    institution.recipe["sources"][0]["layout"] = "sharegpt"
    institution.rows = [conversation(number) for number in range(10)]
    run(institution)
    institution.rows.append(conversation(11))
    _refused_with(institution, replacing(DOCUMENTS, *change), r"1 document differs from its row: R-00000\.")


@pytest.mark.parametrize(("detected", "others"), [(("en",), 3), (("en", "ar"), 0)])
def test_every_message_call_and_result_must_be_in_a_language_that_is_searched(
    institution: DemoInstitution, detected: Sequence[str], others: int
) -> None:
    institution.recipe["privacy"] = {"name_models": {}, "patterns_only": [*detected]}
    arabic = "تم إصلاح المصباح عند الرصيف الشمالي يوم الاثنين وهو يعمل الآن كما يجب."
    institution.recipe["sources"][0]["layout"] = "sharegpt"
    institution.rows = [conversation(number) for number in range(10)]
    call, result, reply = (institution.rows[place]["messages"][place] for place in (1, 2, 3))
    call["tool_calls"][0]["function"]["arguments"] = json.dumps({"owner": [arabic]})
    result["content"] = json.dumps({"owner": arabic})
    reply["content"] = arabic
    workplace = institution.workplace()
    verdict = evaluate_gates(RAW_CORPUS, workplace, produce(RAW_CORPUS, workplace, {}).ref)["languages_right"]
    assert verdict.passed == (not others)
    assert f"{others} of 10 documents" in verdict.message


def test_a_document_or_case_file_above_the_ceiling_stops_the_line(institution: DemoInstitution) -> None:
    """Also if the highest row of the case file is excluded."""
    institution.recipe["ceiling"] = "INTERNAL"
    institution.rows[7]["classification"] = "SECRET"
    with pytest.raises(CeilingExceeded, match="row R-00007 of source 'letters' is SECRET"):
        run(institution)
    institution.rows[7]["case"] = institution.rows[8]["case"]
    institution.recipe["sources"][0]["exclude"] = [{"id": "R-00007", "reason": "too high"}]
    with pytest.raises(CeilingExceeded, match="row R-00008 of source 'letters' is in a case file with a SECRET row"):
        run(institution)


@pytest.mark.security_case(
    "The one SECRET row of a case file is excluded, not selected or quarantined",
    "its other documents are SECRET nevertheless, and a raw corpus without its level does not pass",
)
@pytest.mark.parametrize("way", ["excluded", "not selected", "quarantined", "a duplicate"])
def test_a_row_that_becomes_no_document_raises_its_case_file(institution: DemoInstitution, way: str) -> None:
    row, source = institution.rows[4], institution.recipe["sources"][0]
    for each in institution.rows:
        each["status"] = "final"
    institution.rows[3]["case"] = "PRM/2024/017"
    row.update(case="prm / ٢٠٢٤/017", classification="SECRET")
    institution.recipe["quarantine"] = {"max_share": 0.1}
    if way == "excluded":
        source["exclude"] = [{"id": row["id"], "reason": "withdrawn"}]
    elif way == "not selected":
        source["where"], row["status"] = {"status": ["final"]}, "draft"
    elif way == "quarantined":
        row["date"] = "some day"
    else:
        row["id"] = institution.rows[0]["id"]
    institution.rows.append({**letter(99), "date": "some day", "classification": "ALPHA", "status": "final"})
    raw, classified = run(institution)
    levels = {document.id: document.classification for document in read_documents(classified.file(DOCUMENTS))}
    assert (levels["R-00003"], levels["R-00005"]) == ("SECRET", "PUBLIC")
    assert classified.manifest.classification == "SECRET"
    verdict = evaluate_gates(RAW_CORPUS, institution.workplace(), raw.ref)["rows_accounted_for"]
    assert "1 row that became no document states no level or case" in verdict.message

    institution.rows[5]["subject"] = "another corpus"
    found = "the rows that became no document differ in levels"
    _refused_with(institution, lambda workspace: (workspace / LEFT_OUT).unlink(), found)


@pytest.mark.security_case(
    "A document of a SECRET case file spells its case in lower case, with spaces and Arabic digits",
    "it inherits SECRET like the others",
)
@pytest.mark.parametrize(
    ("spelling", "other"),
    [
        ("PRM/2024/017", "prm / ٢٠٢٤/017"),
        # One spelling of each looks like a number of an account or passport.
        ("HR-2024-001234", "hr-2024-001234"),
        ("2024-123456", "2024–123456"),
        ("A1234567", "a1234567"),
    ],
)
def test_another_spelling_of_a_case_file_does_not_escape_its_level(
    institution: DemoInstitution, spelling: str, other: str
) -> None:
    institution.rows[3]["case"] = spelling
    institution.rows[4].update(case=other, classification="SECRET")
    _, classified = run(institution)
    levels = {document.id: document.classification for document in read_documents(classified.file(DOCUMENTS))}
    assert levels["R-00003"] == levels["R-00004"] == "SECRET"
    summary = classified.manifest.summary
    assert (summary["raised_by_case"], summary["levels"]) == (1, {"PUBLIC": 38, "SECRET": 2})


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(LADDER)), min_size=1, max_size=14),
    st.sampled_from([None, *LADDER]),
    st.randoms(use_true_random=False),
)
def test_every_document_gets_the_highest_level_of_its_case_whatever_the_order_of_the_rows(
    rows: list[tuple[int, str]], floor: str | None, random: Random
) -> None:
    rank = LADDER.index
    letters = [letter(n, case=f"C-{case}", classification=level) for n, (case, level) in enumerate(rows)]
    own = {each["id"]: max(each["classification"], floor or LADDER[0], key=rank) for each in letters}
    highest = {
        case: max((own[each["id"]] for each in letters if each["case"] == case), key=rank)
        for case in {each["case"] for each in letters}
    }
    levels = []
    for order in (letters, random.sample(letters, len(letters))):
        with tempfile.TemporaryDirectory() as directory:
            institution = DemoInstitution(Path(directory), minimal_recipe(), order)
            if floor is not None:
                institution.recipe["sources"][0]["classification_floor"] = floor
            raw, classified = run(institution)
            documents = list(read_documents(classified.file(DOCUMENTS)))
        assert raw.manifest.classification == classified.manifest.classification == max(own.values(), key=rank)
        assert [document.id for document in documents] == [each["id"] for each in order]
        levels.append({document.id: document.classification for document in documents})
    assert levels[0] == levels[1] == {each["id"]: highest[each["case"]] for each in letters}
    assert all(rank(levels[0][id]) >= rank(level) for id, level in own.items())


def test_more_broken_rows_than_allowed_stop_the_line(institution: DemoInstitution) -> None:
    institution.rows += [letter(50, classification="RESTRICTED"), letter(3)]
    with pytest.raises(QuarantineExceeded, match=r"2 of 42 rows .* 4\.8%.* allows 2\.0%.*row 41 \(R-00050\)"):
        run(institution)
    institution.recipe["quarantine"] = {"max_share": 0.10}
    raw, _ = run(institution)
    rows = [json.loads(line) for line in raw.file(QUARANTINE).read_text().splitlines()]
    assert [(row["row"], row["id"]) for row in rows] == [(41, "R-00050"), (42, "R-00003")]
    assert raw.manifest.summary["quarantined"] == 2
    assert raw.manifest.summary["quarantine_reasons"]["duplicate id"] == 1


@pytest.mark.security_case(
    "A recipe maps `classification` to a column of persons' names, so that all rows are broken",
    "no message shows a name, only known words for levels",
)
@pytest.mark.parametrize(("levels", "error"), [({}, QuarantineExceeded), ({"Open": "PUBLIC"}, SourceError)])
def test_names_in_a_column_of_levels_are_in_no_message(
    institution: DemoInstitution, levels: dict[str, str], error: type[Exception]
) -> None:
    institution.recipe["sources"][0]["levels"] = levels
    for number, row in enumerate(institution.rows):
        row["classification"] = ("Salma Al Zadjali", "Ahmed Harthi", "Restricted")[number % 3]
    with pytest.raises(error, match=r"Restricted \(13\), 2 values not shown") as stopped:
        run(institution)
    assert "Salma" not in str(stopped.value) and "Harthi" not in str(stopped.value)


def test_a_missing_source_is_named_with_its_remedy(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    institution.source.unlink()
    with pytest.raises(SourceError, match="the file of source 'letters' is missing"):
        produce(RAW_CORPUS, workplace, {})


@pytest.mark.security_case(
    "A recipe names another line's stored documents as its source, or a reward's tool names a key",
    "rejected: their level and origin would be lost",
)
def test_no_source_lies_in_a_private_directory(institution: DemoInstitution) -> None:
    secret, _ = run(institution)
    stored = secret.file(DOCUMENTS)
    source = institution.recipe["sources"][0]
    source["path"] = str(stored)
    with pytest.raises(SourceError, match="is in SOVEREIGN_CORPUS"):
        produce(RAW_CORPUS, institution.workplace(), {})
    link = institution.settings.data / "sources" / "link.jsonl"
    link.symlink_to(stored)
    source["path"] = "sources/link.jsonl"
    with pytest.raises(SourceError, match="is in SOVEREIGN_CORPUS"):
        produce(RAW_CORPUS, institution.workplace(), {})


@pytest.mark.parametrize("fault", ["level", "manifest", "spelling"])
def test_a_level_that_fell_is_refused_by_the_gate(institution: DemoInstitution, tmp_path: Path, fault: str) -> None:
    """A classified corpus whose levels were lowered, sealed as if a faulty build had made it."""

    def faulty(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        documents = list(read_documents(inputs["raw_corpus"].file(DOCUMENTS)))
        if fault == "level":
            documents[5] = documents[5].model_copy(update={"classification": "PUBLIC"})
        write_documents(workspace / DOCUMENTS, documents)
        return Built(summary={}, classification="SECRET" if fault == "manifest" else None)

    institution.rows[5]["classification"] = "CONFIDENTIAL"
    if fault == "spelling":  # the levels stay, as if two spellings were two case files
        institution.rows[6]["case"] = institution.rows[5]["case"].lower()
    workplace = institution.workplace()
    raw = produce(RAW_CORPUS, workplace, {}).ref
    evaluate_gates(RAW_CORPUS, workplace, raw)
    workplace.store.make_current("lamps", "raw_corpus", raw)
    stage = replace(CLASSIFIED_CORPUS, build=faulty)
    ref = produce(stage, workplace, {"raw_corpus": raw}).ref
    verdict = evaluate_gates(stage, workplace, ref)[stage.gates[0].name]
    assert not verdict.passed
    workplace.store.make_current("lamps", "classified_corpus", ref)
    with pytest.raises(GateRefused, match="classification_inherited"):
        assert_usable(CLASSIFIED_CORPUS, workplace, ref)


Change = Callable[[list[Document]], list[Document]]
CHANGES: list[tuple[Change, str]] = [
    (
        lambda documents: [each.model_copy(update={"classification": "PUBLIC"}) for each in documents],
        r"1 document is below the level of the row: R-00005\.",
    ),
    (
        lambda documents: [changed_document(documents[0], {"response": "Another reply."}), *documents[1:]],
        r"1 document differs from its row: R-00000\.",
    ),
    (lambda documents: documents[1:], "documents differ from their rows: R-00001, R-00000"),
    (lambda documents: [documents[1], documents[0], *documents[2:]], "differ from their rows: R-00001, R-00000"),
]


@pytest.mark.security_case(
    "SECRET is rewritten to PUBLIC in the rows of raw_corpus, with manifest and index recomputed.",
    "The gate compares document by document with the source files and names the rows.",
)
@pytest.mark.parametrize(("change", "found"), CHANGES, ids=["level", "words", "left out", "order"])
def test_raw_documents_that_are_not_those_of_the_sources_are_refused(
    institution: DemoInstitution, change: Change, found: str
) -> None:
    def planted(workspace: Path) -> None:
        write_documents(workspace / DOCUMENTS, change(list(read_documents(workspace / DOCUMENTS))))

    institution.rows[5]["classification"] = "SECRET"
    _refused_with(institution, planted, found, "PUBLIC" if "below" in found else "SECRET")


@pytest.mark.security_case(
    "The manifest of raw_corpus states PUBLIC for a corpus with a SECRET document.", "The gate does not pass."
)
def test_a_manifest_below_the_highest_document_is_refused(institution: DemoInstitution) -> None:
    institution.rows[5]["classification"] = "SECRET"
    found = "the manifest states PUBLIC, and the highest document is SECRET"
    _refused_with(institution, lambda workspace: None, found, "PUBLIC")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ((QUARANTINE, "duplicate id", "not JSON"), "the quarantined rows are not"),
        ((SOURCES, '"own"', '"free"'), "differ in files, terms or counts"),
    ],
)
def test_a_quarantine_or_a_list_of_sources_that_is_another_is_refused(
    institution: DemoInstitution, change: tuple[str, str, str], found: str
) -> None:
    institution.rows.append(letter(3))
    institution.recipe["quarantine"] = {"max_share": 0.1}
    _refused_with(institution, replacing(*change), found)


@pytest.mark.security_case(
    "The reading code misses a row's level, because the column's name has unusual punctuation",
    "the gate determines the level with separate code and names the row",
)
@pytest.mark.parametrize("level", ["SECRET", "ALPHA"])
def test_a_level_that_the_first_reading_missed_is_found_by_the_gate(institution: DemoInstitution, level: str) -> None:
    institution.rows[5]["Classi-fication:"] = level
    _refused_with(institution, lambda workspace: None, r"1 document is below the level of the row: R-00005\.")


def replacing(file: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda workspace: (workspace / file).write_text((workspace / file).read_text().replace(old, new, 1))


def _refused_with(
    institution: DemoInstitution, change: Callable[[Path], object], found: str, level: str | None = None
) -> None:
    """Change files of raw_corpus, and perhaps its level, under its identity. Its gate does not pass, and says why."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = RAW_CORPUS.build(workplace, inputs, workspace)
        change(workspace)
        return replace(built, classification=level) if level else built

    workplace = institution.workplace()
    ref = produce(replace(RAW_CORPUS, build=build), workplace, {}).ref
    verdict = evaluate_gates(RAW_CORPUS, workplace, ref)["rows_accounted_for"]
    assert not verdict.passed
    assert re.search(found, verdict.message)
    workplace.store.make_current("lamps", "raw_corpus", ref)
    with pytest.raises(GateRefused, match="rows_accounted_for"):
        produce(CLASSIFIED_CORPUS, workplace, {"raw_corpus": ref})
