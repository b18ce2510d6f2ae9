"""A sigstore instance of the tests' own: certificate authority, certificate log and transparency log, with real keys.

What it signs is complete: sigstore's library and cosign verify it as they verify the public instance's.
"""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SIGNED = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""When everything is signed; certificates ended ten minutes later."""
LIFE = timedelta(minutes=10)
IN_TOTO = "application/vnd.in-toto+json"
ECDSA = ec.ECDSA(hashes.SHA256())
ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ANOTHER_LEAF = hashlib.sha256(b"\0another entry").digest()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(spki(key)).digest()


def encoded(payload: bytes) -> bytes:
    """What is signed of a statement (DSSE)."""
    return f"DSSEv1 {len(IN_TOTO)} {IN_TOTO} {len(payload)} ".encode() + payload


def statement(subjects: dict[str, str], kind: str, predicate: Any = None) -> bytes:
    """An in-toto statement about files: name -> SHA-256."""
    about = [{"name": name, "digest": {"sha256": digest}} for name, digest in subjects.items()]
    content = {"_type": "https://in-toto.io/Statement/v1", "subject": about, "predicateType": kind}
    return json.dumps({**content, "predicate": predicate}).encode()


def bundle_by_key(key: ec.EllipticCurvePrivateKey, message: bytes | None = None, payload: bytes | None = None) -> bytes:
    """A bundle that names no certificate: over a file's bytes, or over a statement."""
    content: dict[str, Any] = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key_id(key).hex()}},
    }
    return json.dumps(content | _signed(key, message, payload)).encode()


def _signed(key: ec.EllipticCurvePrivateKey, message: bytes | None, payload: bytes | None) -> dict[str, Any]:
    if payload is not None:
        signature = key.sign(encoded(payload), ECDSA)
        signatures = [{"sig": b64(signature)}]
        return {"dsseEnvelope": {"payload": b64(payload), "payloadType": IN_TOTO, "signatures": signatures}}
    assert message is not None
    digest = {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(message).digest())}
    return {"messageSignature": {"messageDigest": digest, "signature": b64(key.sign(message, ECDSA))}}


