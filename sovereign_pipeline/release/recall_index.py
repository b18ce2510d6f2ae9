"""Fill and rebuild the recall index, which lists the datasets and documents that each adapter was trained on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, exists, func, insert, select, update
from sqlalchemy.orm import Session, load_only

from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import (
    Adapter,
    AdapterBaseModel,
    AdapterDataset,
    DatasetDocument,
    DatasetSource,
    HeldAdapter,
    HeldDataset,
    HeldDocument,
)
from sovereign_pipeline.registry.trained_on import TrainedOn, read_dataset, trained_on

_COLUMNS = (
    Adapter.adapter_digest,
    Adapter.manifest_sha256,
    Adapter.dataset_digest,
    Adapter.preference_dataset_digest,
    Adapter.base_model_digest,
)
_AT_ONCE = 10_000
"""Maximum number of names in one query. Both SQLite and PostgreSQL accept that many parameters."""


@dataclass(frozen=True)
class Rebuilt:
    """The result of rebuilding the index."""

    adapters: int
    datasets: int
    documents: int
    differing: tuple[str, ...]
    """Adapters and datasets whose index rows were missing or differed from the artifacts."""


def index_adapter(registry: Registry, store: ArtifactStore, adapter: Adapter) -> None:
    """Add a registered adapter's datasets, documents, sources and base models. A dataset already indexed is not read
    again.

    Raises:
        IntegrityError: an artifact of the lineage is missing or was changed.
    """
    holdings = _trained_on(store, adapter)
    with registry.reading() as session:
        known = set(session.scalars(select(HeldDataset.digest)))
    read = {ref.digest: read_dataset(store, ref) for ref in holdings.datasets if ref.digest not in known}
    with registry.writing() as session:
        for digest, (documents, sources) in read.items():
            _enter_dataset(session, digest, documents, sources)
        _enter_adapter(session, adapter.id, holdings)


def rebuild(registry: Registry, store: ArtifactStore, progress: Callable[[str], None]) -> Rebuilt:
    """Read every dataset of every registered adapter again, and replace the index rows that differ.

    Each dataset is replaced in its own short transaction, so that other writers do not wait long.

    Raises:
        IntegrityError: an artifact is missing or was changed. Rows replaced until then stay.
    """
    with registry.reading() as session:
        adapters = list(session.scalars(select(Adapter).options(load_only(*_COLUMNS)).order_by(Adapter.id)))
    holdings = {adapter.id: _trained_on(store, adapter) for adapter in adapters}
    datasets = {ref.digest: ref for each in holdings.values() for ref in each.datasets}
    differing: list[str] = []
    work = Countdown(progress, "reading the datasets", len(datasets), "dataset")
    for done, (digest, ref) in enumerate(datasets.items(), start=1):
        documents, sources = read_dataset(store, ref)
        with registry.writing() as session:
            if _enter_dataset(session, digest, documents, sources):
                differing.append(f"dataset {short(digest)}")
        work.reached(done)
    with registry.writing() as session:
        differing += [f"adapter {name}" for name, each in holdings.items() if _enter_adapter(session, name, each)]
        differing += _remove_others(session)
        _count_documents_again(session)
        known = session.scalar(select(func.count()).select_from(HeldDocument)) or 0
    return Rebuilt(len(adapters), len(datasets), known, tuple(differing))


def _trained_on(store: ArtifactStore, adapter: Adapter) -> TrainedOn:
    own = {adapter.dataset_digest, adapter.preference_dataset_digest}
    ref = store.ref_of(adapter.adapter_digest).model_copy(update={"manifest_sha256": adapter.manifest_sha256})
    return trained_on(store, ref, own, adapter.base_model_digest)


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


def _enter_adapter(session: Session, adapter: str, holdings: TrainedOn) -> bool:
    """Set the index rows of an adapter with indexed datasets. Returns True if they were missing or differed."""
    datasets = {
        session.scalars(select(HeldDataset.id).where(HeldDataset.digest == ref.digest)).one(): directly
        for ref, directly in holdings.datasets.items()
    }
    of_datasets = select(AdapterDataset).where(AdapterDataset.adapter == adapter)
    of_bases = select(AdapterBaseModel).where(AdapterBaseModel.adapter == adapter)
    counts = select(HeldAdapter.datasets, HeldAdapter.base_models).where(HeldAdapter.adapter == adapter)
    said = (
        {row.dataset: row.directly for row in session.scalars(of_datasets)},
        {row.base_model: row.directly for row in session.scalars(of_bases)},
        session.execute(counts).one_or_none(),
    )
    entered = (len(datasets), len(holdings.base_models))
    if said == (datasets, holdings.base_models, entered):
        return False
    _remove_adapter(session, adapter)
    _insert(session, HeldAdapter, [{"adapter": adapter, "datasets": entered[0], "base_models": entered[1]}])
    rows = [{"dataset": each, "adapter": adapter, "directly": directly} for each, directly in datasets.items()]
    _insert(session, AdapterDataset, rows)
    bases = holdings.base_models.items()
    rows_of_bases = [{"base_model": each, "adapter": adapter, "directly": directly} for each, directly in bases]
    _insert(session, AdapterBaseModel, rows_of_bases)
    return True


def _remove_others(session: Session) -> list[str]:
    """Remove rows that no registered adapter leads to. Returns the names of the removed adapters and datasets."""
    columns = (AdapterDataset.adapter, AdapterBaseModel.adapter, HeldAdapter.adapter)
    indexed = {each for column in columns for each in session.scalars(select(column))}
    of_none = sorted(indexed - set(session.scalars(select(Adapter.id))))
    for adapter in of_none:
        _remove_adapter(session, adapter)
    is_held = exists().where(AdapterDataset.dataset == HeldDataset.id)
    superfluous = list(session.scalars(select(HeldDataset).where(~is_held)))
    for row in superfluous:
        _remove_rows(session, row.id)
        session.execute(delete(HeldDataset).where(HeldDataset.id == row.id))
    in_none = ~exists().where(DatasetDocument.document == HeldDocument.id)
    session.execute(delete(HeldDocument).where(in_none))
    return [*(f"adapter {each}" for each in of_none), *(f"dataset {short(row.digest)}" for row in superfluous)]


def _remove_adapter(session: Session, adapter: str) -> None:
    session.execute(delete(AdapterDataset).where(AdapterDataset.adapter == adapter))
    session.execute(delete(AdapterBaseModel).where(AdapterBaseModel.adapter == adapter))
    session.execute(delete(HeldAdapter).where(HeldAdapter.adapter == adapter))


def _remove_rows(session: Session, dataset: int) -> None:
    session.execute(delete(DatasetDocument).where(DatasetDocument.dataset == dataset))
    session.execute(delete(DatasetSource).where(DatasetSource.dataset == dataset))


def _insert(session: Session, table: Any, rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(table.__table__), rows)
