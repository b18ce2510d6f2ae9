"""The technical file: every point of Annex IV, filled from the record or said to be somebody's to write."""

import hashlib
import re
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.evidence.technical_file import sign_technical_file
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.record.statements import TECHNICAL_FILE, verify_statement
from sovereign_pipeline_tests.evidence.conftest import FIRST, SECOND, Desk


def _sections(text: str) -> dict[str, str]:
    """Heading -> what stands below it."""
    parts = re.split(r"^#{2,3} (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_it_has_every_point_of_annex_iv_in_two_languages(desk: Desk) -> None:
    sections = _sections(desk.package.files[f"documents/{FIRST}/technical-file.md"].decode())
    points = [heading.split(" ")[0] for heading in sections if heading[0].isdigit() and "(" not in heading]
    assert points == [f"{number}." for number in range(1, 10)]
    letters = [heading[2:5] for heading in sections if heading.startswith("2 (")]
    assert letters == [f"({letter})" for letter in "abcdefgh"]
    for heading, below in sections.items():
        assert re.search("[\u0600-\u06ff]", heading), f"{heading}: no Arabic"
        assert below.strip() or heading.startswith("2. "), f"{heading}: empty"


def test_it_is_filled_from_the_record_and_says_what_is_not_known(desk: Desk) -> None:
    sections = _sections(desk.package.files[f"documents/{FIRST}/technical-file.md"].decode())

    def below(start: str) -> str:
        return next(text for heading, text in sections.items() if heading.startswith(start))

    assert "| Layla Haddad | Omar Nasser, Ines Farah | It is needed. |" in below("2 (e)")
    assert "| evaluation_report.capability_not_inferior | inconclusive |" in below("2 (g)")
    assert "| **together** | 1,000 | 2.5e+08 | 0.25 | |" in below("2 (c)")
    assert "raw_corpus.rows_accounted_for | pass" in below("2 (d)")
    assert "- waived: capability_not_inferior (inconclusive): The suite is being enlarged." in below("5.")
    assert "It takes candles for lamps." in below("NIST")
    assert "1 waived" in below("ISO")
    for start in ("2 (f)", "4.", "8.", "9."):
        assert "Not known to this system:" in below(start), start
    of_second = desk.package.files[f"documents/{SECOND}/technical-file.md"].decode()
    assert "Known issues: none on record." in of_second


def test_an_officer_signs_the_completed_file_of_this_adapter_alone(desk: Desk, tmp_path: Path) -> None:
    path, office = tmp_path / "file.md", desk.office
    path.write_bytes(desk.package.files[f"documents/{FIRST}/technical-file.md"] + b"Completed.")
    bundle = sign_technical_file(find_adapter(office.registry, FIRST), path, office.officers["layla"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    verified = verify_statement(
        bundle, office.trust, "officer", predicate_type=TECHNICAL_FILE, sha256=digest, at_index=None
    )
    assert (verified.key.person, verified.statement.predicate["adapter"]) == ("Layla Haddad", FIRST)
    with pytest.raises(InputError):
        sign_technical_file(find_adapter(office.registry, SECOND), path, office.officers["layla"])
