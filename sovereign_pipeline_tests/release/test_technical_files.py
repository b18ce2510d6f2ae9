"""A technical file counts as signed by whom the trust root lets sign so, for exactly the bytes that were signed."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign_pipeline.audit import verify
from sovereign_pipeline.countdown import silent
from sovereign_pipeline.errors import ConflictError, InputError, IntegrityError, SignInError
from sovereign_pipeline.ledger import audit_log
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.release import technical_files
from sovereign_pipeline.release.auditing import audit_adapter
from sovereign_pipeline.release.technical_files import (
    PLACE,
    SIGNED,
    UNWRITTEN,
    CompletedFile,
    SignedFile,
    read_completed,
    right_of,
    sign_technical_file,
    signed_files,
    title_of,
)
from sovereign_pipeline.signing.keys import FileSigner, Signer, generate
from sovereign_pipeline.signing.trust_changes import add_officer, revoke
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.release.conftest import Office, open_office

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    root = tmp_path_factory.mktemp("technical_files")
    office = open_office(DemoInstitution(root, minimal_recipe(), [letter(number) for number in range(40)]))
    yield office
    office.registry.engine.dispose()


@pytest.fixture(scope="module")
def adapter(office: Office) -> Adapter:
    return office.adapter()


@pytest.fixture
def trust_as_it_was(office: Office, tmp_path: Path) -> Iterator[Path]:
    """The trust root's directory; what a test changes is taken back."""
    trust = office.bench.settings.data / "trust"
    shutil.copytree(trust, tmp_path / "trust")
    yield trust
    shutil.rmtree(trust)
    shutil.copytree(tmp_path / "trust", trust)


def text_of(adapter: Adapter, name: str, record: str = "") -> str:
    """A completed file, another one for each name."""
    return f"{title_of(adapter.id)}\n\nWritten from the record `{record or adapter.record_digest}`.\n\n{name}\n"


def handed_in(path: Path, text: str, adapter: Adapter, *, incomplete: bool = False) -> CompletedFile:
    path.write_text(text, encoding="utf-8")
    return read_completed(path, adapter, incomplete=incomplete)


def completed(adapter: Adapter, name: str) -> CompletedFile:
    return CompletedFile(adapter.id, text_of(adapter, name).encode(), 0)


def found(office: Office, adapter: Adapter, file: CompletedFile) -> SignedFile:
    with office.registry.reading() as session:
        files = signed_files(session, office.registry.settings, adapter)
    return next(each for each in files if each.sha256 == file.sha256)


def newcomer(office: Office, may: str, level: str = "*") -> FileSigner:
    key = generate()
    trust = office.bench.settings.data / "trust"
    add_officer(trust, key.public_pem, f"{may} {level}", [may], [level], office.roots[:2])
    return key


def test_several_persons_sign_the_same_bytes_and_it_is_known_whose_signature_is_missing(
    office: Office, adapter: Adapter, tmp_path: Path
) -> None:
    file = handed_in(tmp_path / "file.md", text_of(adapter, "several"), adapter)
    legal = sign_technical_file(office.registry, adapter, file, "legal", office.officers["layla"])
    assert (legal.unwritten, legal.missing) == (0, ["owner", "operations", "security"])
    sign_technical_file(office.registry, adapter, file, "owner", office.officers["omar"])
    signed = found(office, adapter, file)
    by = [(each.capacity, each.person) for each in signed.signatures]
    assert by == [("legal", "Layla Haddad"), ("owner", "Omar Nasser")]
    assert (signed.content, signed.missing) == (file.content, ["operations", "security"])
    settings, root = office.bench.settings, office.trust.root_sha256
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(technical_files, "trust_root", None)  # signatures are counted by the trust root that was named
        report = audit_adapter(office.registry, office.bench.store, settings, adapter.id, root, silent)
    with office.registry.reading() as session:
        every = signed_files(session, settings, adapter)
    assert report.to_dict()["file_signatures"] == sum(len(each.signatures) for each in every) >= 2
    entry = audit_log.entries(office.registry)[-1]
    assert (entry.action, entry.actor) == (SIGNED, f"officer:{office.officers['omar'].keyid}")
    assert "Omar" not in str(entry.subjects)
    assert entry.subjects["statement"] == hashlib.sha256(signed.signatures[1].statement).hexdigest()
    with pytest.raises(ConflictError, match="Omar Nasser signed this file as the line's owner already"):
        sign_technical_file(office.registry, adapter, file, "owner", office.officers["omar"])


def test_a_place_that_nobody_wrote_is_refused_unless_the_signature_says_so(
    office: Office, adapter: Adapter, tmp_path: Path
) -> None:
    wrapped = UNWRITTEN.lower().replace(" ", "\n", 1)
    quoted, emphasised = UNWRITTEN.replace(" t", "\n> t", 1), UNWRITTEN.replace(" ", " **\u200b", 1)
    text = text_of(adapter, f"{UNWRITTEN}: Nadia Example is to write it.\n{wrapped}\n{quoted}\n{emphasised}**")
    with pytest.raises(InputError, match="4 places where something is not known to this system, the first in line 5"):
        handed_in(tmp_path / "file.md", text, adapter)
    file = handed_in(tmp_path / "file.md", text, adapter, incomplete=True)
    signed = sign_technical_file(office.registry, adapter, file, "owner", office.officers["layla"])
    assert (signed.unwritten, audit_log.entries(office.registry)[-1].subjects["unwritten"]) == (4, 4)
    assert PLACE.pattern.lower() == verify.UNWRITTEN


