"""A small bundle with known keys: two wheels and a release that are made here."""

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.ops.backup import Taken, take
from sovereign_pipeline.ops.bundle import pack, tool
from sovereign_pipeline.ops.bundle_tool import Bundle, Refused, verify
from sovereign_pipeline.ops.publishers import Content
from sovereign_pipeline.ops.restore import Restored, restore
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.keys import FileSigner, generate
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.trust_changes import create_trust
from sovereign_pipeline.record.trust_root import Trust, load_trust, read_files
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.record.small_stages import make

PACKED = datetime(2026, 11, 27, 9, tzinfo=UTC)
ARRIVED = PACKED + timedelta(days=2)

BACKEND = '''"""A build backend that needs nothing: it makes an editable install of this folder."""
import pathlib
import zipfile

FILES = {
    "small_release.pth": str(pathlib.Path.cwd()),
    "small_release-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: small-release\\nVersion: 1.0\\n",
    "small_release-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "small_release-1.0.dist-info/RECORD": "",
}


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "small_release-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
    return name
'''
PYPROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "small-release"
version = "1.0"
"""
RELEASE = {
    "pyproject.toml": PYPROJECT,
    "backend.py": BACKEND,
    "small_release.py": "import alpha\nANSWER = alpha.ANSWER\n",
}


def wheel(name: str, version: str, module: str, needs: str = "") -> bytes:
    """A wheel with one module."""
    written = io.BytesIO()
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {needs}\n" if needs else ""
    )
    with zipfile.ZipFile(written, "w") as archive:
        for path, text in {
            f"{name}.py": module,
            f"{name}-{version}.dist-info/METADATA": metadata,
            f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{name}-{version}.dist-info/RECORD": "",
        }.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return written.getvalue()


def archive_of(files: dict[str, str], *members: tarfile.TarInfo) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
        for member in members:
            archive.addfile(member)
    return written.getvalue()


@dataclass(frozen=True)
class Packers:
    """Everybody's keys, and the trust root that names them."""

    directory: Path
    roots: tuple[FileSigner, ...]
    bundle: FileSigner
    pipeline: FileSigner

    @property
    def trust(self) -> Trust:
        return load_trust(self.directory, now=PACKED)

    @property
    def root_sha256(self) -> str:
        return self.trust.root_sha256

    def contents(self, *more: Content) -> list[Content]:
        """What the small bundle holds."""
        files = {
            "release/source.tar": archive_of(RELEASE),
            "wheels/alpha-1.0-py3-none-any.whl": wheel("alpha", "1.0", "ANSWER = 42\n", "beta"),
            "wheels/beta-2.1-py3-none-any.whl": wheel("beta", "2.1", "\n"),
            "models/tiny/config.json": b"{}",
            "configuration/institution.yaml": "name: وزارة\n".encode(),
            **{f"trust/{name}": content for name, content in read_files(self.directory).items()},
        }
        named = {each.name for each in more}
        kept = [Content(name, content, "made by a test") for name, content in files.items() if name not in named]
        return [tool(), *kept, *more]

    def packed(self, out: Path, contents: Iterable[Content] | None = None, **options: Any) -> Path:
        given = self.contents() if contents is None else list(contents)
        pack(out, given, options.pop("signer", self.bundle), self.trust, **{"now": PACKED, **options})
        return out

    def verified(self, directory: Path, *bases: Path, **options: Any) -> Bundle:
        return verify(directory, self.root_sha256, bases, **{"now": ARRIVED, **options})

    def refuses(self, directory: Path, *bases: Path, match: str = ".", **options: Any) -> Refused:
        with pytest.raises(Refused, match=match) as refused:
            self.verified(directory, *bases, **options)
        return refused.value


@pytest.fixture(scope="session")
def packers(tmp_path_factory: pytest.TempPathFactory) -> Packers:
    directory = tmp_path_factory.mktemp("bundle") / "trust"
    roots, bundle, pipeline = tuple(generate() for _ in range(3)), generate(), generate()
    keys = {"pipeline": [pipeline.public_pem], "bundle": [bundle.public_pem]}
    create_trust(directory, roots, keys, now=PACKED - timedelta(days=30))
    return Packers(directory, roots, bundle, pipeline)


@pytest.fixture(scope="session")
def first_bundle(packers: Packers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packers.packed(tmp_path_factory.mktemp("packed") / "bundle")


@pytest.fixture
def bundle(first_bundle: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(first_bundle, tmp_path / "bundle"))


ACT = "lantern lit"


@dataclass(frozen=True)
class Pair:
    private: str
    public: str


@dataclass(frozen=True)
class Office:
    """An installation that is backed up."""

    workplace: Workplace
    refs: tuple[ArtifactRef, ...]
    pair: Pair

    @property
    def settings(self) -> Settings:
        return self.workplace.settings

    def take(self, out: Path) -> Taken:
        return take(self.settings, out, self.pair.public, print)

    def elsewhere(self, root: Path) -> Settings:
        """Another machine: the same rules and trust root, and no home yet."""
        return Settings(home=root / "home", data=self.settings.data, ledger_copy=self.settings.ledger_copy)

    def restore(self, settings: Settings, backup: Path, known: tuple[Path, ...] = (), loses: int = 0) -> Restored:
        return restore(settings, backup, self.pair.private, "the disk died", print, known=known, loses=loses)


def act(settings: Settings, action: str = ACT) -> None:
    with open_registry(settings).writing() as session:
        append(session, "keeper", action, {})


@pytest.fixture(scope="session")
def pair() -> Pair:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    return Pair(str(identity), str(identity.to_public()))


@pytest.fixture
def make_office(institution: DemoInstitution, pair: Pair) -> Callable[[], Office]:
    def made() -> Office:
        workplace = institution.workplace()
        raw = make(RAW_CORPUS, workplace)
        workplace.settings.vault.mkdir(exist_ok=True)
        (workplace.settings.vault / "sealed.age").write_bytes(b"sealed")
        return Office(workplace, (raw, make(CLASSIFIED_CORPUS, workplace, raw_corpus=raw)), pair)

    return made


@pytest.fixture
def office(make_office: Callable[[], Office]) -> Office:
    return make_office()
