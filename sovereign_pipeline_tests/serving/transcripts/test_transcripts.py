"""Transcripts: sealed on disk, stated to callers and in the ledger, bounded, and the line answers nobody without."""

import datetime
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyrage
import pytest

from sovereign_pipeline.base.errors import PrivacyError, RecipeError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.serving import Transcripts
from sovereign_pipeline.privacy.vault import fingerprint_of
from sovereign_pipeline.serving import transcripts as keeping_module
from sovereign_pipeline.serving.gateway.stores import facts_of
from sovereign_pipeline.serving.transcripts import sealed_in, transcript_files
from sovereign_pipeline_tests.conftest import LADDER
from sovereign_pipeline_tests.serving.gateway.scripted import LINE, adapter, answered_in
from sovereign_pipeline_tests.serving.transcripts.conftest import Kept

ASKED, ANSWERED = "Is the zirconium lamp lit?", "palimpsest"


@pytest.mark.security_case(
    "Someone searches a gateway's files for plain-text transcripts",
    "there are only encrypted records, logged by digest",
)
def test_what_is_on_disk_is_sealed_and_its_digest_is_noted(kept: Kept, tmp_path: Path) -> None:
    for stream in (False, True):
        kept.bench.engine.words = (ANSWERED,)
        assert ANSWERED in kept.response(ASKED, stream=stream).text
    (file,) = kept.files
    written = b"".join(path.read_bytes() for path in kept.bench.directory.rglob("*") if path.is_file())
    assert ASKED.encode() not in written and ANSWERED.encode() not in written
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    sealed, spoilt = sealed_in(file.read_bytes())
    (hour,) = kept.bench.journal.glob("*.jsonl")
    answered = answered_in(hour)
    digests = [each.sha256 for each in sealed]
    assert [each.transcript for each in answered] == digests and len(digests) == 2 and not spoilt
    facts = facts_of("2026-11-27T04", LINE, answered, 0)
    assert facts["transcripts"] == 2
    assert facts["transcripts_digest"] == hashlib.sha256("\n".join(digests).encode()).hexdigest()


def test_callers_are_told_before_they_ask_and_in_each_answer(kept: Kept) -> None:
    kept.bench.serve(adapter("buoys"))
    told = {each["id"]: each["metadata"] for each in kept.caller.get("/v1/models").json()["data"]}
    assert told[LINE] == {"classification": "INTERNAL", "transcript": "kept"}
    assert told["buoys"] == {"classification": "INTERNAL"}
    for stream in (False, True):
        answer = kept.response(ASKED, stream=stream)
        assert answer.headers["x-sovereign-transcript"] == "kept" and '"transcript":"kept"' in answer.text
        assert "x-sovereign-transcript" not in kept.response(ASKED, stream=stream, model="buoys").headers
    assert [path.name for path in (kept.bench.directory / "transcripts").iterdir()] == [LINE]


def test_neither_an_incomplete_answer_nor_a_rating_without_consent_is_kept(kept: Kept) -> None:
    kept.bench.engine.lost_after = 0
    assert kept.response(ASKED).status_code == 503
    assert not kept.files
    kept.bench.engine.lost_after = None
    kept.bench.transcripts.rules = {LINE: Transcripts()}
    id = kept.ask(ASKED)
    (file,) = kept.files
    before = file.read_bytes()
    kept.say(id, "up")
    assert file.read_bytes() == before


@pytest.mark.security_case(
    "The disk for transcripts is full", "answered requests wait encrypted; then 503 until they are written"
)
def test_a_line_that_cannot_keep_them_answers_nobody(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.bench.serve(adapter("buoys"))
    id = kept.ask(ASKED)
    real = os.open

    def full(path: Any, *options: Any, **named: Any) -> int:
        if str(path).endswith(keeping_module.SUFFIX):
            raise OSError(errno.ENOSPC, "planted")
        return real(path, *options, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        kept.ask(ASKED)
        refused = kept.response(ASKED)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "transcripts_full"
        assert "Retry-After" in refused.headers
        assert kept.response(ASKED, model="buoys").status_code == 200
        assert len(kept.bench.engine.asked) == 3
        refused = kept.caller.post("/v1/feedback", json={"id": id, "thumb": "down"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "feedback_not_noted")
    kept.ask(ASKED)
    kept.say(id, "down")
    (file,) = kept.files
    assert len(sealed_in(file.read_bytes())[0]) == 4, "the one that waited is there too"
    counter = 'sovereign_gateway_feedback_total{adapter="lamps-1.0.0",line="lamps",reason="",severity="0",thumb="down"}'
    metrics = {"Authorization": f"Bearer {kept.bench.token(metrics=True)}"}
    assert f"{counter} 1.0" in kept.caller.get("/metrics", headers=metrics).text


def test_the_oldest_go_by_days_and_by_size(kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.datetime(2026, 11, 27, 4, tzinfo=datetime.UTC)
    monkeypatch.setattr(keeping_module, "_now", lambda: now)
    monkeypatch.setattr(keeping_module, "MEGABYTE", 6_000)
    kept.bench.transcripts.rules = {LINE: Transcripts(days=2, megabytes=1)}
    for hours in range(60):
        now = datetime.datetime(2026, 11, 27, 4, tzinfo=datetime.UTC) + datetime.timedelta(hours=hours)
        kept.ask(ASKED)
    assert sum(path.stat().st_size for path in kept.files) <= 6_000 and 2 < len(kept.files) < 12
    assert kept.files[-1].name == "2026-11-29T15-0001.sealed"
    for _ in range(3):
        kept.ask(ASKED)
    assert kept.files[-1].name > "2026-11-29T15-0001.sealed", "one file is a tenth of it"
    now += datetime.timedelta(hours=49)
    kept.bench.transcripts.remove_oldest()
    assert not kept.files


def settings_of(root: Path) -> Settings:
    return Settings(home=root / "home", data=root / "data", serving=root / "serving")


def test_another_key_than_the_institution_names_lets_no_gateway_start(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    (settings.data / "lines").mkdir(parents=True)
    settings.home.mkdir()
    (settings.data / "lines" / "lamps.yaml").touch()
    key = str(pyrage.x25519.Identity.generate().to_public())
    rules: dict[str, Any] = {"lines": {LINE: {"transcripts": {}}}}

    def write(**serving: Any) -> None:
        content = {"name": "Lamp Office", "classification": LADDER, "serving": {**rules, **serving}}
        (settings.data / "institution.yaml").write_text(json.dumps(content))

    write()
    with pytest.raises(RecipeError, match="transcripts_key"):
        load_institution(settings.data)
    write(transcripts_key=fingerprint_of(key))
    institution = load_institution(settings.data)
    with pytest.raises(PrivacyError, match="public key is missing"):
        transcript_files(settings, institution)
    settings.transcripts_public_key.write_text(str(pyrage.x25519.Identity.generate().to_public()))
    with pytest.raises(PrivacyError, match="fingerprint is not the one in"):
        transcript_files(settings, institution)
    settings.transcripts_public_key.write_text(key)
    assert transcript_files(settings, institution).keeps(LINE)
