"""Verify the hashes of an adapter or a dataset and of everything upstream of it."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from sovereign_pipeline.base.errors import IntegrityError, SovereignError
from sovereign_pipeline.base.files import file_sha256, short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import Countdown, counted, silent
from sovereign_pipeline.base_models.stages import BASE_MODEL, WEIGHTS, artifacts_of, open_base_model
from sovereign_pipeline.corpus.columns import ColumnScreen
from sovereign_pipeline.corpus.stages import DOCUMENTS, RAW_CORPUS, ChangedSource, changed_sources, read_sources
from sovereign_pipeline.dataset.jsonl import CARD, CARD_FOR_PEOPLE
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import Line, load_line
from sovereign_pipeline.privacy.corrections import NO_WORDS, load_word_lists
from sovereign_pipeline.privacy.detection import column_secret, kinds_in_columns
from sovereign_pipeline.record import catalog
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.gates import GATE_RECORD, GATE_WAIVER, read_waiver
from sovereign_pipeline.record.manifest import MANIFEST_FILE, ArtifactRef, confined_files
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.store import Artifact, ArtifactStore, lineage
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.record import RECORD_FILE, AdapterRecord, disagreements, read_record
from sovereign_pipeline.registry.registration import assert_parent_is_registered, dataset_facts
from sovereign_pipeline.suites.cards import load_suite_card, suite_files, suite_folder
from sovereign_pipeline.suites.rows import digest_of_items, identity_of_suite, prompt_files
from sovereign_pipeline.training.tuned_model import stated_weights, tuned_model


@dataclass(frozen=True)
class Checked:
    """An artifact or a set of files whose bytes all match the recorded digests."""

    what: str
    digest: str
    path: str
    files: int
    bytes: int
    """Total size; for an artifact, including manifest and signatures."""


@dataclass(frozen=True)
class Withheld:
    """Files with unscrubbed text that were not verified, because the corpus root is not readable on this machine."""

    what: str
    digest: str
    files: int
    bytes: int

    def __str__(self) -> str:
        files = counted(self.files, "file")
        return f"{self.what} {short(self.digest)}: {files} with unscrubbed text not readable here, so not verified"


Examined = Checked | ChangedSource | str
"""The result for a source file or suite: a verified file, a changed source file, or a note about a changed suite."""


def examine_sources(settings: Settings, raw_corpus: Artifact) -> Iterator[Checked | ChangedSource]:
    """Yield a result for each of the institution's source files from which a raw corpus was built."""
    sources = read_sources(raw_corpus)
    documents = raw_corpus.file(DOCUMENTS) if not raw_corpus.withheld else None
    config = raw_corpus.manifest.producer.config
    words = load_word_lists(settings.data, raw_corpus.manifest.line) if documents is not None else NO_WORDS
    secret = partial(column_secret, settings, create=False)
    screen = ColumnScreen.of(config, partial(kinds_in_columns, words=words), secret)
    found = changed_sources(settings.data, raw_corpus.manifest, sources, documents, screen)
    changed = {each.name: each for each in found}
    for source in sources:
        path = settings.data / source["path"]
        yield changed.get(source["name"]) or _checked("source_file", source["sha256"], path, [path])


def examine_suites(settings: Settings, ancestors: Iterable[Artifact]) -> Iterator[Checked | str]:
    """Yield a result for each suite and each red-team file with which an adapter was scored. A manifest has only a
    suite's name and digest, so the path comes from today's recipe.

    Args:
        ancestors: the artifacts in the lineage of the adapter's record.
    """
    for artifact in ancestors:
        if artifact.manifest.kind not in (CAPABILITY_SCORES.kind, RED_TEAM_REPORT.kind):
            continue
        name = artifact.manifest.line
        try:
            line = load_line(settings.data, name, load_institution(settings.data))
        except SovereignError as error:
            yield f"Line {name}: the suites were not read, because the recipe is unreadable: {error.message}"
            continue
        for suite, recorded in artifact.manifest.external_inputs.items():
            if ":" not in suite:  # an input whose name has no colon is an incumbent
                yield _examine_suite(settings, line, artifact.manifest.kind, suite, recorded)


