"""Opening transcripts on the machine with the private key: prompts for a blind review."""

import csv
import datetime
import gzip
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyrage
import pytest
import yaml
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import (
    CeilingExceeded,
    ConflictError,
    InputError,
    IntegrityError,
    RecipeError,
    SourceError,
)
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.corpus.document import Message, ToolCall
from sovereign_pipeline.corpus.documents_from_rows import RATED, TAKEN, source_digests
from sovereign_pipeline.corpus.layouts import conversation_of
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS
from sovereign_pipeline.dataset.jsonl import PREFERENCE_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET
from sovereign_pipeline.record.audit_log import CHECKPOINT, entries
from sovereign_pipeline.record.checkpoints import new_log
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.review.stages import PromptRow
from sovereign_pipeline.serving.gateway.stores import HOUR, utc_now
from sovereign_pipeline.serving.transcripts import Sealed, sealed_in
from sovereign_pipeline.suites.rows import read_items
from sovereign_pipeline_tests.base_models.test_tool_form import HERMES, write_calls
from sovereign_pipeline_tests.conftest import LADDER, DemoInstitution
from sovereign_pipeline_tests.registry.bench import small_bench
from sovereign_pipeline_tests.serving.gateway.scripted import LINE
from sovereign_pipeline_tests.serving.transcripts.conftest import Kept
from sovereign_pipeline_tests.split.chain import materialize


def test_what_was_asked_becomes_prompts_that_a_review_takes(kept: Kept, tmp_path: Path) -> None:
    kept.ask("Is the lamp lit?")
    kept.ask("is the LAMP lit")
    kept.ask("متى يضاء المصباح؟")
    turns = [{"role": role, "content": "And now?"} for role in ("user", "assistant", "user")]
    kept.ask("", messages=turns)
    out = tmp_path / "prompts.jsonl"
    opened = kept.open("prompts", out)
    assert opened.exit_code == 0, opened.output
    assert "2 prompts of 4 transcripts" in opened.output
    rows = read_items(out, PromptRow)
    assert [(each.prompt, each.language, each.classification) for each in rows] == [
        ("Is the lamp lit?", "en", "INTERNAL"),
        ("متى يضاء المصباح؟", "ar", "INTERNAL"),
    ]
    assert out.stat().st_mode & 0o777 == 0o600
    (said,) = (kept.bench.directory / "transcripts" / "audit.jsonl").read_text().splitlines()
    assert (json.loads(said)["made"], json.loads(said)["rows"]) == ("prompts", 2) and "lamp lit" not in said
    assert "this file already exists" in str(kept.open("prompts", out).exception)


def test_what_cannot_be_opened_is_named_and_nothing_is_written(kept: Kept, tmp_path: Path) -> None:
    kept.ask("Is the lamp lit?")
    out = tmp_path / "prompts.jsonl"
    another = str(pyrage.x25519.Identity.generate())
    for key, options in ((kept.key.read_text(), ["--line", "../lamps"]), (another, []), ("lamp", [])):
        kept.key.write_text(key)
        refused = kept.open("prompts", out, *options)
        assert refused.exit_code and isinstance(refused.exception, Exception) and not out.exists()
    assert not (kept.bench.directory / "transcripts" / "audit.jsonl").exists()


def sealed_lines(file: Path) -> list[bytes]:
    return [line for line in file.read_bytes().split(b"\n") if line]


def write_lines(file: Path, lines: list[bytes]) -> None:
    file.write_bytes(b"".join(b"\n" + line + b"\n" for line in lines))


