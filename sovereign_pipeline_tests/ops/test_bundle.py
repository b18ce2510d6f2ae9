"""A bundle is exactly what was signed: whatever is changed, missing, extra, linked or misnamed is refused."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, SignInError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.ops.bundle import wheels
from sovereign_pipeline.ops.bundle_tool import (
    Carried,
    N,
    P,
    Refused,
    install,
    is_safe,
    is_signed,
    requirement_lines,
    sha256,
    spelled,
    this_platform,
    told,
    verify,
)
from sovereign_pipeline.ops.publishers import Content
from sovereign_pipeline.record.keys import FileSigner, der_of, generate
from sovereign_pipeline.record.statements import BUNDLE, HOLD, Statement, Subject, sign_statement, verify_statement
from sovereign_pipeline.record.trust_changes import revoke, rotate_key, rotate_root
from sovereign_pipeline.record.trust_root import load_trust
from sovereign_pipeline_tests.ops.conftest import ARRIVED, BACKEND, PACKED, RELEASE, Packers, archive_of, wheel


def files_of(bundle: Path) -> list[Path]:
    return sorted(path for path in bundle.rglob("*") if path.is_file())


def test_a_bundle_says_what_it_holds_and_who_vouches_for_it(packers: Packers, first_bundle: Path) -> None:
    found = packers.verified(first_bundle)
    assert found.keyid == packers.bundle.keyid
    assert {each.name for each in found.files} == {each.name for each in packers.contents()}
    lines = "\n".join(told(found))
    assert "files without a publisher's signature: 9" in lines
    assert f"signed   by the key {packers.bundle.keyid}" in lines
    index = sha256((first_bundle / "index.json").read_bytes())
    signature = (first_bundle / "index.json.sigstore.json").read_bytes()
    assert verify_statement(signature, packers.trust, "bundle", predicate_type=BUNDLE, sha256=index)


@pytest.mark.security_case(
    "One byte of any file of a bundle is changed, or the file is removed.", "Refused by its name."
)
def test_every_file_is_compared(packers: Packers, bundle: Path) -> None:
    for path in files_of(bundle):
        content = path.read_bytes()
        for changed in (content[:-1] + bytes([content[-1] ^ 1]), None):
            if changed is None:
                path.unlink()
            else:
                path.write_bytes(changed)
            packers.refuses(bundle)
            path.write_bytes(content)
    assert packers.verified(bundle)


@pytest.mark.security_case("A file, folder or link is added to a bundle.", "Refused by its name.")
def test_nothing_else_may_lie_there(packers: Packers, bundle: Path) -> None:
    places = ("evil.whl", "blobs/evil", f"blobs/sha256/{'0' * 64}", "trust/9.root.json", "wheels/evil.whl", ".git/x")
    for path in (bundle / place for place in places):
        is_new = not path.parent.exists()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        packers.refuses(bundle)
        path.unlink()
        if is_new:
            path.parent.rmdir()
    assert packers.verified(bundle)


@pytest.mark.security_case("A file of a bundle is a link to the same bytes elsewhere.", "rejected")
def test_links_are_refused(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    for name in ("index.json", "trust", "blobs", "oci-layout"):
        (bundle / name).rename(tmp_path / "elsewhere")
        (bundle / name).symlink_to(tmp_path / "elsewhere")
        packers.refuses(bundle)
        (bundle / name).unlink()
        (tmp_path / "elsewhere").rename(bundle / name)
    os.mkfifo(bundle / "pipe")
    packers.refuses(bundle)


NAMES = (
    "../evil",
    "/etc/evil",
    "a/../../evil",
    "a//b",
    "a/./b",
    "",
    "a\\..\\b",
    "a/",
    "C:evil",
    "a\0b",
    "a\nb",
    "e\u0301",
    "a /b",
    "a\u202eb",
    "a/" * 1_500 + "b",
    "a/" * 51 + "b",
    "a" * 256,
    "\u0645" * 128,
    "ab/" * 20 + "c" * 250 + "/" + "d" * 250 + "/" + "e" * 250 + "/" + "f" * 250,
)


@pytest.mark.security_case("A signed bundle contains a path outside its folder", "rejected")
def test_a_name_that_leads_elsewhere_is_refused(packers: Packers, tmp_path: Path) -> None:
    assert not [name for name in NAMES if is_safe(name)]
    for number, name in enumerate(NAMES[:2]):
        packed = packers.packed(tmp_path / str(number), packers.contents(Content(name, b"x", "made by a test")))
        packers.refuses(packed, match="is unsafe")


@pytest.mark.security_case(
    "A signed bundle contains one name twice, in other letter case, or as a folder of another file", "rejected"
)
@pytest.mark.parametrize("name", ["models/tiny/CONFIG.json", "models/tiny", "models/tiny/config.json/x"])
def test_a_name_stands_there_once(packers: Packers, tmp_path: Path, name: str) -> None:
    packed = packers.packed(tmp_path / "bundle", packers.contents(Content(name, b"x", "made by a test")))
    packers.refuses(packed, match="listed twice")


def signed_anew(packers: Packers, bundle: Path, index: bytes, kind: str = BUNDLE, files: int = 9) -> None:
    (bundle / "index.json").write_bytes(index)
    predicate = {"files": files, "line": "", "adapter": "", "incumbent": "", "outcome": "", "because": ""}
    predicate |= {"bounds": "", "observations": ""}
    statement = Statement((Subject("index.json", sha256(index)),), kind, predicate)
    (bundle / "index.json.sigstore.json").write_bytes(sign_statement(packers.bundle, statement))


def test_a_malformed_index_or_statement_is_refused(packers: Packers, bundle: Path) -> None:
    right = (bundle / "index.json").read_bytes()
    index = json.loads(right)
    (manifest,) = index["manifests"]
    wrong = (
        {**index, "manifests": index["manifests"] * 2},
        {**index, "manifests": []},
        {**index, "annotations": {}},
        {**index, "manifests": [{**manifest, "digest": "sha256:../../../../etc/passwd"}]},
        {**index, "manifests": [{**manifest, "digest": "md5:" + "0" * 64}]},
        {**index, "manifests": ["x"]},
        [index],
    )
    for each in (*map(spelled, wrong), right[:-1] + b',"annotations":{}}'):  # the last one has a key twice
        signed_anew(packers, bundle, each)
        packers.refuses(bundle)
    for kind, files in ((HOLD, 9), (BUNDLE, 8)):
        signed_anew(packers, bundle, right, kind, files)
        packers.refuses(bundle)
    signed_anew(packers, bundle, right)
    assert packers.verified(bundle)


@pytest.mark.security_case(
    "A bundle is signed with a key of another role or an unknown key", "rejected by packer and reader"
)
def test_only_a_key_of_the_role_signs(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    index = (bundle / "index.json").read_bytes()
    statement = Statement((Subject("index.json", sha256(index)),), BUNDLE, {"files": 9})
    for signer in (packers.pipeline, packers.roots[0], generate()):
        with pytest.raises(IntegrityError):
            packers.packed(tmp_path / "other", signer=signer)
        (bundle / "index.json.sigstore.json").write_bytes(sign_statement(signer, statement))
        packers.refuses(bundle, match="does not have the role bundle")


@pytest.mark.security_case("A bundle's key, file or origin contains terminal control codes", "they are shown as `?`")
def test_what_a_bundle_says_moves_no_cursor(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    codes = "\x1b[2J\nverified: 9 files\u202e"
    signature = json.loads((bundle / "index.json.sigstore.json").read_bytes())
    signature["verificationMaterial"]["publicKey"]["hint"] = codes
    (bundle / "index.json.sigstore.json").write_bytes(spelled(signature) + b"\n")
    unknown = packers.refuses(bundle, match="does not have the role bundle")
    (bundle / codes).write_bytes(b"x")
    extra = packers.refuses(bundle)
    content = Content("models/tiny/config.json", b"{}", f"of {codes}")
    lines = told(packers.verified(packers.packed(tmp_path / "other", packers.contents(content))))
    assert all(each.isprintable() for each in (unknown.message, extra.message, *lines))


def with_trust(packers: Packers, tmp_path: Path) -> Packers:
    directory = Path(shutil.copytree(packers.directory, tmp_path / "trust"))
    return Packers(directory, packers.roots, packers.bundle, packers.pipeline)


@pytest.mark.security_case("A bundle is signed with a revoked key, or contains an older trust root", "rejected")
def test_a_revoked_key_signs_nothing(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    changed = with_trust(packers, tmp_path)
    revoke(changed.directory, packers.bundle.keyid, 0, packers.roots[:2], now=PACKED)
    with pytest.raises(SignInError):
        changed.packed(tmp_path / "other")
    unaware = packers.packed(tmp_path / "unaware", changed.contents())
    packers.refuses(unaware, match="or is revoked")
    versions = (changed.trust.root_version, changed.trust.targets_version)
    packers.refuses(bundle, at_least=versions, match="older than this installation's root")


def test_later_roots_and_keys_are_followed(packers: Packers, tmp_path: Path) -> None:
    changed, new_root, new_key = with_trust(packers, tmp_path), generate(), generate()
    now, (first, second, _) = PACKED, packers.roots
    rotate_root(changed.directory, [first, second, new_root], [first, second, new_root], now=now)
    rotate_key(changed.directory, "bundle", new_key.public_pem, 0, [second, new_root], now=now)
    packed = changed.packed(tmp_path / "bundle", signer=new_key)
    assert changed.verified(packed).trust_versions == (2, load_trust(changed.directory, now=now).targets_version)


@pytest.mark.security_case("A bundle contains a different trust root", "rejected: the SHA-256 comes from paper")
def test_another_or_an_expired_trust_root_is_refused(packers: Packers, first_bundle: Path) -> None:
    with pytest.raises(Refused, match="not the expected trust root"):
        verify(first_bundle, "0" * 64, now=ARRIVED)
    packers.refuses(first_bundle, now=PACKED + timedelta(days=500), match="expired")
    packers.refuses(first_bundle, now=PACKED - timedelta(days=1), match="in the future")


@pytest.mark.security_case("A newer bundle is replaced by an older one", "rejected by --newer-than")
def test_an_older_bundle_is_refused(packers: Packers, first_bundle: Path, tmp_path: Path) -> None:
    newer = packers.packed(tmp_path / "newer", now=PACKED + timedelta(days=1))
    assert packers.verified(newer, newer_than=first_bundle / "index.json")
    for earlier in (first_bundle, newer):
        packers.refuses(earlier, newer_than=newer / "index.json", match="the bundle was packed at")


@pytest.mark.parametrize("name", ["1.root.json", "targets.json"])
def test_a_trust_root_that_too_few_signed_is_refused(packers: Packers, tmp_path: Path, name: str) -> None:
    """`signing/` refuses the same."""
    changed = with_trust(packers, tmp_path)
    metadata = json.loads((changed.directory / name).read_bytes())
    metadata["signatures"] = metadata["signatures"][:1] * 2
    (changed.directory / name).write_bytes(json.dumps(metadata, sort_keys=True, indent=1).encode())
    if name == "1.root.json":
        shutil.copy(changed.directory / name, changed.directory / "root.json")
    packed = packers.packed(tmp_path / "bundle", changed.contents())
    root = sha256((changed.directory / "1.root.json").read_bytes())
    with pytest.raises(Refused, match="1 of the 2 required keys signed"):
        verify(packed, root, now=ARRIVED)
    with pytest.raises(IntegrityError):
        load_trust(changed.directory, now=ARRIVED)


DAY = timedelta(days=1)


def delta(packers: Packers, out: Path, since: Path, days: int, *more: Content) -> Path:
    contents = packers.contents(Content("wheels/gamma-1.0-py3-none-any.whl", wheel("gamma", "1.0", ""), "new"), *more)
    return packers.packed(out, contents, since=since / "index.json", now=PACKED + days * DAY)


def test_a_delta_holds_what_is_new(packers: Packers, first_bundle: Path, tmp_path: Path) -> None:
    small = delta(packers, tmp_path / "delta", first_bundle, 1)
    assert len(list((small / "blobs" / "sha256").iterdir())) == 2  # its manifest, and the one new wheel
    later = delta(packers, tmp_path / "later", small, 2, Content("models/tiny/weights", b"w", "new"))
    found = packers.verified(later, small, first_bundle, now=PACKED + 3 * DAY)
    assert {each.path.parents[2] for each in found.files} == {later, small, first_bundle}
    packers.refuses(later, small, now=PACKED + 3 * DAY, match="its base was not named")


@pytest.mark.security_case("A delta is combined with another bundle than its base, older or forged", "rejected")
def test_a_delta_is_taken_with_its_own_base_alone(packers: Packers, first_bundle: Path, tmp_path: Path) -> None:
    second = packers.packed(tmp_path / "second", packers.contents(Content("note", b"n", "new")), now=PACKED + DAY)
    small = delta(packers, tmp_path / "delta", second, 2)
    at: dict[str, Any] = {"now": PACKED + 3 * DAY}
    assert packers.verified(small, second, **at)
    packers.refuses(first_bundle, first_bundle, match="is not the base of")
    for bases in ([], [first_bundle], [small], [second, first_bundle]):
        packers.refuses(small, *bases, **at)
    used = {each.path for each in packers.verified(small, second, **at).files} - {*small.rglob("*")}
    assert len(used) == 8  # of nine names, two have the same bytes
    for blob in sorted(used):
        content = blob.read_bytes()
        blob.write_bytes(content + b"x")
        packers.refuses(small, second, **at)
        blob.unlink()
        packers.refuses(small, second, **at)
        blob.write_bytes(content)


def test_a_delta_rests_on_a_signed_index_alone(packers: Packers, first_bundle: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(first_bundle, tmp_path / "forged"))
    (forged / "index.json").write_bytes((forged / "index.json").read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="SHA-256 differs from the signed one"):
        delta(packers, tmp_path / "delta", forged, 1)
    with pytest.raises(IntegrityError, match="in the future"):
        delta(packers, tmp_path / "delta", first_bundle, -1)
    assert not (tmp_path / "delta").exists()


QUIET = print
PYTHON = Path(sys.base_prefix) / "bin" / "python3.11"
"""A Python without any distribution of this project."""


@pytest.mark.security_case("The machine's pip configuration names another source of wheels", "it is not read")
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
    assert "files without a publisher's signature: 9" in done.stdout
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
    assert again.returncode == 1 and "never overwrites files" in again.stderr
    (bundle / "x").write_bytes(b"")
    refused = subprocess.run([*command[:6], str(tmp_path / "other"), *command[-2:]], capture_output=True, text=True)
    assert refused.returncode == 1 and "was not signed" in refused.stderr and not refused.stdout
    assert not (tmp_path / "other").exists()


@pytest.mark.security_case(
    "A medium changes between verifying and installing.", "rejected; the incomplete installation is removed"
)
def test_what_changes_after_it_was_verified_is_refused(packers: Packers, bundle: Path, tmp_path: Path) -> None:
    found = packers.verified(bundle)
    whole = next(each for each in found.files if each.name.endswith("alpha-1.0-py3-none-any.whl")).path
    whole.write_bytes(wheel("alpha", "1.0", "ANSWER = 'changed'\n"))
    with pytest.raises(Refused, match="bytes differ from the signed ones"):
        install(found, tmp_path / "installed", QUIET)
    assert not (tmp_path / "installed").exists()


@pytest.mark.security_case(
    "A release's archive contains a link or a path outside its folder", "rejected; no file is left"
)
@pytest.mark.parametrize("kind", ["link", "up", "deep"])
def test_an_archive_that_leads_elsewhere_is_refused(packers: Packers, tmp_path: Path, kind: str) -> None:
    member = tarfile.TarInfo({"link": "x", "up": "../../../evil", "deep": "a/" * 1_500 + "b"}[kind])
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    changed = Content("release/source.tar", archive_of(RELEASE, member), "made by a test")
    found = packers.verified(packers.packed(tmp_path / "bundle", packers.contents(changed)))
    with pytest.raises(Refused):
        install(found, tmp_path / "installed", QUIET)
    assert not (tmp_path / "installed").exists() and not (tmp_path / "evil").exists()


def test_a_bundle_for_another_machine_or_an_unsafe_python_is_not_installed(
    packers: Packers, first_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = packers.verified(first_bundle)
    with pytest.raises(Refused, match="but this machine is " + this_platform()):
        install(replace(found, platform="cpython-3.12-linux-aarch64"), tmp_path / "installed", QUIET)
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(Refused, match="cannot unpack archives safely"):
        install(found, tmp_path / "installed", QUIET)
    assert not (tmp_path / "installed").exists()


def test_two_wheels_of_one_project_are_refused() -> None:
    names = ("wheels/Alpha_one-1.0-py3-none-any.whl", "wheels/alpha.one-2.0-py3-none-any.whl")
    carried = [Carried(name, "0" * 64, 1, "", "", Path(os.devnull)) for name in names]
    with pytest.raises(Refused, match="more than one wheel of alpha-one"):
        list(requirement_lines(carried))
    assert list(requirement_lines(carried[:1])) == [f"alpha-one==1.0 --hash=sha256:{'0' * 64}"]


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


@pytest.mark.security_case(
    "A bundle's signature is changed, byte by byte.", "rejected, and by a second implementation, too"
)
def test_each_changed_byte_is_judged_as_the_library_judges_it(signer: FileSigner) -> None:
    der, signature = der_of(signer.public_pem), signer.sign(CONTENT)
    for place in range(len(signature)):
        changed = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        assert is_signed(der, changed, CONTENT) == by_the_library(der, changed, CONTENT) is False


def test_a_signature_has_one_spelling_and_no_number_out_of_range(signer: FileSigner) -> None:
    der, signature = der_of(signer.public_pem), signer.sign(CONTENT)
    for r, s in ((0, 1), (1, 0), (N, 1), (1, N), (N + 5, 7), (1, 1), (P, 1)):
        other = encode_dss_signature(r, s)
        assert is_signed(der, other, CONTENT) == by_the_library(der, other, CONTENT) is False
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
