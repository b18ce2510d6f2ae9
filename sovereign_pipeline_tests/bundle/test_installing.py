"""Installing takes nothing but what the bundle holds, into a place that is new."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.bundle.carried.installing import install, requirement_lines, this_platform
from sovereign_pipeline.bundle.carried.reading import Refused
from sovereign_pipeline.bundle.carried.verifying import Carried
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline_tests.bundle.conftest import RELEASE, Packers, archive_of, wheel

QUIET = print
PYTHON = Path(sys.base_prefix) / "bin" / "python3.11"
"""A Python without any distribution of this project."""


@pytest.mark.security_case("The machine's configuration of pip names another source of wheels.", "Not read.")
def test_a_bare_python_verifies_and_installs(
    packers: Packers, first_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, target = tmp_path / "elsewhere", tmp_path / "installed"
    elsewhere.mkdir()
    (elsewhere / "alpha-1.0-py3-none-any.whl").write_bytes(wheel("alpha", "1.0", "ANSWER = 'elsewhere'\n"))
    (elsewhere / "pip.conf").write_text(f"[global]\nfind-links = {elsewhere}\nrequire-virtualenv = true\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(elsewhere / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(elsewhere))
    monkeypatch.setenv("PIP_CONSTRAINT", str(elsewhere / "no-such-file"))
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    bundle = packers.packed(tmp_path / "bundle", now=None)
    command = [str(PYTHON), "-I", "-S", str(bundle / "bundle.pyz"), "install", str(bundle), str(target)]
    command += ["--trust-root", packers.root_sha256]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "publisher's signature over none of the other 9" in done.stdout
    python = target / "release" / ".venv" / "bin" / "python"
    answer = subprocess.run(
        [python, "-I", "-c", "import small_release; print(small_release.ANSWER)"], capture_output=True
    )
    assert answer.stdout == b"42\n"
    ready = (PROJECT_ROOT / "Makefile").read_text().partition("READY := $(VENV)/")[2].partition("\n")[0]
    assert (python.parents[1] / ready).is_file()
    assert (target / "environment").read_text() == f"SOVEREIGN_HOME={target}/home\nSOVEREIGN_DATA={target}/data\n"
    assert (target / "home" / "models" / "tiny" / "config.json").read_bytes() == b"{}"
    assert (target / "data" / "institution.yaml").is_file() and (target / "data" / "trust" / "targets.json").is_file()
    assert not any(path.lstat().st_mode & 0o077 for path in (target, *(target / "home").rglob("*")))
    assert (target / "index.json").read_bytes() == (bundle / "index.json").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 1 and "nothing is installed over it" in again.stderr
    (bundle / "x").write_bytes(b"")
    refused = subprocess.run([*command[:6], str(tmp_path / "other"), *command[-2:]], capture_output=True, text=True)
    assert refused.returncode == 1 and "was not signed" in refused.stderr and not refused.stdout
    assert not (tmp_path / "other").exists()


@pytest.mark.security_case("A medium changes between verifying and installing.", "Refused; what was begun is removed.")
def test_what_changes_after_it_was_verified_is_refused(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    found = packers.verified(bundle)
    whole = next(each for each in found.files if each.name.endswith("alpha-1.0-py3-none-any.whl")).path
    whole.write_bytes(wheel("alpha", "1.0", "ANSWER = 'changed'\n"))
    with pytest.raises(Refused, match="not the bytes that were signed"):
        install(found, tmp_path / "installed", QUIET)
    assert not (tmp_path / "installed").exists()


@pytest.mark.security_case(
    "The archive of a release holds a link or a name that leads out.", "Refused; nothing is left."
)
@pytest.mark.parametrize("kind", ["link", "up"])
def test_an_archive_that_leads_elsewhere_is_refused(packers: Packers, tmp_path: Path, kind: str) -> None:
    member = tarfile.TarInfo({"link": "x", "up": "../../../evil"}[kind])
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    changed = Content("release/source.tar", archive_of(RELEASE, member), "made by a test")
    found = packers.verified(packers.packed(tmp_path / "bundle", packers.contents(changed)))
    with pytest.raises(Refused):
        install(found, tmp_path / "installed", QUIET)
    assert not (tmp_path / "installed").exists() and not (tmp_path / "evil").exists()


def test_a_bundle_for_another_machine_is_refused(packers: Packers, first_bundle: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    other = replace(packers.verified(first_bundle), platform="cpython-3.12-linux-aarch64")
    with pytest.raises(Refused, match="and this is " + this_platform()):
        install(other, tmp_path / "installed", QUIET)


def test_a_python_that_unpacks_anything_is_refused(
    packers: Packers, first_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(Refused, match="without looking where their names lead") as refused:
        install(packers.verified(first_bundle), tmp_path / "installed", QUIET)
    assert "3.11.4" in refused.value.hint and not (tmp_path / "installed").exists()


def test_two_wheels_of_one_project_are_refused() -> None:
    names = ("wheels/Alpha_one-1.0-py3-none-any.whl", "wheels/alpha.one-2.0-py3-none-any.whl")
    carried = [Carried(name, "0" * 64, 1, "", "", Path(os.devnull)) for name in names]
    with pytest.raises(Refused, match="another wheel of alpha-one"):
        list(requirement_lines(carried))
    assert list(requirement_lines(carried[:1])) == [f"alpha-one==1.0 --hash=sha256:{'0' * 64}"]
