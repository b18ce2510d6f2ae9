"""Folders of documents as a source: what is read, which reply answers which letter, and what becomes of each file."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.corpus import parsing
from sovereign_pipeline.corpus.database import take_snapshot
from sovereign_pipeline.corpus.document import read_documents, read_jsonl
from sovereign_pipeline.corpus.parsing import printable
from sovereign_pipeline.corpus.stages import (
    DOCUMENTS,
    FILES,
    QUARANTINE,
    evaluate_rows_accounted_for,
    read_sources,
)
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.corpus import document_files, office
from sovereign_pipeline_tests.corpus.office import WRITERS
from sovereign_pipeline_tests.corpus.sources import raw_corpus_of
from sovereign_pipeline_tests.examples import examples

ENGLISH = """Ref: LMP/2024/{0}
Date: 2024-03-12
Subject: Lamp {0}

The lamp of street {0} is out. Please mend it soon, with thanks."""
REPLY = """Ref: OUT/{0}
Your ref: LMP/2024/{0}
Date: 2024-03-19

We have mended the lamp of street {0}. Thank you for the letter."""
ARABIC = """الرقم: م/2024/{0}
التاريخ: 2024-04-02
الموضوع: المصباح القديم

السلام عليكم، نرجو إصلاح المصباح رقم {0} في المنطقة الثانية."""
ARABIC_REPLY = """الرقم: ص/{0}
التاريخ: 2024-04-09

إشارة إلى كتابكم رقم م/2024/{0}، تم إصلاح المصباح المذكور في المنطقة الثانية."""


def raw_corpus(institution: DemoInstitution, **source: Any) -> Artifact:
    """Build a raw corpus from the folder `sources/folder`, pass its gates, and return it."""
    own = {"name": "letters", "path": "sources/folder", "kind": "documents", "classification_floor": "PUBLIC"}
    institution.recipe["sources"] = [{**own, "licence": "own", "retention": "1 year", **source}]
    institution.recipe.setdefault("quarantine", {"max_share": 0.9})
    return raw_corpus_of(institution)


def put(institution: DemoInstitution, files: dict[str, bytes]) -> Path:
    folder = institution.settings.data / "sources" / "folder"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def outcomes(raw: Artifact) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["outcome"], row["reason"]) for row in read_jsonl(raw.file(FILES))}  # type: ignore[misc]


BY_PATH = {"request": "{case}/{date}-in", "reply": "{case}/{date}-out"}


def test_eighty_pairs_of_every_kind_are_read_whole(institution: DemoInstitution) -> None:
    files, texts = dict[str, bytes](), dict[str, tuple[str, str]]()
    for number in range(80):
        suffixes = [*WRITERS]
        kind, other = suffixes[number % 7], suffixes[(number // 7) % 7]
        pair = (ENGLISH, REPLY) if number % 2 else (ARABIC, ARABIC_REPLY)
        request, reply = (text.format(number) for text in pair)
        files[f"c{number}/2024-03-12-in{kind}"] = WRITERS[kind](request)
        files[f"c{number}/2024-03-19-out{other}"] = WRITERS[other](reply)
        texts[f"c{number}/2024-03-12-in"] = request, reply
    put(institution, files)
    raw = raw_corpus(institution, pairs=BY_PATH)
    found = {document.id: document for document in read_documents(raw.file(DOCUMENTS))}
    assert found.keys() == texts.keys()

    def words(text: str) -> list[str]:
        return text.split()

    for id, (request, reply) in texts.items():
        assert words(found[id].request) == words(request)
        assert words(found[id].response) == words(reply)
        assert (found[id].case, found[id].date) == (id.partition("/")[0], "2024-03-19")
    assert Counter(outcome for outcome, _ in outcomes(raw).values()) == {"row": 160}
    (source,) = read_sources(raw)
    assert (source["files"], source["in_rows"], source["documents"]) == (160, 160, 80)


@pytest.mark.security_case(
    "Damaged and hostile files lie in a folder of letters: bombs, macros, external references, links, wrong names",
    "each is quarantined or left out by name and reason, every other letter is read, and nothing is followed or run",
)
def test_each_file_has_the_outcome_of_the_table(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files lie in one folder, so that one that ends the sandbox could lose another."""
    monkeypatch.setattr(parsing, "SECONDS", 5)
    expected, folder = dict[str, tuple[str, str]](), put(institution, {})
    for number, file in enumerate(document_files.FILES):
        stem = Path(file.name).stem if file.outcome == "row" else "reply"
        reply = ARABIC_REPLY.format(number) if "Arabic" in file.what else REPLY.format(number)
        put(institution, {f"{number:03}/out/{stem}.txt": reply.encode()})
        path = folder / f"{number:03}" / "in" / file.name
        path.parent.mkdir()
        if isinstance(file.content, bytes):
            path.write_bytes(file.content)
        else:
            file.content(path)
        expected[printable(f"{number:03}/in/{file.name}")] = file.outcome, file.reason
    raw = raw_corpus(
        institution,
        pairs={"request": "{case}/in/*", "reply": "{case}/out/*"},
        constants={"date": "2024-03-12"},
    )
    found = outcomes(raw)
    assert {name: found[name] for name in expected} == expected
    assert len(found) == 2 * len(document_files.FILES)
    rows = sum(file.outcome == "row" for file in document_files.FILES)
    assert Counter(outcome for outcome, _ in found.values())["row"] == 2 * rows
    arabic = [each.request for each in read_documents(raw.file(DOCUMENTS)) if "المصباح" in each.request]
    assert arabic == [document_files.ARABIC] * 2


