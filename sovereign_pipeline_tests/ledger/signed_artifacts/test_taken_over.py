"""The cut-over: a home of an earlier release goes on, and nobody gets anything in by it later."""

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import select

from sovereign_pipeline.artifacts.attested import PROVENANCE_BUNDLE
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Stage, Workplace
from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.ledger.in_force import POLICY_CHANGED, TRUST_NAMED
from sovereign_pipeline.ledger.signed_artifacts.sealing import open_store
from sovereign_pipeline.ledger.signed_artifacts.taken_over import LISTED, bundle_file, list_file, mark_file
from sovereign_pipeline.ledger.tables import AuditEntry
from sovereign_pipeline.signing.officers import PIPELINE_KEY_FILE
from sovereign_pipeline.signing.predicates import UNSIGNED
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement
from sovereign_pipeline_tests.artifacts.small_stages import FIRST, SECOND, make, writes
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.trusted import demonstration_key


def forget_signatures(settings: Settings) -> None:
    """Leave the home as an earlier release did: no signature, no entry, no list."""
    for bundle in settings.artifacts.glob("*/*.sigstore.json"):
        bundle.unlink()
    shutil.rmtree(settings.ledger)
    shutil.rmtree(settings.keys)
    for file in settings.home.glob("registry.db*"):
        file.unlink()


@pytest.fixture
def earlier(institution: DemoInstitution) -> Workplace:
    """Two artifacts and a gate's record of an earlier release."""
    workplace = institution.workplace()
    make(SECOND, workplace, first=make(FIRST, workplace))
    forget_signatures(workplace.settings)
    return institution.workplace()


@pytest.fixture
def second(earlier: Workplace) -> ArtifactRef:
    ref = earlier.store.current("lamps", "second")
    assert ref is not None
    return ref


def lists(settings: Settings) -> list[dict[str, object]]:
    with open_registry(settings).reading() as session:
        return list(session.scalars(select(AuditEntry.subjects).where(AuditEntry.action == LISTED)))


def planted(workplace: Workplace, text: str = "planted") -> ArtifactRef:
    ref = produce(Stage("planted", "1", writes(text)), workplace, {}).ref
    (workplace.store.path_of(ref.digest) / PROVENANCE_BUNDLE).unlink()
    return ref


def refused(settings: Settings, ref: ArtifactRef, match: str) -> None:
    with pytest.raises(IntegrityError, match=match):
        open_store(settings).open(ref)


def test_an_earlier_home_is_taken_over_when_it_is_read(earlier: Workplace, second: ArtifactRef) -> None:
    artifact = earlier.store.open(second)
    assert artifact.bundles == () and not earlier.store.is_signed(second)
    rows = [json.loads(line) for line in list_file(earlier.settings).read_text().splitlines()]
    assert sorted(row["kind"] for row in rows) == ["first", "gate_record", "second"]
    (named,) = lists(earlier.settings)
    assert named["artifacts"] == 3
    assert make(FIRST, earlier).digest == artifact.manifest.inputs["first"]
    third = produce(Stage("third", "1", writes("3"), inputs=(FIRST,)), earlier, {"first": make(FIRST, earlier)}).ref
    assert earlier.store.is_signed(third)
    assert lists(earlier.settings) == [named]


def test_an_earlier_home_is_taken_over_before_anything_is_made_there(earlier: Workplace, second: ArtifactRef) -> None:
    produce(Stage("third", "1", writes("3")), earlier, {})
    assert not open_store(earlier.settings).is_signed(second)
    with open_registry(earlier.settings).reading() as session:
        actions = session.scalars(select(AuditEntry.action).order_by(AuditEntry.sequence)).all()
    assert [each for each in actions if each not in {POLICY_CHANGED, TRUST_NAMED}] == [LISTED, "artifact sealed"]


def test_taking_over_needs_the_key(earlier: Workplace, second: ArtifactRef) -> None:
    (earlier.settings.keys / PIPELINE_KEY_FILE).unlink()
    with pytest.raises(NotFoundError, match="the pipeline's key is not here"):
        earlier.store.open(second)
    assert not list_file(earlier.settings).exists()


@pytest.mark.security_case(
    "an unsigned artifact is put into a home after what an earlier release made was listed", "refused, and named"
)
def test_what_comes_later_is_refused(earlier: Workplace, second: ArtifactRef) -> None:
    earlier.store.open(second)
    ref = planted(earlier)
    refused(earlier.settings, ref, f"{ref.digest}/{PROVENANCE_BUNDLE}: the signature is missing")