@pytest.mark.security_case("An officer signs the technical file of another adapter, or of another record", "refused")
@pytest.mark.parametrize("other", ["adapter", "record", "text", "none"])
def test_a_file_of_something_else_is_refused(adapter: Adapter, tmp_path: Path, other: str) -> None:
    path = tmp_path / "file.md"
    text = {
        "adapter": text_of(adapter, "x").replace(title_of(adapter.id), title_of("ships-1.0.0")),
        "record": text_of(adapter, "x", record="0" * 64),
        "text": f"\n{text_of(adapter, 'x')}",
    }
    if other in text:
        with pytest.raises(InputError, match=r"this is no technical file of lamps-1\.0\.0"):
            handed_in(path, text[other], adapter)
        return
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_completed(path, adapter, incomplete=True)
    path.write_bytes(text_of(adapter, "x").encode("utf-16"))
    with pytest.raises(InputError, match="no text in UTF-8"):
        read_completed(path, adapter, incomplete=True)


@pytest.mark.security_case(
    "A technical file holds what makes a terminal show another text than the one that is signed", "refused"
)
def test_a_file_that_is_not_shown_as_it_is_is_refused(adapter: Adapter, tmp_path: Path) -> None:
    for deceiving, point in (("\x1b[8mhidden", "001B"), ("one\rother", "000D"), ("\u202eesrever", "202E")):
        with pytest.raises(InputError, match=rf"line 5 holds the character U\+{point}"):
            handed_in(tmp_path / "file.md", text_of(adapter, deceiving), adapter)
    (tmp_path / "file.md").write_bytes(
        b"\xef\xbb\xbf" + text_of(adapter, "\tof Windows").replace("\n", "\r\n").encode()
    )
    assert read_completed(tmp_path / "file.md", adapter, incomplete=False).unwritten == 0


@pytest.mark.security_case("An officer signs a technical file in a capacity that is not theirs", "refused")
def test_each_capacity_takes_its_right_at_the_level_of_the_adapter(office: Office, adapter: Adapter) -> None:
    file, registry = completed(adapter, "rights"), office.registry
    owner = newcomer(office, "sign_as_owner", "PUBLIC")
    refused: list[tuple[Signer, str]] = [
        (owner, "security"),
        (newcomer(office, "sign_as_owner", "SECRET"), "owner"),
        (newcomer(office, "approve"), "owner"),
    ]
    for key, capacity in refused:
        with pytest.raises(SignInError, match=f"may not decide about 'sign_as_{capacity}' at PUBLIC"):
            sign_technical_file(registry, adapter, file, capacity, key)
    with pytest.raises(IntegrityError, match="has not the role officer"):
        sign_technical_file(registry, adapter, file, "owner", generate())
    with pytest.raises(InputError, match="Nobody signs a technical file as 'minister'"):
        right_of("minister")
    signed = sign_technical_file(registry, adapter, file, "owner", owner)
    assert [each.capacity for each in signed.signatures] == ["owner"]


@pytest.mark.security_case("A signed technical file, or its signature, is changed or removed", "refused; it is named")
@pytest.mark.parametrize("what", ["file", "statement"])
def test_a_file_or_a_signature_that_was_changed_or_removed_is_named(
    office: Office, adapter: Adapter, what: str
) -> None:
    file = completed(adapter, f"changed {what}")
    signed = sign_technical_file(office.registry, adapter, file, "legal", office.officers["ines"])
    directory = office.bench.settings.home / "technical-files" / adapter.id
    statement = hashlib.sha256(signed.signatures[0].statement).hexdigest()
    path = directory / (f"{file.sha256}.md" if what == "file" else f"{statement}.sigstore.json")
    content = path.read_bytes()
    other = sign_technical_file(
        office.registry, adapter, completed(adapter, f"other {what}"), "legal", office.officers["ines"]
    )
    try:
        path.write_bytes(other.content if what == "file" else other.signatures[0].statement)
        with pytest.raises(IntegrityError, match=rf"{file.sha256}\.md: The statement is about"):
            found(office, adapter, file)
        path.unlink()
        with pytest.raises(IntegrityError, match=rf"{path.name}: the file cannot be read"):
            found(office, adapter, file)
    finally:
        path.write_bytes(content)
    assert found(office, adapter, file).signatures == signed.signatures


@pytest.mark.security_case("An entry gives an officer's signature of a technical file another capacity", "refused")
def test_an_entry_says_what_was_signed(office: Office, adapter: Adapter) -> None:
    sign_technical_file(office.registry, adapter, completed(adapter, "entry"), "owner", office.officers["omar"])
    entry = audit_log.entries(office.registry)[-1]
    for change in ({"capacity": "legal"}, {"unwritten": 1}, {"at": "2026-01-01T00:00:00+00:00"}):
        with pytest.raises(IntegrityError, match="names another signature"), office.registry.writing() as session:
            audit_log.append(session, entry.actor, SIGNED, {**entry.subjects, **change})
            signed_files(session, office.registry.settings, adapter)  # the transaction fails, so nothing is left


@pytest.mark.security_case(
    "A technical file is signed with a key that is revoked", "refused, from its place in the log on"
)
def test_a_signature_counts_until_the_place_from_which_its_key_is_revoked(
    office: Office, adapter: Adapter, trust_as_it_was: Path
) -> None:
    key, file = office.officers["layla"], completed(adapter, "revoked")
    sign_technical_file(office.registry, adapter, file, "owner", key)
    newest = audit_log.entries(office.registry)[-1].sequence
    revoke(trust_as_it_was, key.keyid, newest, office.roots[:2])
    assert found(office, adapter, file).signatures
    with pytest.raises(SignInError, match="is revoked"):
        sign_technical_file(office.registry, adapter, file, "legal", key)
    revoke(trust_as_it_was, key.keyid, newest - 1, office.roots[:2])
    with pytest.raises(IntegrityError, match=f"is revoked from entry {newest - 1}"):
        found(office, adapter, file)
