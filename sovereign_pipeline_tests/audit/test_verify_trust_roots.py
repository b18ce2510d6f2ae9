"""The verifier follows the trust root from the first one on, through each change of its keys."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.audit import verify
from sovereign_pipeline.record.keys import FileSigner, generate
from sovereign_pipeline.record.trust_changes import create_trust, rotate_root
from sovereign_pipeline_tests.audit.story import moment

OLD, NEW, LAST = ([generate() for _ in range(3)] for _ in range(3))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Those of a trust root whose keys were changed twice."""
    directory = tmp_path_factory.mktemp("trust") / "trust"
    create_trust(directory, OLD, {"pipeline": [generate().public_pem]})
    rotate_root(directory, NEW, OLD[:2])
    rotate_root(directory, LAST, NEW[:2])
    return {f"trust/{path.name}": path.read_bytes() for path in Path(directory).iterdir()}


def _read(files: dict[str, bytes], first: bytes) -> verify.Trust:
    package = verify.Package({**files})
    package.index = {"made_at": moment(27)}
    return verify.read_trust(package, verify.sha256(first))


def _signed_by(file: bytes, signers: list[FileSigner]) -> bytes:
    content: dict[str, Any] = json.loads(file)
    message = verify.tuf_canonical(content["signed"]).encode()
    content["signatures"] = [{"keyid": each.keyid, "sig": each.sign(message).hex()} for each in signers]
    return json.dumps(content).encode()


def test_later_roots_are_followed_from_the_first(files: dict[str, bytes]) -> None:
    assert _read(files, files["trust/1.root.json"]).root_version == 3


@pytest.mark.security_case("A later root is not signed by the keys of the one before, or not by its own", "refused")
@pytest.mark.parametrize(
    "signers", [NEW, OLD, [*OLD[:1], *NEW], [*OLD, *NEW[:1]]], ids=["new", "old", "1 old", "1 new"]
)
def test_a_root_is_signed_by_old_keys_and_new(files: dict[str, bytes], signers: list[FileSigner]) -> None:
    forged = files | {"trust/2.root.json": _signed_by(files["trust/2.root.json"], signers)}
    with pytest.raises(verify.Refused, match=r"trust/2\.root\.json: [01] of the 2 keys that are needed signed it"):
        _read(forged, files["trust/1.root.json"])
    again = files | {"trust/2.root.json": _signed_by(files["trust/2.root.json"], [*OLD[:2], *NEW[:2]])}
    assert _read(again, files["trust/1.root.json"]).root_version == 3


@pytest.mark.security_case("A root in the middle is left out, or given as the first", "refused")
def test_no_root_is_left_out(files: dict[str, bytes]) -> None:
    first, second, third = (files[f"trust/{number}.root.json"] for number in (1, 2, 3))
    left_out = {name: content for name, content in files.items() if name != "trust/2.root.json"}
    with pytest.raises(verify.Refused, match=r"trust/root\.json: it is not the newest root"):
        _read(left_out, first)
    with pytest.raises(verify.Refused, match=r"trust/2\.root\.json: 0 of the 2 keys"):
        _read(left_out | {"trust/2.root.json": third}, first)
    with pytest.raises(verify.Refused, match=r"trust/1\.root\.json: it is not version 1 of the root"):
        _read(files | {"trust/1.root.json": second}, second)


@pytest.mark.security_case("The targets are signed by root keys that were replaced", "refused")
def test_the_targets_are_the_newest_roots(files: dict[str, bytes]) -> None:
    forged = files | {"trust/targets.json": _signed_by(files["trust/targets.json"], NEW)}
    with pytest.raises(verify.Refused, match=r"trust/targets\.json: 0 of the 2 keys that are needed signed it"):
        _read(forged, files["trust/1.root.json"])
