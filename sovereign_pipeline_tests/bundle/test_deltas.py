"""A delta holds what an earlier bundle lacks, names that bundle, and is taken with no other."""

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.bundle.carried.reading import Refused
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline_tests.bundle.conftest import PACKED, Packers, wheel

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
    with pytest.raises(Refused, match="adds to another bundle"):
        packers.verified(later, small, now=PACKED + 3 * DAY)


@pytest.mark.security_case("A delta is given another bundle, older or forged, as the one that it adds to.", "Refused.")
def test_a_delta_is_taken_with_its_own_base_alone(packers: Packers, first_bundle: Path, tmp_path: Path) -> None:
    second = packers.packed(tmp_path / "second", packers.contents(Content("note", b"n", "new")), now=PACKED + DAY)
    small = delta(packers, tmp_path / "delta", second, 2)
    at = {"now": PACKED + 3 * DAY}
    assert packers.verified(small, second, **at)
    for bases in ([], [first_bundle], [small], [second, first_bundle]):
        with pytest.raises(Refused):
            packers.verified(small, *bases, **at)
    used = {each.path for each in packers.verified(small, second, **at).files} - {*small.rglob("*")}
    assert len(used) == 8  # of nine names, two have the same bytes
    for blob in sorted(used):
        content = blob.read_bytes()
        blob.write_bytes(content + b"x")
        with pytest.raises(Refused):
            packers.verified(small, second, **at)
        blob.unlink()
        with pytest.raises(Refused):
            packers.verified(small, second, **at)
        blob.write_bytes(content)


def test_a_whole_bundle_takes_no_base(packers: Packers, first_bundle: Path) -> None:
    with pytest.raises(Refused, match="does not add to"):
        packers.verified(first_bundle, first_bundle)


def test_a_delta_rests_on_a_signed_index_alone(packers: Packers, first_bundle: Path, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(first_bundle, tmp_path / "forged"))
    (forged / "index.json").write_bytes((forged / "index.json").read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="not the bytes that were signed"):
        delta(packers, tmp_path / "delta", forged, 1)
    with pytest.raises(IntegrityError, match="not before now"):
        delta(packers, tmp_path / "delta", first_bundle, -1)
    assert not (tmp_path / "delta").exists()
