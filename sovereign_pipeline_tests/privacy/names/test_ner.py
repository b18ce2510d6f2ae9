"""An institution's own name model: trained by the command line, measured on held-out documents, signed, and pinned."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import InputError, IntegrityError, PrivacyError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.names.name_models import files_digest, load_name_model, model_files
from sovereign_pipeline.privacy.names.ner import read_bio, read_sentences
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.stages import detector_parts
from sovereign_pipeline.record.officers import PIPELINE, trust_root
from sovereign_pipeline.record.statements import verify_listed
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.privacy.conftest import document, scrub
from sovereign_pipeline_tests.privacy.names.tiny_ner import sentences

pytestmark = pytest.mark.slow


def bio(path: Path, count: int, per_document: int = 20) -> Path:
    """Write invented sentences with marked names, and the beginning of each document."""
    lines = []
    for number, (words, labels) in enumerate(sentences(1, count)):
        lines += ["-DOCSTART- O"] * (number % per_document == 0)
        lines += [f"{word} {label}" for word, label in zip(words, labels, strict=True)] + [""]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    institution.write()
    monkeypatch.setenv("SOVEREIGN_HOME", str(institution.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(institution.settings.data))
    return CliRunner().invoke(app, ["privacy", "train", "lamps", *map(str, arguments)])


def test_a_trained_model_is_measured_signed_and_pinned(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    done = train(institution, monkeypatch, "--on", bio(tmp_path / "set.txt", 240, 12), "--to", own, "--anew", "--json")
    assert done.exit_code == 0, done.stderr
    assert "pass 508 of 600" in done.stderr
    printed = json.loads(done.stdout)
    assert (printed["documents"], printed["held_out"]) == (20, 20)
    assert printed["after"]["recall"] > 0.9
    assert printed["after"]["precision"] > 0.9
    assert json.loads((own / "card.json").read_text())["measured"]["after"] == printed["after"]
    digest = printed["privacy"]["name_model_sha256"]["ar"]
    bundle, trust = (own / "model.sigstore.json").read_bytes(), trust_root(institution.settings)
    verify_listed(bundle, model_files(own), digest, trust, PIPELINE)

    privacy = Privacy(**printed["privacy"])
    text = "زار هزاع مكتب الميناء في نزوى يوم الأحد"
    scrubbed = scrub(Scrubber("lamps", "run", privacy), document(text, language="ar")).documents[0].request
    assert scrubbed == "زار NAME_1 مكتب الميناء في نزوى يوم الأحد"
    institution.recipe["privacy"] = printed["privacy"]
    before = detector_parts(institution.workplace())["name_model:ar"]

    weights = own / "model.crfsuite"
    assert "هزاع".encode() not in weights.read_bytes()
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(PrivacyError):
        load_name_model("ar", str(own))
    assert detector_parts(institution.workplace())["name_model:ar"] != before
    assert files_digest(own) != digest
    with pytest.raises(PrivacyError):
        load_name_model("ar", str(own), digest)
    with pytest.raises(PrivacyError):
        scrub(Scrubber("lamps", "run", privacy), document(text, language="ar"))
    with pytest.raises(IntegrityError):
        verify_listed(bundle, model_files(own), digest, trust, PIPELINE)


def test_sets_that_cannot_be_used_are_refused_without_their_text(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = bio(tmp_path / "small.txt", 40)
    few = train(institution, monkeypatch, "--on", small, "--to", tmp_path / "own", "--anew")
    assert isinstance(few.exception, InputError)
    assert not (tmp_path / "own").exists()
    torn = tmp_path / "torn.txt"
    torn.write_text("كتب O\nQuorvan is a name\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_bio(torn)
    assert "line 2" in str(error.value)
    assert "Quorvan" not in str(error.value)
    sets = [bio(tmp_path / name / "set.txt", 240, 12) for name in ("first", "second")]
    twice = train(institution, monkeypatch, "--on", sets[0], "--on", sets[1], "--to", tmp_path / "own", "--anew")
    assert isinstance(twice.exception, InputError)
    assert not (tmp_path / "own").exists()
    there = train(institution, monkeypatch, "--on", small, "--to", tmp_path)
    assert isinstance(there.exception, InputError)


def test_nested_entities_and_spans_are_read(tmp_path: Path) -> None:
    nested = tmp_path / "nested.txt"
    nested.write_text("ضد O\nالأسد I-ORG B-PERS\nفي O\nجامعة B-ORG\nسعيد I-ORG B-PERS\n$#$ O\n", encoding="utf-8")
    (sentence,) = read_bio(nested)
    found = [(sentence.text[each.start : each.end], each.label) for each in sentence.entities]
    assert found == [("الأسد", "PERSON"), ("جامعة سعيد", "ORGANISATION")]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "Said came", "spans": [[0, 4]], "group": "a"}\n', encoding="utf-8")
    (row,) = read_sentences(rows)
    assert (row.entities, row.document) == (((0, 4, "PERSON"),), "rows.jsonl a")