@pytest.mark.security_case(
    "An answer's encrypted ratings are swapped, repeated or deleted, so that a disliked answer seems liked",
    "the newest rating by its encrypted time counts; an answer with a missing one is left out and reported",
)
@pytest.mark.parametrize("tampering", ["swapped", "repeated", "deleted", "all deleted"])
def test_a_disliked_answer_becomes_no_liked_one(kept: Kept, tmp_path: Path, tampering: str) -> None:
    id = kept.ask("Is the lamp lit?", "It is out.")
    for thumb in ("up", "down"):
        kept.say(id, thumb)
    copies = kept.enter()
    (file,) = kept.files
    transcript, up, down = sealed_lines(file)
    lines = {
        "swapped": [down, transcript, up],
        "repeated": [transcript, up, down, up, up],
        "deleted": [transcript, up],
        "all deleted": [transcript],
    }
    write_lines(file, lines[tampering])
    out = tmp_path / "labels.jsonl"
    opened = kept.open("preferences", out, "--role", "labels", copies=copies)
    if "deleted" in tampering:
        assert opened.exit_code and not out.exists()
        kept.say(kept.ask("Who signs?", "The desk."), "up")
        opened = kept.open("preferences", out, "--role", "labels")
        assert "one of its ratings is missing: 1" in opened.output and "but missing: " in opened.output
    else:
        assert opened.exit_code == 0, opened.output
        assert ("duplicate records: 2" in opened.output) == (tampering == "repeated")
    assert [each["label"] for each in rows_of(out)] == ["deleted" in tampering]
    assert [each["request"] for each in rows_of(out)] == [
        "Who signs?" if "deleted" in tampering else "Is the lamp lit?"
    ]


def test_a_renamed_file_hides_no_hour_that_the_journal_lacks(kept: Kept, tmp_path: Path) -> None:
    id = kept.ask("Is the lamp lit?", "It is out.")
    kept.say(id, "up")
    (file,), (hour,) = kept.files, kept.bench.journal.glob("*.jsonl")
    yesterday = (utc_now() - datetime.timedelta(days=1)).strftime(HOUR)
    hour.rename(hour.with_name(f"{yesterday}.jsonl"))
    file = file.rename(file.with_name(f"{yesterday}-0001.sealed"))
    kept.say(id, "down")
    copies = kept.enter()
    (later,) = (each for each in kept.bench.journal.glob("*.entered") if yesterday not in each.name)
    later.unlink()
    (rated,) = (each for each in kept.files if each != file)
    rated.unlink()
    file.rename(file.with_name("2099-01-01T00-0001.sealed"))
    out = tmp_path / "labels.jsonl"
    opened = kept.open("preferences", out, "--role", "labels", copies=copies)
    assert isinstance(opened.exception, IntegrityError) and not out.exists()


def _forge(kept: Kept) -> bytes:
    """Put a transcript of one's own invention into the copy. Returns the line of the journal that would name it."""
    (file,) = kept.files
    identity = pyrage.x25519.Identity.from_str(kept.key.read_text())
    first = sealed_in(file.read_bytes())[0][0]
    plain = pyrage.decrypt(first.content, [identity]).replace(b"It is lit", b"It is not")
    forged = Sealed(content=pyrage.encrypt(plain, [identity.to_public()]))
    with file.open("ab") as stream:
        stream.write(forged.line)
    (hour,) = kept.bench.journal.glob("*.entered")
    named = next(each for each in hour.read_bytes().split(b"\n") if first.sha256.encode() in each)
    return b"\n" + named.replace(first.sha256.encode(), forged.sha256.encode()) + b"\n"


@pytest.mark.security_case(
    (
        "A line of the journal's copy is added, changed or removed so that an invented transcript "
        "counts, also in the current hour"
    ),
    "rejected by the hour's digest in the ledger; hours that are not logged yet are left out and reported",
)
@pytest.mark.security_case(
    "Someone with the public key adds an invented transcript", "it is left out, because the journal does not contain it"
)
@pytest.mark.parametrize(
    "where",
    [
        "nowhere",
        "into the hour",
        "instead of the hour",
        "renamed",
        "removed",
        "another hour",
        "another answer's rating",
    ],
)
def test_the_journals_copy_is_compared_with_the_ledger(kept: Kept, tmp_path: Path, where: str) -> None:
    kept.say(kept.ask("Is the lamp lit?", "It is lit."), "up")
    copies = kept.enter()
    forged = _forge(kept)
    (hour,) = kept.bench.journal.glob("*.entered")
    if where == "nowhere":
        with kept.files[0].open("ab") as stream:
            stream.write(b"cut sho")
    elif where == "another hour":
        hour.with_name("2099-01-01T00.jsonl").write_bytes(forged)
    elif where == "removed":
        hour.unlink()
    elif where == "another answer's rating":
        hour.write_bytes(re.sub(rb'(?<="given":")[0-9a-f]{64}', b"0" * 64, hour.read_bytes()))
    else:
        before = hour.read_bytes() if where != "instead of the hour" else b""
        hour.write_bytes(before + forged)
        if where == "renamed":
            hour.rename(hour.with_suffix(""))
    out = tmp_path / "labels.jsonl"
    opened = kept.open("preferences", out, "--role", "labels", copies=copies)
    if where in ("nowhere", "another hour"):
        assert opened.exit_code == 0, opened.output
        reason = "unreadable lines: 1" if where == "nowhere" else "not in the ledger yet: 1"
        assert reason in opened.output and "not in the journal: 1" in opened.output
        assert [each["response"] for each in rows_of(out)] == ["It is lit."]
    else:
        assert isinstance(opened.exception, IntegrityError) and not out.exists()


