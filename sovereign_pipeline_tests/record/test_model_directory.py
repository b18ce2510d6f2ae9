"""An adapter's directory is what was signed, file for file; model-signing's own command line finds the same."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.statements import sign_listed, verify_listed, verify_statement
from sovereign_pipeline.record.trust_changes import revoke
from sovereign_pipeline_tests.record.conftest import BEGINNING, Holders

NAME = "lamps-1.0.0"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Names that sort differently as texts and as paths, and git's own."""
    directory = tmp_path / "adapter"
    for name in ("adapter_config.json", "a/b/weights", "a.b/weights", "a-b", ".git/config", ".gitattributes", "ü"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return directory


@pytest.fixture
def bundle(adapter: Path, holders: Holders) -> bytes:
    return sign_listed(holders.pipeline, files_of(adapter), NAME)


def files_of(directory: Path) -> dict[str, str]:
    """Relative path -> SHA-256, as a manifest has them."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): file_sha256(path) for path in files}


def verify(bundle: bytes, adapter: Path, holders: Holders, name: str = NAME) -> str:
    return verify_listed(bundle, files_of(adapter), name, holders.trust, "pipeline").keyid


def test_a_directory_is_what_was_signed_wherever_it_lies(bundle: bytes, adapter: Path, holders: Holders) -> None:
    assert verify(bundle, adapter, holders) == holders.pipeline.keyid
    assert verify(bundle, adapter.rename(adapter.with_name("elsewhere")), holders) == holders.pipeline.keyid


@pytest.mark.security_case(
    "A file of a signed adapter is changed, added (also under .git), removed or renamed",
    "rejected, with the file's name",
)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda adapter: (adapter / "a-b").write_bytes(b"other"), "a-b was changed"),
        (lambda adapter: (adapter / ".git" / "evil.py").write_bytes(b""), r"\.git/evil\.py was not signed"),
        (lambda adapter: (adapter / ".gitignore").write_bytes(b""), r"\.gitignore was not signed"),
        (lambda adapter: (adapter / "ü").unlink(), "ü is missing"),
        (lambda adapter: (adapter / "a-b").rename(adapter / "a-c"), "a-c was not signed"),
    ],
)
def test_another_directory_is_refused(
    bundle: bytes, adapter: Path, holders: Holders, change: Callable[[Path], object], said: str
) -> None:
    change(adapter)
    with pytest.raises(IntegrityError, match=said):
        verify(bundle, adapter, holders)


def test_another_name_key_role_or_kind_is_refused(bundle: bytes, adapter: Path, holders: Holders) -> None:
    with pytest.raises(IntegrityError, match=r"signed as lamps-1\.0\.0, not as lamps-1\.0\.1"):
        verify(bundle, adapter, holders, "lamps-1.0.1")
    with pytest.raises(IntegrityError, match="No key of the role pipeline"):
        verify(sign_listed(generate(), files_of(adapter), NAME), adapter, holders)
    with pytest.raises(IntegrityError, match="No key of the role officer"):
        verify_listed(bundle, files_of(adapter), NAME, holders.trust, "officer")
    with pytest.raises(IntegrityError):
        verify_statement(bundle, holders.trust, "pipeline", predicate_type="x", sha256="0" * 64)
    revoke(holders.directory, holders.pipeline.keyid, 4, holders.roots[:2], now=BEGINNING)
    with pytest.raises(IntegrityError, match="revoked from index 4"):
        verify(bundle, adapter, holders)
    assert verify_listed(bundle, files_of(adapter), NAME, holders.trust, "pipeline", at_index=3)
    with pytest.raises(ValueError, match="P-256"):
        sign_listed(holders.log, files_of(adapter), NAME)


def test_another_signature_is_refused(bundle: bytes, adapter: Path, holders: Holders) -> None:
    place = bundle.index(b'"sig":"') + 20
    with pytest.raises(IntegrityError, match="does not match this list"):
        verify(bundle[:place] + (b"A" if bundle[place] != 65 else b"B") + bundle[place + 1 :], adapter, holders)


def test_model_signing_lists_the_same_files(bundle: bytes, adapter: Path) -> None:
    from model_signing import hashing

    configuration: Any = hashing.Config
    theirs = configuration().set_ignored_paths(paths=[], ignore_git_paths=False).hash(adapter)
    payload = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
    ours = [(each["name"], each["digest"]) for each in payload["predicate"]["resources"]]
    assert ours == [(each.identifier, each.digest.digest_hex) for each in theirs.resource_descriptors()]
    assert payload["predicate"]["serialization"] | {"ignore_paths": []} == theirs.serialization_type | {
        "ignore_paths": []
    }
