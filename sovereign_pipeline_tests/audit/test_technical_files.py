"""A package carries the technical file that persons signed; its verifier says who, or refuses what nobody signed so."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from sovereign_pipeline.audit import verify
from sovereign_pipeline.release.technical_files import CAPACITIES, SIGNED
from sovereign_pipeline.signing.predicates import TECHNICAL_FILE
from sovereign_pipeline.signing.statements import Statement, Subject, read_statement, sign_statement
from sovereign_pipeline_tests.audit.conftest import FIRST, SECOND, Desk
from sovereign_pipeline_tests.trusted import demonstration_key


def _read(desk: Desk) -> verify.Package:
    """What the verifier has read before it follows the signatures of technical files, and these entries alone."""
    package = desk.package.read()
    package.log = {number: entry for number, entry in package.log.items() if entry["action"] == SIGNED}
    return package


def _told(package: verify.Package) -> list[str]:
    package.acts = verify.read_acts(package)
    verify.tell_technical_files(package)
    return package.words["Technical files"]


def _told_with(desk: Desk, **key: Any) -> list[str]:
    """What the verifier says where the signer's key is another one in some way."""
    package = _read(desk)
    roles, signer = package.trust.roles, desk.office.officers["layla"].keyid
    officers = {**roles["officer"], signer: replace(roles["officer"][signer], **key)}
    package.trust = replace(package.trust, roles={**roles, "officer": officers})
    return _told(package)


def test_the_package_carries_the_bytes_that_were_signed(desk: Desk) -> None:
    path = f"technical-files/{FIRST}/{desk.file.sha256}.md"
    assert desk.package.files[path] == desk.file.content
    digest = hashlib.sha256(desk.file.signatures[0].statement).hexdigest()
    assert desk.package.files[f"statements/{digest}.sigstore.json"] == desk.file.signatures[0].statement
    assert len(_told(_read(desk))) == len(CAPACITIES) + 1
    assert verify.CAPACITIES == CAPACITIES


@pytest.mark.security_case("A signed technical file of evidence is exchanged for another one", "refused by name")
def test_another_file_under_the_name_of_the_signed_one_is_refused(desk: Desk) -> None:
    path = f"technical-files/{FIRST}/{desk.file.sha256}.md"
    draft = desk.package.files[f"documents/{FIRST}/technical-file.md"]
    made = desk.package.indexed({path: draft}, demonstration_key("pipeline"))
    assert "was changed after it was signed, or is another one" in str(made.refusal())
    moved = desk.package.indexed(
        {path: None, f"technical-files/{SECOND}/{desk.file.sha256}.md": desk.file.content},
        demonstration_key("pipeline"),
    )
    assert moved.refusal() == f"{path}: the package lacks it"


@pytest.mark.security_case(
    "A technical file of evidence is signed by a key that may not, or is revoked", "refused by name"
)
def test_a_key_without_the_right_or_period_signs_for_nobody(desk: Desk) -> None:
    with pytest.raises(verify.Refused, match="is revoked from index 0 of the log"):
        _told_with(desk, revoked_from=0)
    for key in ({"may": ("sign_as_legal", "approve")}, {"levels": ("SECRET",)}):
        with pytest.raises(verify.Refused, match="Layla Haddad may not sign_as_owner this"):
            _told_with(desk, **key)


@pytest.mark.security_case(
    "An entry of evidence gives a signature of a technical file another meaning", "refused by name"
)
def test_an_entry_says_what_was_signed(desk: Desk) -> None:
    for change in ({"capacity": "legal"}, {"unwritten": 0}, {"record": "0" * 64}):
        package = _read(desk)
        (entry,) = package.log.values()
        entry["subjects"] |= change
        with pytest.raises(verify.Refused, match="says something else than what was signed"):
            _told(package)


@pytest.mark.security_case(
    "An officer signs a technical file as whole that is not, past this program", "refused by name"
)
def test_what_an_officer_states_of_a_file_is_compared_with_it(desk: Desk) -> None:
    package, signed = _read(desk), desk.file.signatures[0].statement
    (entry,) = package.log.values()
    for change in ({"unwritten": 0}, {"record": "0" * 64}):
        predicate = {**read_statement(signed).predicate, **change}
        stated = Statement((Subject("technical-file.md", desk.file.sha256),), TECHNICAL_FILE, predicate)
        bundle = sign_statement(desk.office.officers["layla"], stated)
        digest = hashlib.sha256(bundle).hexdigest()
        package.files[f"statements/{digest}.sigstore.json"] = bundle
        entry["subjects"] |= {**predicate, "statement": digest}
        with pytest.raises(verify.Refused, match="names another record or file, or not what is unwritten"):
            _told(package)
