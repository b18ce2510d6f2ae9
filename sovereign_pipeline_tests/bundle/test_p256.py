"""The verifier in plain Python says what `cryptography` says."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from sovereign_pipeline.bundle.carried.p256 import N, P, is_signed
from sovereign_pipeline.record.keys import FileSigner, der_of, generate

CONTENT = b"what is signed"


@pytest.fixture(scope="module")
def signer() -> FileSigner:
    return FileSigner.of(ec.derive_private_key(0xC0FFEE, ec.SECP256R1()))


def by_the_library(der: bytes, signature: bytes, content: bytes) -> bool:
    key = load_der_public_key(der)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(signature, content, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def test_signatures_of_any_key_hold() -> None:
    for number in range(8):
        signer, content = generate(), CONTENT * number
        assert is_signed(der_of(signer.public_pem), signer.sign(content), content)


@pytest.mark.security_case("A bundle's signature is changed, byte by byte.", "Refused, as by another implementation.")
def test_each_changed_byte_is_judged_as_the_library_judges_it(signer: FileSigner) -> None:
    der, signature = der_of(signer.public_pem), signer.sign(CONTENT)
    for place in range(len(signature)):
        changed = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        assert is_signed(der, changed, CONTENT) == by_the_library(der, changed, CONTENT) is False


@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), (N, 1), (1, N), (N + 5, 7), (1, 1), (P, 1)])
def test_numbers_out_of_range_are_no_signature(signer: FileSigner, r: int, s: int) -> None:
    der, signature = der_of(signer.public_pem), encode_dss_signature(r, s)
    assert is_signed(der, signature, CONTENT) == by_the_library(der, signature, CONTENT) is False


def test_a_signature_has_one_spelling(signer: FileSigner) -> None:
    der, signature = der_of(signer.public_pem), signer.sign(CONTENT)
    length = signature[3]
    padded = bytes([0x30, signature[1] + 1, 2, length + 1, 0]) + signature[4:]
    for other in (signature + b"\0", signature[:-1], padded, b"", b"\x30\x00"):
        assert not is_signed(der, other, CONTENT)


def test_a_point_beside_the_curve_is_no_key(signer: FileSigner) -> None:
    der = der_of(signer.public_pem)
    for other in (
        der[:-1] + bytes([der[-1] ^ 1]),
        der[:-1],
        b"\x30" + der[1:26] + b"\x02" + der[27:],
        der[:27] + b"\xff" * 64,
    ):
        assert not is_signed(other, signer.sign(CONTENT), CONTENT)
