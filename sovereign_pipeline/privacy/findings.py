"""What a scrubbing counted, as `findings.json` keeps it: numbers and row ids, never text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.case_files import ScrubbedCase
from sovereign_pipeline.privacy.placeholders import AUTHOR, kind_of


@dataclass
class Findings:
    """Counts of one scrubbing."""

    documents: int = 0
    documents_touched: int = 0
    """With a replaced value in their text; the author alone does not count."""
    cases: int = 0
    characters: int = 0
    """Of all texts that were read."""
    searched: int = 0
    """Texts that no earlier scrubbing had searched."""
    by_language: dict[str, Counter[Kind]] = field(default_factory=dict)
    """Language -> kind -> replaced values."""
    kept: Counter[Kind] = field(default_factory=Counter)
    """Kind -> values that the policy leaves in the text."""
    ambiguous: list[dict[str, Any]] = field(default_factory=list)
    """Case and rows where a short name could be several people, so that it has a number of its own."""
    doubtful: dict[Kind, Counter[str]] = field(default_factory=dict)
    """Kind -> row -> values that were replaced though nothing but a look or the second reading tells them."""
    mapping_sha256: str = ""
    """Digest of all that went to the vault (`vault.mapping.MappingDigest`); empty until all of it is there."""

    @property
    def by_kind(self) -> Counter[Kind]:
        return sum(self.by_language.values(), Counter())

    def add(self, other: "Findings") -> None:
        self.documents += other.documents
        self.documents_touched += other.documents_touched
        self.cases += other.cases
        self.characters += other.characters
        self.searched += other.searched
        for language, kinds in other.by_language.items():
            self.by_language.setdefault(language, Counter()).update(kinds)
        self.kept.update(other.kept)
        self.ambiguous += other.ambiguous
        for kind, rows in other.doubtful.items():
            self.doubtful.setdefault(kind, Counter()).update(rows)

    def to_json(self, run: str) -> dict[str, Any]:
        """The content of `findings.json`.

        Args:
            run: fingerprint of the scrubbing, under which the vault has the originals.
        """
        return {
            "run": run,
            "mapping_sha256": self.mapping_sha256,
            "documents": self.documents,
            "documents_touched": self.documents_touched,
            "cases": self.cases,
            "by_kind": dict(sorted(self.by_kind.items())),
            "by_language": {lang: dict(sorted(kinds.items())) for lang, kinds in sorted(self.by_language.items())},
            "kept": dict(sorted(self.kept.items())),
            "doubtful": {
                kind: {"values": rows.total(), "rows": sorted(rows)} for kind, rows in sorted(self.doubtful.items())
            },
            "ambiguous_names": sorted(self.ambiguous, key=lambda entry: str(entry["case"])),
        }


def findings_of(before: Sequence[Document], case: ScrubbedCase) -> Findings:
    """The counts of one scrubbed case.

    Args:
        before: its documents as they were.
    """
    languages = {document.id: document.language for document in before}
    by_language: dict[str, Counter[Kind]] = {}
    for entry in case.mapping:
        by_language.setdefault(languages[entry.row], Counter())[kind_of(entry.placeholder)] += 1
    doubtful: dict[Kind, Counter[str]] = {}
    for row, kinds in case.doubtful.items():
        for kind, values in kinds.items():
            doubtful.setdefault(kind, Counter())[row] += values
    return Findings(
        documents=len(before),
        documents_touched=len({row.row for row in case.mapping if row.field != AUTHOR}),
        cases=1,
        characters=sum(len(text) for document in before for text in document.texts.values()),
        by_language=by_language,
        kept=case.kept,
        ambiguous=[{"case": before[0].case, "rows": case.ambiguous_rows}] if case.ambiguous_rows else [],
        doubtful=doubtful,
    )
