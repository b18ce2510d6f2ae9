"""Whether an ECDSA signature over P-256 with SHA-256 holds, in plain Python.

A bare machine has no library for it, and one that the bundle brings cannot be trusted before it is verified. Verifying
has no secret, so it may be slow and need not hide its timing. What belongs here: FIPS 186-5, section 6.4.2. What does
not: signing.
"""

import hashlib

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
A = P - 3
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
Point = tuple[int, int] | None
"""None is the point at infinity."""
G: Point = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""What a SubjectPublicKeyInfo of P-256 begins with; an uncompressed point follows."""


def is_signed(public_der: bytes, signature: bytes, content: bytes) -> bool:
    """Whether the signature (DER) over these bytes is by this key (SubjectPublicKeyInfo, DER)."""
    key, numbers = _point(public_der), _numbers(signature)
    if key is None or numbers is None:
        return False
    r, s = numbers
    if not (0 < r < N and 0 < s < N):
        return False
    digest = int.from_bytes(hashlib.sha256(content).digest(), "big")
    inverse = pow(s, -1, N)
    found = _sum(_times(digest * inverse % N, G), _times(r * inverse % N, key))
    return found is not None and found[0] % N == r


def _point(public_der: bytes) -> Point:
    """The key's point; None for what is no key, or a point that is not on the curve."""
    if len(public_der) != len(SPKI) + 64 or not public_der.startswith(SPKI):
        return None
    x, y = (int.from_bytes(public_der[start : start + 32], "big") for start in (len(SPKI), len(SPKI) + 32))
    on_curve = x < P and y < P and (y * y - (x * x * x + A * x + B)) % P == 0
    return (x, y) if on_curve else None


def _numbers(signature: bytes) -> tuple[int, int] | None:
    """r and s, where the signature is written in the one way that DER has."""
    if len(signature) < 8 or signature[0] != 0x30 or signature[1] != len(signature) - 2:
        return None
    numbers, at = [], 2
    for _ in range(2):
        if len(signature) < at + 2 or signature[at] != 0x02:
            return None
        length = signature[at + 1]
        written = signature[at + 2 : at + 2 + length]
        if length == 0 or len(written) != length or written[0] & 0x80:
            return None  # cut off, or negative
        if length > 1 and written[0] == 0 and not written[1] & 0x80:
            return None  # a zero too many
        numbers.append(int.from_bytes(written, "big"))
        at += 2 + length
    return (numbers[0], numbers[1]) if at == len(signature) else None


def _sum(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return other if one is None else one
    if one[0] == other[0] and (one[1] + other[1]) % P == 0:
        return None
    if one == other:
        slope = (3 * one[0] * one[0] + A) * pow(2 * one[1], -1, P) % P
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, P) % P
    x = (slope * slope - one[0] - other[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def _times(count: int, point: Point) -> Point:
    result: Point = None
    while count:
        if count & 1:
            result = _sum(result, point)
        point, count = _sum(point, point), count >> 1
    return result
