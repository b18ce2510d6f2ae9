"""Opening transcripts on the machine with the private key: prompts for a blind review."""

import base64
import json
from pathlib import Path

import pyrage
import pytest

from sovereign_pipeline.review.plan_stage import PromptRow
from sovereign_pipeline.serving.transcripts import sealed_in
from sovereign_pipeline.suites.rows import read_items
from sovereign_pipeline_tests.serving.transcripts.conftest import Kept


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