def _add(settings: Settings, ref: ArtifactRef) -> bytes:
    row = {"kind": ref.kind, "digest": ref.digest, "manifest_sha256": ref.manifest_sha256}
    content = list_file(settings).read_bytes() + canonical_json(row) + b"\n"
    list_file(settings).write_bytes(content)
    return content


@pytest.mark.security_case(
    "a line is added to the list of what an earlier release made, also signed with the pipeline's key",
    "refused: the ledger names another list",
)
@pytest.mark.parametrize("signed", [False, True])
def test_a_changed_list_is_refused(earlier: Workplace, second: ArtifactRef, signed: bool) -> None:
    import hashlib

    earlier.store.open(second)
    ref = planted(earlier)
    content = _add(earlier.settings, ref)
    if signed:
        subject = Subject(list_file(earlier.settings).name, hashlib.sha256(content).hexdigest())
        statement = Statement((subject,), UNSIGNED, {"artifacts": 4})
        bundle_file(earlier.settings).write_bytes(sign_statement(demonstration_key("pipeline"), statement))
    for each in (ref, second):
        refused(earlier.settings, each, r"unsigned-artifacts\.jsonl: it is not the list that entry \d+ of the ledger")


@pytest.mark.security_case(
    "the signature of the list of what an earlier release made is an officer's", "refused: the file is named"
)
def test_a_list_that_another_key_signed_is_refused(earlier: Workplace, second: ArtifactRef) -> None:
    import hashlib

    earlier.store.open(second)
    content = list_file(earlier.settings).read_bytes()
    subject = Subject(list_file(earlier.settings).name, hashlib.sha256(content).hexdigest())
    statement = Statement((subject,), UNSIGNED, {"artifacts": 3})
    bundle_file(earlier.settings).write_bytes(sign_statement(demonstration_key("officer-1"), statement))
    refused(earlier.settings, second, r"unsigned-artifacts\.jsonl\.sigstore\.json")


@pytest.mark.security_case(
    "list or signature of what an earlier release made is removed, so that it is made again", "refused"
)
@pytest.mark.parametrize("which", [list_file, bundle_file])
def test_a_list_that_is_gone_is_not_made_again(earlier: Workplace, second: ArtifactRef, which: object) -> None:
    assert callable(which)
    earlier.store.open(second)
    ref = planted(earlier)
    which(earlier.settings).unlink()
    for each in (ref, second):
        refused(earlier.settings, each, "is gone")


@pytest.mark.security_case("the ledger names a second list of what an earlier release made", "refused")
def test_a_second_list_is_refused(earlier: Workplace, second: ArtifactRef) -> None:
    earlier.store.open(second)
    with open_registry(earlier.settings).writing() as session:
        append(session, "clerk", LISTED, {"artifacts": 0, "sha256": "0" * 64})
    refused(earlier.settings, second, "each name a list")


@pytest.mark.security_case(
    "registry, ledger and list are removed with every signature, so that a planted artifact is listed",
    "refused: a mark beside the keys says that artifacts were signed here",
)
def test_a_home_without_its_ledger_is_not_taken_over_again(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    ref = make(FIRST, workplace)
    settings = workplace.settings
    shutil.move(settings.keys, settings.home / "kept")
    (settings.keys).mkdir(mode=0o700)
    forget_signatures(settings)
    shutil.move(settings.home / "kept", settings.keys)
    assert mark_file(settings).exists()
    refused(settings, ref, "artifacts-are-signed says that artifacts were signed here before")


def test_a_home_that_begins_anew_beside_its_keys_goes_on(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    make(FIRST, workplace)
    shutil.rmtree(workplace.settings.home)
    again = institution.workplace()
    assert again.store.is_signed(make(FIRST, again))


@pytest.mark.security_case(
    "a row of the audit log that names a list is rewritten past the triggers", "refused: the entry is named"
)
def test_a_rewritten_entry_is_refused(earlier: Workplace, second: ArtifactRef) -> None:
    from sqlalchemy import text

    from sovereign_pipeline_tests.ledger.owner import without_triggers

    earlier.store.open(second)
    _add(earlier.settings, planted(earlier))
    registry = open_registry(earlier.settings)
    with without_triggers(registry.engine), registry.engine.begin() as connection:
        changed = {"subjects": json.dumps({"artifacts": 0, "sha256": "0" * 64}), "action": LISTED}
        connection.execute(text("UPDATE audit_entry SET subjects = :subjects WHERE action = :action"), changed)
    refused(earlier.settings, second, "entry [0-9]+ was changed")


def test_paths_are_where_the_page_says() -> None:
    settings = Settings(home=Path("/h"), data=Path("/d"))
    assert list_file(settings) == Path("/h/ledger/unsigned-artifacts.jsonl")
    assert mark_file(settings) == Path("/h-keys/artifacts-are-signed")
