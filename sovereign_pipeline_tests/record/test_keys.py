"""A private key opens with its passphrase alone, lies where nobody else reads it, and has one id."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.record.keys import (
    FileSigner,
    KeyFile,
    generate,
    is_signed,
    keyid_of,
    open_signer,
    passphrase_from,
    read_key,
    read_public_key,
    write_key,
)

WORDS = "seven lamps at the quay"
SIGNERS = {"p256": generate("p256"), "ed25519": generate("ed25519")}


def never_asked() -> str:
    raise AssertionError("no passphrase is needed")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "officer.key"
    write_key(path, SIGNERS["p256"], WORDS)
    return path


def test_a_key_of_a_person_opens_with_its_passphrase_alone(key: Path) -> None:
    assert b"ENCRYPTED" in key.read_bytes()
    assert read_key(key, lambda: WORDS).keyid == SIGNERS["p256"].keyid
    with pytest.raises(InputError, match=r"officer\.key: the passphrase does not decrypt this key"):
        read_key(key, lambda: WORDS + "s")
    with pytest.raises(InputError, match="does not decrypt"):
        read_key(key, lambda: "")


def test_openssl_opens_the_key_and_the_passphrase_is_stretched(key: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_text(WORDS)
    command = ["openssl", "pkey", "-in", str(key), "-passin", f"file:{tmp_path / 'words'}", "-pubout"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == SIGNERS["p256"].public_pem
    shown = subprocess.run(["openssl", "asn1parse", "-in", str(key)], capture_output=True, text=True).stdout
    assert "0927C0" in shown, "600,000 rounds"


def test_a_key_file_is_private_and_its_public_half_lies_beside_it(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.with_name("officer.key.pub").read_text() == SIGNERS["p256"].public_pem


@pytest.mark.security_case(
    "A key file is readable by other accounts, a link, or unencrypted in an open directory",
    "rejected, with the file's name",
)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_file_that_others_reach_is_refused(key: Path, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(InputError, match=rf"officer\.key: other accounts can read this file \(mode {mode:04o}\)"):
        read_key(key, never_asked)


def test_a_link_a_directory_a_pipe_and_nothing_are_no_key_file(key: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(key)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", ".", "nothing"):
        with pytest.raises((InputError, OSError)):
            read_key(tmp_path / name, never_asked)


def test_a_service_key_is_unencrypted_only_in_a_closed_directory(tmp_path: Path) -> None:
    closed = tmp_path / "keys" / "pipeline.key"
    write_key(closed, SIGNERS["ed25519"], None)
    assert read_key(closed, never_asked).keyid == SIGNERS["ed25519"].keyid
    closed.parent.chmod(0o755)
    with pytest.raises(InputError, match="its directory is open"):
        read_key(closed, never_asked)


def _pem(private: object) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n",
        _pem(ec.generate_private_key(ec.SECP384R1())),
        _pem(rsa.generate_private_key(65537, 2048)),
    ],
)
def test_what_is_no_key_of_ours_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "odd.key"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(InputError, match=r"odd\.key"):
        read_key(file, lambda: WORDS)


def test_the_id_is_the_digest_of_the_public_key_however_it_was_written() -> None:
    pem = SIGNERS["p256"].public_pem
    public = load_pem_public_key(pem.encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert keyid_of(pem) == SIGNERS["p256"].keyid == hashlib.sha256(der).hexdigest()
    one_line = "".join(pem.splitlines()[1:-1])
    assert keyid_of(f"-----BEGIN PUBLIC KEY-----\n{one_line}\n-----END PUBLIC KEY-----") == keyid_of(pem)
    for other in ("", "nonsense", ec.generate_private_key(ec.SECP384R1()).public_key()):
        text = other if isinstance(other, str) else _public(other)
        with pytest.raises(InputError):
            read_public_key(text)


def _public(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("kind", SIGNERS)
@given(content=st.binary(max_size=200), place=st.integers(0, 10_000), other=st.binary(max_size=72))
def test_a_signature_is_over_these_bytes_by_this_key(kind: str, content: bytes, place: int, other: bytes) -> None:
    signer: FileSigner = SIGNERS[kind]
    signature = signer.sign(content)
    assert is_signed(signer.public_pem, signature, content)
    assert not is_signed(signer.public_pem, signature, content + b"\0")
    assert not is_signed(signer.public_pem, other, content)
    flipped = bytearray(signature)
    flipped[place % len(flipped)] ^= 1
    assert not is_signed(signer.public_pem, bytes(flipped), content)
    assert not is_signed(SIGNERS["p256" if kind == "ed25519" else "ed25519"].public_pem, signature, content)


def test_a_passphrase_comes_from_a_file_that_nobody_else_reads(key: Path, tmp_path: Path) -> None:
    file = tmp_path / "words"
    file.write_text(WORDS + "\n")
    file.chmod(0o600)
    assert open_signer(KeyFile(key), passphrase_from(file)).keyid == SIGNERS["p256"].keyid
    file.chmod(0o644)
    with pytest.raises(InputError, match="other accounts can read"):
        passphrase_from(file)()
