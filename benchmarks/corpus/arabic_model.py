"""Train the packaged Arabic name model, and measure it with and without an institution's own set.

    python benchmarks/corpus/arabic_model.py --wojood wojood_train.txt --mmlu mmlu_ar/test \
        --out sovereign_pipeline/privacy/names/arabic_ner --measure anercorp_train.txt --mirror

The model learns from the sample of Wojood (MIT), from the Arabic MMLU (MIT; nobody marked names in it, so that words on
a list of names count as unknown), and from sentences and letters invented here. ANERcorp may be used for research only:
the packaged model is never trained on it. Its first half chooses the model's caution, the second measures.
"""

import argparse
import csv
import importlib.metadata
import json
import random
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.privacy.names import lexicon
from sovereign_pipeline.privacy.names.name_models import (
    CAUTION,
    WORD_CLASSES,
    Entity,
    Label,
    NameModel,
    SpacyModel,
    folded,
    pieces_of,
)
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.names.ner import (
    Sentence,
    arabic_classes,
    choose_caution,
    counted,
    read_bio,
    train_ner,
    write_model,
)
from sovereign_pipeline.privacy.spans import Span

HERE = Path(__file__).with_name("arabic")
EPOCHS, INVENTED, UNMARKED = 6, 2_000, 2_000
PRECISION = 0.65
"""Share of the names, by patterns and the model, that are right in news; the least caution that reaches it is set."""
HIDDEN = 0.65
"""Share of the clustered words that the model does not know in training, so that it learns what unknown words are."""
SLOTS: Mapping[str, Label] = {
    "country": "PLACE", "city": "PLACE", "org": "ORGANISATION", "club": "ORGANISATION", "agency": "ORGANISATION",
    "paper": "ORGANISATION",
}  # fmt: skip
WORD = re.compile("[ء-ي\u064b-\u0652]+")
NOT_IN_ARABIC = ("computer_security", "elementary_mathematics")  # formulas and code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wojood", type=Path, required=True)
    parser.add_argument("--mmlu", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measure", type=Path, required=True)
    parser.add_argument("--mirror", action="store_true", help="continue on the first half of --measure as well")
    arguments = parser.parse_args()
    started = time.monotonic()

    def report(epoch: int, count: int, loss: float) -> None:
        sys.stderr.write(f"epoch {epoch} of {count}: loss {loss:.2f}, {time.monotonic() - started:.0f} s\n")

    chance = random.Random(1)
    marked = read_bio(arguments.wojood)
    classes = known_words()
    unmarked = list(unmarked_texts(arguments.mmlu, classes))
    invented = Invented(3, fragments(unmarked, classes))
    epochs = [
        [*marked, *marked, *invented.sentences(INVENTED), *chance.sample(unmarked, UNMARKED)] for _ in range(EPOCHS)
    ]
    listed = arabic_classes()
    seen = {word: value for word, value in classes.items() if word in listed or chance.random() >= HIDDEN}
    pipeline = train_ner("ar", epochs, None, seen, likeness(classes), report)
    pipeline.vocab.lookups.remove_table(WORD_CLASSES)
    pipeline.vocab.lookups.add_table(WORD_CLASSES, classes)
    test = read_bio(arguments.measure)
    half = len(test) // 2
    patterns = NamePatterns()
    choose_caution(pipeline, test[:half], lambda text, entities: places(patterns.spans(text, entities)), PRECISION)
    write_model(pipeline, arguments.out)
    model = SpacyModel("the trained model", arguments.out)
    figures = {"ANERcorp, second half": measured(test[half:], model)}
    if arguments.mirror:
        cut = half * 9 // 10  # the rest chooses the caution
        more = [
            [
                *test[:half],
                *test[:half],
                *marked,
                *invented.sentences(INVENTED // 5),
                *chance.sample(unmarked, UNMARKED // 4),
            ]
            for _ in range(EPOCHS)
        ]
        continued = train_ner("ar", more, str(arguments.out), report=report)
        choose_caution(continued, test[cut:half], lambda text, entities: places(patterns.spans(text, entities)))
        figures["ANERcorp, second half, continued on the first"] = measured(test[half:], SpacyModel.of(continued))
    card = {
        "command": "python benchmarks/corpus/arabic_model.py --mirror (see its docstring)",
        "trained_on": {
            "wojood": {"sha256": file_sha256(arguments.wojood), "licence": "MIT", "sentences": len(marked)},
            "mmlu_ar": {"sha256": _digests(arguments.mmlu), "licence": "MIT", "sentences": len(unmarked)},
            **{
                path.name: {"sha256": file_sha256(path), "licence": "Apache-2.0"} for path in sorted(HERE.glob("*.txt"))
            },
        },
        "caution": {"value": SpacyModel("", arguments.out).pipeline.meta[CAUTION], "chosen_on": "ANERcorp, first half"},
        "measured_on": {"anercorp": {"sha256": file_sha256(arguments.measure), "licence": "research"}},
        "measured": figures,
        "libraries": {name: importlib.metadata.version(name) for name in ("spacy", "thinc", "numpy")},
    }
    (arguments.out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in sorted(folder.glob("*.csv"))}


def measured(sentences: Sequence[Sentence], model: NameModel) -> dict[str, dict[str, float]]:
    """Return recall and precision of persons: by the model alone, by patterns alone, and by both as in the scrubber."""
    patterns = NamePatterns()
    counts = {
        "model": counted(model, sentences),
        "patterns": counted(model, sentences, lambda text, _: places(patterns.spans(text))),
        "both": counted(model, sentences, lambda text, entities: places(patterns.spans(text, entities))),
    }
    return {
        name: {"recall": round(each.recall, 3), "precision": round(each.precision, 3)} for name, each in counts.items()
    }


def places(spans: Sequence[Span]) -> list[tuple[int, int]]:
    return [(span.start, span.end) for span in spans]


# --- words and texts --------------------------------------------------------------------------------------------------


def sections(path: Path) -> dict[str, list[str]]:
    """Return the lines of each section of a file."""
    found: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            lines = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


def known_words() -> dict[str, str]:
    """Return folded word -> its list and cluster, or its bin and cluster if it is on no list."""
    clusters = {
        word: section.split()
        for section, lines in sections(HERE / "words_ar.txt").items()
        for line in lines
        for word in line.split()
    }
    known = {word: f"b{level} {cluster}" for word, (level, cluster) in clusters.items()}
    texts = sections(HERE / "letters_ar.txt")
    for kind in ("nat", "nat_f", "country", "city", "club", "paper", "agency"):
        for word in " ".join(texts[kind]).replace("/", " ").split():
            known[folded(word)] = f"{kind.removesuffix('_f')} {clusters.get(folded(word), ('', '?'))[1]}"
    return known | {word: f"{kind} {clusters.get(word, ('', '?'))[1]}" for word, kind in arabic_classes().items()}


def likeness(classes: Mapping[str, str]) -> dict[str, int]:
    """Return pieces of words -> weight in hundredths, of a logistic regression that tells names from everyday words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    names = {
        folded(word) for lines in sections(HERE / "names_ar.txt").values() for line in lines for word in line.split()
    }
    names |= {folded(word) for word in lexicon.GIVEN_AR | lexicon.TRIBES_AR}
    everyday = {word for word, value in classes.items() if value[:2] in ("b0", "b1", "b2", "st")} - names
    words = [*sorted(names), *sorted(everyday)]
    count = CountVectorizer(analyzer=lambda word: list(pieces_of(word)), min_df=4, binary=False)
    fitted = LogisticRegression(C=0.3, max_iter=300).fit(
        count.fit_transform(words), [word in names for word in words], [0.5 if word in names else 1.0 for word in words]
    )
    weights = {piece: round(100 * fitted.coef_[0][place]) for piece, place in sorted(count.vocabulary_.items())}
    return {piece: weight for piece, weight in weights.items() if abs(weight) >= 5}


def _forms(word: str) -> tuple[str, ...]:
    whole = folded(word)
    return (whole, whole[1:]) if whole[:1] in tuple("وفبلك") and len(whole) > 3 else (whole,)


def unmarked_texts(folder: Path, classes: Mapping[str, str]) -> Iterator[Sentence]:
    """Yield the questions and answers of MMLU. Words that may be names are unknown, the others are none."""
    names = {
        folded(word) for lines in sections(HERE / "names_ar.txt").values() for line in lines for word in line.split()
    }
    names |= {folded(word) for word in lexicon.GIVEN_AR | lexicon.TRIBES_AR}
    for path in sorted(folder.glob("*.csv")):
        if path.name.startswith(NOT_IN_ARABIC):
            continue
        for row in csv.reader(path.read_text(encoding="utf-8").splitlines(keepends=True)):
            for cell in row[:5]:
                text = re.sub(r"\s+", " ", re.sub(r"([.,،؛:؟!()\"«»])", r" \1 ", cell)).strip()
                if len(cell) < 25:
                    continue
                unknown, titled = [], False
                for word in WORD.finditer(text):
                    forms = _forms(word.group())
                    kinds = {classes.get(form, "").split(" ")[0] for form in forms}
                    if (titled or names & {*forms}) and "stop" not in kinds:
                        unknown.append(word.span())
                    titled = "title" in kinds
                yield Sentence(text, (), path.name, tuple(unknown))


def fragments(texts: Sequence[Sentence], classes: Mapping[str, str]) -> list[str]:
    """Return runs of everyday words, which continue invented sentences."""
    found = []
    for each in texts:
        run: list[str] = []
        for word in [*each.text.split(), "."]:
            kinds = {classes.get(form, "")[:2] for form in _forms(word)}
            if WORD.fullmatch(word) and kinds & {"b0", "b1", "b2", "b3", "st"}:
                run.append(word)
            else:
                if len(run) >= 3:
                    found.append(" ".join(run[:10]))
                run = []
    return found


# --- invented sentences -----------------------------------------------------------------------------------------------


class Invented:
    """Sentences and letters from templates, with names composed from lists."""

    def __init__(self, seed: int, fragments: Sequence[str]) -> None:
        self._chance = random.Random(seed)
        texts = sections(HERE / "letters_ar.txt")
        self._templates = {name: texts.pop(name) for name in ("news", "letters", "official")}
        self._words = {
            name: [each.strip() for each in " ".join(lines).split("/")]
            if any("/" in line for line in lines)
            else " ".join(lines).split()
            for name, lines in texts.items()
        }
        self._words["clause"] = self._words["clause"] * 6 + list(fragments)
        names = {
            name: [word.replace("_", " ") for line in lines for word in line.split()]
            for name, lines in sections(HERE / "names_ar.txt").items()
        }
        single = {word for word in names["arabic_given"] if " " not in word}
        self._given = sorted((lexicon.GIVEN_AR - lexicon.FOREIGN_GIVEN_AR) | single)
        self._gulf, self._tribes = sorted(lexicon.GIVEN_GULF_AR), sorted(lexicon.TRIBES_AR)
        self._families = names["arabic_families"]
        article = {word for word in self._families if word.startswith("ال")}
        self._nisbas = sorted({*self._tribes, *self._words["nisba"], *self._words["surname"], *article})
        self._known_foreign = sorted(lexicon.FOREIGN_GIVEN_AR)
        self._foreign_given, self._foreign_families = names["foreign_given"], names["foreign_families"]

    def sentences(self, count: int) -> list[Sentence]:
        """Return the next invented sentences."""
        found = []
        for _ in range(count):
            draw = self._chance.random()
            kind = "news" if draw < 0.78 else "letters" if draw < 0.95 else "official"
            template = self._any(self._templates[kind])
            if self._chance.random() < 0.3:
                template += " " + self._any(self._templates["news"])
            found.append(self._filled(template))
        return found

    def _any(self, words: Sequence[str]) -> str:
        return self._chance.choice(words)

    def _filled(self, template: str) -> Sentence:
        text = ""
        entities = []
        for part in re.finditer(r"\{(\w+)\}|[^{]+", template):
            slot = part[1]
            if slot is None:
                text += part[0]
                continue
            value, label = self._value(slot)
            if label is not None:
                start = len(text)
                while start and text[start - 1] in "وبلفك" and (start == 1 or text[start - 2] in " \n"):
                    start -= 1  # a preposition written onto the name belongs to its word
                entities.append(Entity(start, len(text) + len(value), label))
            text += value
        if self._chance.random() < 0.5:
            text = re.sub("[أإ]", "ا", text)
        return Sentence(text.replace("\\n", "\n "), tuple(entities), "invented")

    def _value(self, slot: str) -> tuple[str, Label | None]:
        draw = self._chance.random
        match slot:
            case "p" | "w":
                return (self._arab() if draw() < 0.5 else self._foreign()), "PERSON"
            case "s" | "sw":
                return self._alone(), "PERSON"
            case "P":
                return self._formal(), "PERSON"
            case "num":
                return str(self._chance.choice([self._chance.randrange(1, 60), self._chance.randrange(10**7)])), None
            case "year":
                return str(self._chance.randrange(1920, 2025)), None
            case _:
                return self._any(self._words[slot]), SLOTS.get(slot)

    def _arab(self) -> str:
        draw = self._chance.random
        parts = [self._any(self._given) if draw() < 0.85 else self._compound()]
        if draw() < 0.25:
            parts.append(self._any(self._given))
        last = draw()
        if last < 0.4:
            parts.append(self._any(self._nisbas))
        elif last < 0.7:
            parts.append(self._any(self._given))
        elif last < 0.85:
            parts.append(self._any(self._families))
        elif last < 0.93:
            parts += [self._any(("بن", "ابن", "ولد")), self._any(self._given)]
        else:
            parts += [self._any(("ابو", "أبو", "آل")), self._any(self._words["kunya_of"])]
        return " ".join(parts)

    def _foreign(self) -> str:
        draw = self._chance.random
        parts = [self._any(self._known_foreign if draw() < 0.35 else self._foreign_given)]
        if draw() < 0.06:
            parts.append(self._any(("دبليو", "دي", "دا", "فان", "فون", "لي", "دو", "ديل", "بن", "ماري", "جان")))
        parts.append(self._any(self._foreign_families))
        if draw() < 0.08:
            parts.append(self._any(self._foreign_families))
        return " ".join(parts)

    def _alone(self) -> str:
        draw = self._chance.random()
        if draw < 0.8:
            lists = ((0.35, self._foreign_families), (0.5, self._foreign_given), (0.8, self._nisbas))
            return self._any(next(words for limit, words in lists if draw < limit))
        return self._compound() if draw < 0.88 else self._any(self._given if draw < 0.94 else self._families)

    def _formal(self) -> str:
        draw = self._chance.random
        if draw() < 0.08:
            return self._foreign()
        parts = [self._any(self._gulf if draw() < 0.6 else self._given)]
        for _ in range(self._chance.choice([0, 1, 1, 2])):
            parts += [self._any(("بن", "بن", "بنت"))] if draw() < 0.6 else []
            parts.append(self._any(self._gulf if draw() < 0.6 else self._given))
        if draw() < 0.8:
            parts.append(self._any(self._tribes if draw() < 0.6 else self._nisbas))
        return " ".join(parts)

    def _compound(self) -> str:
        kind = self._chance.choice(("servant", "faith", "father", "mother"))
        if kind == "servant":
            return "عبد " + self._any(self._words["servant_of"])
        if kind == "faith":
            return self._any(self._words["of_the_faith"]) + " الدين"
        if kind == "father":
            return f"{self._any(('ابو', 'أبو'))} {self._any(self._words['kunya_of'])}"
        return f"{self._any(('ام', 'أم'))} {self._any(self._given)}"


if __name__ == "__main__":
    main()
