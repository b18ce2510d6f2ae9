"""A spaCy model of names, and its entity recognizer run in half of spaCy's own time with the same entities.

spaCy 3.8 releases Python's lock around its whole parsing loop and takes it back in every small step to look for an
error (Cython 3's default for functions that may raise), which is most of the time that is spent. Here the same steps
are taken through spaCy's own methods with the lock held, a batch of texts of like length at a time.

The embedding's matrix products go to numpy instead of BLIS, spaCy's own, which takes twice as long. A row's last bit
then depends on the rows beside it; no entity was ever seen to (docs/benchmarks/corpus.md).
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sovereign_pipeline.privacy.names.entities import LABELS, Entity, cannot_be_loaded, refuse_without_persons

BATCH_TEXTS = 128


class SpacyModel:
    """A spaCy model, with only the parts that find entities."""

    def __init__(self, where: str, model: str | Path) -> None:
        """
        Args:
            where: what errors begin with.
            model: an installed package or a local directory.

        Raises PrivacyError.
        """
        import spacy

        try:
            with warnings.catch_warnings():
                # "trained with spaCy 3.7": the packaged model finds as much in 3.8, see docs/benchmarks/corpus.md.
                warnings.filterwarnings("ignore", message=r"\[W095\]")
                self._pipeline: Any = spacy.load(
                    model,
                    exclude=["tagger", "parser", "attribute_ruler", "lemmatizer", "senter", "morphologizer"],
                )
        except Exception as error:
            raise cannot_be_loaded(where, "spaCy", error) from error
        refuse_without_persons(where, (label for labels in self._pipeline.pipe_labels.values() for label in labels))
        _drop_unused_vectors(self._pipeline)

    def entities(self, texts: Sequence[str]) -> Iterator[list[Entity]]:
        """See `NameModel.entities`."""
        for document in documents_with_entities(self._pipeline, texts):
            yield [
                Entity(entity.start_char, entity.end_char, LABELS[entity.label_])
                for entity in document.ents
                if entity.label_ in LABELS
            ]


def _drop_unused_vectors(pipeline: Any) -> None:
    """Remove a shared tok2vec that the entity recognizer does not use: a third of the time for nothing."""
    if "tok2vec" in pipeline.pipe_names and "ner" in pipeline.pipe_names:
        listeners = pipeline.get_pipe("tok2vec").listening_components
        if "ner" not in listeners:
            pipeline.remove_pipe("tok2vec")


def documents_with_entities(pipeline: Any, texts: Sequence[str]) -> Iterator[Any]:
    """The texts as spaCy documents with their entities set, in order.

    A pipeline that holds anything but one greedy entity recognizer is run by spaCy itself.

    Args:
        pipeline: a loaded `spacy.Language`.
    """
    from spacy.pipeline import EntityRecognizer

    steps = [step for _, step in pipeline.pipeline]
    if len(steps) != 1 or not isinstance(steps[0], EntityRecognizer) or steps[0].cfg["beam_width"] != 1:
        yield from pipeline.pipe(texts, batch_size=BATCH_TEXTS)
        return
    _multiply_with_numpy(steps[0])
    documents = [pipeline.make_doc(text) for text in texts]
    by_length = sorted((document for document in documents if len(document)), key=len)
    for start in range(0, len(by_length), BATCH_TEXTS):
        _set_entities(steps[0], by_length[start : start + BATCH_TEXTS])
    yield from documents


def _multiply_with_numpy(recognizer: Any) -> None:
    from thinc.api import NumpyOps

    embedding = recognizer.model.layers[0]
    if getattr(embedding.ops, "use_blis", False):
        ops = NumpyOps(use_blis=False)
        for layer in embedding.walk():
            layer.ops = ops


def _set_entities(recognizer: Any, documents: Sequence[Any]) -> None:
    """Do what `EntityRecognizer.predict` and `set_annotations` do."""
    batch = recognizer.moves.init_batch(documents)
    model = recognizer.model.predict(documents)
    states = [state for state in batch if not state.is_final()]
    while states:
        states = recognizer.transition_states(states, model.predict(states))
    recognizer.set_annotations(documents, batch)
