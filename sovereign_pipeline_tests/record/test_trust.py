"""A trust root is believed as far as its holders signed it, and through time: rotation, rollback, expiry."""

import hashlib
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, Root, Targets

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.trust_changes import (
    ROOT_DAYS,
    TARGETS_DAYS,
    add_key,
    add_officer,
    create_trust,
    install,
    renew,
    revoke,
    rotate_root,
)
from sovereign_pipeline.record.trust_root import RootSigner, tuf_key, written
from sovereign_pipeline_tests.record.conftest import BEGINNING, IN_A_WEEK, Holders, delegations, load, rewrite


def test_who_may_do_what_is_read_back(holders: Holders) -> None:
    trust = holders.trust
    assert [key.keyid for key in trust.keys("pipeline")] == [holders.pipeline.keyid]
    assert trust.keys("witness") == trust.keys("bundle") == ()
    layla, omar = (trust.key("officer", each.keyid) for each in holders.officers)
    assert (layla.person, layla.allows("promote", "SECRET")) == ("Layla Haddad", True)
    assert omar.allows("stage", "INTERNAL") and omar.may == ("stage",)
    assert not omar.allows("promote", "INTERNAL") and not omar.allows("stage", "SECRET")
    assert omar.public_pem == holders.officers[1].public_pem
    assert trust.roles["officer"].version == 3 and trust.targets_version == 3 and trust.root_version == 1
    assert trust.expires == BEGINNING + timedelta(days=TARGETS_DAYS)
    assert not trust.is_demonstration


def test_an_auditor_starts_from_the_digest_of_the_first_root(holders: Holders) -> None:
    sha256 = hashlib.sha256((holders.directory / "1.root.json").read_bytes()).hexdigest()
    assert load(holders.directory, root_sha256=sha256.upper()).root_sha256 == sha256
    with pytest.raises(IntegrityError, match=r"1\.root\.json: the first root has the SHA-256"):
        load(holders.directory, root_sha256="0" * 64)
    new = tuple(generate() for _ in range(3))
    rotate_root(holders.directory, new, holders.roots[1:], now=BEGINNING)
    assert load(holders.directory, root_sha256=sha256).root_version == 2


@pytest.mark.security_case("A byte of a trust file is changed", "rejected, with the file's name")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["1.root.json", "root.json", "targets.json"]), place=st.integers(0), bit=st.integers(0, 7))
def test_a_changed_byte_is_refused_and_named(holders: Holders, name: str, place: int, bit: int) -> None:
    path = holders.directory / name
    content = path.read_bytes()
    changed = bytearray(content)
    changed[place % len(content)] ^= 1 << bit
    try:
        path.write_bytes(changed)
        with pytest.raises(IntegrityError, match=name):
            load(holders.directory)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b"\n",
        lambda content: content.replace(b": ", b":  ", 1),
        lambda content: content.replace(b'"signatures"', b'"sig\\u006eatures"'),
        lambda content: content.replace(b"{", b'{"also": 1,', 1),
        lambda content: re.sub(rb'(?<="sig": ")[0-9a-f]+', lambda found: found[0].upper(), content),
        lambda content: b"",
        lambda content: b"[" * 5_000,
        lambda content: b'{"signed": {"_type": "timestamp"}, "signatures": []}',
        lambda content: b"\xff",
    ],
)
@pytest.mark.parametrize("name", ["1.root.json", "targets.json"])
def test_what_json_would_pass_over_is_refused(holders: Holders, name: str, change: Callable[[bytes], bytes]) -> None:
    path = holders.directory / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(IntegrityError, match=name):
        load(holders.directory)


@pytest.mark.parametrize("name", ["1.root.json", "root.json", "targets.json"])
def test_a_missing_or_linked_file_is_named(holders: Holders, name: str, tmp_path: Path) -> None:
    path = holders.directory / name
    path.rename(tmp_path / name)
    with pytest.raises(IntegrityError, match=name):
        load(holders.directory)
    path.symlink_to(tmp_path / name)
    with pytest.raises(IntegrityError, match=name):
        load(holders.directory)