@pytest.mark.security_case(
    "The ledger's copy is changed together with all of its hashes, or signed with another key",
    "rejected: the log's key did not sign it",
)
@pytest.mark.parametrize("fault", ["changed", "cut short", "another key", "no checkpoint"])
def test_the_ledgers_copy_is_the_one_that_the_log_signed(kept: Kept, tmp_path: Path, fault: str) -> None:
    kept.say(kept.ask("Is the lamp lit?", "It is lit."), "up")
    copies = kept.enter()
    ledger = Path(copies[3])
    lines = ledger.read_bytes().splitlines()
    if fault == "changed":
        entry = json.loads(lines[-1])
        entry["subjects"]["answers"] = 7
        entry["hash"] = digest_of({name: value for name, value in entry.items() if name != "hash"})
        lines[-1] = canonical_json(entry)
    if fault == "cut short":
        lines.pop()
    if fault == "another key":
        copies[5] = str(new_log().verifier)
    if fault == "no checkpoint":
        ledger.with_name(ledger.name + CHECKPOINT).unlink()
    ledger.write_bytes(b"".join(line + b"\n" for line in lines))
    out = tmp_path / "labels.jsonl"
    opened = kept.open("preferences", out, "--role", "labels", copies=copies)
    assert isinstance(opened.exception, InputError if fault == "no checkpoint" else IntegrityError)
    assert not out.exists()


MAIL = "salma@coast.example"
CONSENT = {"transcripts_key": "0" * 64, "lines": {LINE: {"transcripts": {"preferences": True}}}}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def made(kept: Kept, out: Path, role: str = "preferences") -> Path:
    opened = kept.open("preferences", out, "--role", role)
    assert opened.exit_code == 0, opened.output
    return out


def two_answers(kept: Kept, question: str, good: str, bad: str) -> None:
    for answer, thumb in ((good, "up"), (bad, "down")):
        id = kept.ask(question, answer)
        kept.say(id, "down")
        kept.say(id, thumb)


def test_one_question_with_both_thumbs_makes_a_pair_and_else_there_are_labels(kept: Kept, tmp_path: Path) -> None:
    two_answers(kept, "Is the lamp lit?", "It is lit from dusk.", "Who knows.")
    kept.say(kept.ask("Is the quay open?", "It is."), "up")
    kept.ask("Is the crane free?", "It is.")
    kept.say(kept.ask("Who signs?", "NAME_4 does."), "up")
    opened = kept.open("preferences", tmp_path / "pairs.jsonl", "--role", "preferences")
    assert "1 rows of 5 transcripts" in opened.output
    for left_out in ("not rated: 1", "no answer with the opposite thumb: 1", "a placeholder without an original: 1"):
        assert left_out in opened.output
    (pair,) = rows_of(tmp_path / "pairs.jsonl")
    assert (pair["request"], pair["response"], pair["rejected"], pair["classification"]) == (
        "Is the lamp lit?",
        "It is lit from dusk.",
        "Who knows.",
        "INTERNAL",
    )
    labels = rows_of(made(kept, tmp_path / "labels.jsonl", "labels"))
    assert [(each["response"], each["label"]) for each in labels] == [
        ("It is lit from dusk.", True),
        ("Who knows.", False),
        ("It is.", True),
    ]
    assert labels[0]["case"] == labels[1]["case"] != labels[2]["case"]


