"""Find the language of a text by its script. Among the languages of one script, compare their most common words.

A text gets the most likely language of its script by default. It gets a different language only if at least
LEAST_COMMON of its words, and at least the share MOSTLY, are common words of that language. Words with a capital letter
and their neighbours are ignored, because they may be names. The default therefore applies to lists, tables, texts with
fewer than LEAST_WORDS words, and texts in a language that is missing from `common_words.txt`.
"""

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path

LEAST_LETTERS = 20
"""Minimum number of letters that a text must have for its script to be determined."""
LEAST_WORDS = 8
MOSTLY = 0.15
"""Minimum share of a text's words that must be common words of a language for the text to get that language instead of
the script's most likely one."""
LEAST_COMMON, LEAST_DIFFERENT = 5, 3
"""Minimum number of a language's common words, and of distinct common words, for a text to get that language instead of
the most likely language."""
_MOSTLY_BESIDE_NOUNS = 0.25
"""Minimum share, like MOSTLY, for a language that capitalises nouns. This share is higher, because words next to
capitalised words are not ignored in such a language."""
_NOUNS_IN_CAPITALS = ("de",)
_MOST_CHARACTERS, _MOST_WORDS = 4_000, 400

_OF_SCRIPTS = {
    "latin": (
        r"A-Za-z\u00c0-\u024f\u1e00-\u1eff",
        "en fr de es it pt nl tr id sw tl pl sv da fi cs ro hu sq so vi ms nb no nn hr et lv lt sk sl ca eu gl ga",
    ),
    "arabic": (
        r"\u0620-\u064a\u066e-\u06d3\u06d5\u0750-\u077f\u08a0-\u08c7\ufb50-\ufdff\ufe70-\ufefc",
        "ar fa ur ps ku sd ckb",
    ),
    "cyrillic": (r"\u0400-\u052f", "ru uk bg sr mk kk"),
    "greek": (r"\u0370-\u03ff", "el"),
    "hebrew": (r"\u05d0-\u05ea", "he yi"),
    "devanagari": (r"\u0900-\u097f", "hi ne mr"),
    "han": (r"\u3040-\u30ff\u3400-\u9fff", "zh ja"),
    "hangul": (r"\uac00-\ud7af", "ko"),
    "bengali": (r"\u0980-\u09ff", "bn"),
    "tamil": (r"\u0b80-\u0bff", "ta"),
    "malayalam": (r"\u0d00-\u0d7f", "ml"),
    "thai": (r"\u0e00-\u0e7f", "th"),
}
"""Maps a script to its letters and its languages. The most likely language comes first."""
_SCRIPTS = {script: re.compile(f"[{letters}]+") for script, (letters, _) in _OF_SCRIPTS.items()}
_LANGUAGES_OF = {script: languages.split() for script, (_, languages) in _OF_SCRIPTS.items()}
_SCRIPT_OF = {language: script for script, languages in _LANGUAGES_OF.items() for language in languages}
_WORD = re.compile(r"[^\W\d_]{2,}")
_END_OF_SENTENCE = re.compile(r"[.!?:\n]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_TAG = re.compile(r"<[^<>]*>")
_CLOSE = (
    {"id", "ms"},
    {"da", "nb", "no", "nn"},
    {"cs", "sk"},
    {"sr", "hr", "bs", "sl"},
    {"ku", "ckb"},
    {"es", "ca", "gl"},
)
"""Sets of languages that their common words cannot distinguish."""


def language_in(texts: Iterable[str]) -> str | None:
    """Return one language for all texts of a document together. Return None if no letter has a known script."""
    text = "\n".join(texts)
    script = _script_of(text, least=1)
    return None if script is None else _of_script(text, script)


def is_in_other_script(text: str, language: str) -> bool:
    """Return True if most letters of a text are not in the script of `language`. Return False if that script is
    unknown, or if the text has too few letters."""
    expected, script = _SCRIPT_OF.get(language), _script_of(text, LEAST_LETTERS)
    return expected is not None and script is not None and script != expected


def other_language(text: str, language: str) -> str | None:
    """Return the language of a text if the text is certainly not in `language`. Otherwise return None."""
    if is_in_other_script(text, language):
        return language_in([text])
    script = _SCRIPT_OF.get(language)
    if script is None or _script_of(text, LEAST_LETTERS) != script:
        return None
    found = _surely_other(text, script, language) if language in _listed() else None
    return None if found is None or any({found, language} <= close for close in _CLOSE) else found


def unsearched_language(texts: Iterable[str], language: str, detected: Collection[str]) -> str | None:
    """Return the language of the first text in which names would be missed, because the text is certainly not in
    `language`, the document's language. Return None if there is no such text.

    A text in a different script is accepted if `detected` contains its language, and another text is in the document's
    language. Names are then searched in both languages.

    Args:
        detected: languages in which names are detected.
    """
    others = [(text, other_language(text, language)) for text in texts]
    is_in_two = any(other is None for _, other in others)
    return next(
        (
            other
            for text, other in others
            if other and not (is_in_two and other in detected and is_in_other_script(text, language))
        ),
        None,
    )


def in_script_of(language: str, text: str, beside: str) -> str | None:
    """Return the text with a blank in place of each letter that is not in the script of `language`. Return None if the
    script is unknown, is also that of `beside`, or has fewer than LEAST_LETTERS letters in the text."""
    script = _SCRIPT_OF.get(language)
    if script in (None, _SCRIPT_OF.get(beside)) or (script != "latin" and text.isascii()):
        return None
    places = {place for word in _SCRIPTS[script].finditer(text) for place in range(*word.span())}
    if len(places) < LEAST_LETTERS:
        return None
    return "".join(c if place in places or not c.isalpha() else " " for place, c in enumerate(text))


def _script_of(text: str, least: int) -> str | None:
    """Return the script of most letters of a text. Return None if the text has fewer letters than `least`."""
    scripts = ("latin",) if text.isascii() else tuple(_SCRIPTS)
    letters = {script: sum(map(len, _SCRIPTS[script].findall(text[:_MOST_CHARACTERS]))) for script in scripts}
    return max(letters, key=lambda script: letters[script]) if sum(letters.values()) >= least else None


def _of_script(text: str, script: str) -> str:
    likely = _LANGUAGES_OF[script][0]
    if script == "han" and _KANA.search(text):
        return "ja"
    return _surely_other(text, script, likely) or likely


def _surely_other(text: str, script: str, language: str) -> str | None:
    """Return a different language of the script if far more words of the text are common in that language than in
    `language`. Otherwise return None."""
    text = _TAG.sub(" ", text[:_MOST_CHARACTERS])
    words = [*_WORD.finditer(text.lower() if text.isupper() else text)][:_MOST_WORDS]
    if len(words) < LEAST_WORDS:
        return None
    common = _languages_of_words()
    own = sum(language in common.get(word[0].casefold(), ()) for word in words)
    found = Counter[tuple[str, str]]()
    for word, may_be_name in zip(words, _may_be_names(words), strict=True):
        for each in common.get(word[0], ()):
            if _SCRIPT_OF[each] == script and each != language and (not may_be_name or each in _NOUNS_IN_CAPITALS):
                found[each, word[0]] += 1
    times = Counter[str]()
    for (each, _), count in found.items():
        times[each] += count
    other, most = next(iter(times.most_common(1)), (language, 0))
    different = sum(each == other for each, _ in found)
    mostly = _MOSTLY_BESIDE_NOUNS if other in _NOUNS_IN_CAPITALS else MOSTLY
    is_sure = different >= LEAST_DIFFERENT and most >= max(LEAST_COMMON, mostly * len(words), 2 * own)
    return other if is_sure else None


def _may_be_names(words: Sequence[re.Match[str]]) -> list[bool]:
    """Return one boolean for each word: True if the word, or a word next to it, begins with a capital letter and is not
    the first word of a sentence."""
    has_capital = [False]
    for before, word in itertools.pairwise(words):
        is_first = _END_OF_SENTENCE.search(word.string, before.end(), word.start()) is not None
        has_capital.append(word[0][0].isupper() and not is_first)
    beside = zip([False, *has_capital], has_capital, [*has_capital[1:], False], strict=False)
    return [any(each) for each in beside]


@cache
def _languages_of_words() -> dict[str, tuple[str, ...]]:
    """Return a dict that maps each word of `common_words.txt` to the languages in which the word is common."""
    found: dict[str, tuple[str, ...]] = {}
    for line in Path(__file__).with_name("common_words.txt").read_text(encoding="utf-8").splitlines():
        language, *words = line.split()
        for word in words:
            found[word] = (*found.get(word, ()), language)
    return found


@cache
def _listed() -> frozenset[str]:
    return frozenset(language for languages in _languages_of_words().values() for language in languages)
