"""What an evidence package holds, what it never holds, and when none is written."""

import datetime
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cryptography
import pytest
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.evidence import package as evidence
from sovereign_pipeline.evidence import verify
from sovereign_pipeline.evidence.package import GIVEN, Gathered, gather
from sovereign_pipeline.record import checkpoints
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.catalog import transitions_of
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.record.trust_changes import revoke, rotate_root
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.record.witnesses import witnessed_by
from sovereign_pipeline.release.acts import add_issue
from sovereign_pipeline.release.purge import plan_purge, purge
from sovereign_pipeline.release.trial import Judgement, accept_hold, enter_judgements, write_judgement
from sovereign_pipeline.serving.rollout.rollback import rollback
from sovereign_pipeline_tests.conftest import LADDER, PROMPTS, QUESTIONS, DemoInstitution, minimal_recipe
from sovereign_pipeline_tests.evidence.conftest import FIRST, SECOND, Desk, written
from sovereign_pipeline_tests.evidence.packages import Package, changed
from sovereign_pipeline_tests.registry.bench import SFT_ADAPTER, Bench, chain_with
from sovereign_pipeline_tests.registry.rewarded import with_reward_model
from sovereign_pipeline_tests.release.conftest import Office, open_office
from sovereign_pipeline_tests.review.conftest import ReviewBench, row
from sovereign_pipeline_tests.serving.rollout.conftest import Desk as Rollout
from sovereign_pipeline_tests.serving.rollout.test_rollback import revoke_officer


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def test_its_verifier_answers_from_the_first_roots_sha256(desk: Desk) -> None:
    said: list[str] = []
    assert desk.package.refusal(today(), said=said) is None
    told = "\n".join(said)
    source = hashlib.sha256((desk.office.bench.institution.source).read_bytes()).hexdigest()
    for answer in (
        f"source file        {source}  letters: sources/letters.jsonl",
        f"{FIRST} promote -> production, requested by Layla Haddad (entry ",
        f'{FIRST}: gate capability_not_inferior (inconclusive), by Layla Haddad: "The suite is being enlarged."',
        f"production: {FIRST}; staged: {SECOND} for 25 % of the users",
        "9 gates in the record and 1 of the record itself",
        "tiny: digest of its files, including",
        f"{FIRST} against tiny: 10 won, 0 lost, 0 tied; 20 ballots",
        f'known issue added by Layla Haddad, {FIRST}: "It takes candles for lamps."',
        f'recall waived by Omar Nasser, {FIRST}: "The desk asked for a day."',
        "the witness court.example/witness, key ",
        "What this package cannot prove:",
    ):
        assert answer in told, f"{answer}\n{told}"


def test_no_text_and_no_name_of_the_corpus_is_in_it(desk: Desk) -> None:
    rows = desk.office.bench.institution.rows
    texts = {str(row[name]) for row in rows for name in ("request", "response", "subject", "author", "case")}
    texts |= {word for row in rows for word in row["request"].split() if any(map(str.isdigit, word))}
    texts |= {str(item["question"]) for item in QUESTIONS} | {str(item["prompt"]) for item in PROMPTS}
    texts |= {"wording of answer", "هذه هي الصيغة"}
    texts = {text for text in texts if len(text) > 4}
    assert len(texts) > 400
    whole = b"\0".join(desk.package.files.values()).decode()
    decoded = json.dumps(whole)  # whether a text stands there as it is, or escaped
    words = {*re.findall(r"\w+", whole.replace("\\n", " "))}  # some short word is in signatures by chance
    short = {text for text in texts if len(text) < 8 and text.isalnum()}
    assert short & words == set()
    assert [text for text in texts - short if text in whole or json.dumps(text)[1:-1] in decoded] == []
    assert not [
        name for name in desk.package.files if name.endswith(("documents.jsonl", "train.jsonl", "answers.jsonl"))
    ]