@pytest.mark.parametrize("role", ["preferences", "labels"])
def test_conversations_and_calls_become_rows_of_turns(
    kept: Kept, institution: DemoInstitution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Any
) -> None:
    kept.bench.engine.form = HERMES
    tools = [{"type": "function", "function": {"name": "lamp_state", "description": "State of a lamp."}}]
    asked = [{"role": "user", "content": "Is the lamp lit?"}]
    call = ToolCall(name="lamp_state", arguments={"lamp": 3})
    kept.say(kept.ask("", write_calls(HERMES, [call]), messages=asked, tools=tools), "up")
    kept.say(kept.ask("", write_calls(HERMES, [call]), messages=asked, tools=tools), "down")
    turn = {
        "role": "assistant",
        "tool_calls": [{"id": "1", "function": {"name": "lamp_state", "arguments": '{"lamp": 3}'}}],
    }
    answered = [*asked, turn, {"role": "tool", "tool_call_id": "1", "content": '{"lit": true}'}]
    for words, thumb in (("It is lit.", "up"), ("It is out.", "down")):
        kept.say(kept.ask("", words, messages=answered, tools=tools), thumb)
    kept.say(kept.ask("", "It is.", messages=[*asked, *asked]), "up")
    out = tmp_path / "rated.jsonl"
    opened = kept.open("preferences", out, "--role", role)
    assert opened.exit_code == 0, opened.output
    for reason in ("turns in an order that training does not accept: 1", "a tool call with a bad rating: 1"):
        assert reason in opened.output
    rows = rows_of(out)
    read = [conversation_of("sharegpt", role, row) for row in rows]
    assert all(each.tools[0]["function"]["name"] == "lamp_state" for each in read)
    texts = [(each.messages[-1].as_text, each.rejected) for each in read]
    if role == "preferences":
        assert texts == [("It is lit.", "It is out.")]
    else:
        called = Message(role="assistant", tool_calls=(call,)).as_text
        assert texts == [(called, None), ("It is lit.", None), ("It is out.", None)]
        assert [row["label"] for row in rows] == [True, True, False]
    assert take_in(institution, monkeypatch, out)["layout"] == "sharegpt"


@pytest.mark.security_case(
    "Adapters of two levels answered one question, with a good and a bad rating",
    "no pair is created, because the higher level's answer would be imported at the lower level",
)
def test_answers_of_two_levels_make_no_pair(kept: Kept, tmp_path: Path) -> None:
    for level, answer, thumb in (("INTERNAL", "It is lit.", "up"), ("SECRET", "It is out.", "down")):
        kept.bench.served[0] = replace(kept.bench.served[0], classification=level)
        kept.say(kept.ask("Is the lamp lit?", answer), thumb)
    two_answers(kept, "Who signs?", "The desk.", "Nobody.")
    opened = kept.open("preferences", tmp_path / "pairs.jsonl", "--role", "preferences")
    assert "no answer with the opposite thumb: 2" in opened.output
    assert [each["request"] for each in rows_of(tmp_path / "pairs.jsonl")] == ["Who signs?"]
    labels = rows_of(made(kept, tmp_path / "labels.jsonl", "labels"))
    assert [each["classification"] for each in labels] == ["INTERNAL", "SECRET", "SECRET", "SECRET"]
    assert labels[0]["case"] == labels[1]["case"]


