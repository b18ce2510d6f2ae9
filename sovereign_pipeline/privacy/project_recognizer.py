"""Offer this project's detectors as a Presidio recognizer.

This module imports Presidio. Import it inside functions only.
"""

from collections.abc import Collection

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.personal_data import KINDS
from sovereign_pipeline.privacy.added_recognizers import ENTITY_OF, KIND_OF
from sovereign_pipeline.privacy.detection import Detector, Text
from sovereign_pipeline.privacy.names.name_models import without_torch

with without_torch():
    from presidio_analyzer import EntityRecognizer, RecognizerResult
    from presidio_analyzer.nlp_engine import NlpArtifacts


class ProjectRecognizer(EntityRecognizer):
    """This project's detectors as one recognizer for any Presidio analyzer:

    analyzer.registry.add_recognizer(ProjectRecognizer("en"))
    """

    def __init__(self, language: str, privacy: Privacy | None = None) -> None:
        """
        Args:
            privacy: the recipe's section; by default, names are found by patterns alone.
        """
        recipe = privacy if privacy is not None else Privacy(name_models={}, patterns_only=(language,))
        self._detector = Detector(recipe, dict.fromkeys(KINDS, "replace"))
        super().__init__(list(KIND_OF), supported_language=language)

    def load(self) -> None:
        """Do nothing: detectors are loaded with the first text."""

    def analyze(
        self, text: str, entities: Collection[str], nlp_artifacts: NlpArtifacts | None = None
    ) -> list[RecognizerResult]:
        read = Text.of(self.supported_language, True, text)
        found = self._detector.find([read])[read.key]
        return [
            RecognizerResult(
                ENTITY_OF[span.kind],
                *read.normalised.original_span(span.start, span.end),
                1.0 if span.labelled else 0.6 if span.by_length else 0.85,
            )
            for span in found
            if ENTITY_OF[span.kind] in entities
        ]
