"""A publisher's sigstore bundle counts by a key or an identity of the institution's choice, over exactly its file."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError, SovereignError
from sovereign_pipeline.ops.bundle_tool import told
from sovereign_pipeline.ops.publishers import Content, load_publishers, with_publishers
from sovereign_pipeline_tests.ops.conftest import Packers
from sovereign_pipeline_tests.ops.sigstore_instance import (
    LIFE,
    SIGNED,
    SigstoreInstance,
    b64,
    bundle_by_key,
    new_key,
    statement,
)

WEIGHTS, CARD = b"weights of a publisher", b"card of a publisher"
IDENTITY = "https://models.example/gemma/.github/workflows/release.yml@refs/tags/v1"
ISSUER = "https://token.models.example"
PROVENANCE = "https://slsa.dev/provenance/v1"
MODEL_FILES = "https://model_signing/signature/v1.0"
WHO = f"sigstore, gemma ({IDENTITY}, by {ISSUER})"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Fetched:
    """What an operator fetched, and whom the institution trusts."""

    model: Path
    signatures: Path
    publishers: Path

    @property
    def contents(self) -> list[Content]:
        return [Content(f"models/gemma/{each.name}", each, "pinned by a card") for each in sorted(self.model.iterdir())]

    def put(self, name: str, content: bytes) -> Path:
        (self.signatures / "models" / "gemma" / name).write_bytes(content)
        return self.signatures / "models" / "gemma" / name

    def trust(self, name: str, **fields: Any) -> None:
        known = {"issuer": ISSUER, "trusted_root": "root.json"} | fields
        (self.publishers / f"{name}.yaml").write_text(json.dumps(known))

    def trust_key(self, key: ec.EllipticCurvePrivateKey, name: str = "gemma") -> None:
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self.publishers / f"{name}.pub").write_bytes(pem)

    def verified(self) -> dict[str, str]:
        return {each.name: each.publisher for each in with_publishers(self.contents, self.signatures, self.publishers)}

    def refused(self, error: type[SovereignError], said: str) -> None:
        with pytest.raises(error, match=said):
            self.verified()


@pytest.fixture(scope="module")
def instance() -> SigstoreInstance:
    return SigstoreInstance()


@pytest.fixture
def fetched(tmp_path: Path, instance: SigstoreInstance) -> Fetched:
    found = Fetched(tmp_path / "model", tmp_path / "signatures", tmp_path / "publishers")
    for folder in (found.model, found.signatures / "models" / "gemma", found.publishers):
        folder.mkdir(parents=True)
    (found.model / "weights").write_bytes(WEIGHTS)
    (found.model / "card").write_bytes(CARD)
    (found.publishers / "root.json").write_bytes(instance.trusted_root())
    return found


def test_a_certified_identity_covers_its_file_and_its_list(
    fetched: Fetched, instance: SigstoreInstance, packers: Packers, tmp_path: Path
) -> None:
    fetched.trust("gemma", identity=IDENTITY)
    fetched.put("card.sigstore.json", instance.bundle(IDENTITY, ISSUER, CARD))
    assert fetched.verified() == {
        "models/gemma/card": WHO,
        "models/gemma/weights": "",
        "publishers/models/gemma/card.sigstore.json": "",
    }
    sums = f"{sha256(WEIGHTS)}  weights\n{sha256(CARD)}  card\n".encode()
    fetched.put("SHA256SUMS", sums)
    fetched.put("SHA256SUMS.sigstore.json", instance.bundle(IDENTITY, ISSUER, sums))
    carried = packers.contents(*with_publishers(fetched.contents, fetched.signatures, fetched.publishers))
    lines = "\n".join(told(packers.verified(packers.packed(tmp_path / "bundle", carried))))
    assert f"files signed by their publisher: 3, by {WHO}" in lines  # two files, and the list of them
    assert "files without a publisher's signature: 11" in lines


def test_a_statement_of_provenance_counts_as_a_signature(fetched: Fetched, instance: SigstoreInstance) -> None:
    fetched.trust("gemma", identity=IDENTITY)
    about = statement({"out/other": "0" * 64, "out/weights": sha256(WEIGHTS)}, PROVENANCE, {"runDetails": {}})
    fetched.put("weights.sigstore.json", instance.bundle(IDENTITY, ISSUER, payload=about))
    assert fetched.verified()["models/gemma/weights"] == WHO


Plant = Callable[[SigstoreInstance], bytes]


def changed(bundle: bytes, *path: str, to: Any) -> bytes:
    content = inner = json.loads(bundle)
    for key in path[:-1]:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[path[-1]] = to
    return json.dumps(content).encode()


def other_payload(instance: SigstoreInstance) -> bytes:
    bundle = instance.bundle(IDENTITY, ISSUER, payload=statement({"weights": sha256(WEIGHTS)}, PROVENANCE))
    return changed(bundle, "dsseEnvelope", "payload", to=b64(statement({"card": sha256(CARD)}, PROVENANCE)))


PLANTED: dict[str, tuple[Plant, str]] = {
    "another file": (lambda it: it.bundle(IDENTITY, ISSUER, WEIGHTS), "digest mismatch"),
    "another identity": (lambda it: it.bundle(f"{IDENTITY}1", ISSUER, CARD), r"v11 \(issuer https.*\) is not in"),
    "an address for a workflow": (lambda it: it.bundle("eve@models.example", ISSUER, CARD), "eve@.* is not in"),
    "a subject that moves the cursor": (
        lambda it: it.bundle(f"{IDENTITY}\x1b[A", ISSUER, CARD),
        "neither an email address nor a URI",
    ),
    "another issuer": (lambda it: it.bundle(IDENTITY, f"{ISSUER}.eve", CARD), r"eve\) is not in"),
    "another log": (
        lambda it: SigstoreInstance(it.authority, it.certificate_log).bundle(IDENTITY, ISSUER, CARD),
        "log entry",
    ),
    "entered after the certificate's end": (
        lambda it: it.bundle(IDENTITY, ISSUER, CARD, entered=SIGNED + LIFE + timedelta(seconds=1)),
        "CertValidationError",
    ),
    "a changed payload": (other_payload, "DSSE: invalid signature"),
    "a statement about another file": (
        lambda it: it.bundle(IDENTITY, ISSUER, payload=statement({"card": sha256(WEIGHTS)}, PROVENANCE)),
        "about another file",
    ),
    "a statement that is no signature": (
        lambda it: it.bundle(IDENTITY, ISSUER, payload=statement({"card": sha256(CARD)}, "https://in-toto.io/test")),
        "not accepted as a signature",
    ),
    "two signatures": (
        lambda it: changed(
            it.bundle(IDENTITY, ISSUER, payload=statement({"card": sha256(CARD)}, PROVENANCE)),
            *("dsseEnvelope", "signatures"),
            to=[{"sig": ""}, {"sig": ""}],
        ),
        "must contain one signature",
    ),
    "no bundle": (lambda _: b"[]", "not a sigstore bundle"),
}


@pytest.mark.security_case(
    ("A publisher's sigstore bundle is about another file, has another identity, issuer or log, or is late or changed"),
    "nothing is packed",
)
@pytest.mark.parametrize("planted", PLANTED)
def test_a_bundle_that_does_not_hold_is_refused(fetched: Fetched, instance: SigstoreInstance, planted: str) -> None:
    fetched.trust("gemma", identity=IDENTITY)
    plant, said = PLANTED[planted]
    fetched.put("card.sigstore.json", plant(instance))
    fetched.refused(IntegrityError, said)


def test_whom_the_institution_does_not_name_counts_for_nothing(fetched: Fetched, instance: SigstoreInstance) -> None:
    bundle = fetched.put("card.sigstore.json", instance.bundle(IDENTITY, ISSUER, CARD))
    fetched.refused(IntegrityError, "contains no certified identity")
    fetched.trust("gemma", identity=f"{IDENTITY}.1")
    fetched.refused(IntegrityError, "is not in")
    fetched.trust("gemma", identity=IDENTITY)
    bundle.rename(bundle.with_name("another.sigstore.json"))
    fetched.refused(IntegrityError, "no file that this signature covers")
    bundle.with_name("another.sigstore.json").rename(bundle)
    fetched.put("card.sig", b"")
    fetched.refused(InputError, r"card\.sig: this file is neither a signature")


@pytest.mark.security_case("A publisher's sigstore bundle is by another key or about other bytes", "nothing is packed")
def test_a_key_covers_its_file_and_no_other(fetched: Fetched) -> None:
    key, another = new_key(), new_key()
    fetched.put("card.sigstore.json", bundle_by_key(key, CARD))
    fetched.refused(NotFoundError, "no publisher's public key")
    fetched.trust_key(another, "another")
    fetched.refused(IntegrityError, r"no public key in .* verifies this signature")
    fetched.trust_key(key)
    assert fetched.verified()["models/gemma/card"].startswith("sigstore, gemma (")
    (fetched.model / "card").write_bytes(CARD + b"!")
    fetched.refused(IntegrityError, r"no public key in .* verifies this signature")
    (fetched.model / "card").write_bytes(CARD)
    sums = f"{sha256(CARD)}  card\n".encode()
    fetched.put("SHA256SUMS.sigstore.json", bundle_by_key(another, sums))
    fetched.refused(InputError, r"SHA256SUMS: this list is missing")
    for wrong, said in (
        ("1" * 64 + "  card", "the file differs"),
        ("", "no file that it lists is packed"),
        ("x", "line 1"),
    ):
        listed_wrongly = fetched.put("SHA256SUMS", f"{wrong}\n".encode() if wrong else b"")
        fetched.put("SHA256SUMS.sigstore.json", bundle_by_key(another, listed_wrongly.read_bytes()))
        fetched.refused(IntegrityError, said)
    fetched.put("SHA256SUMS.sigstore.json", bundle_by_key(another, sums))
    fetched.put("SHA256SUMS", sums)
    one, other = fetched.verified()["models/gemma/card"].split("; ")
    assert (one.split(" (")[0], other.split(" (")[0]) == ("sigstore, another", "sigstore, gemma")


@pytest.mark.skipif(shutil.which("cosign") is None, reason="cosign is not installed")
def test_cosign_agrees(fetched: Fetched, instance: SigstoreInstance, tmp_path: Path) -> None:
    """What it signs is taken, and what the tests' own instance signs is what it verifies."""
    environment = {"COSIGN_PASSWORD": "", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}

    def cosign(*arguments: str) -> int:
        done = subprocess.run(("cosign", *arguments), cwd=tmp_path, env=environment, capture_output=True, check=False)
        return done.returncode

    card, bundle = str(fetched.model / "card"), fetched.signatures / "models" / "gemma" / "card.sigstore.json"
    assert cosign("generate-key-pair") == 0
    options = ("--key", "cosign.key", "--new-bundle-format", "--bundle", str(bundle), "--tlog-upload=false", "--yes")
    assert cosign("sign-blob", *options, card) == 0
    shutil.copy(tmp_path / "cosign.pub", fetched.publishers / "gemma.pub")
    assert fetched.verified()["models/gemma/card"].startswith("sigstore, gemma (")

    bundle.write_bytes(instance.bundle(IDENTITY, ISSUER, CARD))
    root = ("--trusted-root", str(fetched.publishers / "root.json"), "--new-bundle-format", "--bundle", str(bundle))
    whom = ("--certificate-identity", IDENTITY, "--certificate-oidc-issuer")
    assert cosign("verify-blob", *root, *whom, ISSUER, card) == 0
    assert cosign("verify-blob", *root, *whom, "https://another.example", card) != 0