def document(
    name: str, *, text: str = "", before: Sequence[str] = (), parts: Mapping[str, Any] = {}, **how: Any
) -> bytes:
    """Write a letter as a table describes it: text: what stands before the usual one; before: a piece of the file, and
    what is put before it; parts: of Word a kind and its content, of ODF a content."""
    if parts:
        how["parts"] = {
            path: office.odf_part(part) if isinstance(part, str) else office.word_part(*part)
            for path, part in parts.items()
        }
    written = WRITERS[Path(name).suffix](f"{text}{ENGLISH}", **how)
    return written.replace(before[0].encode(), "".join(reversed(before)).encode(), 1) if before else written


MARKED = examples(__file__, "marked")
"""Documents that are SECRET by a marking in an unusual place."""


@pytest.mark.security_case(
    "A letter's marking is in a text box, watermark, stamp, second footer, first page's header or repeated property",
    "its level is the marking's",
)
def test_a_marking_is_found_wherever_it_stands(institution: DemoInstitution) -> None:
    for number, (name, how) in enumerate(MARKED.values()):
        files = {f"{number}-in{Path(name).suffix}": document(name, **how)}
        put(institution, {**files, f"{number}-out.txt": REPLY.format(number).encode()})
    raw = raw_corpus(institution, pairs={"request": "{id}-in", "reply": "{id}-out"})
    found = {each.id: each.classification for each in read_documents(raw.file(DOCUMENTS))}
    assert {name: found[str(number)] for number, name in enumerate(MARKED)} == dict.fromkeys(MARKED, "SECRET")


LEVELS = examples(__file__, "levels")


def test_the_level_is_the_highest_of_all_markings(institution: DemoInstitution) -> None:
    for number, (files, _, _) in enumerate(LEVELS.values()):
        put(institution, {f"{number}/{name}": document(name, **how) for name, how in files.items()})
        folder = next(iter(files)).rpartition("/")[0]
        put(institution, {f"{number}/{folder}/1-out.txt": REPLY.format(number).encode()})
    raw = raw_corpus(
        institution,
        pairs={"request": "{id}/*/1-in", "reply": "{id}/*/1-out"},
        levels={"سري": "SECRET"},
    )
    found = {each.id.partition("/")[0]: each.classification for each in read_documents(raw.file(DOCUMENTS))}
    assert {name: found[str(number)] for number, name in enumerate(LEVELS)} == {
        name: each[1] for name, each in LEVELS.items()
    }
    raised = {name.partition("/")[0] for name, (_, reason) in outcomes(raw).items() if "raised" in reason}
    assert raised == {str(number) for number, each in enumerate(LEVELS.values()) if each[2]}


