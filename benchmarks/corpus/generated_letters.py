"""Invented letters for the split's benchmark, with near-duplicates, copies, forwards and links planted among them.

What belongs here: the generator, and a second definition of shingles to check what was planted. What does not:
measuring (`split_scale.py`).
"""

import random
import re
from collections.abc import Iterator
from typing import Any

SEED = 20
WORDS_PER_SHINGLE = 5

# What is planted, in shares of the rows.
NEAR_DUPLICATES = 0.02
COPIES = 0.01
LINKED = 0.05
FORWARDS = 0.01
ARABIC = 0.05

FORWARDED_WORDS = 40


class Letters:
    """Invented letters in case files of 1 to 6; `planted` holds what was planted once all have been taken.

    A letter is an opening and a closing that many share, one or two sentences of a stock of 60 (about a quarter of its
    words together), and 50 to 110 words of its own, frequent ones more often (Zipf). Near-duplicates are letters of
    another case file with one to three words replaced, of which those with Jaccard >= 0.8 count as planted. Forwards
    quote the whole request of a letter of another case file, of at least FORWARDED_WORDS words, below a mark.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.planted: list[dict[str, object]] = []
        self._random = random.Random(SEED)
        self._forwards = random.Random(SEED)  # of their own, so that the other letters stay what they are without them
        self._words = {
            "en": self._vocabulary("bcdfghjklmnprstvwz", "aeiou"),
            "ar": self._vocabulary("بتجدرسعفقكلمنه", "اوي"),
        }
        self._weights = list(self._cumulated(1 / (place + 10) for place in range(20_000)))
        self._stock = {
            language: [" ".join(self._some_words(language, self._random.randint(9, 16))) for _ in range(60)]
            for language in self._words
        }
        self._openings = {language: stock[:8] for language, stock in self._stock.items()}
        self._closings = {language: stock[8:16] for language, stock in self._stock.items()}

    def __iter__(self) -> Iterator[dict[str, object]]:
        rng = self._random
        recent: list[dict[str, Any]] = []
        case, left = 0, 0
        for number in range(self.rows):
            if left == 0:
                case, left = case + 1, rng.randint(1, 6)
            left -= 1
            row = self._letter(number, case)
            fate = rng.random()
            original = rng.choice(recent) if recent else None
            if original and original["case"] != row["case"]:
                if fate < COPIES:
                    self._plant(row, original, edits=0)
                elif fate < COPIES + NEAR_DUPLICATES:
                    self._plant(row, original, edits=rng.randint(1, 3))
                elif fate < COPIES + NEAR_DUPLICATES + LINKED:
                    row["links"] = [original["id"]]
                elif self._forwards.random() < FORWARDS and len(original["request"].split()) >= FORWARDED_WORDS:
                    row["request"] += f"\n\n-----Original Message-----\n{original['request']}"
                    self.planted.append({"kind": "forwards", "one": original["id"], "other": row["id"]})
            if rng.random() < 0.05:  # originals lie anywhere before, not only near by
                if len(recent) < 5_000:
                    recent.append(row)
                else:
                    recent[rng.randrange(5_000)] = row
            yield row

    def _letter(self, number: int, case: int) -> dict[str, Any]:
        rng = self._random
        language = "ar" if rng.random() < ARABIC else "en"
        own = self._some_words(language, rng.randint(50, 110))
        own.insert(rng.randrange(len(own)), f"NAME_{rng.randint(1, 9)}")
        half = rng.randrange(len(own))
        stock = rng.sample(self._stock[language], rng.randint(0, 2))
        return {
            "id": f"L-{number:07d}",
            "source": "letters",
            "case": f"CASE/{case:07d}",
            "department": "lamps",
            "author": f"NAME_{rng.randint(1, 3)}",
            "date": f"{rng.randint(2015, 2024)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}",
            "classification": "PUBLIC",
            "language": language,
            "subject": "Lamps",
            "request": " ".join([rng.choice(self._openings[language]) + ".", *own[:half]]),
            "response": " ".join([*stock, *own[half:], rng.choice(self._closings[language]) + "."]),
            "rejected": None,
            "links": [],
        }

    def _plant(self, row: dict[str, Any], original: dict[str, Any], edits: int) -> None:
        rng = self._random
        row.update({name: original[name] for name in ("language", "request", "response")})
        for _ in range(edits):
            field = rng.choice(("request", "response"))
            words = row[field].split(" ")
            words[rng.randrange(len(words))] = rng.choice(self._words[row["language"]])
            row[field] = " ".join(words)
        for field in ("request", "response"):  # placeholders count anew in every case file
            row[field] = re.sub(r"NAME_\d", f"NAME_{rng.randint(1, 9)}", row[field])
        one, other = shingles(original), shingles(row)
        similarity = len(one & other) / len(one | other)
        if edits == 0 or similarity >= 0.8:
            kind = "copies" if edits == 0 else "near_duplicates"
            self.planted.append({"kind": kind, "one": original["id"], "other": row["id"], "jaccard": similarity})

    def _some_words(self, language: str, count: int) -> list[str]:
        return self._random.choices(self._words[language], cum_weights=self._weights, k=count)

    def _vocabulary(self, consonants: str, vowels: str) -> list[str]:
        rng = self._random
        words: dict[str, None] = {}
        while len(words) < 20_000:
            words["".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.randint(2, 4)))] = None
        return list(words)

    @staticmethod
    def _cumulated(weights: Iterator[float]) -> Iterator[float]:
        total = 0.0
        for weight in weights:
            total += weight
            yield total


def shingles(row: dict[str, Any]) -> set[Any]:
    """The definition, written a second time, for the generated letters: 5 words, or 9 characters of an Arabic one."""
    words = _words(f"{row['request']} {row['response']}")
    if row["language"] == "ar":
        text = " ".join(words)
        return {text[start : start + 9] for start in range(len(text) - 8)}
    return _runs(words)


def runs_of_words(text: str) -> set[Any]:
    """The runs by which one text is compared with another, for both languages."""
    return _runs(_words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", re.sub(r"(NAME)_\d", r"\1", text).lower())


def _runs(words: list[str]) -> set[Any]:
    return {tuple(words[start : start + WORDS_PER_SHINGLE]) for start in range(len(words) - WORDS_PER_SHINGLE + 1)}