def test_a_model_signed_by_the_openssfs_library_is_covered_file_by_file(fetched: Fetched, tmp_path: Path) -> None:
    from model_signing import signing

    key = new_key()
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    signature = fetched.put("model.sig", b"")
    signer = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")  # type: ignore[no-untyped-call]
    signer.sign(fetched.model, signature)
    fetched.trust_key(key)
    (fetched.model / "extra").write_bytes(b"not signed")
    found = fetched.verified()
    assert found["models/gemma/extra"] == found["publishers/models/gemma/model.sig"] == ""
    assert found["models/gemma/weights"] == found["models/gemma/card"] != ""
    (fetched.model / "weights").write_bytes(WEIGHTS + b"!")
    fetched.refused(IntegrityError, "models/gemma/weights: the file differs")


def listed(files: list[tuple[str, str, str]], kind: str = MODEL_FILES) -> bytes:
    resources = [{"name": name, "algorithm": algorithm, "digest": digest} for name, algorithm, digest in files]
    return statement({"model": "0" * 64}, kind, {"resources": resources})


def test_nothing_in_the_folder_of_signatures_is_passed_over(fetched: Fetched, tmp_path: Path) -> None:
    key = new_key()
    fetched.trust_key(key)
    place = fetched.put("card.sigstore.json", bundle_by_key(key, CARD)).parent
    (tmp_path / "elsewhere").mkdir()
    plants: tuple[tuple[str, Callable[[Path], object]], ...] = (
        ("planted", lambda path: path.symlink_to(tmp_path / "elsewhere")),
        ("weights.sigstore.json", lambda path: path.symlink_to(place / "card.sigstore.json")),
        ("weights.pipe", os.mkfifo),
        (".sigstore.json", Path.touch),
    )
    for name, plant in plants:
        plant(place / name)
        fetched.refused(InputError, "this file is neither a signature")
        (place / name).unlink()
    assert fetched.verified()


