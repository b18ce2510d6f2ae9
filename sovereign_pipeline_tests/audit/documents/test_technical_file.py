"""The technical file: every point of Annex IV, filled from the record or said to be somebody's to write."""

import re

from sovereign_pipeline_tests.audit.conftest import FIRST, SECOND, Desk


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
    assert "raw_corpus.rows_accounted_for | pass" in below("2 (d)")
    assert "- waived: capability_not_inferior (inconclusive): The suite is being enlarged." in below("5.")
    assert "It takes candles for lamps." in below("NIST")
    assert "1 waived" in below("ISO")
    for start in ("2 (f)", "4.", "8.", "9."):
        assert "Not known to this system:" in below(start), start
    of_second = desk.package.files[f"documents/{SECOND}/technical-file.md"].decode()
    assert "Known issues: none on record." in of_second
