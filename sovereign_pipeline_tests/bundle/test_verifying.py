"""A bundle is exactly what was signed: whatever is changed, missing, extra, linked or misnamed is refused."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import IntegrityError, SignInError
from sovereign_pipeline.bundle.carried.reading import Refused, sha256, spelled
from sovereign_pipeline.bundle.carried.telling import told
from sovereign_pipeline.bundle.carried.verifying import is_safe
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.statements import BUNDLE, HOLD, Statement, Subject, sign_statement
from sovereign_pipeline.record.trust_changes import add_key, revoke, rotate_key, rotate_root
from sovereign_pipeline.record.trust_root import load_trust
from sovereign_pipeline_tests.bundle.conftest import ARRIVED, PACKED, Packers


def files_of(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.rglob("*") if path.is_file())


def test_a_bundle_says_what_it_holds_and_who_vouches_for_it(packers: Packers, first_bundle: Path) -> None:
    found = packers.verified(first_bundle)
    assert found.keyid == packers.bundle.keyid
    assert {each.name for each in found.files} == {each.name for each in packers.contents()}
    lines = "\n".join(told(found))
    assert "publisher's signature over none of the other 9" in lines
    assert f"signed   by the key {packers.bundle.keyid}" in lines


def test_the_signature_is_one_that_the_signing_room_verifies(packers: Packers, first_bundle: Path) -> None:
    from sovereign_pipeline.record.statements import verify_statement

    index = sha256((first_bundle / "index.json").read_bytes())
    signature = (first_bundle / "index.json.sigstore.json").read_bytes()
    assert verify_statement(signature, packers.trust, "bundle", predicate_type=BUNDLE, sha256=index)


@pytest.mark.security_case(
    "One byte of any file of a bundle is changed, or the file is removed.", "Refused by its name."
)
def test_every_file_is_compared(packers: Packers, bundle: Path) -> None:
    for path in files_of(bundle):
        content = path.read_bytes()
        for changed in (content[:-1] + bytes([content[-1] ^ 1]), None):
            if changed is None:
                path.unlink()
            else:
                path.write_bytes(changed)
            with pytest.raises(Refused):
                packers.verified(bundle)
            path.write_bytes(content)
    assert packers.verified(bundle)


@pytest.mark.security_case("A file, folder or link is added to a bundle.", "Refused by its name.")
@pytest.mark.parametrize(
    "place",
    [
        "evil.whl",
        "wheels/evil.whl",
        "blobs/evil",
        "blobs/sha256/" + "0" * 64,
        "trust/9.root.json",
        "trust/note.txt",
        ".git/x",
    ],
)
def test_nothing_else_may_lie_there(packers: Packers, bundle: Path, place: str) -> None:
    (bundle / place).parent.mkdir(parents=True, exist_ok=True)
    (bundle / place).write_bytes(b"x")
    with pytest.raises(Refused):
        packers.verified(bundle)


@pytest.mark.security_case("A file of a bundle is a link to the same bytes elsewhere.", "Refused.")
def test_links_are_refused(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    for name in ("index.json", "trust", "blobs", "oci-layout"):
        (bundle / name).rename(tmp_path / "elsewhere")
        (bundle / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(Refused):
            packers.verified(bundle)
        (bundle / name).unlink()
        (tmp_path / "elsewhere").rename(bundle / name)
    os.mkfifo(bundle / "pipe")
    with pytest.raises(Refused):
        packers.verified(bundle)


NAMES = (
    "../evil",
    "/etc/evil",
    "a/../../evil",
    "a//b",
    "a/./b",
    "",
    "a\\..\\b",
    "a/",
    "C:evil",
    "a\0b",
    "a\nb",
    "e\u0301",
    "a /b",
    "a\u202eb",
)


@pytest.mark.security_case("A signed bundle holds a name that leads out of its folder.", "Refused.")
@pytest.mark.parametrize("name", NAMES, ids=[f"name-{number}" for number in range(len(NAMES))])
def test_a_name_that_leads_elsewhere_is_refused(packers: Packers, tmp_path: Path, name: str) -> None:
    assert not is_safe(name)
    packed = packers.packed(tmp_path / "bundle", packers.contents(Content(name, b"x", "made by a test")))
    with pytest.raises(Refused, match="leads elsewhere"):
        packers.verified(packed)


@pytest.mark.security_case("A signed bundle holds one name twice, in other letters, or within a file.", "Refused.")
@pytest.mark.parametrize("name", ["models/tiny/CONFIG.json", "models/tiny", "models/tiny/config.json/x"])
def test_a_name_stands_there_once(packers: Packers, tmp_path: Path, name: str) -> None:
    packed = packers.packed(tmp_path / "bundle", packers.contents(Content(name, b"x", "made by a test")))
    with pytest.raises(Refused, match="there twice"):
        packers.verified(packed)


def signed_anew(packers: Packers, bundle: Path, index: bytes, kind: str = BUNDLE, files: int = 9) -> None:
    (bundle / "index.json").write_bytes(index)
    predicate = {"files": files, "line": "", "adapter": "", "incumbent": "", "outcome": "", "because": ""}
    predicate |= {"bounds": "", "observations": ""}
    statement = Statement((Subject("index.json", sha256(index)),), kind, predicate)
    (bundle / "index.json.sigstore.json").write_bytes(sign_statement(packers.bundle, statement))


@pytest.mark.parametrize(
    "change",
    [
        lambda index: {**index, "manifests": index["manifests"] * 2},
        lambda index: {**index, "manifests": []},
        lambda index: {**index, "annotations": {}},
        lambda index: {**index, "manifests": [{**index["manifests"][0], "digest": "sha256:../../../../etc/passwd"}]},
        lambda index: {**index, "manifests": [{**index["manifests"][0], "digest": "md5:" + "0" * 64}]},
        lambda index: {**index, "manifests": ["x"]},
        lambda index: [index],
    ],
)
def test_a_malformed_index_is_refused(packers: Packers, bundle: Path, change: Callable[..., object]) -> None:
    index = json.loads((bundle / "index.json").read_bytes())
    signed_anew(packers, bundle, spelled(change(index)))
    with pytest.raises(Refused):
        packers.verified(bundle)


def test_a_statement_of_another_kind_or_count_is_refused(packers: Packers, bundle: Path) -> None:
    index = (bundle / "index.json").read_bytes()
    for kind, files in ((HOLD, 9), (BUNDLE, 8)):
        signed_anew(packers, bundle, index, kind, files)
        with pytest.raises(Refused):
            packers.verified(bundle)


def test_a_key_that_is_named_twice_in_the_index_is_refused(packers: Packers, bundle: Path) -> None:
    index = (bundle / "index.json").read_bytes()
    signed_anew(packers, bundle, index[:-1] + b',"annotations":{}}')
    with pytest.raises(Refused, match="ValueError"):
        packers.verified(bundle)


@pytest.mark.security_case(
    "A bundle is signed with a key of another role, or of nobody.", "Refused, by packer and reader."
)
def test_only_a_key_of_the_role_signs(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    index = (bundle / "index.json").read_bytes()
    statement = Statement((Subject("index.json", sha256(index)),), BUNDLE, {"files": 9})
    for signer in (packers.pipeline, packers.roots[0], generate()):
        with pytest.raises(IntegrityError):
            packers.packed(tmp_path / "other", signer=signer)
        (bundle / "index.json.sigstore.json").write_bytes(sign_statement(signer, statement))
        with pytest.raises(Refused, match="has not the role bundle"):
            packers.verified(bundle)


@pytest.mark.security_case("A bundle names a key, a file or an origin by codes that move a cursor.", "Shown as `?`.")
def test_what_a_bundle_says_moves_no_cursor(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    codes = "\x1b[2J\nverified: 9 files\u202e"
    signature = json.loads((bundle / "index.json.sigstore.json").read_bytes())
    signature["verificationMaterial"]["publicKey"]["hint"] = codes
    (bundle / "index.json.sigstore.json").write_bytes(spelled(signature) + b"\n")
    with pytest.raises(Refused, match="has not the role bundle") as unknown:
        packers.verified(bundle)
    (bundle / codes).write_bytes(b"x")
    with pytest.raises(Refused) as extra:
        packers.verified(bundle)
    content = Content("models/tiny/config.json", b"{}", f"of {codes}")
    lines = told(packers.verified(packers.packed(tmp_path / "other", packers.contents(content))))
    assert all(each.isprintable() for each in (unknown.value.message, extra.value.message, *lines))


def with_trust(packers: Packers, tmp_path: Path) -> Packers:
    directory = Path(shutil.copytree(packers.directory, tmp_path / "trust"))
    return Packers(directory, packers.roots, packers.bundle, packers.pipeline)


@pytest.mark.security_case("A bundle is signed with a revoked key, or brings the trust root of before.", "Refused.")
def test_a_revoked_key_signs_nothing(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    changed = with_trust(packers, tmp_path)
    revoke(changed.directory, packers.bundle.keyid, 0, packers.roots[:2], now=PACKED)
    with pytest.raises(SignInError):
        changed.packed(tmp_path / "other")
    unaware = packers.packed(tmp_path / "unaware", changed.contents())
    with pytest.raises(Refused, match="or is revoked"):
        packers.verified(unaware)
    versions = (changed.trust.root_version, changed.trust.targets_version)
    with pytest.raises(Refused, match="older than root"):
        packers.verified(bundle, at_least=versions)


def test_later_roots_and_keys_are_followed(packers: Packers, tmp_path: Path) -> None:
    changed, new_root, new_key = with_trust(packers, tmp_path), generate(), generate()
    now, (first, second, _) = PACKED, packers.roots
    rotate_root(changed.directory, [first, second, new_root], [first, second, new_root], now=now)
    rotate_key(changed.directory, "bundle", new_key.public_pem, 0, [second, new_root], now=now)
    packed = changed.packed(tmp_path / "bundle", signer=new_key)
    assert changed.verified(packed).trust_versions == (2, load_trust(changed.directory, now=now).targets_version)


@pytest.mark.security_case("A bundle brings a trust root of its own.", "Refused: the SHA-256 comes from paper.")
def test_another_trust_root_is_refused(packers: Packers, first_bundle: Path, tmp_path: Path) -> None:
    from sovereign_pipeline.bundle.carried.verifying import verify

    with pytest.raises(Refused, match="another trust root"):
        verify(first_bundle, "0" * 64, now=ARRIVED)


def test_an_expired_trust_root_is_refused(packers: Packers, first_bundle: Path) -> None:
    with pytest.raises(Refused, match="expired"):
        packers.verified(first_bundle, now=PACKED + timedelta(days=500))
    with pytest.raises(Refused, match="after now"):
        packers.verified(first_bundle, now=PACKED - timedelta(days=1))


@pytest.mark.security_case("An older bundle is put in the place of a newer one.", "Refused by --newer-than.")
def test_an_older_bundle_is_refused(packers: Packers, first_bundle: Path, tmp_path: Path) -> None:
    newer = packers.packed(tmp_path / "newer", now=PACKED + timedelta(days=1))
    assert packers.verified(newer, newer_than=first_bundle / "index.json")
    for earlier in (first_bundle, newer):
        with pytest.raises(Refused, match="the bundle was made at"):
            packers.verified(earlier, newer_than=newer / "index.json")


@pytest.mark.parametrize("name", ["1.root.json", "targets.json"])
def test_a_trust_root_that_too_few_signed_is_refused(packers: Packers, tmp_path: Path, name: str) -> None:
    """`signing/` refuses the same."""
    changed = with_trust(packers, tmp_path)
    metadata = json.loads((changed.directory / name).read_bytes())
    metadata["signatures"] = metadata["signatures"][:1] * 2
    (changed.directory / name).write_bytes(json.dumps(metadata, sort_keys=True, indent=1).encode())
    if name == "1.root.json":
        shutil.copy(changed.directory / name, changed.directory / "root.json")
    packed = packers.packed(tmp_path / "bundle", changed.contents())
    root = sha256((changed.directory / "1.root.json").read_bytes())
    from sovereign_pipeline.bundle.carried.verifying import verify

    with pytest.raises(Refused, match="1 of 2 keys signed it"):
        verify(packed, root, now=ARRIVED)
    with pytest.raises(IntegrityError):
        load_trust(changed.directory, now=ARRIVED)


def test_add_key_lets_a_second_packer_sign(packers: Packers, tmp_path: Path) -> None:
    changed, second = with_trust(packers, tmp_path), generate()
    add_key(changed.directory, "bundle", second.public_pem, packers.roots[:2], now=PACKED)
    assert changed.verified(changed.packed(tmp_path / "bundle", signer=second)).keyid == second.keyid