def _examine_suite(settings: Settings, line: Line, kind: str, name: str, recorded: str) -> Checked | str:
    subject = f"'{name}' of {kind} ({short(recorded)})"
    try:
        found = _find_suite(settings, line, kind, name)
    except SovereignError as error:
        return f"{subject} is not readable: {error.message}"
    if found is None:
        return f"Line {line.line}: {subject} is no longer in the recipe."
    if found.digest != recorded:
        return f"{found.path}: {subject} has changed since it was used."
    return _checked("suite_file", recorded, found.path, found.files)


@dataclass(frozen=True)
class _Suite:
    path: Path
    digest: str
    files: list[Path]


def _find_suite(settings: Settings, line: Line, kind: str, name: str) -> _Suite | None:
    """Return the suite with this name in today's recipe, or None. Raises SovereignError if the suite's file is missing
    or damaged."""
    if kind == RED_TEAM_REPORT.kind:
        red_team = line.named_evaluation.red_team
        named = {**prompt_files(settings.data, red_team), "judge_labels": settings.data / red_team.judge_labels}
        if name not in named:
            return None
        path = named[name]
        return _Suite(path, digest_of_items(path), [path])
    entry = next((each for each in line.named_evaluation.capability if each.name == name), None)
    if entry is None:
        return None
    digest = identity_of_suite(settings, entry)
    if entry.suite is None:
        path = settings.data / entry.own_path
        return _Suite(path, digest, [path])
    card = load_suite_card(settings, entry.suite)
    return _Suite(suite_folder(settings, card), digest, list(suite_files(settings, card).values()))


def _checked(what: str, digest: str, path: Path, files: list[Path]) -> Checked:
    return Checked(what, digest, str(path), len(files), sum(file.stat().st_size for file in files))


@dataclass(frozen=True)
class CardOfDataset:
    facts: dict[str, Any]
    markdown: str
    """The card as Markdown."""


def card_of_dataset(store: ArtifactStore, row: dict[str, Any]) -> CardOfDataset:
    """Return the registered data card of a dataset. Raises NotFoundError if the store lacks the artifact, and
    IntegrityError if a file was changed or the card is not the registered one.

    Args:
        row: the dataset's row, as returned by `show_dataset`.
    """
    artifact = open_dataset(store, row)
    file = artifact.file(CARD)
    if row["card_sha256"] != file_sha256(file):
        raise IntegrityError(f"{file}: this is not the registered data card.", "Restore the registry from a copy.")
    return card_of(artifact)


def card_of(artifact: Artifact) -> CardOfDataset:
    """Return the data card of an opened dataset."""
    facts = json.loads(artifact.file(CARD).read_bytes())
    return CardOfDataset(facts, artifact.file(CARD_FOR_PEOPLE).read_text(encoding="utf-8"))


def open_dataset(store: ArtifactStore, row: dict[str, Any]) -> Artifact:
    """Open and verify the artifact of a registered dataset. Raises NotFoundError if the artifact is missing, and
    IntegrityError if a file changed."""
    return store.open(ArtifactRef(**{name: row[name] for name in ("kind", "line", "digest", "manifest_sha256")}))


Outcome = Literal["verified", "sources changed", "corpus withheld", "weights purged"]


@dataclass(frozen=True)
class Purged:
    """Weights that an officer's signed purge removed from disk."""

    what: str
    """Artifact kind."""
    digest: str
    """Artifact digest."""
    adapter: str
    """Id of the adapter whose weights the officer purged."""
    files: int
    bytes: int
    on: str
    """Day of the purge, ISO 8601."""
    by: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.what} {short(self.digest)}: weights purged on {self.on} by {self.by} "
            f"({counted(self.files, 'file')}, {self.bytes:,} bytes; {self.adapter}): {self.reason}"
        )


Read = Checked | Withheld | Purged
Open = Callable[[ArtifactRef], Artifact]