@pytest.mark.security_case("Roles are changed with one of the three root keys", "rejected: two must sign")
def test_a_change_needs_as_many_root_keys_as_the_root_says(holders: Holders) -> None:
    with pytest.raises(InputError, match="1 root keys were given, but 2 are needed"):
        revoke(holders.directory, holders.pipeline.keyid, 5, holders.roots[:1])
    with pytest.raises(InputError, match="is not a root key"):
        revoke(holders.directory, holders.pipeline.keyid, 5, holders.officers)
    rewrite(holders, lambda targets: None, holders.roots[:1])
    with pytest.raises(IntegrityError, match=r"targets\.json: 1 of the 2 required keys of root 1 signed this file"):
        load(holders.directory)
    rewrite(holders, lambda targets: None, (holders.roots[0], holders.pipeline))
    with pytest.raises(IntegrityError, match=r"targets\.json: 1 of the 2"):
        load(holders.directory)


def test_a_signature_beyond_the_threshold_is_held_to_the_same(holders: Holders) -> None:
    rewrite(holders, lambda targets: None, holders.roots)
    load(holders.directory)
    rewrite(holders, lambda targets: None, (*holders.roots[:2], holders.pipeline))
    with pytest.raises(IntegrityError, match=f"the signature by key {holders.pipeline.keyid} is invalid"):
        load(holders.directory)


@pytest.mark.security_case(
    "One public key is listed under two ids, so that its holder would count as two", "rejected, with the id"
)
def test_one_key_under_two_ids_is_refused(holders: Holders, tmp_path: Path) -> None:
    """python-tuf counts it twice: a root that asks for two of three is then one person's."""
    key = tuf_key(holders.roots[0].public_pem)
    path = holders.directory / "1.root.json"
    metadata: Metadata[Root] = Metadata.from_bytes(path.read_bytes())
    twin = type(key)("f" * 64, key.keytype, key.scheme, key.keyval)
    metadata.signed.add_key(twin, "root")
    metadata.signatures.clear()
    signature = metadata.sign(RootSigner(holders.roots[0]))
    metadata.signatures["f" * 64] = replace_keyid(signature, "f" * 64)
    assert metadata.signed.get_root_verification_result(None, metadata.signed_bytes, metadata.signatures)
    path.write_bytes(written(metadata))
    with pytest.raises(IntegrityError, match=rf"1\.root\.json: the key {'f' * 64} has an id that does not belong"):
        load(holders.directory)


def replace_keyid(signature: Any, keyid: str) -> Any:
    return type(signature)(keyid, signature.signature)


def test_an_officers_key_cannot_stand_under_a_second_id_or_in_a_second_role(holders: Holders) -> None:
    first = holders.officers[0]
    with pytest.raises(ConflictError, match="already has the role root"):
        add_key(holders.directory, "bundle", holders.roots[0].public_pem, holders.roots[:2])
    with pytest.raises(ConflictError, match="already has the role officer"):
        add_officer(holders.directory, first.public_pem, "Somebody Else", ["*"], ["*"], holders.roots[:2])

    def twice(targets: Targets) -> None:
        key = tuf_key(first.public_pem, person="Somebody Else", may=["*"], levels=["*"])
        key.keyid = "e" * 64
        targets.add_key(key, "officer")

    rewrite(holders, twice)
    with pytest.raises(IntegrityError, match="has an id that does not belong to it"):
        load(holders.directory)


def test_a_key_in_two_roles_is_refused_on_reading(holders: Holders) -> None:
    rewrite(holders, lambda targets: targets.add_key(tuf_key(holders.pipeline.public_pem), "bundle"))
    with pytest.raises(IntegrityError, match="has two roles, pipeline and bundle"):
        load(holders.directory)


def test_a_key_with_a_role_does_not_become_a_root_key(holders: Holders) -> None:
    new = (holders.pipeline, generate(), generate())
    with pytest.raises(IntegrityError, match="has two roles, root and pipeline"):
        rotate_root(holders.directory, new, holders.roots[:2], now=BEGINNING)
    assert holders.trust.root_version == 1


def of_officer(targets: Targets) -> Any:
    keys = delegations(targets).keys.values()
    return next(key.unrecognized_fields for key in keys if "person" in key.unrecognized_fields)