PAIRS = examples(__file__, "pairs")


def test_a_letter_that_is_not_ours_is_no_reply(institution: DemoInstitution) -> None:
    """Even if it has no number of its own, and cites another citizen's letter."""
    put(institution, {"a.txt": b"Ref: L/1\nx", "b.txt": b"Your ref: L/1\nMe, too.", "c.txt": b"Ref: L/2\nz"})
    put(institution, {"d.txt": b"Ref: O/7\nYour ref: L/2\ny"})
    raw = raw_corpus(institution, pairs={"reference": True}, ours=["O"], constants={"date": "2024-03-12"})
    assert [each.id for each in read_documents(raw.file(DOCUMENTS))] == ["c"]


@pytest.mark.parametrize("name", PAIRS)
def test_replies_are_paired_by_rule(institution: DemoInstitution, name: str) -> None:
    pairs, files, expected, others = PAIRS[name]
    put(
        institution,
        {f"z-{side}.txt": WRITERS[".txt"](text) for side, text in (("r", "Ref: Z/1\nq"), ("s", "Your ref: Z/1\nq"))},
    )
    put(institution, {file if "." in file else f"{file}.txt": text.encode() for file, text in files.items()})
    raw = raw_corpus(institution, pairs={"reference": True, **pairs}, constants={"date": "2024-03-12"})
    found = [[each.id, each.response] for each in read_documents(raw.file(DOCUMENTS)) if each.id != "z-r"]
    assert sorted(found) == expected
    assert {
        file.removesuffix(".txt"): outcome for file, (outcome, _) in outcomes(raw).items() if outcome != "row"
    } == others


@pytest.mark.security_case(
    "A marked letter of a case is not answered, and no rule pairs it; another letter of the case is",
    "the pair has the level of the marked letter",
)
def test_a_letter_that_is_left_out_raises_its_case(institution: DemoInstitution) -> None:
    for case in "ab":
        put(institution, {f"{case}/2024-01-02-in.txt": b"x", f"{case}/2024-01-03-out.txt": b"y"})
    put(institution, {"a/2024-01-05-in.docx": office.docx(ENGLISH, header="SECRET")})
    raw = raw_corpus(institution, pairs=BY_PATH)
    assert outcomes(raw)["a/2024-01-05-in.docx"][0] == "left out"
    found = {each.case: each.classification for each in read_documents(raw.file(DOCUMENTS))}
    assert found == {"a": "SECRET", "b": "PUBLIC"}


def test_names_that_are_escaped_alike_are_two_files(institution: DemoInstitution) -> None:
    """And a file with the name of a message in another."""
    names = ("a\n/1", "a\\n/1", "a\\\\n/1", "a#1/1", "a\\x231/1")
    for name in names:
        put(institution, {f"{name}-in.txt": name.encode(), f"{name}-out.txt": b"y"})
    raw = raw_corpus(
        institution, pairs={"request": "{id}/1-in", "reply": "{id}/1-out"}, constants={"date": "2024-03-12"}
    )
    assert {each.request for each in read_documents(raw.file(DOCUMENTS))} == {*names}
    assert len(outcomes(raw)) == 2 * len(names)


