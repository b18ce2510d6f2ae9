"""Train a small spaCy model that finds names, on an institution's own labelled texts."""

import importlib.metadata
import json
import random
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import Frozen, file_sha256
from sovereign_pipeline.privacy.names.lexicon import ARABIC
from sovereign_pipeline.privacy.names.name_models import (
    CAUTION,
    LABELS,
    LIBRARIES,
    WORD_CLASSES,
    Entity,
    NameModel,
    SpacyModel,
    folded,
    load_name_model,
    name_model_directory,
    without_torch,
    word_features,
)

DROPOUT, RATE = 0.3, 0.001
_MANY = 2_000
NAMES_OF_LABELS = {"PERSON": "PERS", "PLACE": "LOC", "ORGANISATION": "ORG"}


Place = tuple[int, int]


class Sentence(NamedTuple):
    """A text, the entities in it, and the document that contains it."""

    text: str
    entities: tuple[Entity, ...]
    document: str


# --- sets -------------------------------------------------------------------------------------------------------------


class MarkedText(Frozen):
    """A line of a training set in JSON lines: a text, and the names in it as half-open spans."""

    text: str
    spans: tuple[Place, ...] = ()
    group: str = ""
    """Document, author or template of the text. The texts of a group are either all trained on or all held out."""
    is_letter: bool = False
    """True if the text may end with a signature."""


def read_marked(path: Path) -> list[MarkedText]:
    """Read a training set in JSON lines. Raises InputError if a line is not a text with valid spans. The message states
    the line's number and never quotes the line."""
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = MarkedText.model_validate_json(line)
        except ValueError:
            row = None
        if row is None or any(not 0 <= start < end <= len(row.text) for start, end in row.spans):
            raise InputError(
                f"{path}, line {number}: this line is not a text with the spans of its names.",
                'Write {"text": "…", "spans": [[start, end], …]} on each line.',
            )
        texts.append(row)
    return texts


_INVISIBLE = re.compile("[\u200b-\u200f\ufeff]")
_DOCUMENT = ("-DOCSTART-", "# source")
_ENDS = ("$#$",)  # lines that end a sentence in Wojood
LINES_OF_DOCUMENT = 50
"""Number of sentences that count as one document in a file without `-DOCSTART-` or `# source:` lines."""


