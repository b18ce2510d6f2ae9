"""A transformers model of names: tokens with labels become whole words and entities.

What belongs here: loading, windows over long texts, label schemes. What does not: where models are (`name_models.py`).
"""

import bisect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.privacy.names.entities import LABELS, Entity, cannot_be_loaded, refuse_without_persons

BATCH_WINDOWS = 16
MAX_WINDOW = 512  # tokens; what models of this kind are trained on, whatever their positions would hold
_WORD = re.compile("[^\\W_](?:[^\\W_]|[\u0640\u064b-\u065f\u0670]|['’-](?=[^\\W_]))*")
_BETWEEN_WORDS = re.compile(" +")
_BETWEEN_PARTS = re.compile(r"\.? *")  # where the scheme says that the name goes on: "M. Said"
_SCHEME = re.compile(r"([BIESLUM])[-_](.+)")


class TransformersModel:
    """A transformers model that labels tokens (BIO, BIOES or plain labels), on the CPU in float32.

    A text longer than the model's window is read in windows that overlap by a quarter. Each word is classified in the
    window that holds most text around it, by the label of its first token, as in training on CoNLL (Devlin et al.
    2019, section 5.3).
    """

    def __init__(self, where: str, directory: Path) -> None:
        """
        Args:
            where: what errors begin with.
            directory: configuration, fast tokenizer, weights as safetensors.

        Raises PrivacyError.
        """
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        _refuse_pickle(where, directory)
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
            raise cannot_be_loaded(where, "transformers token-classification", error) from error
        absent = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
        if absent:
            raise PrivacyError(
                f"{where}: {len(absent)} weights are not in its files, {absent[0]} first, and would be random.",
                "Copy the model again, whole.",
            )
        if not self._tokenizer.is_fast:
            raise PrivacyError(
                f"{where}: its tokenizer does not tell where a token stands in the text.",
                "Save it once as a fast one: "
                "AutoTokenizer.from_pretrained(directory, use_fast=True).save_pretrained(directory).",
            )
        self._model = model.eval()
        self._labels = [_parsed(model.config.id2label[index]) for index in range(model.config.num_labels)]
        refuse_without_persons(where, (label for _, label in self._labels))
        self._window = _window(model.config, self._tokenizer)

    def entities(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """See `NameModel.entities`. Windows of all texts go through the model together, sorted by length."""
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
    """The words of one text, and for each the label from the window that held most text around it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans = [match.span() for match in _WORD.finditer(text)]
        self._starts = [start for start, _ in self._spans]
        self._labels: dict[int, tuple[int, int]] = {}  # word -> (tokens between it and the window's edge, label)

    def add_window(self, offsets: Sequence[tuple[int, int]], special: Sequence[int], labels: Sequence[int]) -> None:
        """Take the labels of one window, whose tokens are in reading order."""
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
        """The word that a token is in. A token may begin with the space before its word."""
        index = bisect.bisect_right(self._starts, max(start, end - 1)) - 1
        return index if index >= 0 and start < self._spans[index][1] else None

    def entities(self, labels: Sequence[tuple[str, str]]) -> list[Entity]:
        """Neighbouring words of one label, as one entity unless the scheme or a mark between them ends it.

        Args:
            labels: by the number of the model's output, each as (scheme, name).
        """
        found: list[Entity] = []
        open_end = -1  # where the entity that may continue ends
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
    """A label as (scheme, name): "B-PERS" is ("B", "PERS"), "PERS" is ("", "PERS")."""
    match = _SCHEME.fullmatch(label.upper())
    return (match[1], match[2]) if match else ("", label.upper())


def _window(config: Any, tokenizer: Any) -> int:
    """How many tokens a window holds. RoBERTa's relatives number positions from the padding index + 1: fewer remain."""
    positions = getattr(config, "max_position_embeddings", None)
    if not positions:
        return int(min(MAX_WINDOW, tokenizer.model_max_length))
    return int(min(MAX_WINDOW, tokenizer.model_max_length, positions - (config.pad_token_id or 0) - 1))


def _refuse_pickle(where: str, directory: Path) -> None:
    if any(directory.glob("*.safetensors")):
        return
    raise PrivacyError(
        f"{where}: its weights are not in safetensors. Pickled weights (pytorch_model.bin) are not read: loading them "
        f"can run any code.",
        "Convert them once where they may be trusted: AutoModelForTokenClassification.from_pretrained(directory)"
        ".save_pretrained(directory) writes model.safetensors.",
    )
