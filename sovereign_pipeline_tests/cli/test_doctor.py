"""`sovereign doctor`: what is not pinned, signed, witnessed, backed up, reachable or due, each line with its remedy."""

import datetime
import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.cli import doctor
from sovereign_pipeline.cli.doctor import Finding, examine, print_findings
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.corpus.stages import RAW_CORPUS
from sovereign_pipeline.ops.backup import CREATED, FAILED
from sovereign_pipeline.privacy.vault import fingerprint_of
from sovereign_pipeline.record import notes, witnesses
from sovereign_pipeline.record.audit_log import append, entries
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.notes import COSIGNS, new_signer
from sovereign_pipeline.record.sealing import PROVENANCE_BUNDLE
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.record.small_stages import make


@pytest.fixture
def settings(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An installation with one artifact; the command line finds it."""
    settings = institution.workplace().settings
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    make(RAW_CORPUS, institution.workplace_as_written())
    return settings


def found(settings: Settings) -> dict[str, Finding]:
    return {each.what: each for each in examine(settings)}


def test_every_line_has_a_remedy_where_something_is_wrong(settings: Settings) -> None:
    shown = CliRunner().invoke(app, ["doctor", "--json"])
    findings = json.loads(shown.stdout)
    assert shown.exit_code == 1 and any(not each["ok"] for each in findings)
    assert [each["what"] for each in findings if not each["ok"] and not each["advice"]] == []
    assert {"permissions", "writable", "trust root", "vault key", "artifacts", "reviews", "witnesses", "backup"} <= {
        each["what"] for each in findings
    }


def test_a_file_that_vanishes_meanwhile_is_skipped(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.home.chmod(0o755)
    vanishing, stat = settings.home / "registry.db-wal", Path.stat

    def stat_of(path: Path, **how: bool) -> os.stat_result:
        if path == vanishing:  # as when another process closes the database
            path.unlink(missing_ok=True)
        return stat(path, **how)

    vanishing.touch(0o644)
    monkeypatch.setattr(Path, "stat", stat_of)
    assert vanishing not in doctor.reachable_by_others(settings.home)


def test_the_vault_key_is_compared_with_its_pin(institution: DemoInstitution, settings: Settings) -> None:
    from pyrage import x25519

    assert "no public key" in found(settings)["vault key"].found
    key = str(x25519.Identity.generate().to_public())
    settings.vault_public_key.write_text(key)
    assert "pins no key" in found(settings)["vault key"].found
    for pin, ok in ((fingerprint_of(key), True), ("0" * 64, False)):
        institution.rules["vault_key"] = pin
        institution.write()
        assert found(settings)["vault key"].ok is ok


def test_unsigned_artifacts_are_named(settings: Settings) -> None:
    assert found(settings)["artifacts"].ok
    bundle = next(settings.artifacts.glob(f"*/{PROVENANCE_BUNDLE}"))
    bundle.unlink()
    assert bundle.parent.name[:12] in found(settings)["artifacts"].found


def test_it_says_since_when_nobody_has_seen_the_ledger(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, policy = open_registry(settings), settings.data / "trust" / "witnesses.policy"
    begun = entries(registry)[0].at.strftime("%Y-%m-%d")
    unseen = found(settings)["witnesses"]
    assert (
        not unseen.ok and unseen.found == f"unwitnessed since {begun} (entry 1)" and str(policy) in str(unseen.advice)
    )
    witness = new_signer("court.example/audit", COSIGNS)
    with registry.reading() as session:
        from sovereign_pipeline.record.checkpoints import verifier

        log = verifier(session, settings)
        assert log is not None
        note = registry.checkpoint()
        asked = witnesses.request(session, note, 0)
    policy.write_text(f"log {log}\nwitness court {witness.verifier}\nquorum court\n")
    assert found(settings)["witnesses"].ok  # the policy is new, and so is the oldest entry
    monkeypatch.setattr(doctor, "LONGEST_UNWITNESSED", datetime.timedelta(0))
    assert not found(settings)["witnesses"].ok
    witnesses.note_asked(settings, note)
    answer = witnesses.answer(asked, witness, [log], settings.home, 1_800_000_000)
    witnesses.add_cosignatures(settings, witnesses.read_policy(policy), answer)
    size = notes.parse_tree_head(note.text).size
    assert found(settings)["witnesses"].found == f"every entry is witnessed, up to {size}"
    with registry.writing() as session:
        append(session, "keeper", CREATED, {})
    assert f"(entry {size + 1})" in found(settings)["witnesses"].found


def test_backups_are_due_each_month(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(settings)["backup"].found == "no backup is logged"
    with open_registry(settings).writing() as session:
        append(session, "keeper", CREATED, {})
    assert found(settings)["backup"].ok
    monkeypatch.setattr(doctor, "LONGEST_WITHOUT_BACKUP", datetime.timedelta(0))
    assert "the newest was created on" in found(settings)["backup"].found
    with open_registry(settings).writing() as session:
        append(session, "keeper", FAILED, {})
    assert found(settings)["backup"].found == "no backup is logged"


def test_a_trust_root_that_expires_soon_is_a_finding(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from sovereign_pipeline.record.officers import trust_root

    real = replace(trust_root(settings), is_demonstration=False)
    monkeypatch.setattr(doctor, "trust_root", lambda settings: real)
    assert found(settings)["trust root"].ok
    monkeypatch.setattr(doctor, "EXPIRES_SOON", datetime.timedelta(days=500))
    assert "expires on" in found(settings)["trust root"].found


def test_hosts_are_asked_and_places_are_written_to(settings: Settings, tmp_path: Path) -> None:
    assert found(settings)["writable"].ok
    changed = replace(settings, ledger_copy=tmp_path / "no" / "copy")
    assert VARIABLES["ledger_copy"] in found(changed)["writable"].found
    shutil.rmtree(settings.serving, ignore_errors=True)
    settings.serving.touch()
    assert VARIABLES["serving"] in found(settings)["writable"].found
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1/traces"
        changed = replace(settings, otlp_url=url)
        assert found(changed)[f"host of {VARIABLES['otlp_url']}"].ok
    closed = found(changed)[f"host of {VARIABLES['otlp_url']}"]
    assert not closed.ok and "does not answer (Connection refused)" in closed.found


def test_a_suite_without_a_pin_is_a_finding(
    institution: DemoInstitution, settings: Settings, write_suite: Callable[[str | None], str]
) -> None:
    digest = write_suite(None)
    assert digest in str(found(settings)["suite quiz"].advice)
    write_suite(digest)
    assert found(settings)["suite quiz"].ok
    write_suite("0" * 64)
    assert "have the digest" in found(settings)["suite quiz"].found


@pytest.fixture
def write_suite(institution: DemoInstitution, settings: Settings) -> Callable[[str | None], str]:
    import yaml

    from sovereign_pipeline.suites.cards import load_suite_card, suite_digest

    def write(pin: str | None) -> str:
        folder, card = settings.suites / "quiz", settings.data / "suites" / "quiz.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.jsonl").write_text('{"question": "Which?", "choices": ["a", "b"], "answer": 0}\n')
        described: dict[str, object] = {
            "suite": "quiz",
            "title": "Quiz",
            "source": "https://quiz.example",
            "version": "1",
        }
        described |= {"licence": "MIT", "language": "en", "sector": "lamps", "files": {"test": "test.jsonl"}}
        task = {"kind": "choice", "prompt": "{question}\n{choices}", "continuation": "letter", "metric": "acc"}
        card.write_text(yaml.safe_dump({**described, "task": task, **({"sha256": pin} if pin else {})}))
        institution.recipe["evaluation"]["capability"] = [{"name": "quiz", "suite": "quiz", "classification": "PUBLIC"}]
        institution.write()
        return suite_digest(settings, load_suite_card(settings, "quiz")) if pin is None else pin

    return write


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("line [/] [red]", False, "no line [/]")])
    assert capsys.readouterr().out == "✗ line [/] [red]: no line [/]\n"