@dataclass(frozen=True)
class VerificationReport:
    subject: str
    """Id of the adapter, or digest of the dataset."""
    checked: tuple[Checked, ...]
    withheld: tuple[Withheld, ...]
    """Files with unscrubbed text that were not readable here. The manifests with the digests of these files were
    verified."""
    changed_sources: tuple[ChangedSource, ...]
    """Source files that are missing or have changed. The artifacts built from these files were still verified."""
    purged: tuple[Purged, ...]
    """Weights that an officer purged. The manifests that list these weights were verified."""
    notes: tuple[str, ...]
    """Differences that are not errors, such as a suite that changed after the adapter was scored."""

    @property
    def parts(self) -> list[Read | Examined]:
        return [*self.checked, *self.withheld, *self.changed_sources, *self.purged, *self.notes]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Return `verified`, followed by `sources changed`, `corpus withheld` and `weights purged` if they apply."""
        further: dict[Outcome, object] = {
            "sources changed": self.changed_sources,
            "corpus withheld": self.withheld,
            "weights purged": self.purged,
        }
        return ("verified", *(outcome for outcome, parts in further.items() if parts))

    @property
    def files(self) -> int:
        return sum(each.files for each in self.checked)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.checked)

    def to_dict(self) -> dict[str, Any]:
        return {"outcomes": self.outcomes, **asdict(self), "files": self.files, "bytes": self.bytes}


def verify_adapter(
    registry: Registry,
    store: ArtifactStore,
    settings: Settings,
    adapter_id: str,
    progress: Progress = silent,
) -> VerificationReport:
    """Hash everything upstream of an adapter, and compare its registry row with its record.

    Verifies the parent adapter in the same way. Reports a changed source file with its changed rows, and a changed
    suite as a note. Raises IntegrityError at the first file, manifest or fact that differs from the registered one, and
    NotFoundError if the adapter is not registered.
    """
    row = catalog.find_adapter(registry, adapter_id)
    artifact = store.open(row.record_ref)
    record = read_record(artifact)
    checked: list[Read] = [*_checked_verification(artifact)]
    _assert_row_is_of_record(registry, row, record, artifact)
    opened = _opening(registry, store, settings)
    ancestors = _open_lineage(store, artifact, progress, opened)
    checked += [part for each in ancestors for part in _checked_verification(each)]
    _assert_adapter_is_registered_one(row, next(each for each in ancestors if each.ref.digest == row.adapter_digest))
    checked += _gate_records(registry, store, row, record, artifact)
    differing = disagreements(store, record, artifact.manifest)
    if differing:
        raise IntegrityError(f"{artifact.path / RECORD_FILE}: {'; '.join(differing)}.", "Register the adapter again.")
    base_model = next(each for each in ancestors if each.manifest.kind == BASE_MODEL.kind)
    checked.append(_base_model(settings, record, base_model, progress))
    examined = [*_examine_sources(settings, ancestors), *examine_suites(settings, ancestors)]
    checked += _purged(registry, settings, ancestors)
    for origin in _origins(store, base_model, progress, opened):
        checked += [*_checked_verification(origin), *_purged(registry, settings, [origin])]
        examined += _examine_sources(settings, [origin])
    report = _report(adapter_id, [*checked, *examined])
    if record.parent_adapter is None:
        return report
    assert_parent_is_registered(registry, record, artifact)
    parent = verify_adapter(registry, store, settings, record.parent_adapter.adapter, progress)
    return _report(adapter_id, [*report.parts, *parent.parts])


def verify_dataset(
    registry: Registry, store: ArtifactStore, settings: Settings, digest: str, progress: Progress = silent
) -> VerificationReport:
    """Hash a registered dataset and everything upstream of it, and compare its registry row with its card and files.
    Reports changed source files. Raises IntegrityError for any other change, and NotFoundError for an unknown dataset.

    Args:
        digest: digest of the dataset, or a prefix.
    """
    row = catalog.show_dataset(registry, digest)
    artifact = open_dataset(store, row)
    ancestors = _open_lineage(store, artifact, progress, store.open_as_given)
    _assert_row_is_of_dataset(row, artifact, [each for raw in _raw_corpora(ancestors) for each in read_sources(raw)])
    checked = [part for each in (artifact, *ancestors) for part in _checked_verification(each)]
    return _report(row["digest"], [*checked, *_examine_sources(settings, ancestors)])


def _report(subject: str, parts: Iterable[Read | Examined]) -> VerificationReport:
    """Build the report. An artifact that belongs to several lineages is listed once."""
    found = dict.fromkeys(parts)
    return VerificationReport(
        subject,
        tuple(each for each in found if isinstance(each, Checked)),
        tuple(each for each in found if isinstance(each, Withheld)),
        tuple(each for each in found if isinstance(each, ChangedSource)),
        tuple(each for each in found if isinstance(each, Purged)),
        tuple(each for each in found if isinstance(each, str)),
    )


def _opening(registry: Registry, store: ArtifactStore, settings: Settings) -> Open:
    """Return a function that opens and verifies an artifact. The function accepts missing weights if an officer purged
    them."""

    def opened(ref: ArtifactRef) -> Artifact:
        with registry.reading() as session:
            if not catalog.purges_of(session, ref.digest):
                return store.open_as_given(ref)
            on_record = catalog.files_purged(session, trust_root(settings), ref.digest)
        return store.open_without(ref, [path for path in on_record if PurePosixPath(path).suffix.lower() in WEIGHTS])

    return opened


def _purged(registry: Registry, settings: Settings, artifacts: Iterable[Artifact]) -> Iterator[Purged]:
    """Yield the purged weights of artifacts, one result for each purge."""
    for artifact in artifacts:
        if not artifact.purged:
            continue
        with registry.reading() as session:
            on_record = catalog.files_purged(session, trust_root(settings), artifact.ref.digest)
        for purge in {on_record[entry.path].adapter: on_record[entry.path] for entry in artifact.purged}.values():
            gone = [entry for entry in artifact.purged if on_record[entry.path] == purge]
            yield Purged(
                what=artifact.manifest.kind,
                digest=artifact.ref.digest,
                adapter=purge.adapter,
                files=len(gone),
                bytes=sum(entry.size for entry in gone),
                on=purge.at.date().isoformat(),
                by=purge.officer,
                reason=purge.reason,
            )


def _open_lineage(store: ArtifactStore, artifact: Artifact, progress: Progress, opening: Open) -> list[Artifact]:
    """Open every artifact upstream of an artifact and verify every file."""
    refs = [ref for ref, _ in lineage(store, artifact.manifest)]
    work = Countdown(progress, f"hashing the lineage of {artifact.manifest.kind}", len(refs), "artifact")
    opened = []
    for done, ref in enumerate(refs, start=1):
        opened.append(opening(ref))
        work.reached(done)
    return opened


def _origins(store: ArtifactStore, base_model: Artifact, progress: Progress, opening: Open) -> Iterator[Artifact]:
    """Yield the artifacts from which this installation built a base model, and everything upstream of them."""
    for ref, _ in artifacts_of(store, base_model.manifest.external_inputs):
        artifact = opening(ref)
        ancestors = _open_lineage(store, artifact, progress, opening)
        yield from (artifact, *ancestors)
        for each in ancestors:
            if each.manifest.kind == BASE_MODEL.kind:
                yield from _origins(store, each, progress, opening)


def _raw_corpora(ancestors: Iterable[Artifact]) -> Iterator[Artifact]:
    return (each for each in ancestors if each.manifest.kind == RAW_CORPUS.kind)


def _examine_sources(settings: Settings, ancestors: Iterable[Artifact]) -> Iterator[Checked | ChangedSource]:
    for raw in _raw_corpora(ancestors):
        yield from examine_sources(settings, raw)


def _checked_verification(artifact: Artifact) -> Iterator[Read]:
    """Yield a result for the artifact's directory in the store. Yield a second result for its directory under the
    corpus root, if it has one."""
    manifest, kind, digest = artifact.manifest, artifact.manifest.kind, artifact.ref.digest
    apart = () if artifact.confined == artifact.path else confined_files(manifest)
    sizes = [entry.size for entry in manifest.files if entry not in (*apart, *artifact.purged)]
    beside = (MANIFEST_FILE, *artifact.bundles)  # the manifest and the signatures, which no manifest lists
    sizes += [(artifact.path / name).stat().st_size for name in beside]
    yield Checked(kind, digest, str(artifact.path), len(sizes), sum(sizes))
    if not apart:
        return
    files, size = len(apart), sum(entry.size for entry in apart)
    if artifact.confined is None:
        yield Withheld(kind, digest, files, size)
    else:
        yield Checked(kind, digest, str(artifact.confined), files, size)


def _assert_row_is_of_record(registry: Registry, row: Adapter, record: AdapterRecord, artifact: Artifact) -> None:
    expected: dict[str, Any] = {"id": f"{record.line}-{row.version}", **record.row_facts}
    manifests = artifact.manifest.circumstances.input_manifests
    expected["manifest_sha256"] = manifests["aligned_adapter"]
    wrong = [name for name, value in expected.items() if getattr(row, name) != value]
    shown = catalog.show_adapter(registry, row.id)
    datasets = {each["digest"]: each for each in shown["datasets"]}
    for dataset in record.datasets:
        facts = dataset.model_dump(mode="json", exclude={"file"})
        wrong += [f"dataset.{name}" for name, value in facts.items() if datasets[dataset.digest][name] != value]
    base = record.base_model.model_dump(mode="json")
    wrong += [f"base_model.{name}" for name, value in base.items() if shown["base"][name] != value]
    _assert_none_differs(
        wrong, f"{artifact.path / RECORD_FILE}: the registry's row of {row.id} differs from the record"
    )


def _assert_row_is_of_dataset(row: dict[str, Any], artifact: Artifact, sources: list[dict[str, Any]]) -> None:
    facts = dataset_facts(artifact, sources).model_dump(mode="json", exclude={"file"})
    wrong = [name for name, value in facts.items() if row[name] != value]
    row_of = f"the registry's row of dataset {short(row['digest'])}"
    _assert_none_differs(wrong, f"{artifact.path}: {row_of} differs from the artifact")


def _assert_none_differs(names: Sequence[str], problem: str) -> None:
    if names:
        raise IntegrityError(
            f"{problem} in {', '.join(names)}. Another program changed the registry.",
            "Restore the registry from a copy.",
        )


def _assert_adapter_is_registered_one(row: Adapter, adapter: Artifact) -> None:
    circumstances, tuned = adapter.manifest.circumstances, tuned_model(adapter)
    weights = stated_weights(adapter.manifest) if adapter.purged else tuned.weights_sha256
    same = (
        weights == row.adapter_sha256
        and adapter.ref.manifest_sha256 == row.manifest_sha256
        and circumstances.source_sha256 == row.source_sha256
    )
    if not same:
        raise IntegrityError(f"{tuned.directory}: this is not the adapter that is registered as {row.id}.")


def _gate_records(
    registry: Registry, store: ArtifactStore, row: Adapter, record: AdapterRecord, artifact: Artifact
) -> Iterator[Read]:
    """Verify each gate's record and waiver, and yield a result for each. Raises IntegrityError if a file was changed,
    if an officer's signature is invalid, or if registry row and adapter record differ in a gate record or waiver."""
    registered = {(each["stage"], each["gate"], each["digest"]): each for each in row.gate_records}
    named = {(each.stage, each.gate, each.record): each.waiver for each in record.gates}
    missing = named.keys() - registered.keys()
    if missing:
        raise IntegrityError(
            f"{artifact.path / RECORD_FILE}: it contains {counted(len(missing), 'gate record')} that the registry's "
            f"row of {row.id} lacks.",
            "Restore the registry from a copy.",
        )
    for key, each in registered.items():
        yield from _checked_verification(store.open(_registered_ref(row, GATE_RECORD, each)))
        in_record, in_registry = named.get(key), dict(each.get("waiver") or {})
        if in_registry:
            yield from _checked_verification(_waiver(registry, store, row, in_registry))
            del in_registry["manifest_sha256"]
        if in_registry != (in_record.model_dump(mode="json") if in_record is not None else {}):
            raise IntegrityError(
                f"{artifact.path / RECORD_FILE}: this record and the registry's row of {row.id} disagree on the waiver "
                f"of gate '{each['gate']}'.",
                "Restore the registry from a copy.",
            )


def assert_waivers_count(registry: Registry, store: ArtifactStore, row: Adapter) -> None:
    """Verify the officers' signatures of an adapter's gate waivers. Raises IntegrityError if a signature is invalid, or
    if its key was revoked before the waiver."""
    for each in row.gate_records:
        if "waiver" in each:
            _waiver(registry, store, row, each["waiver"])


def _waiver(registry: Registry, store: ArtifactStore, row: Adapter, entry: dict[str, Any]) -> Artifact:
    waiver = store.open(_registered_ref(row, GATE_WAIVER, entry))
    read_waiver(store, registry.settings, catalog.LedgerWaivers(lambda: registry), waiver)
    return waiver


def _registered_ref(row: Adapter, kind: str, entry: dict[str, Any]) -> ArtifactRef:
    return ArtifactRef(kind=kind, line=row.line, digest=entry["digest"], manifest_sha256=entry["manifest_sha256"])


def _base_model(settings: Settings, record: AdapterRecord, artifact: Artifact, progress: Progress) -> Checked:
    directory = open_base_model(settings, artifact, progress)
    files = record.base_model.files
    size = sum((directory / file.name).stat().st_size for file in files)
    return Checked("base_model_files", record.base_model.digest, str(directory), len(files), size)