def test_a_file_that_is_replaced_while_it_is_read_stops_the_line(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it is put back before its digest is compared."""
    name = os.fsdecode(b"a\n\xff.txt")
    folder, parse = put(institution, {name: b"x", "b.txt": b"y"}), parsing.Sandboxes.items_of
    whole = folder / name

    def replaced(self: parsing.Sandboxes, path: Path) -> Iterator[dict[str, Any]]:
        if path != whole:
            yield from parse(self, path)
            return
        whole.rename(folder.parent / "aside")
        whole.write_bytes(b"planted")
        yield from parse(self, path)
        (folder.parent / "aside").rename(whole)

    monkeypatch.setattr(parsing.Sandboxes, "items_of", replaced)
    with pytest.raises(SourceError) as stopped:
        raw_corpus(institution, pairs={"reference": True})
    assert r"a\n\udcff.txt" in str(stopped.value)
    kept = (institution.settings.corpus / "cache" / "parsed").rglob("*.jsonl")
    assert not [path for path in kept if b"planted" in path.read_bytes()]


WHOLE: dict[str, Any] = {"text": "x", "margins": [], "properties": {}}
FORGED: tuple[Any, ...] = (
    [], "x", {}, {"broken": 1}, {"text": "x"}, {**WHOLE, "text": ["x"]}, {**WHOLE, "margins": [1]},
    {**WHOLE, "other": 1},
    {**WHOLE, "properties": {"a": 1}}, {**WHOLE, "ocr": {"pages": "1", "words": 1, "confidence": 1}},
)  # fmt: skip


@pytest.mark.security_case(
    "A file takes over its parser in the sandbox, which then answers with other JSON than a parser's",
    "the file is quarantined, and the line goes on",
)
def test_other_json_than_a_parsers_breaks_its_file_alone(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = parsing.Sandboxes._parsed

    def forged(self: parsing.Sandboxes, path: Path, skip: int) -> Iterator[bytes]:
        if skip:  # a document has nothing behind it
            return
        if path.parent.name != "whole":
            yield json.dumps(FORGED[int(path.parent.name)]).encode()
        else:
            yield from parse(self, path, skip)

    monkeypatch.setattr(parsing.Sandboxes, "_parsed", forged)
    institution.recipe["quarantine"] = {"max_share": 0.95}
    put(institution, {f"{number}/in.txt": b"%d" % number for number in range(len(FORGED))})
    put(institution, {"whole/in.txt": b"x", "whole/out.txt": b"y"})
    raw = raw_corpus(institution, pairs={"request": "{id}/in", "reply": "{id}/out"}, constants={"date": "2024-03-12"})
    assert Counter(outcome for outcome, _ in outcomes(raw).values()) == {"quarantined": len(FORGED), "row": 2}


def test_a_table_of_pairs_that_is_a_link_is_not_read(institution: DemoInstitution) -> None:
    folder = put(institution, {"a.txt": b"x", "b.txt": b"y"})
    (folder.parent / "t.csv").write_text("request,reply\na,b\n")
    (folder / "t.csv").symlink_to("../t.csv")
    with pytest.raises(SourceError):
        raw_corpus(institution, pairs={"table": "t.csv"}, constants={"date": "2024-03-12"})


def test_a_letter_in_two_formats_is_one_document_with_both_paths(institution: DemoInstitution) -> None:
    put(institution, {
        "a/2024-01-02-in.docx": office.docx(ENGLISH), "a/2024-01-02-in.pdf": office.pdf(ENGLISH),
        "a/2024-01-03-out.odt": office.odt(REPLY), "b/2024-01-02-in.docx": office.docx(ENGLISH),
        "b/2024-01-02-in.pdf": office.pdf(REPLY), "b/2024-01-03-out.odt": office.odt(REPLY),
    })  # fmt: skip
    raw = raw_corpus(institution, pairs=BY_PATH)
    assert [each.id for each in read_documents(raw.file(DOCUMENTS))] == ["a/2024-01-02-in"]
    rows = {row["path"]: row for row in read_jsonl(raw.file(FILES))}
    assert rows["a/2024-01-02-in.docx"]["row"] == rows["a/2024-01-02-in.pdf"]["row"] == "a/2024-01-02-in"
    assert rows["b/2024-01-02-in.docx"]["others"] == ["b/2024-01-02-in.pdf"]
    assert rows["b/2024-01-03-out.odt"]["outcome"] == "left out"


def test_only_new_files_are_parsed_and_a_broken_one_can_be_excluded(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(institution, {"a/2024-01-02-in.txt": b"x", "a/2024-01-02-out.txt": b"y", "b/2024-01-02-in.docx": b""})
    parsed, parse = list[str](), parsing.Sandboxes.items_of

    def noted(self: parsing.Sandboxes, path: Path) -> Iterator[dict[str, Any]]:
        parsed.append(path.name)
        return parse(self, path)

    monkeypatch.setattr(parsing.Sandboxes, "items_of", noted)
    raw_corpus(institution, pairs=BY_PATH)
    assert len(parsed) == 3
    put(institution, {"b/2024-01-03-in.txt": b"z"})
    institution.recipe["quarantine"] = {"max_share": 0.0}
    raw = raw_corpus(institution, pairs=BY_PATH, exclude=[{"id": "b/2024-01-02-in.docx", "reason": "an empty file"}])
    assert parsed[3:] == ["2024-01-03-in.txt"]
    (source,) = read_sources(raw)
    assert (source["excluded"], source["documents"], source["left_out"]) == (1, 1, {"no rule pairs it": 1})


def changed(content: bytes) -> bytes:
    return content.replace(b"walnut", b"almond")


@pytest.mark.security_case(
    "Another account writes to the cache of parsed files, so that other letters are trained than those that lie there",
    "a file of the cache without the installation's mark is parsed again",
)
@pytest.mark.parametrize("damage", [changed, lambda content: content[:-9], lambda content: b"", lambda content: b"\n"])
def test_a_cached_file_that_was_changed_is_parsed_again(
    institution: DemoInstitution, damage: Callable[[bytes], bytes]
) -> None:
    put(institution, {"a/2024-01-02-in.txt": b"walnut one", "a/2024-01-02-out.txt": b"walnut two"})
    raw = raw_corpus(institution, pairs=BY_PATH)
    kept = [path for path in (institution.settings.corpus / "cache" / "parsed").rglob("*") if path.is_file()]
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(damage(path.read_bytes()))
    assert evaluate_rows_accounted_for(institution.workplace_as_written(), raw, {}).passed
    assert not any(path.read_bytes() == damage(path.read_bytes()) for path in kept)


def test_a_folder_of_which_all_is_left_out_is_named_with_the_reasons(institution: DemoInstitution) -> None:
    folder = put(institution, {"a/letter.txt": b"x", "a/reply.txt": b"y"})
    with pytest.raises(SourceError, match="2 left out: no rule pairs it") as refused:
        raw_corpus(institution, pairs=BY_PATH)
    assert str(folder) in str(refused.value)


def test_a_changed_file_fails_the_gate_and_its_text_is_nowhere(institution: DemoInstitution) -> None:
    put(
        institution,
        {"a/2024-01-02-in.txt": b"walnut one", "a/2024-01-02-out.txt": b"walnut two", "b/x-in.docx": b"walnut"},
    )
    raw = raw_corpus(institution, pairs=BY_PATH)
    assert "walnut" not in json.dumps(raw.manifest.model_dump(mode="json"))
    assert not any("walnut" in raw.file(name).read_text() for name in (FILES, QUARANTINE, "sources.json"))
    workplace = institution.workplace_as_written()
    put(institution, {"c/2024-01-02-in.txt": b"more"})
    assert not evaluate_rows_accounted_for(workplace, raw, {}).passed


DATABASE: dict[str, Any] = {
    "kind": "database",
    "path": "sources/cases.parquet",
    "url_from": "CASES_URL",
}
CASES = [{**{key: value for key, value in letter(number).items() if key != "label"}} for number in range(12)]


def test_a_query_is_read_as_a_snapshot(
    institution: DemoInstitution, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["SOVEREIGN_REGISTRY_URL"] if database == "postgresql" else f"sqlite:///{tmp_path / 'cases.db'}"
    monkeypatch.setenv("CASES_URL", url)
    engine = create_engine(url)
    columns, typed = [*CASES[0]], ", ".join(f'"{column}" TEXT' for column in CASES[0])
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE cases ({typed})"))
        connection.execute(text(f"INSERT INTO cases VALUES ({', '.join(f':{column}' for column in columns)})"), CASES)
    query = "SELECT *, 1.50 AS fee, 'a:b%' AS odd FROM cases ORDER BY id"
    raw = [raw_corpus_of_database(institution, query) for _ in range(2)]
    assert [each.id for each in read_documents(raw[0].file(DOCUMENTS))] == [row["id"] for row in CASES]
    assert raw[0].ref == raw[1].ref
    assert url not in json.dumps(raw[0].manifest.model_dump(mode="json"))
    for wrong in (
        "DELETE FROM cases",
        "SELECT 1; DELETE FROM cases",
        "WITH gone AS (DELETE FROM cases RETURNING 1) SELECT 1",
        "SELECT nothing",
    ):
        with pytest.raises(SourceError) as refused:
            raw_corpus_of_database(institution, wrong)
        assert url not in str(refused.value) and str(tmp_path) not in str(refused.value)
    for wrong, problem in (
        ("SELECT id, request AS id FROM cases", "two columns named 'id'"),
        ("SELECT x'00' AS seal" if database == "sqlite" else "SELECT '\\x00'::bytea AS seal", "binary"),
    ):
        with pytest.raises(SourceError, match=problem):
            raw_corpus_of_database(institution, wrong)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM cases")).scalar() == 12
        connection.execute(text("DROP TABLE cases"))
    engine.dispose()
    monkeypatch.delenv("CASES_URL")
    with pytest.raises(SourceError):
        raw_corpus_of_database(institution, query)


def raw_corpus_of_database(institution: DemoInstitution, query: str) -> Artifact:
    own = {"name": "cases", "licence": "own", "retention": "1 year", **DATABASE, "query": query}
    institution.write()
    take_snapshot(Source.model_validate(own), institution.settings.data / own["path"])
    return raw_corpus(institution, **own, classification_floor=None)


@pytest.mark.parametrize(
    ("names", "pairs"),
    examples(__file__, "a_recipe_is_proposed_for_a_folder"),
)
def test_a_recipe_is_proposed_for_a_folder(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, names: list[str], pairs: dict[str, str]
) -> None:
    for number in range(4):
        made = zip(names, (ENGLISH, REPLY), strict=True)
        put(institution, {name.format(number): WRITERS[Path(name).suffix](text.format(number)) for name, text in made})
    folder = put(institution, {"more.jpg": b"x", "old.docx": b""})
    institution.write()
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    shown = json.loads(CliRunner().invoke(app, ["sources", "look", str(folder), "--json"]).stdout)
    rule = "paired by path" if pairs else "paired by reference number"
    assert {(each["outcome"], each["reason"]): each["files"] for each in shown["outcomes"]} == {
        ("row", rule): 8, ("left out", "a kind of file that is not read"): 1, ("quarantined", "empty"): 1,
    }  # fmt: skip
    printed = CliRunner().invoke(app, ["sources", "look", str(folder), "--recipe"])
    (source,) = yaml.safe_load(printed.stdout)["sources"]
    assert source["pairs"] == {"reference": True, **pairs} and source["path"] == "sources/folder"
    assert source["classification_floor"] == "SECRET"
    for number in range(12):
        put(institution, {f"cur/{number}": b"From: a@b.example\n\nx"})
    printed = CliRunner().invoke(app, ["sources", "look", str(folder), "--recipe"])
    (source,) = yaml.safe_load(printed.stdout)["sources"]
    assert source["kind"] == "mail" and "FILL IN" in source["ours"][0]
