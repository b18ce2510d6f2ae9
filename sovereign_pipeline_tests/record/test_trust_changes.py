"""A trust root through time: rotation, rollback, expiry, and how it begins."""

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

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
from sovereign_pipeline_tests.record.conftest import BEGINNING, IN_A_WEEK, Holders, load


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
        IntegrityError, match=r"targets\.json: it was signed under root 2, but the newest root here is 1"
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
    with pytest.raises(ConflictError, match="version 5 is in force here with different content"):
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
