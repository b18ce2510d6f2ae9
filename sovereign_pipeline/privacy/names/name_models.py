"""Load and run a name model: of spaCy, of transformers, or a conditional random field. All return the same labels."""

import bisect
import importlib.metadata
import importlib.util
import json
import re
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from importlib.abc import MetaPathFinder
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.files import Frozen, digest_of, file_sha256
from sovereign_pipeline.privacy.names.crf import ConditionalRandomField, entities_in

Label = Literal["PERSON", "PLACE", "ORGANISATION", "NATIONALITY", "DATE"]

# Labels of OntoNotes 5 (spaCy), CoNLL 2003 and ANERcorp, and Wojood. Other labels are ignored.
LABELS: dict[str, Label] = {
    "PER": "PERSON", "PERS": "PERSON", "PERSON": "PERSON", "GPE": "PLACE", "LOC": "PLACE", "FAC": "PLACE",
    "ORG": "ORGANISATION", "NORP": "NATIONALITY", "DATE": "DATE", "TIME": "DATE",
}  # fmt: skip


# --- entities ---------------------------------------------------------------------------------------------------------


class Entity(NamedTuple):
    """A half-open span of a text, with the label that the name model gives to the span."""

    start: int
    end: int
    label: Label


class NameModel(Protocol):
    """A loaded model of one language."""

    def entities(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """Yield, for each text, the entities with a label in LABELS, in reading order. Model errors propagate."""
        ...


def reject_without_persons(where: str, labels: Iterable[str]) -> None:
    """Raise PrivacyError if none of a model's labels means a person. `where` is the beginning of the message."""
    if not any(LABELS.get(label) == "PERSON" for label in labels):
        persons = ", ".join(label for label, kind in LABELS.items() if kind == "PERSON")
        raise PrivacyError(
            f"{where} finds no persons: none of its labels is one of {persons}.",
            "Use another model, or correct the labels of this model (`id2label` in config.json).",
        )


def load_error(where: str, kind: str, error: Exception) -> PrivacyError:
    """Return the error for a model that its library cannot load. `where` is the beginning of the message."""
    return PrivacyError(
        f"{where} cannot be loaded as a {kind} model ({type(error).__name__}).",
        "Install or copy the model again, or use another model.",
    )


# --- spaCy ------------------------------------------------------------------------------------------------------------

BATCH_CHARACTERS = 100_000
"""Approximate number of characters of texts in one matrix product. Each character takes about a kilobyte of memory."""
TEXTS_AT_ONCE = 128
"""Number of texts in one batch of spaCy's `pipe`. spaCy's default of 1,000 takes eight times the memory."""
_NEED_TORCH = ("spacy_curated_transformers", "spacy_transformers")


class _Hidden(MetaPathFinder):
    """An import finder that hides torch and transformers from imports in one thread."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, fullname: str, *_: Any) -> None:
        if fullname in ("torch", "transformers") and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{fullname} is hidden", name=fullname)


@contextmanager
def without_torch() -> Iterator[None]:
    """Hide torch and transformers from imports inside this context. Otherwise spaCy and Presidio import these two
    libraries, which takes seconds, although only models that are not used here need them. Nothing is hidden if a spaCy
    plugin that needs torch is installed."""
    finder = _Hidden()
    hidden = not any(importlib.util.find_spec(plugin) for plugin in _NEED_TORCH)
    if hidden:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if hidden:
            sys.meta_path.remove(finder)


class SpacyModel:
    """A spaCy model, reduced to the pipeline parts that find entities."""

    def __init__(self, where: str, model: str | Path) -> None:
        """
        Args:
            where: beginning of error messages.
            model: an installed package or a local directory.

        Raises PrivacyError if the model cannot be loaded, or has no label for persons.
        """
        with without_torch():
            import spacy

        try:
            with without_torch(), warnings.catch_warnings():  # loading imports the factories of every installed package
                # "trained with spaCy 3.7": the packaged model finds as much in 3.8, see docs/benchmarks/corpus.md.
                warnings.filterwarnings("ignore", message=r"\[W095\]")
                self.pipeline: Any = spacy.load(
                    model, exclude=["tagger", "parser", "attribute_ruler", "lemmatizer", "senter", "morphologizer"]
                )
        except Exception as error:
            raise load_error(where, "spaCy", error) from error
        reject_without_persons(where, (label for labels in self.pipeline.pipe_labels.values() for label in labels))
        _drop_unused_vectors(self.pipeline)

    @classmethod
    def of(cls, pipeline: Any) -> "SpacyModel":
        """Wrap a pipeline that is already loaded."""
        model = cls.__new__(cls)
        model.pipeline = pipeline
        return model

    def entities(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """Implement `NameModel.entities`."""
        for entities in self._found(texts):
            yield [Entity(start, end, LABELS[label]) for start, end, label in entities if label in LABELS]

    def _found(self, texts: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
        if GreedyRecognizer.reads(self.pipeline):
            yield from GreedyRecognizer(self.pipeline).entities(texts)
        else:
            for document in self.pipeline.pipe(texts, batch_size=TEXTS_AT_ONCE):
                yield [(entity.start_char, entity.end_char, entity.label_) for entity in document.ents]


def _drop_unused_vectors(pipeline: Any) -> None:
    """Remove a shared tok2vec component that the entity recognizer does not use. It would take a third of the time."""
    if "tok2vec" in pipeline.pipe_names and "ner" in pipeline.pipe_names:
        listeners = pipeline.get_pipe("tok2vec").listening_components
        if "ner" not in listeners:
            pipeline.remove_pipe("tok2vec")


CAUTION = "caution"
"""Key in a spaCy model's meta.json. `ner.choose_caution` sets its value, a number. The number is added to each word's
score for being outside of entities."""


class GreedyRecognizer:
    """Runs spaCy's greedy entity recognizer with matrix products over a whole batch. spaCy itself loops over words.

    spaCy scores a word by three vectors: of the word, of the open entity's first word, and of the previous word.
    Outside of entities the last two vectors are padding, so all such words are scored at once. Only words within an
    entity are scored one after the other. Each distinct word is embedded once. The rules are those of
    `spacy/pipeline/_parser_internals/ner.pyx` for documents without entities.
    """

    def __init__(self, pipeline: Any) -> None:
        from thinc.api import NumpyOps

        self._pipeline = pipeline
        recognizer = pipeline.pipeline[0][1]
        tok2vec, self._lower, self._upper = recognizer.model.layers
        words, _, self._linear = tok2vec.layers
        self._embed, self._encode = words.get_ref("embed"), words.get_ref("encode")
        ops = NumpyOps(use_blis=False)  # BLIS takes twice as long
        for layer in recognizer.model.walk():
            layer.ops = ops
        moves = [recognizer.moves.get_class_name(place) for place in range(recognizer.moves.n_moves)]
        self._moves = [(name[0], name[2:]) for name in moves]
        self._place = {move: place for place, move in enumerate(self._moves)}

    @staticmethod
    def reads(pipeline: Any) -> bool:
        """Return True if this class can run a pipeline: a single entity recognizer of the expected form."""
        from spacy.attrs import NAMES
        from spacy.pipeline import EntityRecognizer

        steps = [step for _, step in pipeline.pipeline]
        if len(steps) != 1 or not isinstance(steps[0], EntityRecognizer) or steps[0].cfg["beam_width"] != 1:
            return False
        model = steps[0].model
        if model.name != "parser_model" or not model.attrs.get("has_upper"):
            return False
        tok2vec, lower, _ = model.layers
        if len(tok2vec.layers) != 3 or not (tok2vec.layers[0].has_ref("embed") and tok2vec.layers[0].has_ref("encode")):
            return False
        nodes = [node for node in tok2vec.walk() if node.name == "extract_features"]
        columns = {each if isinstance(each, str) else NAMES[each] for node in nodes for each in node.attrs["columns"]}
        of_words = columns <= {"LOWER", "NORM", "ORTH", "PREFIX", "SHAPE", "SUFFIX"}  # nothing of a word's position
        usual = of_words and not model.attrs["unseen_classes"]
        return bool(usual and lower.get_dim("nF") == 3 and lower.get_dim("nP") > 1)

    def entities(self, texts: Sequence[str]) -> Iterator[list[tuple[int, int, str]]]:
        """Yield the entities of each text as (start, end, label)."""
        ends = [0, *accumulate(map(len, texts))]
        for _, batch in groupby(range(len(texts)), key=lambda place: ends[place] // BATCH_CHARACTERS):
            documents = [self._pipeline.make_doc(texts[place]) for place in batch]
            found = iter(self._in_batch([each for each in documents if len(each)]))
            yield from (next(found) if len(each) else [] for each in documents)

    def _in_batch(self, documents: Sequence[Any]) -> Iterator[list[tuple[int, int, str]]]:
        import numpy as np
        from spacy.attrs import IS_SPACE

        if not documents:
            return
        vectors = np.concatenate(self._encode.predict(self._embedded(documents)))
        features = self._lower.predict(self._linear.predict(vectors))
        bias, padding, features = self._lower.get_param("b"), features[0], features[1:]
        pieces = np.moveaxis(features[:, 0] + padding[1] + padding[2] + bias, -1, 0)
        scores = self._upper.predict(reduce(np.maximum, pieces))  # faster than the maximum of an axis
        caution = float(self._pipeline.meta.get(CAUTION, 0))
        outside = self._place["O", ""]
        scores[:, outside] += caution
        allowed = np.array([move in "BUO" and (move == "O" or label != "") for move, label in self._moves])
        scores[:, ~allowed] = -np.inf
        ends = np.cumsum([len(each) for each in documents])
        scores[np.ix_(ends - 1, [move == "B" for move, _ in self._moves])] = -np.inf
        spaces = np.concatenate([each.to_array(IS_SPACE) for each in documents])
        best = np.where(spaces, outside, scores.argmax(-1))
        weights, biases = self._upper.get_param("W"), self._upper.get_param("b")

        def end_of_entity(start: int, label: str, last: int) -> int:
            both = sorted((self._place["I", label], self._place["L", label]))
            for place in range(start + 1, last):
                summed = features[place, 0] + features[start, 1] + features[place - 1, 2] + bias
                inner = weights[both] @ summed.max(-1) + biases[both]
                if both[int(inner.argmax())] == self._place["L", label]:
                    return place
            return last

        first = 0
        for document, end in zip(documents, ends.tolist(), strict=True):
            found, behind = [], first
            for place in (np.flatnonzero(best[first:end] != outside) + first).tolist():
                if place < behind:
                    continue
                move, label = self._moves[best[place]]
                last = place if move == "U" else end_of_entity(place, label, end - 1)
                begin, final = document[place - first], document[last - first]
                found.append((begin.idx, final.idx + len(final), label))
                behind = last + 1
            yield found
            first = end

    def _embedded(self, documents: Sequence[Any]) -> list[Any]:
        """Return the vectors of each document's words before the encoder mixes the vectors of neighbouring words."""
        import numpy as np
        from spacy.attrs import NORM, ORTH
        from spacy.tokens import Doc

        distinct: dict[tuple[int, int], int] = {}
        attributes = [document.to_array([ORTH, NORM]).tolist() for document in documents]
        rows = [[distinct.setdefault((orth, norm), len(distinct)) for orth, norm in each] for each in attributes]
        strings = self._pipeline.vocab.strings
        words = Doc(self._pipeline.vocab, words=[strings[orth] for orth, _ in distinct])
        for word, (_, norm) in zip(words, distinct, strict=True):
            if word.norm != norm:
                word.norm_ = strings[norm]
        (vectors,) = self._embed.predict([words])
        return [vectors[np.array(each)] for each in rows]


# --- transformers -----------------------------------------------------------------------------------------------------

BATCH_WINDOWS = 16
MAX_WINDOW = 512  # tokens; models of this kind are trained on windows of this size, even if they have more positions
_WORD = re.compile("[^\\W_](?:[^\\W_]|[\u0640\u064b-\u065f\u0670]|['’-](?=[^\\W_]))*")
_BETWEEN_WORDS = re.compile(" +")
_BETWEEN_PARTS = re.compile(r"\.? *")  # if the scheme continues the name: "M. Said"
_SCHEME = re.compile(r"([BIESLUM])[-_](.+)")


class TransformersModel:
    """A transformers model that classifies tokens (BIO, BIOES or plain labels), on the CPU in float32.

    A text longer than the model's window is split into windows that overlap by a quarter. A word gets the label of its
    first token, as in Devlin et al. 2019 (section 5.3). Of the windows that contain the word, the window with the most
    context around the word decides.
    """

    def __init__(self, where: str, directory: Path) -> None:
        """
        Args:
            where: beginning of error messages.
            directory: folder with the model's configuration, its fast tokenizer, and its weights as safetensors.

        Raises PrivacyError if the model cannot be loaded safely and completely, or has no label for persons.
        """
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        _reject_pickle(where, directory)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model, loading = AutoModelForTokenClassification.from_pretrained(
                directory,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:
            raise load_error(where, "transformers token-classification", error) from error
        absent = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
        if absent:
            raise PrivacyError(
                f"{where}: the model's files lack {len(absent)} weights (first: {absent[0]}), which would be random.",
                "Copy the complete model again.",
            )
        if not self._tokenizer.is_fast:
            raise PrivacyError(
                f"{where}: the model's tokenizer does not return the offsets of tokens.",
                "Save the tokenizer as a fast tokenizer: "
                "AutoTokenizer.from_pretrained(directory, use_fast=True).save_pretrained(directory).",
            )
        self._model = model.eval()
        self._labels = [_parsed(model.config.id2label[index]) for index in range(model.config.num_labels)]
        reject_without_persons(where, (label for _, label in self._labels))
        self._window = _window(model.config, self._tokenizer)

    def entities(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """Implement `NameModel.entities`. The windows of all texts go through the model together, sorted by length."""
        import torch

        if not texts:
            return
        encoded = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._window,
            stride=self._window // 4,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        owners: list[int] = encoded.pop("overflow_to_sample_mapping")
        offsets: list[list[tuple[int, int]]] = encoded.pop("offset_mapping")
        special: list[list[int]] = encoded.pop("special_tokens_mask")
        found = [_Words(text) for text in texts]
        by_length = sorted(range(len(owners)), key=lambda window: len(offsets[window]))
        for begin in range(0, len(by_length), BATCH_WINDOWS):
            batch = by_length[begin : begin + BATCH_WINDOWS]
            padded = self._tokenizer.pad(
                {name: [values[window] for window in batch] for name, values in encoded.items()}, return_tensors="pt"
            )
            with torch.inference_mode():
                best = self._model(**padded).logits.argmax(-1).tolist()
            for window, labels in zip(batch, best, strict=True):
                found[owners[window]].add_window(offsets[window], special[window], labels)
        for words in found:
            yield words.entities(self._labels)


class _Words:
    """The words of one text. Each word's label comes from the window that has the most context around the word."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans = [match.span() for match in _WORD.finditer(text)]
        self._starts = [start for start, _ in self._spans]
        self._labels: dict[int, tuple[int, int]] = {}  # word -> (tokens between it and the window's edge, label)

    def add_window(self, offsets: Sequence[tuple[int, int]], special: Sequence[int], labels: Sequence[int]) -> None:
        """Add the labels of one window. The window's tokens are in reading order."""
        tokens = [index for index, is_special in enumerate(special) if not is_special]
        previous = -1
        for place, index in enumerate(tokens):
            start, end = offsets[index]
            word = self._word_of(start, end)
            if word is None or word == previous:
                continue
            previous = word
            around = min(place, len(tokens) - 1 - place)
            if word not in self._labels or around > self._labels[word][0]:
                self._labels[word] = (around, labels[index])

    def _word_of(self, start: int, end: int) -> int | None:
        """Return the index of the word that contains a token. A token may begin with the space before its word."""
        index = bisect.bisect_right(self._starts, max(start, end - 1)) - 1
        return index if index >= 0 and start < self._spans[index][1] else None

    def entities(self, labels: Sequence[tuple[str, str]]) -> list[Entity]:
        """Return the entities. Adjacent words with the same label are one entity, unless the scheme or punctuation
        separates them.

        Args:
            labels: (scheme, name) of the label for each output of the model.
        """
        found: list[Entity] = []
        open_end = -1  # end of the entity that may continue; -1 for none
        for word, (start, end) in enumerate(self._spans):
            scheme, name = labels[self._labels[word][1]] if word in self._labels else ("", "O")
            label = LABELS.get(name)
            if label is None:
                open_end = -1
                continue
            continues = open_end >= 0 and found[-1].label == label and scheme not in ("B", "S", "U")
            between = _BETWEEN_PARTS if scheme else _BETWEEN_WORDS
            if continues and between.fullmatch(self._text, open_end, start):
                found[-1] = found[-1]._replace(end=end)
            else:
                found.append(Entity(start, end, label))
            open_end = -1 if scheme in ("E", "L", "S", "U") else end
        return found


def _parsed(label: str) -> tuple[str, str]:
    """Split a label into (scheme, name): "B-PERS" becomes ("B", "PERS"), and "PERS" becomes ("", "PERS")."""
    match = _SCHEME.fullmatch(label.upper())
    return (match[1], match[2]) if match else ("", label.upper())


def _window(config: Any, tokenizer: Any) -> int:
    """Return the number of tokens in a window. Models like RoBERTa number positions from the padding index + 1, so
    their window is smaller."""
    positions = getattr(config, "max_position_embeddings", None)
    if not positions:
        return int(min(MAX_WINDOW, tokenizer.model_max_length))
    return int(min(MAX_WINDOW, tokenizer.model_max_length, positions - (config.pad_token_id or 0) - 1))


def _reject_pickle(where: str, directory: Path) -> None:
    if any(directory.glob("*.safetensors")):
        return
    raise PrivacyError(
        f"{where}: the model's weights are not in safetensors. Pickled weights (pytorch_model.bin) are not read: "
        f"loading them can run any code.",
        "Convert the weights once, on a machine where loading them is safe: "
        "AutoModelForTokenClassification.from_pretrained(directory)"
        ".save_pretrained(directory) writes model.safetensors.",
    )


# --- conditional random fields ----------------------------------------------------------------------------------------


class CrfSettings(Frozen):
    """The settings of a conditional random field that `ner.train_own` trained, in the file SETTINGS."""

    least: float
    """Minimum probability of a word of a person's name."""
    sha256: str
    """Digest of the file WEIGHTS. The library does not notice a damaged file."""


SETTINGS, WEIGHTS = "crf.json", "model.crfsuite"


class CrfModel:
    """A conditional random field."""

    def __init__(self, where: str, directory: Path) -> None:
        """Raises PrivacyError if the model cannot be loaded, or has no label for persons."""
        try:
            settings = CrfSettings.model_validate_json((directory / SETTINGS).read_bytes())
            if file_sha256(directory / WEIGHTS) != settings.sha256:
                raise ValueError(WEIGHTS)
            self._field = ConditionalRandomField(directory / WEIGHTS)
        except (OSError, ValueError) as error:
            raise load_error(where, "CRF", error) from error
        reject_without_persons(where, (_parsed(label)[1] for label in self._field.labels))
        self._least = settings.least

    def entities(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """Implement `NameModel.entities`."""
        for text in texts:
            found = entities_in(self._field.scored(text), self._least)
            yield [Entity(start, end, LABELS[label]) for start, end, label in found if label in LABELS]


ModelKind = Literal["spacy", "transformers", "crf"]

# Libraries whose version can change the findings of a model of each kind.
LIBRARIES: dict[ModelKind, tuple[str, ...]] = {
    "crf": ("python-crfsuite",),
    "spacy": ("spacy", "thinc"),
    "transformers": ("tokenizers", "torch", "transformers"),
}


# --- finding and loading a model --------------------------------------------------------------------------------------


def load_name_model(language: str, model: str, sha256: str | None = None) -> NameModel:
    """Load a model from an installed package or a local directory.

    Args:
        sha256: the digest that the model's files must have (`files_digest`); None for any.

    Raises PrivacyError if the model is missing, has another digest, cannot be loaded, or has no label for persons.
    """
    where = f"privacy.name_models.{language}: {model}"
    directory = name_model_directory(model)
    if sha256 is not None and files_digest(directory) != sha256:
        raise PrivacyError(
            f"{where}: the digest of the model's files differs from privacy.name_model_sha256.",
            "Copy the model again, or set privacy.name_model_sha256 to the digest of the newly trained model.",
        )
    match _kind_of(directory):
        case "crf":
            return CrfModel(where, directory)
        case "spacy":
            return SpacyModel(where, directory if Path(model).is_absolute() else model)
        case "transformers":
            return TransformersModel(where, directory)


def is_spacy_model(model: str) -> bool:
    """Return True if a model is a spaCy model. Raises PrivacyError if there is no model, or if its kind is unknown."""
    return _kind_of(name_model_directory(model)) == "spacy"


def name_model_directory(model: str) -> Path:
    """Return the directory of a model's files, without importing the model. Raises PrivacyError if no such package is
    installed, or if an absolute path has no name model."""
    if Path(model).is_absolute():
        _kind_of(Path(model))
        return Path(model)
    found = importlib.util.find_spec(model) if model.isidentifier() else None
    if found is None or found.origin is None:
        raise PrivacyError(
            f"The name model '{model}' is not installed.",
            f"Run `pip install {model.replace('_', '-')}` from the institution's own package mirror, or name a local "
            f"directory in privacy.name_models.",
        )
    return Path(found.origin).parent


def model_files(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a model's directory, by path. Signatures and compiled Python are left out."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return {
        file.relative_to(directory).as_posix(): file_sha256(file)
        for file in files
        if file.suffix != ".pyc" and not file.name.endswith(".sigstore.json")
    }


def files_digest(directory: Path) -> str:
    """Return the digest over the files of a model. A recipe may require this digest in `privacy.name_model_sha256`."""
    return digest_of(model_files(directory))


def name_model_parts(model: str) -> dict[str, str]:
    """Return a dict of everything that determines a model's findings: each file's SHA-256 and each library's version.
    Raises PrivacyError if there is no model, or if its kind is unknown."""
    directory = name_model_directory(model)
    return {
        **model_files(directory),
        **{f"library {name}": importlib.metadata.version(name) for name in LIBRARIES[_kind_of(directory)]},
    }


def _kind_of(directory: Path) -> ModelKind:
    """Return the kind of the model in a directory, as determined by the files there. Raises PrivacyError if the
    directory has no model, or a model that does not find entities."""
    if (directory / "meta.json").is_file():
        return "spacy"
    if (directory / SETTINGS).is_file():
        return "crf"
    if not (directory / "config.json").is_file():
        raise PrivacyError(
            f"{directory}: this directory contains no name model: neither meta.json (spaCy) nor config.json "
            f"(transformers) nor {SETTINGS} (trained here).",
            f"Run `hf download PUBLISHER/MODEL --local-dir {directory.name}` on a machine with internet access, then "
            f"copy the directory to {directory}. Or correct privacy.name_models in the recipe.",
        )
    try:
        architectures = json.loads((directory / "config.json").read_text()).get("architectures") or []
    except (ValueError, AttributeError):
        raise PrivacyError(
            f"{directory / 'config.json'}: this is not a model's configuration.", "Copy the model again."
        ) from None
    if any(str(each).endswith("ForTokenClassification") for each in architectures):
        return "transformers"
    raise PrivacyError(
        f"{directory}: this architecture ({', '.join(map(str, architectures)) or 'none'}) does not label tokens. "
        f"The architecture of a name model ends in ForTokenClassification.",
        "Use a model with such an architecture.",
    )
