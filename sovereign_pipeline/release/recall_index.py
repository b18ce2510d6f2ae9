"""Fill and rebuild the recall index, which lists the documents and sources of each dataset."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, exists, func, insert, select, update
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.record.audit_log import HINT, contents_digest
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import Adapter, DatasetDocument, DatasetSource, HeldDataset, HeldDocument
from sovereign_pipeline.registry.trained_on import read_dataset
from sovereign_pipeline.release.recall import training_data

_AT_ONCE = 10_000
"""Maximum number of names in one query. Both SQLite and PostgreSQL accept that many parameters."""


@dataclass(frozen=True)
class Rebuilt:
    """The result of rebuilding the index."""

    adapters: int
    datasets: int
    documents: int
    differing: tuple[str, ...]
    """Datasets whose index rows were missing or differed from the artifacts."""


def index_adapter(registry: Registry, store: ArtifactStore, adapter: Adapter) -> None:
    """Add the documents and sources of a registered adapter's datasets. A dataset already indexed is not read again.

    Raises:
        IntegrityError: a dataset is missing, was changed, or is not what the adapter's registration states.
    """
    with registry.reading() as session:
        datasets = training_data(session, adapter.id)[adapter.id].datasets
        known = set(session.scalars(select(HeldDataset.digest)))
    read = {each: _read(store, each, datasets[each]["contents"]) for each in datasets if each not in known}
    with registry.writing() as session:
        for digest, (documents, sources) in read.items():
            _enter_dataset(session, digest, documents, sources)


def rebuild(registry: Registry, store: ArtifactStore, progress: Callable[[str], None]) -> Rebuilt:
    """Read every dataset of every registered adapter again, and replace the index rows that differ.

    Each dataset is replaced in its own short transaction, so that other writers do not wait long.

    Raises:
        IntegrityError: a dataset is missing, was changed, or is not what a registration states. Rows replaced until
            then stay.
    """
    with registry.reading() as session:
        stated = training_data(session)
    contents = {digest: each["contents"] for data in stated.values() for digest, each in data.datasets.items()}
    differing: list[str] = []
    work = Countdown(progress, "reading the datasets", len(contents), "dataset")
    for done, (digest, expected) in enumerate(contents.items(), start=1):
        documents, sources = _read(store, digest, expected)
        with registry.writing() as session:
            if _enter_dataset(session, digest, documents, sources):
                differing.append(f"dataset {short(digest)}")
        work.reached(done)
    with registry.writing() as session:
        differing += _remove_others(session, contents)
        _count_documents_again(session)
        known = session.scalar(select(func.count()).select_from(HeldDocument)) or 0
    return Rebuilt(len(stated), len(contents), known, tuple(differing))


def _read(store: ArtifactStore, digest: str, contents: str) -> tuple[set[str], set[str]]:
    documents, sources = read_dataset(store, store.ref_of(digest))
    if contents_digest(documents, sources) != contents:
        raise IntegrityError(
            f"{store.path_of(digest)}: its documents and sources are not those that the registration of an adapter "
            f"states.",
            HINT,
        )
    return documents, sources


def _enter_dataset(session: Session, digest: str, documents: set[str], sources: set[str]) -> bool:
    """Set the index rows of a dataset. Returns True if they were missing or differed."""
    dataset = session.scalar(select(HeldDataset.id).where(HeldDataset.digest == digest))
    if dataset is not None:
        if _entered(session, dataset) == (documents, sources, len(documents), len(sources)):
            return False
        _remove_rows(session, dataset)
        session.execute(delete(HeldDataset).where(HeldDataset.id == dataset))
        is_new = False
    else:
        dataset, is_new = 1 + (session.scalar(select(func.max(HeldDataset.id))) or 0), True
    row = {"id": dataset, "digest": digest, "documents": len(documents), "sources": len(sources)}
    _insert(session, HeldDataset, [row])
    numbers = sorted(_numbers_of(session, documents))
    _insert(session, DatasetDocument, [{"document": number, "dataset": dataset} for number in numbers])
    if is_new:  # increment, do not recount: a recount would hide missing rows
        in_it = select(DatasetDocument.document).where(DatasetDocument.dataset == dataset)
        more = {"datasets": HeldDocument.datasets + 1}
        session.execute(update(HeldDocument).where(HeldDocument.id.in_(in_it)).values(more))
    _insert(session, DatasetSource, [{"source": source, "dataset": dataset} for source in sorted(sources)])
    return True


def _entered(session: Session, dataset: int) -> tuple[set[str], set[str], int, int]:
    """Return the documents and sources that the index has for a dataset, and the counts stored with it."""
    of_dataset = select(DatasetDocument.document).where(DatasetDocument.dataset == dataset)
    names = session.scalars(select(HeldDocument.name).where(HeldDocument.id.in_(of_dataset)))
    sources = session.scalars(select(DatasetSource.source).where(DatasetSource.dataset == dataset))
    counts = session.execute(select(HeldDataset.documents, HeldDataset.sources).where(HeldDataset.id == dataset)).one()
    return set(names), set(sources), counts.documents, counts.sources


def _count_documents_again(session: Session) -> None:
    """Set each document's dataset count to its number of rows. Call it after every dataset's rows were corrected."""
    in_all = select(func.count()).select_from(DatasetDocument).where(DatasetDocument.document == HeldDocument.id)
    counted = in_all.scalar_subquery()
    session.execute(update(HeldDocument).where(HeldDocument.datasets != counted).values(datasets=counted))


def _numbers_of(session: Session, names: Iterable[str]) -> list[int]:
    """Return the integer ids of documents. New ones get the next free ids; no other transaction writes meanwhile."""
    ordered, numbers = sorted(names), dict[str, int]()
    for start in range(0, len(ordered), _AT_ONCE):
        query = select(HeldDocument.name, HeldDocument.id).where(
            HeldDocument.name.in_(ordered[start : start + _AT_ONCE])
        )
        numbers.update((name, number) for name, number in session.execute(query))
    following = 1 + (session.scalar(select(func.max(HeldDocument.id))) or 0)
    new = [name for name in ordered if name not in numbers]
    _insert(session, HeldDocument, [{"id": following + place, "name": name} for place, name in enumerate(new)])
    return [*numbers.values(), *range(following, following + len(new))]


def _remove_others(session: Session, held: Collection[str]) -> list[str]:
    """Remove the datasets of no registered adapter, and their documents. Returns the names of those datasets."""
    superfluous = [each for each in session.scalars(select(HeldDataset)) if each.digest not in held]
    for row in superfluous:
        _remove_rows(session, row.id)
        session.execute(delete(HeldDataset).where(HeldDataset.id == row.id))
    in_none = ~exists().where(DatasetDocument.document == HeldDocument.id)
    session.execute(delete(HeldDocument).where(in_none))
    return [f"dataset {short(row.digest)}" for row in superfluous]


def _remove_rows(session: Session, dataset: int) -> None:
    session.execute(delete(DatasetDocument).where(DatasetDocument.dataset == dataset))
    session.execute(delete(DatasetSource).where(DatasetSource.dataset == dataset))


def _insert(session: Session, table: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(table.__table__), rows)
