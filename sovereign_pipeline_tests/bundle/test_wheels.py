"""pip gets what the locks pin; what is published as source is built when packed."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.bundle.wheels import wheels
from sovereign_pipeline_tests.bundle.conftest import BACKEND, wheel

BUILD_WHEEL = BACKEND.replace("build_editable", "build_wheel").replace("small_release", "gamma").replace("small-", "")
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def source_archive() -> bytes:
    written = io.BytesIO()
    files = {"pyproject.toml": PYPROJECT, "backend.py": BUILD_WHEEL.replace("Name: release", "Name: gamma")}
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name, text in {**files, "PKG-INFO": "Metadata-Version: 2.1\nName: gamma\nVersion: 1.0\n"}.items():
            member = tarfile.TarInfo(f"gamma-1.0/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return written.getvalue()


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of locks, and an index of three distributions."""
    index, locks = tmp_path / "index", tmp_path / "requirements"
    index.mkdir()
    locks.mkdir()
    files = {
        "alpha-1.0-py3-none-any.whl": wheel("alpha", "1.0", ""),
        "beta-2.1-py3-none-any.whl": wheel("beta", "2.1", ""),
        "gamma-1.0.tar.gz": source_archive(),
    }
    for name, content in files.items():
        (index / name).write_bytes(content)
    pin = {name.split("-")[0]: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (locks / "build.txt").write_text(f"alpha==1.0 --hash=sha256:{pin['alpha']}\n")
    (locks / "runtime.txt").write_text(
        f"beta==2.1 \\\n    --hash=sha256:{pin['beta']}\ngamma==1.0 --hash=sha256:{pin['gamma']}\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return locks


def test_wheels_are_downloaded_and_built(requirements: Path, tmp_path: Path) -> None:
    found = {each.name: each.origin for each in wheels(requirements, ["runtime.txt"], tmp_path / "into", print)}
    assert found == {
        "wheels/alpha-1.0-py3-none-any.whl": "pinned by requirements/",
        "wheels/beta-2.1-py3-none-any.whl": "pinned by requirements/",
        "wheels/gamma-1.0-py3-none-any.whl": "built when packed, from a source archive that requirements/ pins",
    }


@pytest.mark.security_case("The package index has another file under a pinned version.", "Nothing is packed.")
def test_another_file_than_the_pinned_one_is_refused(requirements: Path, tmp_path: Path) -> None:
    (tmp_path / "index" / "alpha-1.0-py3-none-any.whl").write_bytes(wheel("alpha", "1.0", "EVIL = True\n"))
    with pytest.raises(NotFoundError, match="someone may have tampered with them"):
        wheels(requirements, ["runtime.txt"], tmp_path / "into", print)