@pytest.mark.security_case(
    "The signed list of a model's files has other digests, or is not a list", "nothing is packed"
)
def test_a_list_of_a_models_files_is_read_strictly(fetched: Fetched, instance: SigstoreInstance) -> None:
    fetched.trust("gemma", identity=IDENTITY)
    good = ("weights", "sha256", sha256(WEIGHTS))
    fetched.put("model.sig", instance.bundle(IDENTITY, ISSUER, payload=listed([good, ("gone", "sha256", "0" * 64)])))
    assert fetched.verified()["models/gemma/weights"] == WHO
    for files, kind, said in (
        ([("weights", "sha256", sha256(CARD))], MODEL_FILES, "the file differs"),
        ([("gone", "sha256", sha256(CARD))], MODEL_FILES, "no file that it lists is packed"),
        ([("weights", "blake2b", sha256(WEIGHTS))], MODEL_FILES, "is not a SHA-256"),
        ([good, good], MODEL_FILES, "is repeated"),
        ([], MODEL_FILES, "has no resources"),
        ([good], PROVENANCE, "not a list of a model's files"),
    ):
        fetched.put("model.sig", instance.bundle(IDENTITY, ISSUER, payload=listed(files, kind)))
        fetched.refused(IntegrityError, said)
    fetched.put("model.sig", instance.bundle(IDENTITY, ISSUER, WEIGHTS))
    fetched.refused(IntegrityError, "contains no list of a model's files")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pub", "no key", "not a public key"),
        ("a.yaml", f"issuer: {ISSUER}\ntrusted_root: root.json", "identity"),
        ("a.yaml", f"issuer: {ISSUER}\ntrusted_root: ../root.json\nidentity: i", "in the same folder"),
        ("a.yml", f"issuer: {ISSUER}\ntrusted_root: root.json\nidentity: i", "cannot name a publisher"),
        ("a.yaml", "identity: i\nregexp: .*\ntrusted_root: root.json", "'regexp' is not a known key"),
    ],
    ids=["key", "nobody", "elsewhere", "another ending", "unknown"],
)
def test_whom_to_trust_is_read_strictly(fetched: Fetched, name: str, content: str, said: str) -> None:
    (fetched.publishers / name).write_text(content)
    with pytest.raises(SovereignError, match=said):
        load_publishers(fetched.publishers)
