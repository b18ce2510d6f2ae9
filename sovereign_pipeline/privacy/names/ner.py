"""Train a model that finds names on an institution's own labelled texts, and measure it."""

import importlib.metadata
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from shutil import move
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import Frozen, file_sha256
from sovereign_pipeline.privacy.names.crf import ConditionalRandomField, Scored, entities_in, train_crf
from sovereign_pipeline.privacy.names.name_models import (
    CAUTION,
    LABELS,
    LIBRARIES,
    SETTINGS,
    WEIGHTS,
    CrfSettings,
    Entity,
    ModelKind,
    NameModel,
    SpacyModel,
    load_name_model,
    name_model_directory,
    without_torch,
)
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns

DROPOUT, RATE = 0.3, 0.001
Report = Callable[[int, int, float], None]
"""Called after each pass of a training with the pass's number, the number of passes, and the loss."""
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


# --- training ---------------------------------------------------------------------------------------------------------


def continue_spacy(parent: str, epochs: Sequence[Sequence[Sentence]], report: Report) -> Any:
    """Continue the training of a spaCy model, and return its pipeline. The same sentences always give the same model.

    Args:
        epochs: the sentences of each epoch.

    Raises InputError if the parent lacks a label.
    """
    with without_torch():
        import spacy
        from thinc.api import Adam

    spacy.util.fix_random_seed(0)
    pipeline = SpacyModel(parent, name_model_directory(parent)).pipeline
    if not {*NAMES_OF_LABELS.values()} <= {*pipeline.get_pipe("ner").labels}:
        raise InputError(
            f"{parent}: this model lacks one of the labels {', '.join(NAMES_OF_LABELS.values())}.", "Add --anew."
        )
    pipeline.resume_training()
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
_LEASTS = [step / 100 for step in range(10, 96, 2)]


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
    """Return the precision and the recall of the names that are found with a model; 1 where there is nothing to
    count."""
    return _precision_and_recall(sentences, model.entities([each.text for each in sentences]))


def _precision_and_recall(sentences: Sequence[Sentence], found: Iterable[Sequence[Entity]]) -> tuple[float, float]:
    """Return the precision and the recall of the names that the scrubber finds if a model finds these entities. The
    patterns' findings count too."""
    patterns = NamePatterns()
    hits = names = right = findings = 0
    for each, entities in zip(sentences, found, strict=True):
        persons = [(span.start, span.end) for span in patterns.spans(each.text, entities)]
        marked = _persons(each.entities)
        names, findings = names + len(marked), findings + len(persons)
        hits, right = hits + covered(marked, persons), right + covered(persons, marked)
    return right / findings if findings else 1.0, hits / names if names else 1.0


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
"""A model is measured on one in five documents at a time."""
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


def train_own(language: str, sets: Mapping[str, Path], directory: Path, parent: str | None, report: Report) -> Trained:
    """Train a model on an institution's sets, measure it on documents that were not trained on, and write the model
    with its card.

    Args:
        sets: the file of each training set, by name.
        directory: new directory for the model.
        parent: the spaCy model whose training continues. None trains a conditional random field from scratch.

    Raises InputError if a line is invalid, if the sets have fewer than LEAST_DOCUMENTS documents, or if
    `continue_spacy` does.
    """
    sentences = [each for path in sets.values() for each in read_sentences(path)]
    documents = sorted({each.document for each in sentences}, key=lambda name: sha256(name.encode()).digest())
    if len(documents) < LEAST_DOCUMENTS:
        raise InputError(
            f"The sets have {len(documents)} documents. At least {LEAST_DOCUMENTS} are needed to hold some out.",
            "Name the document of each text in `group`, or add sets.",
        )
    kind: ModelKind = "spacy" if parent is not None else "crf"
    train = _train_crf if parent is None else partial(_train_spacy, language, parent)
    trained = train(sentences, documents, directory, report)
    card = {
        "language": language,
        "continues": parent,
        "sets": {name: {"sha256": file_sha256(path)} for name, path in sets.items()},
        "measured": trained._asdict(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES[kind]},
    }
    (directory / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return trained


def _train_crf(sentences: Sequence[Sentence], documents: Sequence[str], directory: Path, report: Report) -> Trained:
    """Train a conditional random field on all sentences. Cross-validation over the documents measures it, and chooses
    the smallest probability in _LEASTS at which the precision reaches PRECISION, or else the largest."""
    with TemporaryDirectory() as scratch:
        weights = Path(scratch) / WEIGHTS

        def train(part: int, rest: Iterable[Sentence]) -> None:
            marked = (
                (text, [(start, end, NAMES_OF_LABELS[label]) for start, end, label in entities])
                for text, entities, _ in rest
            )
            train_crf(
                marked, weights, lambda *done: report(part * done[1] + done[0], (HELD_OUT + 1) * done[1], done[2])
            )

        scored: list[tuple[Sentence, list[list[Scored]]]] = []
        for part in range(HELD_OUT):
            held_out = {*documents[part::HELD_OUT]}
            train(part, (each for each in sentences if each.document not in held_out))
            field = ConditionalRandomField(weights)
            scored += [(each, field.scored(each.text)) for each in sentences if each.document in held_out]
        for least in _LEASTS:
            precision, recall = _counted(scored, least)
            if precision >= PRECISION:
                break
        train(HELD_OUT, sentences)
        settings = CrfSettings(least=least, sha256=file_sha256(weights))
        directory.mkdir(parents=True)
        move(weights, directory / WEIGHTS)
    (directory / SETTINGS).write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
    after = {"recall": round(recall, 3), "precision": round(precision, 3)}
    return Trained(len(documents), len(documents), _count_of_persons(sentences), None, after)


def _counted(scored: Sequence[tuple[Sentence, list[list[Scored]]]], least: float) -> tuple[float, float]:
    """Return the precision and the recall of the names that are found in scored sentences."""
    found = [
        [Entity(start, end, LABELS[label]) for start, end, label in entities_in(words, least)] for _, words in scored
    ]
    return _precision_and_recall([each for each, _ in scored], found)


def _train_spacy(
    language: str,
    parent: str,
    sentences: Sequence[Sentence],
    documents: Sequence[str],
    directory: Path,
    report: Report,
) -> Trained:
    """Continue a spaCy model on seven documents of ten. Two measure it, and one chooses its caution."""
    held_out, chosen_on = {*documents[::HELD_OUT]}, {*documents[1 :: 2 * HELD_OUT]}
    rest = [each for each in sentences if each.document not in held_out | chosen_on]
    test = [each for each in sentences if each.document in held_out]
    pipeline = continue_spacy(parent, [rest] * max(EPOCHS, SENTENCES // len(rest)), report)
    choose_caution(pipeline, [each for each in sentences if each.document in chosen_on])
    write_model(pipeline, directory)
    return Trained(
        len(documents),
        len(held_out),
        _count_of_persons(test),
        measured(load_name_model(language, parent), test),
        measured(load_name_model(language, str(directory.absolute())), test),
    )


def _count_of_persons(sentences: Iterable[Sentence]) -> int:
    return sum(len(_persons(each.entities)) for each in sentences)


def measured(model: NameModel, sentences: Sequence[Sentence]) -> dict[str, float]:
    """Return the recall and the precision of the persons that a model finds."""
    precision, recall = precision_and_recall(model, sentences)
    return {"recall": round(recall, 3), "precision": round(precision, 3)}