@dataclass(frozen=True)
class SigstoreInstance:
    authority: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    certificate_log: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    log: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    def trusted_root(self) -> bytes:
        """What an institution fetches of an instance."""
        since = {"start": (SIGNED - timedelta(days=30)).isoformat()}
        chain = {"certificates": [{"rawBytes": b64(self._root().public_bytes(Encoding.DER))}]}
        subject = {"organization": "sigstore of the tests", "commonName": "authority"}
        authority = {"subject": subject, "uri": "https://ca.example", "certChain": chain, "validFor": since}
        logs = {
            name: [
                {
                    "baseUrl": f"https://{name}.example",
                    "hashAlgorithm": "SHA2_256",
                    "publicKey": {
                        "rawBytes": b64(spki(key)),
                        "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                        "validFor": since,
                    },
                    "logId": {"keyId": b64(key_id(key))},
                }
            ]
            for name, key in (("tlogs", self.log), ("ctlogs", self.certificate_log))
        }
        media_type = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
        return json.dumps({"mediaType": media_type, "certificateAuthorities": [authority], **logs}).encode()

    def bundle(
        self,
        identity: str,
        issuer: str,
        message: bytes | None = None,
        payload: bytes | None = None,
        entered: datetime = SIGNED + timedelta(minutes=1),
    ) -> bytes:
        """A bundle by whom the authority certified, over a file's bytes or over a statement.

        Args:
            entered: when the log took it.
        """
        key = new_key()
        certificate = self._certificate(key, identity, issuer)
        signed = _signed(key, message, payload)
        pem = b64(certificate.public_bytes(Encoding.PEM))
        if payload is not None:
            kind, (each,) = "dsse", signed["dsseEnvelope"]["signatures"]
            spec: dict[str, Any] = {
                "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(b"any spelling").hexdigest()},
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                "signatures": [{"signature": each["sig"], "verifier": pem}],
            }
        else:
            assert message is not None
            kind, signature = "hashedrekord", signed["messageSignature"]["signature"]
            spec = {
                "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(message).hexdigest()}},
                "signature": {"content": signature, "publicKey": {"content": pem}},
            }
        body = json.dumps({"apiVersion": "0.0.1", "kind": kind, "spec": spec}).encode()
        material = {
            "certificate": {"rawBytes": b64(certificate.public_bytes(Encoding.DER))},
            "tlogEntries": [self._entry(kind, body, entered)],
        }
        media_type = "application/vnd.dev.sigstore.bundle.v0.3+json"
        return json.dumps({"mediaType": media_type, "verificationMaterial": material, **signed}).encode()

    def _root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.authority.public_key())
            .serial_number(1)
            .not_valid_before(SIGNED - timedelta(days=30))
            .not_valid_after(SIGNED + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.authority.public_key()), critical=False)
            .sign(self.authority, hashes.SHA256())
        )

    def _certificate(self, key: ec.EllipticCurvePrivateKey, identity: str, issuer: str) -> x509.Certificate:
        """A certificate as sigstore's authority makes it, with the certificate log's promise in it."""
        subject: x509.GeneralName = (
            x509.UniformResourceIdentifier(identity) if "://" in identity else x509.RFC822Name(identity)
        )
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key())
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key.public_key())
            .serial_number(2)
            .not_valid_before(SIGNED)
            .not_valid_after(SIGNED + LIFE)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(authority, critical=False)
            .add_extension(x509.SubjectAlternativeName([subject]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUER_OID, _utf8_string(issuer)), critical=False)
        )
        before = builder.sign(self.authority, hashes.SHA256())
        promise = x509.UnrecognizedExtension(SCT_LIST, self._promise(before.tbs_certificate_bytes))
        return builder.add_extension(promise, critical=False).sign(self.authority, hashes.SHA256())

    def _promise(self, to_be_signed: bytes) -> bytes:
        """The certificate log's signed time stamp (RFC 6962, section 3.2), as an extension holds it."""
        moment = int(SIGNED.timestamp() * 1000)
        entry = key_id(self.authority) + len(to_be_signed).to_bytes(3) + to_be_signed
        signature = self.certificate_log.sign(struct.pack("!BBQH", 0, 0, moment, 1) + entry + b"\0\0", ECDSA)
        stamp = (
            b"\0" + key_id(self.certificate_log) + struct.pack("!QHBBH", moment, 0, 4, 3, len(signature)) + signature
        )
        listed = struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp
        return b"\x04" + bytes([len(listed)]) + listed

    def _entry(self, kind: str, body: bytes, entered: datetime) -> dict[str, Any]:
        """The log's entry: its place in a tree of two, the signed head of that tree, and the promise with its time."""
        root = hashlib.sha256(b"\1" + ANOTHER_LEAF + hashlib.sha256(b"\0" + body).digest()).digest()
        head = f"log.example - 1\n2\n{b64(root)}\n"
        line = f"\u2014 log.example {b64(key_id(self.log)[:4] + self.log.sign(head.encode(), ECDSA))}\n"
        moment = int(entered.timestamp())
        promised = {"body": b64(body), "integratedTime": moment, "logID": key_id(self.log).hex(), "logIndex": 1}
        promise = self.log.sign(json.dumps(promised, sort_keys=True, separators=(",", ":")).encode(), ECDSA)
        return {
            "logIndex": "1",
            "logId": {"keyId": b64(key_id(self.log))},
            "kindVersion": {"kind": kind, "version": "0.0.1"},
            "integratedTime": str(moment),
            "inclusionPromise": {"signedEntryTimestamp": b64(promise)},
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": b64(root),
                "treeSize": "2",
                "hashes": [b64(ANOTHER_LEAF)],
                "checkpoint": {"envelope": f"{head}\n{line}"},
            },
            "canonicalizedBody": b64(body),
        }


def _utf8_string(text: str) -> bytes:
    """In DER; short enough for one byte of length."""
    content = text.encode()
    assert len(content) < 128
    return b"\x0c" + bytes([len(content)]) + content