def test_the_verifier_runs_where_there_is_nothing_but_cryptography(desk: Desk, tmp_path: Path) -> None:
    site = Path(cryptography.__file__).parent.parent
    for name in ("cryptography", "cffi", "pycparser", *(path.name for path in site.glob("_cffi_backend*"))):
        if (site / name).exists():
            (tmp_path / name).symlink_to(site / name)
    run = f"import runpy, sys; sys.path.append({str(tmp_path)!r}); sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-I", "-S", "-c", run + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    script = str(desk.root / "package" / "verify.py")

    def ends(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([*command, script, *arguments], capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr

    code, said = ends(desk.package.root_sha256)
    holds = "every file of the package except documents/ and README.md was checked, and holds"
    assert (code, holds in said) == (0, True), said
    code, said = ends("0" * 64)
    assert (code, "not the one that you gave" in said) == (1, True), said
    assert ends(desk.package.root_sha256, "--on", "yesterday")[0] == 2


def test_the_command_writes_it_for_a_line_on_a_day_as_folder_and_archive(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, path in (("HOME", "home"), ("DATA", "data"), ("VAULT", "vault")):
        monkeypatch.setenv(f"SOVEREIGN_{variable}", str(desk.office.bench.institution.root / path))
    folder = tmp_path / "package"
    day = today()
    asked = ["evidence", "--line", "lamps", "--on", day, "--out", str(folder), "--zip", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    facts: dict[str, Any] = json.loads(done.stdout)
    assert (facts["adapters"], facts["classification"]) == ([FIRST, SECOND], "PUBLIC")
    assert facts["verifier_sha256"] == hashlib.sha256(desk.package.files["verify.py"]).hexdigest()
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        packed = {name.removeprefix("package/"): archive.read(name) for name in archive.namelist()}
    assert packed == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    last = entries(desk.office.registry)[-1]
    assert (last.action, last.subjects) == (GIVEN, {"adapters": [FIRST, SECOND], "on": day})

    again = CliRunner().invoke(app, asked)
    assert (again.exception.exit_status if isinstance(again.exception, InputError) else None) == 2, (
        "no folder is written over"
    )
    for wrong in (["evidence", "--out", str(tmp_path / "x")], ["evidence", FIRST, "--line", "lamps", "--out", "x"]):
        assert isinstance(CliRunner().invoke(app, wrong).exception, InputError)
    assert not list(tmp_path.glob(".package*")), "nothing is left beside it"


def test_none_is_written_before_witnesses_have_seen_what_it_needs(desk: Desk, tmp_path: Path) -> None:
    settings = desk.office.bench.settings
    notes = sorted((settings.ledger / "witnessed").glob("*.note"), key=lambda path: int(path.stem))
    newest = notes[-1].read_bytes()
    notes[-1].unlink()
    try:
        with pytest.raises(IntegrityError, match="witnesses have cosigned"):
            written(desk.office, tmp_path / "package", [FIRST])
    finally:
        notes[-1].write_bytes(newest)
    assert list(tmp_path.iterdir()) == []


def _continuing(bench: Bench, parent: Adapter) -> None:
    """Let the line's next adapter be continued from one that is registered."""
    start = {f"start_from:{parent.id}": parent.adapter_digest}
    bench.chain = chain_with(replace(SFT_ADAPTER, external=lambda workplace: start))


def test_the_adapter_that_it_was_continued_from_is_evidence_too(institution: DemoInstitution, tmp_path: Path) -> None:
    office = open_office(institution)
    first = office.adapter()
    _continuing(office.bench, first)
    second = office.adapter()
    package = written(office, tmp_path / "package", [second.id])
    said: list[str] = []
    assert package.refusal(said=said) is None
    assert f"  continued from     {first.adapter_digest}  {FIRST}" in said
    assert f"artifacts/{first.record_digest}/record.json" in package.files
    without = package.indexed({f"registry/{first.id}.json": None}, office.pipeline)
    assert without.refusal() == f"{SECOND}: the package lacks the parent adapter that its training started from"
    higher = package.read()
    higher.artifacts[first.adapter_digest].manifest["classification"] = LADDER[-1]
    with pytest.raises(verify.Refused, match=f"its input start_from:{FIRST} is {LADDER[-1]}"):
        verify.check_adapters(higher)
    card = package.files[f"documents/{second.id}/model-card.md"].decode()
    assert "| **together** | 2,000 | 5e+08 | 0.5 | |" in card, "with the training of the adapter that it continues"
    assert "0.5 of 1e+09 FLOPs (a made figure). This share is above a third" in card


def test_the_reward_model_that_judged_it_is_evidence_too(institution: DemoInstitution, tmp_path: Path) -> None:
    office = open_office(institution)
    with_reward_model(office.bench)
    adapter = office.adapter()
    package = written(office, tmp_path / "package", [adapter.id])
    said: list[str] = []
    assert package.refusal(said=said) is None
    digest = office.bench.refs["reward_model"].digest
    assert any(line.split()[:2] == ["reward_model", digest] for line in said)
    card = package.files[f"documents/{adapter.id}/model-card.md"].decode()
    assert "| **together** | 3,000 | 7.5e+08 | 0.75 | |" in card
    lacking = package.indexed({f"artifacts/{digest}/reward.sigstore.json": None}, office.pipeline)
    assert f"artifacts/{digest}: it lacks a file" in str(lacking.refusal())
    other = {f"artifacts/{digest}/reward.sigstore.json": b"{}"}
    assert package.indexed(other, office.pipeline).refusal() is not None


def test_none_is_written_of_what_does_not_hold(
    institution: DemoInstitution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = open_office(institution)
    adapter = office.adapter()
    office.move("approve", adapter)
    assert written(office, tmp_path / "good", [adapter.id]).refusal() is None
    trust, newest = office.bench.settings.data / "trust", entries(office.registry)[-1].sequence
    add_issue(office.registry, adapter.id, "Anything.", office.officers["ines"])
    revoke(trust, office.officers["ines"].keyid, newest, office.roots[:2])
    said: list[str] = []
    assert written(office, tmp_path / "void", [adapter.id]).refusal(said=said) is None
    assert "DOES NOT COUNT" in "\n".join(said)

    def without_a_statement(*given: Any) -> Gathered:
        found = gather(*given)
        found.files.pop(next(name for name in found.files if name.startswith("statements/")))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(evidence, "gather", without_a_statement)
        with pytest.raises(IntegrityError, match=r"is invalid, so no package was written: statements/.* lacks it"):
            written(office, tmp_path / "bad", [adapter.id])
    revoke(trust, office.officers["omar"].keyid, 0, office.roots[:2])
    with pytest.raises(IntegrityError):
        written(office, tmp_path / "bad", [adapter.id])
    assert [path.name for path in tmp_path.iterdir() if "bad" in path.name] == []


def test_a_rollback_that_counts_no_more_is_told(institution: DemoInstitution, tmp_path: Path) -> None:
    rollout = Rollout(open_office(institution), tmp_path / "gateway")
    first, second = rollout.in_production(), rollout.in_production()
    rollback(rollout.settings, "lamps", first.id, rollout.office.officers["omar"], "It answers in verse.")
    revoke_officer(rollout)
    rollout.follow()
    said: list[str] = []
    assert written(rollout.office, tmp_path / "package", [second.id]).refusal(said=said) is None
    assert "DOES NOT COUNT" in "\n".join(said)
    answered_last = next(each for each in said if each.startswith("  at "))
    assert answered_last.endswith(f"production: {second.id}")


@pytest.mark.security_case("A witness with a revoked key cosigned a checkpoint", "the log counts as unwitnessed")
def test_a_revoked_witness_has_seen_nothing(desk: Desk) -> None:
    settings, trust = desk.office.bench.settings, desk.office.trust
    log = checkpoints.signer(settings)
    assert log is not None
    seen = witnessed_by(trust, log.verifier, settings)
    assert seen is not None and seen.entries

    def revoked_from(index: int) -> Trust:
        role = trust.role("witness")
        keys = tuple(replace(each, revoked_from=index) for each in role.keys)
        return replace(trust, roles={**trust.roles, "witness": replace(role, keys=keys)})

    assert witnessed_by(revoked_from(seen.entries), log.verifier, settings) == seen
    with pytest.raises(IntegrityError, match="No checkpoint has cosignatures"):
        witnessed_by(revoked_from(0), log.verifier, settings)


THIRD = "lamps-1.2.0"


@dataclass
class Worn:
    office: Office
    package: Package
    said: list[str]
    """What its verifier says."""


def _reviewed(bench: Bench) -> None:
    """Closed early, when one operator of five had given ballots."""
    reviews = ReviewBench(bench)
    reviews.open()
    operator = reviews.operators[0]
    for each in reviews.asked(operator):
        reviews.vote(operator, each.pair, 1)
    reviews.close(officer="officer.salim", reason="The others are on leave.")
    reviews.materialize()


def _held(office: Office, adapter: Adapter, incumbent: str) -> None:
    """Its hold was judged, which was inconclusive, and the root's keys were changed before an officer accepted it."""
    registry, settings = office.registry, office.bench.settings
    with registry.reading() as session:
        staged = [each for each in transitions_of(session, adapter.line) if each.adapter_id == adapter.id][-1]
    judged = Judgement(
        line=adapter.line,
        adapter=adapter.id,
        incumbent=incumbent,
        staged_by=staged.sequence,
        began=1,
        number=1,
        outcome="inconclusive",
        because="few asked",
        expected="",
        days=8.0,
        users=(3, 9),
        answers=(4, 12),
        rated=(0, 0),
        severe=0,
        bounds=(),
        observations="1" * 64,
        at=datetime.datetime.now(datetime.UTC),
    )
    signed = write_judgement(settings, office.pipeline, judged, adapter.record_manifest_sha256)
    enter_judgements(registry, settings, adapter.line, office.trust)
    rotate_root(settings.data / "trust", [generate() for _ in range(3)], office.roots[:2])
    workplace = office.bench.workplace()
    accept_hold(registry, workplace, office.officers["ines"], adapter.id, "The desk read fifty.", signed.sha256)


def _purged(office: Office, adapter: Adapter) -> None:
    bench = office.bench
    plan = plan_purge(office.registry, bench.store, bench.settings, adapter.id, silent)
    purge(office.registry, bench.store, bench.settings, office.officers["layla"], plan, "The disk is full.")


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worn]:
    root = tmp_path_factory.mktemp("worn")
    institution = DemoInstitution(root / "institution", minimal_recipe(), [row(number) for number in range(60)])
    institution.root.mkdir()
    review = {"prompts_each": 2, "shared_prompts": 2, "guess_pairs": 2, "may_close_early": ["officer.salim"]}
    institution.recipe["gates"] = {"review": review}
    bench = Bench(institution)
    bench.with_base_model("tiny")
    office = open_office(institution, bench)
    first = office.adapter()
    office.to_production(first)
    _reviewed(bench)
    second = office.adapter()
    office.to_production(second)
    third = office.adapter()
    office.move("approve", third)
    office.move("stage", third)
    office.move("retire", first)
    _purged(office, first)
    _held(office, third, second.id)
    institution.source.unlink()
    package, said = written(office, root / "package", [FIRST, SECOND]), list[str]()
    assert package.refusal(said=said) is None
    yield Worn(office, package, said)
    office.registry.engine.dispose()


def test_what_happened_to_the_line_is_told(worn: Worn) -> None:
    told = "\n".join(worn.said)
    for each in (
        "✓ trust root: root 2, targets ",
        f'{FIRST} against tiny: 2 won, 0 lost, 0 tied; 4 of 20 ballots, closed early by officer.salim: "The others',
        f"{FIRST} supersede -> superseded, requested by Layla Haddad (entry ",
        f"{SECOND} promote -> production, requested by Layla Haddad (entry ",
        f"hold of {THIRD}: inconclusive",
        f'inconclusive hold of {THIRD} accepted by Ines Farah: "The desk read fifty."',
        f'release weights purged by Layla Haddad, {FIRST}: "The disk is full."',
    ):
        assert each in told, f"{each}\n{told}"


@pytest.mark.security_case(
    "A statement about a trial, a purge or a flag change is altered or missing in an evidence package",
    "rejected, even with a new index",
)
def test_each_statement_of_its_past_is_needed_as_it_was_signed(worn: Worn) -> None:
    statements = [name for name in worn.package.files if name.startswith("statements/")]
    tried = [(name, new) for name in statements for new in (None, changed(worn.package.files[name]))]
    made = [(name, worn.package.indexed({name: new}, worn.office.pipeline)) for name, new in tried]
    assert [name for name, each in made if each.refusal() is None] == []
    assert len(made) > 50
