"""The archive: what is read is what was written, and a name that leads elsewhere is refused."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyrage
import pytest

from sovereign_pipeline.backup import archive
from sovereign_pipeline.backup.archive import LIST, Listed
from sovereign_pipeline.backup.description import Description
from sovereign_pipeline.backup.restoring import extract
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import canonical_json, file_sha256
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline_tests.backup.conftest import Pair

Take = Callable[[Listed, Iterator[bytes]], None]
LARGE = b"lantern " * 400_000


def sealed(path: Path, pair: Pair, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    """An archive of any members, without `Archive`."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.write_bytes(pyrage.encrypt(plain.getvalue(), [pyrage.x25519.Recipient.from_str(pair.public)]))


def read(path: Path, pair: Pair, take: Take = lambda listed, blocks: None) -> list[Listed]:
    """Of an archive that was signed as it is."""
    return archive.read(path, file_sha256(path), pair.private, take)


def test_files_of_any_size_and_name_come_back(pair: Pair, tmp_path: Path) -> None:
    files = {"home/empty": b"", "home/large": LARGE, f"home/{'long' * 60}/مصباح": b"x"}
    with archive.written(tmp_path / "archive", pair.public) as opened:
        for number, (name, content) in enumerate(files.items()):
            (tmp_path / str(number)).write_bytes(content)
            opened.add(name, tmp_path / str(number))
    found: dict[str, bytes] = {}

    def take(listed: Listed, blocks: Iterator[bytes]) -> None:
        found[listed.name] = b"".join(blocks)

    listed = read(tmp_path / "archive", pair, take)
    assert found == files and [each.size for each in listed] == [len(content) for content in files.values()]


@pytest.mark.security_case(
    "A backup holds a name that leads out of its directories, a link, or a file twice.", "Refused by its name."
)
@pytest.mark.parametrize(
    "name", ["home/../../evil", "/etc/evil", "evil", "home", "data/trust/x", "home/a/../../b", "home//etc/evil"]
)
def test_a_name_that_leads_elsewhere_is_refused(pair: Pair, tmp_path: Path, name: str) -> None:
    sealed(tmp_path / "backup.tar.age", pair, (tarfile.TarInfo(name), b"x"), (tarfile.TarInfo(LIST), b"[]"))
    settings = Settings(home=tmp_path / "home", data=tmp_path / "data")
    (tmp_path / "aside").mkdir()
    made = Description(created="", archive=file_sha256(tmp_path / "backup.tar.age"), files=1, checkpoint="")
    with pytest.raises(IntegrityError, match="does not belong into a backup"):
        extract(settings, tmp_path, made, pair.private, tmp_path / "aside", print)
    assert {path.name for path in tmp_path.iterdir()} == {"backup.tar.age", "aside"}


def test_an_archive_is_exactly_its_list(pair: Pair, tmp_path: Path) -> None:
    link = tarfile.TarInfo("home/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    file, stated = tarfile.TarInfo("home/a"), canonical_json([{"name": "home/a", "size": 1, "sha256": "0" * 64}])
    for members in (
        [(link, b"")],
        [(file, b"x"), (tarfile.TarInfo(LIST), stated)],
        [(file, b"x"), (tarfile.TarInfo(LIST), b"{}")],
        [(file, b"x")],
        [(tarfile.TarInfo(LIST), b"[]"), (file, b"x")],
    ):
        sealed(tmp_path / "archive", pair, *members)
        with pytest.raises(IntegrityError):
            read(tmp_path / "archive", pair)
    (tmp_path / "cut").write_bytes((tmp_path / "archive").read_bytes()[:200])
    with pytest.raises(Exception, match=r"key does not open|cannot be read|no list"):
        read(tmp_path / "cut", pair)


@pytest.mark.security_case("A backup's medium changes between verifying and decrypting.", "Refused.")
def test_an_archive_is_the_one_that_was_signed(pair: Pair, tmp_path: Path) -> None:
    for name in ("signed", "other"):
        with archive.written(tmp_path / name, pair.public) as opened:
            (tmp_path / "file").write_text(name)
            opened.add("keys/pipeline.key", tmp_path / "file")
    with pytest.raises(IntegrityError, match="not the bytes that were signed"):
        archive.read(tmp_path / "other", file_sha256(tmp_path / "signed"), pair.private, lambda listed, blocks: None)