def run(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    for variable in ("home", "data", "vault"):
        monkeypatch.setenv(f"SOVEREIGN_{variable.upper()}", str(institution.root / variable))
    return CliRunner().invoke(app, ["sources", "take-rated", LINE, *arguments])


def take_in(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, file: Path) -> dict[str, Any]:
    """With the line's consent. Returns the source that the recipe is told to have, which it then has."""
    institution.rules["serving"] = CONSENT
    institution.write()
    taken = run(institution, monkeypatch, str(file), "--reason", "The desk read them all.")
    assert taken.exit_code == 0, taken.output
    (source,) = yaml.safe_load(taken.output.partition("recipe:\n")[2])
    source |= {"licence": "own", "retention": "1 year"}
    institution.recipe["sources"].append(source)
    institution.recipe["training"]["preference"] = {}
    return cast(dict[str, Any], source)


def test_rated_answers_go_through_every_stage_of_a_source(
    kept: Kept, institution: DemoInstitution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        question = f"Boat {number} of {MAIL} asks whether lamp {number} at quay {number} is lit after the storm."
        two_answers(kept, question, f"Lamp {number} was lit again on the same evening.", f"No idea about {number}.")
    take_in(institution, monkeypatch, made(kept, tmp_path / "pairs.jsonl"))
    (entry,) = [each for each in entries(open_registry(institution.settings)) if each.action == TAKEN]
    assert (entry.subjects["rows"], entry.subjects["classification"]) == (4, "INTERNAL")
    assert entry.subjects["reason"] == "The desk read them all." and MAIL not in str(entry.subjects)

    workplace = institution.workplace()
    workplace.settings.vault_public_key.write_text(f"{pyrage.x25519.Identity.generate().to_public()}\n")
    assert source_digests(workplace)
    dataset, verdicts = materialize(workplace, PREFERENCE_DATASET)
    rows = [json.loads(line) for line in dataset.file(PREFERENCE_ROWS).read_text().splitlines()]
    assert rows and all("EMAIL_1" in json.dumps(row) and MAIL not in json.dumps(row) for row in rows)
    assert all(verdict.passed for verdict in verdicts.values())
    assert dataset.manifest.classification == "INTERNAL"


@pytest.mark.security_case(
    (
        "A file of rated answers is edited or copied after its import, the line's consent is withdrawn, "
        "levels are relabelled, or the recipe changes its meaning"
    ),
    "rejected each time that the source is read",
)
@pytest.mark.parametrize(
    "fault", ["edited", "of another line", "consent", "ladder", "levels", "swapped", "label", "role"]
)
def test_a_source_of_rated_answers_stays_what_was_taken_in(
    kept: Kept, institution: DemoInstitution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    two_answers(kept, "Is the lamp lit?", "It is lit from dusk.", "Who knows.")
    file = made(kept, tmp_path / "pairs.jsonl", "labels" if fault == "label" else "preferences")
    source = take_in(institution, monkeypatch, file)
    if fault == "label":
        institution.recipe["training"]["preference"] = {"method": "kto"}
    assert source_digests(institution.workplace())
    path = institution.settings.data / source["path"]
    if fault == "edited":
        path.write_text(path.read_text().replace("from dusk", "from dawn"))
    if fault == "of another line":
        institution.recipe["line"] = "buoys"
        lines = {each: {"transcripts": {"preferences": True}} for each in (LINE, "buoys")}
        institution.rules["serving"] = {**CONSENT, "lines": lines}
        (institution.settings.data / "lines" / "lamps.yaml").touch()
    if fault == "consent":
        institution.rules["serving"] = {**CONSENT, "lines": {LINE: {"transcripts": {}}}}
    if fault == "ladder":
        institution.rules["classification"] = [each for each in LADDER if each != "INTERNAL"]
    if fault == "levels":
        source |= {"columns": {"classification": "level"}, "classification_floor": "PUBLIC"}
    if fault == "swapped":
        source["columns"] = {"response": "rejected", "rejected": "response"}
    if fault == "label":
        source["constants"] |= {"label": "true"}
    if fault == "role":
        source["role"] = "letters"
        del institution.recipe["training"]["preference"]
    with pytest.raises((SourceError, RecipeError)) as refused:
        source_digests(institution.workplace())
    assert isinstance(refused.value, SourceError) or fault == "ladder"


def _behind_others(text: str) -> bytes:
    return (
        "".join(json.dumps({"id": f"L-{each}", "note": "x" * 9_000}) + "\n" for each in range(9)).encode()
        + text.encode()
    )


def _as_csv(text: str) -> bytes:
    rows, written = [json.loads(each) for each in text.splitlines()], io.StringIO()
    table = csv.DictWriter(written, rows[0])
    table.writeheader()
    table.writerows(rows)
    return written.getvalue().encode()


COPIES: dict[str, tuple[str, Callable[[str], bytes]]] = {
    "plain": ("rows.jsonl", lambda text: text.encode()),
    "packed": ("rows.jsonl.gz", lambda text: gzip.compress(text.encode())),
    "a table": ("rows.csv", _as_csv),
    "ids escaped": ("rows.jsonl", lambda text: text.replace('"rated-', '"\\u0072ated-').encode()),
    "ids in capitals": ("rows.jsonl", lambda text: text.replace('"rated-', '" RATED-').encode()),
    "keys escaped": ("rows.jsonl", lambda text: text.replace('"id"', '"\\u0069d"').encode()),
    "another column": ("rows.jsonl", lambda text: text.replace('"id"', '"number"').encode()),
    "another encoding": ("rows.jsonl", lambda text: text.encode("utf-16")),
    "behind others": ("rows.jsonl", _behind_others),
    "up and down": ("rated/../rows.jsonl", lambda text: text.encode()),
}


@pytest.mark.security_case(
    "Rated answers are read from a copy elsewhere, in any spelling, packing or encoding",
    "Refused: they are read from their own directory alone",
)
def test_rated_answers_are_read_from_their_own_directory_alone(
    kept: Kept, institution: DemoInstitution, tmp_path: Path
) -> None:
    two_answers(kept, "Is the lamp lit?", "It is lit from dusk.", "Who knows.")
    text = made(kept, tmp_path / "pairs.jsonl").read_text()
    (institution.settings.data / RATED).mkdir(parents=True)
    constants = {"department": "", "author": "", "subject": ""}
    about = {"name": "pairs", "role": "preferences", "licence": "own", "retention": "1 year", "constants": constants}
    letters = institution.recipe["sources"]
    institution.recipe["training"]["preference"] = {}
    for spelling, (name, spelt) in COPIES.items():
        (institution.settings.data / "sources" / name).write_bytes(spelt(text))
        encoding = {"encoding": "utf-16"} if spelling == "another encoding" else {}
        columns = {"columns": {"id": "number"}} if spelling == "another column" else {}
        institution.recipe["sources"] = [*letters, {**about, "path": f"sources/{name}", **encoding, **columns}]
        with pytest.raises(SourceError):
            materialize(institution.workplace(), CLASSIFIED_CORPUS)


@pytest.mark.security_case(
    "Rated answers are imported without the line's consent, above its ceiling, relabelled, or twice",
    "rejected, and nothing is logged",
)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("no consent", InputError),
        ("above the ceiling", CeilingExceeded),
        ("another form", SourceError),
        ("relabelled", SourceError),
        ("no reason", InputError),
        ("twice", ConflictError),
    ],
)
def test_what_may_not_be_taken_in_is_refused(
    kept: Kept,
    institution: DemoInstitution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    error: type[Exception],
) -> None:
    two_answers(kept, "Is the lamp lit?", "It is lit from dusk.", "Who knows.")
    file = made(kept, tmp_path / "pairs.jsonl")
    consent = CONSENT if fault != "no consent" else {**CONSENT, "lines": {LINE: {"transcripts": {}}}}
    institution.rules["serving"] = consent
    institution.recipe["ceiling"] = "PUBLIC" if fault == "above the ceiling" else "SECRET"
    institution.write()
    if fault == "another form":
        file.write_text(file.read_text().replace('"rejected"', '"zirconium"'))
    if fault == "relabelled":  # the line's only adapter has another level than the rows
        assert small_bench(institution).register().classification == "PUBLIC"
    if fault == "twice":
        assert run(institution, monkeypatch, str(file), "--reason", "Read.").exit_code == 0
    refused = run(institution, monkeypatch, str(file), "--reason", " " if fault == "no reason" else "Read.")
    assert type(refused.exception) is error and "zirconium" not in str(refused.exception)
    taken = [each for each in entries(open_registry(institution.settings)) if each.action == TAKEN]
    assert len(taken) == (fault == "twice")
    assert len(list((institution.settings.data / "sources").glob("rated/*"))) == len(taken)
