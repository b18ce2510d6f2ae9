"""Opening transcripts on the machine with the private key: prompts for a blind review."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import CeilingExceeded, ConflictError, InputError, SourceError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.dataset.jsonl import PREFERENCE_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.review.plan_stage import PromptRow
from sovereign_pipeline.serving.rated_answers import TAKEN
from sovereign_pipeline.serving.transcripts import sealed_in
from sovereign_pipeline.suites.rows import read_items
from sovereign_pipeline_tests.conftest import DemoInstitution
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
    assert "the file exists already" in str(kept.open("prompts", out).exception)


@pytest.mark.security_case(
    "Somebody with the public key adds a transcript of their own invention", "left out: the journal knows nothing of it"
)
def test_what_the_journal_does_not_name_is_left_out(kept: Kept, tmp_path: Path) -> None:
    kept.ask("Is the lamp lit?")
    (file,) = kept.files
    identity = pyrage.x25519.Identity.from_str(kept.key.read_text())
    (sealed,), _ = sealed_in(file.read_bytes())
    plain = pyrage.decrypt(sealed.content, [identity]).replace(b"lamp lit", b"mast cut")
    with file.open("ab") as stream:
        stream.write(b"\n" + base64.b64encode(pyrage.encrypt(plain, [identity.to_public()])) + b"\n")
        stream.write(b"cut sho")
    opened = kept.open("prompts", tmp_path / "prompts.jsonl")
    assert opened.exit_code == 0
    assert "not in the journal: 1" in opened.output and "not readable: 1" in opened.output
    assert [each.prompt for each in read_items(tmp_path / "prompts.jsonl", PromptRow)] == ["Is the lamp lit?"]
    unchecked = kept.open("prompts", tmp_path / "all.jsonl", checked=False)
    assert "2 prompts" in unchecked.output


@pytest.mark.parametrize("what", ["another key", "no key", "another line", "neither checked nor unchecked"])
def test_what_cannot_be_opened_is_named_and_nothing_is_written(kept: Kept, tmp_path: Path, what: str) -> None:
    kept.ask("Is the lamp lit?")
    out, options = tmp_path / "prompts.jsonl", []
    if what == "another key":
        kept.key.write_text(str(pyrage.x25519.Identity.generate()))
    if what == "no key":
        kept.key.write_text("lamp")
    if what == "another line":
        options = ["--line", "../lamps"]
    if what == "neither checked nor unchecked":
        options = ["--unchecked"]
    refused = kept.open("prompts", out, *options)
    assert refused.exit_code and isinstance(refused.exception, Exception) and not out.exists()
    assert not (kept.bench.directory / "transcripts" / "audit.jsonl").exists()


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
    for left_out in ("not rated: 1", "no answer with the other thumb: 1", "a placeholder that stands for nobody: 1"):
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


@pytest.mark.security_case(
    "One question was answered by adapters of two levels, and rated up and down",
    "no pair is made: the answer of the higher level would be taken in at the lower one",
)
def test_answers_of_two_levels_make_no_pair(kept: Kept, tmp_path: Path) -> None:
    for level, answer, thumb in (("INTERNAL", "It is lit.", "up"), ("SECRET", "It is out.", "down")):
        kept.bench.served[0] = replace(kept.bench.served[0], classification=level)
        kept.say(kept.ask("Is the lamp lit?", answer), thumb)
    two_answers(kept, "Who signs?", "The desk.", "Nobody.")
    opened = kept.open("preferences", tmp_path / "pairs.jsonl", "--role", "preferences")
    assert "no answer with the other thumb: 2" in opened.output
    assert [each["request"] for each in rows_of(tmp_path / "pairs.jsonl")] == ["Who signs?"]
    labels = rows_of(made(kept, tmp_path / "labels.jsonl", "labels"))
    assert [each["classification"] for each in labels] == ["INTERNAL", "SECRET", "SECRET", "SECRET"]
    assert labels[0]["case"] == labels[1]["case"]


def test_without_the_lines_consent_nothing_that_is_said_is_kept(kept: Kept) -> None:
    kept.bench.transcripts.rules = {LINE: kept.bench.transcripts.rules[LINE].model_copy(update={"preferences": False})}
    id = kept.ask("Is the lamp lit?")
    (file,) = kept.files
    before = file.read_bytes()
    kept.say(id, "up")
    assert file.read_bytes() == before


def run(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    for variable in ("home", "data", "vault"):
        monkeypatch.setenv(f"SOVEREIGN_{variable.upper()}", str(institution.root / variable))
    return CliRunner().invoke(app, ["sources", "take-rated", LINE, *arguments])


def test_rated_answers_go_through_every_stage_of_a_source(
    kept: Kept, institution: DemoInstitution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        question = f"Boat {number} of {MAIL} asks whether lamp {number} at quay {number} is lit after the storm."
        two_answers(kept, question, f"Lamp {number} was lit again on the same evening.", f"No idea about {number}.")
    file = made(kept, tmp_path / "pairs.jsonl")
    institution.rules["serving"] = CONSENT
    institution.write()
    taken = run(institution, monkeypatch, str(file), "--reason", "The desk read them all.")
    assert taken.exit_code == 0, taken.output
    (entry,) = [each for each in entries(open_registry(institution.settings)) if each.action == TAKEN]
    assert (entry.subjects["rows"], entry.subjects["classification"]) == (4, "INTERNAL")
    assert entry.subjects["reason"] == "The desk read them all." and MAIL not in str(entry.subjects)

    (source,) = yaml.safe_load(taken.output.partition("recipe:\n")[2])
    institution.recipe["sources"].append({**source, "licence": "own", "retention": "1 year"})
    institution.recipe["training"]["preference"] = {}
    workplace = institution.workplace()
    workplace.settings.vault_public_key.write_text(f"{pyrage.x25519.Identity.generate().to_public()}\n")
    dataset, verdicts = materialize(workplace, PREFERENCE_DATASET)
    rows = [json.loads(line) for line in dataset.file(PREFERENCE_ROWS).read_text().splitlines()]
    assert rows and all("EMAIL_1" in json.dumps(row) and MAIL not in json.dumps(row) for row in rows)
    assert all(verdict.passed for verdict in verdicts.values())
    assert dataset.manifest.classification == "INTERNAL"


@pytest.mark.security_case(
    "Rated answers are taken in without the line's consent, above its ceiling, or twice",
    "refused, and nothing is entered",
)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("no consent", InputError),
        ("above the ceiling", CeilingExceeded),
        ("another form", SourceError),
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
    if fault == "twice":
        assert run(institution, monkeypatch, str(file), "--reason", "Read.").exit_code == 0
    refused = run(institution, monkeypatch, str(file), "--reason", " " if fault == "no reason" else "Read.")
    assert type(refused.exception) is error and "zirconium" not in str(refused.exception)
    taken = [each for each in entries(open_registry(institution.settings)) if each.action == TAKEN]
    assert len(taken) == (fault == "twice")
    assert len(list((institution.settings.data / "sources").glob("rated/*"))) == len(taken)
