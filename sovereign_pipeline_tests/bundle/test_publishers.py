"""A publisher's signature is verified when a bundle is packed; what none signed is listed as such."""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.bundle.carried.telling import told
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline.bundle.publishers import with_publishers
from sovereign_pipeline_tests.bundle.conftest import Packers

pytestmark = pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed")
WEIGHTS, CARD = b"weights of a publisher", b"card of a publisher"


@dataclass(frozen=True)
class Publisher:
    home: Path

    def gpg(self, *arguments: str) -> None:
        command = ("gpg", "--homedir", str(self.home), "--batch", "--yes", "--quiet", "--passphrase", "", *arguments)
        subprocess.run(command, check=True, capture_output=True)

    def sign(self, path: Path, *options: str) -> None:
        self.gpg(*options, "--armor", "--detach-sign", str(path))

    def revoke(self) -> None:
        """By the certificate that GnuPG wrote when it made the key, with the colon that guards it taken off."""
        (written,) = (self.home / "openpgp-revocs.d").iterdir()
        written.write_text(written.read_text().replace(":-----BEGIN", "-----BEGIN"))
        self.gpg("--import", str(written))


@contextmanager
def with_key(until: str, *options: str) -> Iterator[Publisher]:
    home = Path(tempfile.mkdtemp())  # short, since its agent listens at a path below it
    publisher = Publisher(home)
    name = "Publisher of Models <models@publisher.example>"
    publisher.gpg(*options, "--quick-generate-key", name, "ed25519", "sign", until)
    yield publisher
    subprocess.run(("gpgconf", "--homedir", str(home), "--kill", "all"), check=False)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def publisher() -> Iterator[Publisher]:
    with with_key("never") as publisher:
        yield publisher


@dataclass(frozen=True)
class Fetched:
    """What an operator fetched: a model, the publisher's signatures, and the institution's choice of keys."""

    model: Path
    signatures: Path
    keys: Path

    @property
    def contents(self) -> list[Content]:
        return [Content(f"models/gemma/{each.name}", each, "pinned by a card") for each in sorted(self.model.iterdir())]

    def verified(self) -> dict[str, str]:
        return {each.name: each.publisher for each in with_publishers(self.contents, self.signatures, self.keys)}


@pytest.fixture
def fetched(tmp_path: Path, publisher: Publisher) -> Fetched:
    found = Fetched(tmp_path / "model", tmp_path / "signatures" / "models" / "gemma", tmp_path / "keys")
    for folder in (found.model, found.signatures, found.keys):
        folder.mkdir(parents=True)
    (found.model / "weights").write_bytes(WEIGHTS)
    (found.model / "card").write_bytes(CARD)
    publisher.gpg("--armor", "--output", str(found.keys / "publisher.asc"), "--export")
    return Fetched(found.model, tmp_path / "signatures", found.keys)


def test_a_signed_list_covers_its_files(
    fetched: Fetched, publisher: Publisher, packers: Packers, tmp_path: Path
) -> None:
    sums = fetched.signatures / "models" / "gemma" / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(WEIGHTS).hexdigest()}  weights\n{'0' * 64} *of-another-model\n")
    publisher.sign(sums)
    found = fetched.verified()
    assert found["models/gemma/weights"].startswith("PGP, publisher (")
    assert found["models/gemma/card"] == ""
    carried = packers.contents(*with_publishers(fetched.contents, fetched.signatures, fetched.keys))
    lines = "\n".join(told(packers.verified(packers.packed(tmp_path / "bundle", carried))))
    assert "publisher's signature over 2: PGP, publisher (" in lines
    assert "publisher's signature over none of the other 11" in lines


@pytest.mark.security_case(
    "A publisher's file, list or signature is not the one that was signed.", "Nothing is packed."
)
def test_what_a_publisher_did_not_sign_is_refused(fetched: Fetched, publisher: Publisher, tmp_path: Path) -> None:
    place = fetched.signatures / "models" / "gemma"
    with pytest.raises(InputError, match="there is no signature"):
        fetched.verified()
    publisher.sign(fetched.model / "card")
    (fetched.model / "card.asc").rename(place / "card.asc")
    assert fetched.verified()["models/gemma/card"].startswith("PGP, publisher (")
    (fetched.model / "card").write_bytes(CARD + b"!")
    with pytest.raises(IntegrityError, match="no key in"):
        fetched.verified()
    (place / "card.asc").rename(place / "another.asc")
    with pytest.raises(IntegrityError, match="signs nothing that is carried"):
        fetched.verified()
    (place / "another.asc").unlink()
    for listed, said in (("1" * 64 + "  weights", "not the file"), ("", "names nothing"), ("x", "line 1")):
        (place / "SHA256SUMS").write_text(listed and f"{listed}\n")
        publisher.sign(place / "SHA256SUMS")
        with pytest.raises(IntegrityError, match=said):
            fetched.verified()


@pytest.mark.security_case("A publisher's key is revoked, or expired.", "Its signatures count for nothing.")
@pytest.mark.parametrize("ended", ["revoked", "expired"])
def test_a_key_that_is_no_longer_in_force_counts_for_nothing(fetched: Fetched, ended: str) -> None:
    earlier = ("--faked-system-time", "20200101T000000") if ended == "expired" else ()
    with with_key("1y" if earlier else "never", *earlier) as publisher:
        publisher.sign(fetched.model / "card", *earlier)
        if ended == "revoked":
            publisher.revoke()
        publisher.gpg("--armor", "--output", str(fetched.keys / "publisher.asc"), "--export")
    (fetched.model / "card.asc").rename(fetched.signatures / "models" / "gemma" / "card.asc")
    with pytest.raises(IntegrityError, match="no key in"):
        fetched.verified()


def test_a_key_that_the_institution_did_not_choose_counts_for_nothing(fetched: Fetched, publisher: Publisher) -> None:
    publisher.sign(fetched.model / "card")
    (fetched.model / "card.asc").rename(fetched.signatures / "models" / "gemma" / "card.asc")
    (fetched.keys / "publisher.asc").unlink()
    with pytest.raises(NotFoundError, match="no publisher's key"):
        fetched.verified()
    (fetched.keys / "other.asc").write_text("no key\n")
    with pytest.raises(IntegrityError, match="no key in"):
        fetched.verified()