def of_role(targets: Targets) -> Any:
    return delegations(targets).roles["log"].unrecognized_fields


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda targets: delegations(targets).roles.pop("witness"), "the roles are not exactly"),
        (lambda targets: of_role(targets).update(version="1"), "role log has no valid version and expiry"),
        (lambda targets: of_role(targets).update(rank="first"), "role log has no valid version and expiry"),
        (lambda targets: of_officer(targets).update(rank="first"), "has a field that this release does not know: rank"),
        (lambda targets: of_officer(targets).update(revoked_from="soon"), "are incomplete"),
        (lambda targets: of_officer(targets).update(revoked_from=-1), "are incomplete"),
        (lambda targets: of_officer(targets).update(may=["pro\nmote"]), "are incomplete"),
        (lambda targets: of_officer(targets).pop("person"), "are incomplete"),
        (lambda targets: targets.add_key(tuf_key(generate().public_pem), "log"), "is not of the type ed25519"),
        (lambda targets: delegations(targets).roles["pipeline"].keyids.clear(), "has no role"),
        (lambda targets: delegations(targets).keys.clear(), "of role pipeline is missing"),
    ],
)
def test_what_the_holders_signed_by_mistake_is_refused(
    holders: Holders, change: Callable[[Targets], object], said: str
) -> None:
    rewrite(holders, change)
    with pytest.raises(IntegrityError, match=said):
        load(holders.directory)


@pytest.mark.security_case(
    "A key that was revoked from a ledger entry on signs again", "its later signatures are rejected"
)
def test_a_revoked_key_counts_up_to_its_index(holders: Holders) -> None:
    keyid = holders.pipeline.keyid
    assert holders.trust.counts("pipeline", keyid, None)
    assert revoke(holders.directory, keyid, 40, holders.roots[:2], now=BEGINNING).key("pipeline", keyid)
    trust = holders.trust
    assert [trust.counts("pipeline", keyid, index) for index in (0, 39, 40, 41, None)] == [True, True, *[False] * 3]
    with pytest.raises(ConflictError, match="already revoked from index 40 on"):
        revoke(holders.directory, keyid, 41, holders.roots[:2])
    assert revoke(holders.directory, keyid, 0, holders.roots[:2]).key("pipeline", keyid).revoked_from == 0
    for index, named, said in ((-1, keyid, "0 or more"), (3, "0" * 64, "has no key 0000")):
        with pytest.raises(InputError, match=said):
            revoke(holders.directory, named, index, holders.roots[:2])


@pytest.mark.security_case(
    "A new root is not signed by the old keys, or not by the new ones", "rejected: both must sign it"
)
def test_a_new_root_needs_the_old_keys_and_the_new(holders: Holders) -> None:
    new = tuple(generate() for _ in range(3))
    for old, newer in ((holders.roots[:1], new), (new[:2], new), (holders.roots[:2], new[:1])):
        with pytest.raises((IntegrityError, InputError)):
            rotate_root(holders.directory, newer, old, now=BEGINNING)
        assert holders.trust.root_version == 1
    trust = rotate_root(holders.directory, new, holders.roots[:2], now=BEGINNING)
    assert (trust.root_version, trust.targets_version) == (2, 4)
    with pytest.raises(InputError, match="is not a root key"):
        revoke(holders.directory, holders.pipeline.keyid, 3, holders.roots[:2])
    assert revoke(holders.directory, holders.pipeline.keyid, 3, new[1:], now=BEGINNING).targets_version == 5


