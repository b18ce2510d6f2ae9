"""Which files of an artifact may leave the house in an evidence package: those without text of a document.

A file is shown where it stands in this list, so that a new kind of artifact shows its manifest and signatures alone.
What belongs here: that list, and reading these files verified. What does not: which artifacts a package needs
(`gathering.py`).
"""

import hashlib
from collections.abc import Iterator, Mapping

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.record.manifest import MANIFEST_FILE, ArtifactRef, Manifest
from sovereign_pipeline.record.sealing import bundles_of
from sovereign_pipeline.record.statements import SUFFIX
from sovereign_pipeline.record.store import ArtifactStore

SHOWN: Mapping[str, frozenset[str]] = {
    "raw_corpus": frozenset({"sources.json"}),
    "leakage_safe_split": frozenset({"proof.json"}),
    "training_dataset": frozenset({"card.json"}),
    "preference_dataset": frozenset({"card.json"}),
    "base_model": frozenset({"base_model.json"}),
    "evaluation_report": frozenset({"report.json"}),
    "gate_record": frozenset({"verdict.json"}),
    "gate_acceptance": frozenset({"acceptance.json", "acceptance.sigstore.json"}),
    "registered_adapter": frozenset({"record.json", "bill_of_materials.json"}),
    "review_plan": frozenset({"plan.json"}),
    "blind_review": frozenset({"review.json", "ballots.jsonl", "guesses.jsonl"}),
}
"""Kind of artifact -> its files with counts, digests and verdicts, and no text."""


def shown_files(store: ArtifactStore, ref: ArtifactRef, manifest: Manifest) -> Iterator[tuple[str, bytes]]:
    """Name and content of an artifact's manifest, its signatures, and the files of it that may be shown.

    Raises IntegrityError for a file that is not the one of the manifest, and for an artifact that nobody signed.
    """
    path = store.path_of(ref.digest)
    yield MANIFEST_FILE, (path / MANIFEST_FILE).read_bytes()
    shown = SHOWN.get(manifest.kind, frozenset())
    attested = {name.removesuffix(SUFFIX) for name in bundles_of(manifest)}
    for entry in manifest.files:
        if entry.path in shown:
            yield entry.path, read_shown(store, ref, manifest, entry.path)
    listed = {entry.path for entry in manifest.files}
    for name in sorted(attested):
        if name in shown or name not in listed:  # of the manifest, and of directories with weights
            yield name + SUFFIX, (path / (name + SUFFIX)).read_bytes()


def read_shown(store: ArtifactStore, ref: ArtifactRef, manifest: Manifest, name: str) -> bytes:
    """One file of an artifact that may be shown. Raises NotFoundError for any other, and IntegrityError for one that is
    not the file of the manifest."""
    path = store.path_of(ref.digest) / name
    entry = next((each for each in manifest.files if each.path == name), None)
    if entry is None or name not in SHOWN.get(manifest.kind, frozenset()):
        raise NotFoundError(f"{path}: this is no file of a {manifest.kind} that is shown.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise IntegrityError(f"{path}: the bytes are not the recorded ones.", "Restore the file.")
    return content