def read_bio(path: Path) -> list[Sentence]:
    """Read a BIO file: a word and its labels on each line, an empty line after a sentence. Of nested entities, only the
    longest counts. Raises InputError, with the line's number and never its text, if a line has no labels."""
    sentences: list[Sentence] = []
    words: list[str] = []
    labels: list[list[str]] = []
    document = ""
    lines = path.read_text(encoding="utf-8").splitlines()
    has_documents = sum(line.startswith(_DOCUMENT) for line in lines) > 1
    for number, line in enumerate([*lines, ""], start=1):
        parts = line.split()
        if not parts or parts[0] in _ENDS:
            if words:
                block = document or str(len(sentences) // LINES_OF_DOCUMENT)
                sentences.append(_sentence(words, labels, f"{path.name} {block}"))
                words, labels = [], []
        elif line.startswith(_DOCUMENT):
            document = (line if line.startswith("#") else str(number)) if has_documents else ""
        else:
            word = _INVISIBLE.sub("", parts[0])
            if any(not re.fullmatch(r"O|[BI]-\S+|-X-|_", label) for label in parts[1:]) or len(parts) < 2:
                raise InputError(f"{path}, line {number}: this is not a word with its labels.", "Write `WORD B-PERS`.")
            if word:
                words.append(word)
                labels.append(parts[1:])
    return sentences


def _sentence(words: Sequence[str], labels: Sequence[Sequence[str]], document: str) -> Sentence:
    starts, text = [], ""
    for word in words:
        text += " " * bool(text)
        starts.append(len(text))
        text += word
    found: list[Entity] = []
    for kind in NAMES_OF_LABELS:
        here = [[label for label in each if LABELS.get(label[2:]) == kind] for each in labels]
        for place, each in enumerate(here):
            if each and (not place or not here[place - 1] or any(label[0] == "B" for label in each)):
                last = place
                while last + 1 < len(here) and here[last + 1] and not any(one[0] == "B" for one in here[last + 1]):
                    last += 1
                found.append(Entity(starts[place], starts[last] + len(words[last]), kind))  # type: ignore[arg-type]
    kept: list[Entity] = []
    for one in sorted(found, key=lambda each: (each.start - each.end, each.label != "PERSON")):
        if not any(one.start < other.end and other.start < one.end for other in kept):
            kept.append(one)
    return Sentence(text, tuple(sorted(kept)), document)


# --- words ------------------------------------------------------------------------------------------------------------


def arabic_classes() -> dict[str, str]:
    """Return a dict from folded word to the name of the list that contains the word. An Arabic model uses these names
    as features."""
    lists: dict[str, frozenset[str]] = {
        "tribe": ARABIC["tribes"],
        "given": ARABIC["given"] - ARABIC["everyday_given"],
        "everyday": ARABIC["given"] & ARABIC["everyday_given"],
        "place": ARABIC["place_heads"],
        "meeting": ARABIC["meeting"],
        "reporting": ARABIC["reporting"] | ARABIC["cues"],
        "title": ARABIC["titles"] | ARABIC["roles"] | ARABIC["offices"],
        "stop": ARABIC["stop_words"] | ARABIC["nouns"] | ARABIC["keep"],
        "joined": frozenset({"أبو", "أبي", "أبا", "بو", "عبد", "آل", "أم"}),
        "kinship": ARABIC["kinship"] | {"ابن", "ولد"},
    }
    return {folded(word): name for name, words in lists.items() for word in words}  # the last list wins


# --- training ---------------------------------------------------------------------------------------------------------


def train_ner(
    language: str,
    epochs: Sequence[Sequence[Sentence]],
    parent: str | None = None,
    classes: Mapping[str, str] | None = None,
    report: Callable[[int, int, float], None] = lambda epoch, count, loss: None,
) -> Any:
    """Train and return a spaCy pipeline with one entity recognizer. The same sentences always give the same model.

    Args:
        epochs: the sentences of each epoch.
        parent: a spaCy model from which the training continues; None to train from scratch.
        classes: dict from folded word to class, a feature of a model without `parent`; None for spaCy's own features.
        report: called after each epoch with the epoch's number, the number of epochs, and the mean loss of a sentence.

    Raises InputError if spaCy lacks the language, or the parent lacks a label.
    """
    with without_torch():
        import spacy
        from thinc.api import Adam

    spacy.util.fix_random_seed(0)
    if parent is not None:
        pipeline = SpacyModel(parent, name_model_directory(parent)).pipeline
        if not {*NAMES_OF_LABELS.values()} <= {*pipeline.get_pipe("ner").labels}:
            raise InputError(
                f"{parent}: this model lacks one of the labels {', '.join(NAMES_OF_LABELS.values())}.", "Add --anew."
            )
        pipeline.resume_training()
    else:
        try:
            pipeline = spacy.blank(language)
        except ImportError:
            raise InputError(f"spaCy has no language '{language}'.", "Use an ISO language code, such as ar.") from None
        if classes is not None:
            pipeline.vocab.lookups.add_table(WORD_CLASSES, dict(classes))
            word_features(pipeline)
        pipeline.add_pipe("ner", config={"model": _architecture(own=classes is not None)})
        first = _examples(pipeline, epochs[0])
        pipeline.initialize(lambda: first)
    optimizer = Adam(RATE, beta1=0.9, beta2=0.999, L2=0.01, grad_clip=1.0, L2_is_weight_decay=True, use_averages=True)
    chance = random.Random(0)
    for number, sentences in enumerate(epochs):
        examples = _examples(pipeline, sentences)
        chance.shuffle(examples)
        losses: dict[str, float] = {}
        optimizer.learn_rate = RATE * (1 - 0.9 * number / len(epochs))
        batch = 64 if len(examples) > _MANY else 16
        for begin in range(0, len(examples), batch):
            pipeline.update(examples[begin : begin + batch], sgd=optimizer, drop=DROPOUT, losses=losses)
        report(number + 1, len(epochs), losses["ner"] / len(examples))
    _average(pipeline, optimizer)
    return pipeline


def _average(pipeline: Any, optimizer: Any) -> None:
    """Set the weights to their averages over the training. Averages vary less than the last weights."""
    for node in pipeline.get_pipe("ner").model.walk():
        for name in node.param_names:
            key = (node.id, name)
            if node.has_param(name) and key in optimizer.averages:
                node.set_param(name, optimizer.averages[key])


def _architecture(own: bool) -> dict[str, Any]:
    tables = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    model: dict[str, Any] = tables["model"]
    rows = tables["own_rows" if own else "rows"]
    model["tok2vec"]["embed"] |= {"attrs": list(rows), "rows": list(rows.values())}
    return {**model, "nO": None}


def _examples(pipeline: Any, sentences: Sequence[Sentence]) -> list[Any]:
    from spacy.training import Example

    found = []
    for text, entities, _ in sentences:
        document = pipeline.make_doc(text)
        spans: list[Any] = []
        for start, end, label in entities:
            span = document.char_span(start, end, label=NAMES_OF_LABELS[label], alignment_mode="expand")
            if span is not None and not any(one.start < span.end and span.start < one.end for one in spans):
                spans.append(span)
        marked = document.copy()
        marked.set_ents(spans)
        found.append(Example(document, marked))
    return found


PRECISION = 0.8
_CAUTION = [step / 2 for step in range(13)]


def choose_caution(pipeline: Any, sentences: Sequence[Sentence]) -> None:
    """Set the caution (`CAUTION`) to the smallest value in `_CAUTION` at which the precision for persons reaches
    PRECISION, or else to the largest. `sentences` must not have been trained on."""
    model = SpacyModel.of(pipeline)
    for caution in _CAUTION:
        pipeline.meta[CAUTION] = caution
        if precision_and_recall(model, sentences)[0] >= PRECISION:
            return


def write_model(pipeline: Any, directory: Path) -> None:
    """Write a trained pipeline to a directory, without the words that it was trained on."""
    import srsly

    pipeline.to_disk(directory)
    srsly.write_json(directory / "vocab" / "strings.json", sorted([*LABELS, *NAMES_OF_LABELS.values()]))


# --- measuring ------------------------------------------------------------------------------------------------------

COVER = 0.9
"""A name counts as found if findings cover at least this share of its characters. A finding counts as right if names
cover at least this share of its characters."""


def precision_and_recall(model: NameModel, sentences: Sequence[Sentence]) -> tuple[float, float]:
    """Return the precision and the recall of the persons that a model finds; 1 where there is nothing to count."""
    found = names = right = findings = 0
    for each, entities in zip(sentences, model.entities([each.text for each in sentences]), strict=True):
        marked, persons = _persons(each.entities), _persons(entities)
        names, findings = names + len(marked), findings + len(persons)
        found, right = found + covered(marked, persons), right + covered(persons, marked)
    return right / findings if findings else 1.0, found / names if names else 1.0


def _persons(entities: Sequence[Entity]) -> list[Place]:
    return [(each.start, each.end) for each in entities if each.label == "PERSON"]


def covered(places: Iterable[Place], others: Sequence[Place]) -> int:
    """Return the number of places of which `others` cover at least the share COVER of the characters."""
    return sum(cover(each, others) >= COVER for each in places)


def cover(place: Place, others: Iterable[Place]) -> float:
    start, end = place
    inside = {at for first, last in others for at in range(max(start, first), min(end, last))}
    return len(inside) / (end - start)


# --- an institution's own model ---------------------------------------------------------------------------------------

HELD_OUT = 5
"""One in five documents is held out to measure the model, and one in ten to choose the caution."""
LEAST_DOCUMENTS = 10
EPOCHS, SENTENCES = 8, 3_000
"""Minimum number of epochs, and about the minimum number of sentences over all epochs (counted again in each epoch)."""


def read_sentences(path: Path) -> list[Sentence]:
    """Read a training set: JSON lines with spans, or a BIO file. Raises InputError if a line is invalid."""
    if path.suffix == ".jsonl":
        return [
            Sentence(
                row.text, tuple(Entity(*span, "PERSON") for span in sorted(row.spans)), f"{path.name} {row.group or n}"
            )
            for n, row in enumerate(read_marked(path))
        ]
    return read_bio(path)


class Trained(NamedTuple):
    """The result of a training run, which is printed and written into the model's card."""

    documents: int
    held_out: int
    names: int
    """Number of persons in the held-out documents."""
    before: dict[str, float] | None
    """Recall and precision of the parent model, from which the training continued; None if there is no parent."""
    after: dict[str, float]


def train_own(
    language: str,
    sets: Mapping[str, Path],
    directory: Path,
    parent: str | None,
    report: Callable[[int, int, float], None],
) -> Trained:
    """Train a model on an institution's sets, measure the model on documents that were held out from the training, and
    write the model with its card.

    Args:
        sets: the file of each training set, by name.
        directory: new directory for the model.
        parent: the model from which the training continues; None to train from scratch.

    Raises InputError if a line is invalid, if the sets have fewer than LEAST_DOCUMENTS documents, or if `train_ner`
    does.
    """
    sentences = [each for path in sets.values() for each in read_sentences(path)]
    documents = sorted({each.document for each in sentences}, key=lambda name: sha256(name.encode()).digest())
    if len(documents) < LEAST_DOCUMENTS:
        raise InputError(
            f"The sets have {len(documents)} documents. At least {LEAST_DOCUMENTS} are needed to hold some out.",
            "Name the document of each text in `group`, or add sets.",
        )
    held_out, chosen_on = {*documents[::HELD_OUT]}, {*documents[1 :: 2 * HELD_OUT]}
    rest = [each for each in sentences if each.document not in held_out | chosen_on]
    test = [each for each in sentences if each.document in held_out]
    classes = arabic_classes() if language == "ar" and parent is None else None
    pipeline = train_ner(language, [rest] * max(EPOCHS, SENTENCES // len(rest)), parent, classes, report=report)
    choose_caution(pipeline, [each for each in sentences if each.document in chosen_on])
    write_model(pipeline, directory)
    trained = Trained(
        len(documents),
        len(held_out),
        sum(entity.label == "PERSON" for each in test for entity in each.entities),
        measured(load_name_model(language, parent), test) if parent is not None else None,
        measured(load_name_model(language, str(directory.absolute())), test),
    )
    card = {
        "language": language,
        "continues": parent,
        "sets": {name: {"sha256": file_sha256(path)} for name, path in sets.items()},
        "measured": trained._asdict(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES["spacy"]},
    }
    (directory / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return trained


def measured(model: NameModel, sentences: Sequence[Sentence]) -> dict[str, float]:
    """Return the recall and the precision of the persons that a model finds."""
    precision, recall = precision_and_recall(model, sentences)
    return {"recall": round(recall, 3), "precision": round(precision, 3)}