@pytest.mark.security_case("An older trust root, or one of its files, is restored", "rejected; both versions are named")
def test_nothing_goes_back(holders: Holders, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(holders.directory, before)
    new = tuple(generate() for _ in range(3))
    rotate_root(holders.directory, new, holders.roots[:2], now=BEGINNING)
    seen = load(holders.directory)
    for at_least in ((seen.root_version, 1), (1, seen.targets_version)):
        with pytest.raises(IntegrityError, match="root 1 and targets 3 are older than"):
            load(before, at_least=at_least)
    with pytest.raises(IntegrityError, match="older than root 2"):
        install(before, holders.directory, now=IN_A_WEEK)
    for name in ("root.json", "targets.json"):
        kept = (holders.directory / name).read_bytes()
        shutil.copy(before / name, holders.directory / name)
        with pytest.raises(IntegrityError, match=name):
            load(holders.directory)
        (holders.directory / name).write_bytes(kept)
    second = (holders.directory / "2.root.json").read_bytes()
    (holders.directory / "2.root.json").unlink()
    shutil.copy(before / "root.json", holders.directory / "root.json")
    with pytest.raises(IntegrityError, match=r"targets\.json"):
        load(holders.directory)
    (holders.directory / "3.root.json").write_bytes(second)
    with pytest.raises(IntegrityError, match=r"2\.root\.json: this root is missing"):
        load(holders.directory)


def test_a_root_alone_cannot_be_put_back_though_the_same_keys_signed_it(holders: Holders) -> None:
    renew(holders.directory, holders.roots[:2], now=BEGINNING)
    (holders.directory / "2.root.json").unlink()
    shutil.copy(holders.directory / "1.root.json", holders.directory / "root.json")
    with pytest.raises(
        IntegrityError, match=r"targets\.json: this file was signed under root 2, but the newest root here is 1"
    ):
        load(holders.directory)


def test_another_root_or_a_second_history_is_not_installed(holders: Holders, tmp_path: Path) -> None:
    target = tmp_path / "machine"
    assert install(holders.directory, target, now=IN_A_WEEK) == load(target)
    add_key(holders.directory, "bundle", generate().public_pem, holders.roots[:2], now=BEGINNING)
    assert install(holders.directory, target, now=IN_A_WEEK).targets_version == 4 == load(target).targets_version
    other, fork = tmp_path / "other", tmp_path / "fork"
    shutil.copytree(target, fork)
    create_trust(other, holders.roots, {}, now=BEGINNING)
    with pytest.raises(IntegrityError, match="the first root has the SHA-256"):
        install(other, target, now=IN_A_WEEK)
    for directory in (fork, holders.directory):
        add_key(directory, "bundle", generate().public_pem, holders.roots[:2], now=BEGINNING)
    install(fork, target, now=IN_A_WEEK)
    with pytest.raises(ConflictError, match="has the same version 5 with different content"):
        install(holders.directory, target, now=IN_A_WEEK)


def test_an_expired_trust_root_is_refused_until_it_is_renewed(holders: Holders) -> None:
    late = BEGINNING + timedelta(days=TARGETS_DAYS)
    assert load(holders.directory, now=late - timedelta(seconds=1))
    with pytest.raises(IntegrityError, match=r"expired on 2027-12-31"):
        load(holders.directory, now=late)
    trust = renew(holders.directory, holders.roots[1:], now=late)
    assert load(holders.directory, now=late).expires == trust.expires == late + timedelta(days=TARGETS_DAYS)
    with pytest.raises(IntegrityError, match="expired on"):
        load(holders.directory, now=late + timedelta(days=ROOT_DAYS))


@pytest.mark.parametrize(
    ("person", "may", "levels", "said"),
    [
        (" ", ["*"], ["*"], "needs a name"),
        ("Li\nla", ["*"], ["*"], "needs a name"),
        ("Layla", [], ["*"], "at least one transition"),
        ("Layla", ["*"], [" "], "at least one classification level"),
    ],
)
def test_an_officer_is_a_person_with_a_scope(
    holders: Holders, person: str, may: list[str], levels: list[str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        add_officer(holders.directory, generate().public_pem, person, may, levels, holders.roots[:2])


@pytest.mark.security_case(
    "One person is added as two officers with two spellings", "rejected, or counted as one person"
)
def test_a_person_is_written_in_one_way(holders: Holders) -> None:
    """A second key of the same person is the same person."""
    arguments = (["*"], ["*"], holders.roots[:2])
    for name in (
        *("layla haddad", "Layla HADDAD", "LaylaHaddad", "Láyla Haddad", "Ｌａｙｌａ Haddad"),
        *("Lаyla Haddad", "Layla H\u0430dd\u0430d", "Iayla Haddad", "1ayla Haddad"),  # Cyrillic; I and 1 for l
    ):
        with pytest.raises(ConflictError, match="already listed as Layla Haddad"):
            add_officer(holders.directory, generate().public_pem, name, *arguments)
    add_officer(holders.directory, generate().public_pem, " Layla  Haddad", *arguments, now=BEGINNING)
    assert [key.person for key in holders.trust.keys("officer")] == ["Layla Haddad", "Omar Nasser", "Layla Haddad"]


def test_a_trust_root_is_made_of_distinct_root_keys_in_an_empty_directory(holders: Holders, tmp_path: Path) -> None:
    one = holders.roots[0]
    refused: list[tuple[Any, Any, int]] = [([one, one], {}, 2), ([one], {}, 2), ([generate("ed25519")], {}, 1)]
    refused += [(holders.roots, {"log": [one.public_pem]}, 2), (holders.roots, {"minister": [one.public_pem]}, 2)]
    for number, (roots, keys, threshold) in enumerate(refused):
        with pytest.raises((InputError, ConflictError)):
            create_trust(tmp_path / str(number), roots, keys, threshold=threshold)
        assert not (tmp_path / str(number)).exists()
    with pytest.raises(ConflictError, match="is not empty"):
        create_trust(holders.directory, holders.roots, {})
