"""Running a spaCy entity recognizer over many texts in half the time, with the same entities.

What belongs here: that alone. Loading a model and reading its labels is `name_models.py`.

spaCy 3.8 lets go of Python's lock around its whole parsing loop and takes it back in every small step to look for an
error (Cython 3's default for functions that may raise), which is most of the time that is spent. Here the same steps
are taken through spaCy's own methods with the lock held, a batch of texts of like length at a time.

The embedding's matrix products go to numpy instead of BLIS, spaCy's own, which takes twice as long. A row's last bit
then depends on the rows beside it; the entities do not, as far as was ever seen (docs/corpus-benchmark.md).
"""

from collections.abc import Iterator, Sequence
from typing import Any

BATCH_TEXTS = 128


def documents_with_entities(pipeline: Any, texts: Sequence[str]) -> Iterator[Any]:
    """The texts as spaCy documents with their entities set, in order. pipeline: a loaded `Language`.

    A pipeline that holds anything but one greedy entity recognizer is run as spaCy runs it.
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
    """What `EntityRecognizer.predict` and `set_annotations` do."""
    batch = recognizer.moves.init_batch(documents)
    model = recognizer.model.predict(documents)
    states = [state for state in batch if not state.is_final()]
    while states:
        states = recognizer.transition_states(states, model.predict(states))
    recognizer.set_annotations(documents, batch)
