"""Attestations of a package index are verified; one counts where its signer is named for that distribution."""

import hashlib
import json
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, SovereignError
from sovereign_pipeline.bundle.attestations import with_attestations
from sovereign_pipeline.bundle.carried.telling import told
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline.bundle.wheels import PUBLISHED
from sovereign_pipeline_tests.bundle.conftest import Packers, wheel
from sovereign_pipeline_tests.bundle.sigstore_instance import SigstoreInstance, statement

ISSUER = "https://token.forge.example"
WORKFLOW = "https://forge.example/alpha/.github/workflows/release.yml"
IDENTITY = f"{WORKFLOW}@refs/tags/v1.0"
PUBLISH = "https://docs.pypi.org/attestations/publish/v1"
ALPHA, BETA = "alpha-1.0-py3-none-any.whl", "beta-2.1-py3-none-any.whl"


@dataclass
class Index:
    """A package index on loopback, with the provenance of some of its wheels."""

    wheels: dict[str, bytes]
    provenances: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    speaks_json: bool = True
    redirect: tuple[str, int] | None = None
    """Where to, and with how many bytes."""
    sent: int = 0

    def answer(self, path: str, host: str) -> tuple[str, bytes] | None:
        self.asked.append(path)
        _, kind, name, *_ = path.split("/")
        if kind == "integrity":
            return ("application/json", self.provenances[name]) if name in self.provenances else None
        if not self.speaks_json:
            return "text/html", b"<html></html>"
        files = [
            {
                "filename": file,
                "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
                "provenance": f"http://{host}/integrity/{file}" if file in self.provenances else None,
            }
            for file, content in self.wheels.items()
            if file.startswith(f"{name}-")
        ]
        return "application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode()

    def give(self, file: str, *attestations: dict[str, Any]) -> None:
        bundles = [{"publisher": {"kind": "GitHub"}, "attestations": list(attestations)}]
        self.provenances[file] = json.dumps({"version": 1, "attestation_bundles": bundles}).encode()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    index = Index({ALPHA: wheel("alpha", "1.0", ""), BETA: wheel("beta", "2.1", "")})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if index.redirect:
                self.redirect(*index.redirect)
                return
            found = index.answer(self.path, self.headers["Host"])
            kind, content = found or ("text/plain", b"")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def redirect(self, location: str, size: int) -> None:
            self.send_response(302)
            self.send_header("Location", location)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            with suppress(OSError):  # where nobody reads it
                for _ in range(size >> 20):
                    self.wfile.write(bytes(1 << 20))
                    index.sent += 1 << 20

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        for name in ("PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        yield index
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def instance() -> SigstoreInstance:
    return SigstoreInstance()


@dataclass(frozen=True)
class Packing:
    """Wheels that were downloaded, and whom the institution trusts."""

    folder: Path
    publishers: Path
    told: list[str] = field(default_factory=list)

    def contents(self, origin: str = PUBLISHED) -> list[Content]:
        return [Content(f"wheels/{each.name}", each, origin) for each in sorted(self.folder.iterdir())]

    def trust(self, name: str, **fields: Any) -> None:
        known = {"issuer": ISSUER, "trusted_root": "root.json"} | fields
        (self.publishers / f"{name}.yaml").write_text(json.dumps(known))

    def packed(self, origin: str = PUBLISHED) -> list[Content]:
        return with_attestations(self.contents(origin), self.publishers, self.told.append)


@pytest.fixture
def packing(tmp_path: Path, index: Index, instance: SigstoreInstance) -> Packing:
    found = Packing(tmp_path / "wheels", tmp_path / "publishers")
    for folder in (found.folder, found.publishers):
        folder.mkdir()
    for name, content in index.wheels.items():
        (found.folder / name).write_bytes(content)
    (found.publishers / "root.json").write_bytes(instance.trusted_root())
    return found


def about(index: Index, file: str, kind: str = PUBLISH) -> bytes:
    return statement({file: hashlib.sha256(index.wheels[file]).hexdigest()}, kind)


def test_whom_an_attestation_names_is_recorded_and_counts_where_the_institution_names_them(
    index: Index, packing: Packing, instance: SigstoreInstance, packers: Packers, tmp_path: Path
) -> None:
    packing.trust("alpha", workflow=WORKFLOW, distributions=["alpha", "gamma"])
    index.give(ALPHA, instance.attestation(IDENTITY, ISSUER, about(index, ALPHA)))
    index.give(BETA, instance.attestation("eve@forge.example", ISSUER, about(index, BETA)))
    packed = packing.packed()
    lines = "\n".join(told(packers.verified(packers.packed(tmp_path / "bundle", packers.contents(*packed)))))
    assert f"publisher's signature over 1: attestation, alpha ({IDENTITY}, by {ISSUER})" in lines
    assert f"{PUBLISHED}; attested by eve@forge.example, by {ISSUER}, whom this institution does not name" in lines
    assert "publishers: 2 files, attestations that the package index gave" in lines
    by_name = {each.name: each for each in packed}
    assert by_name[f"publishers/wheels/{ALPHA}.provenance"].source == index.provenances[ALPHA]
    assert by_name[f"wheels/{BETA}"].publisher == ""
    assert "gamma: alpha.yaml names its publisher, and no wheel of it is carried" in packing.told
    assert packing.told[-1] == "2 of 2 wheels are attested"


def test_an_index_that_gives_no_attestations_leaves_wheels_unsigned(index: Index, packing: Packing) -> None:
    assert packing.packed() == packing.contents()
    assert index.asked == []  # nobody is named under whose root one could be verified
    packing.trust("models", identity="models@forge.example")
    assert packing.packed() == packing.contents()
    index.speaks_json = False
    assert packing.packed() == packing.contents()
    index.speaks_json = True
    index.give(ALPHA)  # an empty provenance says nothing
    assert packing.packed() == packing.contents()


PLANTED = {
    "another workflow": r"is attested by .*release\.yml\.eve@refs/tags/v1\.0, by",
    "another workflow by its spelling": r"is attested by .*release\.yml@eve\.yml@refs/heads/main, by",
    "a branch": r"is attested by .*release\.yml@refs/heads/eve, by",
    "another issuer": "is attested by .*, by https://eve.example, and its publisher is",
    "another authority": "wrong. It does not hold under root.json",
    "another wheel": "about something else",
    "another name": "about something else",
    "another kind": "about something else",
    "two wheels": "about something else",
    "no name": "about something else",
    "changed": "DSSE: invalid signature",
    "a wrong time stamp": "Invalid Timestamp Response",
    "malformed": "its provenance is malformed",
    "none": "the package index gives no attestation",
    "empty": "the package index gives no attestation",
}


@pytest.mark.security_case(
    "A wheel's attestation is of another publisher, over another wheel, changed, or missing where one is named.",
    "Nothing is packed.",
)
@pytest.mark.parametrize("planted", PLANTED)
def test_an_attestation_that_does_not_hold_is_refused(
    index: Index, packing: Packing, instance: SigstoreInstance, planted: str
) -> None:
    packing.trust("alpha", workflow=WORKFLOW, distributions=["alpha"])
    good = about(index, ALPHA)
    digest = hashlib.sha256(index.wheels[ALPHA]).hexdigest()
    payloads = {
        "another wheel": about(index, BETA),
        "another name": statement({BETA: digest}, PUBLISH),
        "another kind": about(index, ALPHA, "https://in-toto.io/test"),
        "two wheels": statement({ALPHA: digest, BETA: "0" * 64}, PUBLISH),
        "no name": good.replace(f'"{ALPHA}"'.encode(), b"5"),
    }
    identities = {
        "another workflow": f"{WORKFLOW}.eve@refs/tags/v1.0",
        "another workflow by its spelling": f"{WORKFLOW}@eve.yml@refs/heads/main",
        "a branch": f"{WORKFLOW}@refs/heads/eve",
    }
    identity = identities.get(planted, IDENTITY)
    issuer = "https://eve.example" if planted == "another issuer" else ISSUER
    signing = SigstoreInstance() if planted == "another authority" else instance
    attestation = signing.attestation(identity, issuer, payloads.get(planted, good))
    if planted == "changed":
        other = instance.attestation(identity, issuer, about(index, BETA))
        attestation["envelope"]["statement"] = other["envelope"]["statement"]
    if planted == "a wrong time stamp":
        attestation["verification_material"]["timestamps"] = ["AAAA"]
    if planted == "malformed":
        attestation["version"] = 2
    if planted != "none":
        index.give(ALPHA, *([] if planted == "empty" else [attestation]))
    with pytest.raises(IntegrityError, match=f"^{ALPHA}: .*{PLANTED[planted]}"):
        packing.packed()


def test_a_named_distribution_is_not_built_here(packing: Packing) -> None:
    packing.trust("alpha", workflow=WORKFLOW, distributions=["alpha"])
    with pytest.raises(IntegrityError, match="it was built here, and its publisher is"):
        packing.packed("built when packed")


def test_an_index_that_cannot_be_asked_stops_the_packing_and_no_password_is_told(
    packing: Packing, monkeypatch: pytest.MonkeyPatch
) -> None:
    packing.trust("alpha", workflow=WORKFLOW, distributions=["alpha"])
    for host, said in (("127.0.0.1:9", r"127\.0\.0\.1 cannot"), ("h\u2100st", "The package index cannot")):
        monkeypatch.setenv("PIP_INDEX_URL", f"http://operator:opensesame@{host}/simple")
        with pytest.raises(NotFoundError, match=said) as refused:
            packing.packed()
        assert "opensesame" not in f"{refused.value}{packing.told}"


NO_HOST = f"http://{'a' * 64}.example/"


@pytest.mark.parametrize("location", ["/simple/alpha/", "http://[", NO_HOST], ids=["itself", "no address", "no host"])
def test_an_index_that_redirects_to_nowhere_stops_the_packing(index: Index, packing: Packing, location: str) -> None:
    packing.trust("alpha", workflow=WORKFLOW, distributions=["alpha"])
    index.redirect = (location, 0)
    with pytest.raises(NotFoundError, match=r"127\.0\.0\.1 cannot be asked"):
        packing.packed()


def test_the_body_of_a_redirect_is_not_read(index: Index, packing: Packing) -> None:
    packing.trust("alpha", workflow=WORKFLOW, distributions=["alpha"])
    index.redirect = ("http://127.0.0.1:9/", 64 << 20)
    with pytest.raises(NotFoundError, match=r"127\.0\.0\.1 cannot be asked"):
        packing.packed()
    assert index.sent < 32 << 20  # what the sockets hold


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("http://[", "gives no attestation"),
        (NO_HOST, r"a\.example cannot be asked"),
        ("file:///etc", "cannot be asked"),
    ],
    ids=["no address", "no host", "a file"],
)
def test_an_index_that_names_nowhere_for_a_provenance_gives_none(
    index: Index, packing: Packing, monkeypatch: pytest.MonkeyPatch, named: str, said: str
) -> None:
    packing.trust("alpha", workflow=WORKFLOW, distributions=["alpha"])
    digest = hashlib.sha256(index.wheels[ALPHA]).hexdigest()
    page = {"files": [{"filename": ALPHA, "hashes": {"sha256": digest}, "provenance": named}]}
    monkeypatch.setattr(index, "answer", lambda *_: ("application/json", json.dumps(page).encode()))
    with pytest.raises(SovereignError, match=said):
        packing.packed()


def test_an_index_that_gives_a_flood_is_refused_in_little_memory(index: Index, packing: Packing) -> None:
    packing.trust("alpha", workflow=WORKFLOW, distributions=["alpha"])
    index.provenances[ALPHA] = bytes((1 << 20) + 1)
    with pytest.raises(IntegrityError, match="more than 1,048,576 bytes"):
        packing.packed()
    mistakes = ",".join("1" * 100_000)
    index.provenances[ALPHA] = f'{{"version":1,"attestation_bundles":[{mistakes}]}}'.encode()
    tracemalloc.start()
    with pytest.raises(IntegrityError, match="its provenance is malformed"):
        packing.packed()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
