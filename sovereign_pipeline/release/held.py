"""Asking the index of what registered adapters hold. An index that lacks an adapter, or a row, answers nothing.

Each row that an answer could rest on is counted where it is looked for, and how many there were is kept beside. Whoever
takes a row away and changes the count too is found by rebuilding the index.

What belongs here: questions, and the SQL that answers them. What does not: filling the index from the artifacts
(`holdings.py`), and what follows from an answer (`recall.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.ledger.lifecycle_tables import (
    AdapterBaseModel,
    AdapterDataset,
    DatasetDocument,
    DatasetSource,
    HeldAdapter,
    HeldDataset,
    HeldDocument,
)
from sovereign_pipeline.ledger.tables import Adapter


@dataclass(frozen=True)
class Question:
    """What is looked for: one of the four, or a document of one source."""

    document: str | None = None
    source: str | None = None
    dataset: str | None = None
    base_model: str | None = None

    @property
    def given(self) -> dict[str, str]:
        """What is asked for, by its name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __str__(self) -> str:
        names = {"base_model": "base model"}
        shown = (
            short(value) if name in ("dataset", "base_model") else f"'{value}'" for name, value in self.given.items()
        )
        return " of ".join(f"{names.get(name, name)} {value}" for name, value in zip(self.given, shown, strict=True))


def assert_complete(session: Session, adapter_id: str | None = None) -> None:
    """Assert that the index knows of every registered adapter, or of one, the base model and the datasets that its row
    states, and has as many as were entered: an answer would lack it.

    Raises IntegrityError naming those that it does not know.
    """
    on_base = exists().where(
        AdapterBaseModel.base_model == Adapter.base_model_digest, AdapterBaseModel.adapter == Adapter.id
    )
    preferred = or_(Adapter.preference_dataset_digest.is_(None), _on(Adapter.preference_dataset_digest))
    known = and_(on_base, _on(Adapter.dataset_digest), preferred, _has_all_rows())
    lacking = select(Adapter.id).where(~known).order_by(Adapter.id)
    if adapter_id is not None:
        lacking = lacking.where(Adapter.id == adapter_id)
    if found := list(session.scalars(lacking)):
        raise _incomplete(f"adapter {each}" for each in found)
    _assert_sources_counted(session)


def _on(digest: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """Whether the index has an adapter on this dataset."""
    return exists().where(
        HeldDataset.digest == digest, AdapterDataset.dataset == HeldDataset.id, AdapterDataset.adapter == Adapter.id
    )


def _has_all_rows() -> ColumnElement[bool]:
    """Whether the index has as many rows of an adapter as were entered, and each dataset that they name."""
    datasets = (
        select(func.count())
        .select_from(AdapterDataset)
        .join(HeldDataset, HeldDataset.id == AdapterDataset.dataset)
        .where(AdapterDataset.adapter == HeldAdapter.adapter)
    )
    of_adapter = AdapterBaseModel.adapter == HeldAdapter.adapter
    base_models = select(func.count()).select_from(AdapterBaseModel).where(of_adapter)
    return exists().where(
        HeldAdapter.adapter == Adapter.id,
        HeldAdapter.datasets == datasets.scalar_subquery(),
        HeldAdapter.base_models == base_models.scalar_subquery(),
    )


def _assert_sources_counted(session: Session) -> None:
    of_dataset = select(DatasetSource.dataset, func.count()).group_by(DatasetSource.dataset)
    found = {dataset: count for dataset, count in session.execute(of_dataset)}
    for dataset, digest, sources in session.execute(select(HeldDataset.id, HeldDataset.digest, HeldDataset.sources)):
        if found.get(dataset, 0) != sources:
            raise _incomplete([f"sources of dataset {short(digest)}"])


def _assert_document_counted(session: Session, name: str) -> None:
    """Assert that no row about a document is gone. Raises IntegrityError."""
    known = select(HeldDocument.id, HeldDocument.datasets).where(HeldDocument.name == name)
    row = session.execute(known).one_or_none()
    if row is None:  # its own row may be the one that is gone
        of_documents = session.scalar(select(func.sum(HeldDocument.datasets)))
        if of_documents != session.scalar(select(func.sum(HeldDataset.documents))):
            raise _incomplete(["documents"])
        return
    pairs = select(func.count()).select_from(DatasetDocument).where(DatasetDocument.document == row.id)
    if session.scalar(pairs) != row.datasets:
        raise _incomplete([f"datasets of document {name}"])


def holders(session: Session, question: Question) -> dict[str, bool]:
    """The adapters that hold what is asked for -> whether they hold it directly. `question`: exact, as stored.

    Raises IntegrityError where a row about it is gone.
    """
    if question.document is not None:
        _assert_document_counted(session, question.document)
    return {
        adapter: bool(directly) for adapter, directly in session.execute(text(holders_query(question)), question.given)
    }


def holders_query(question: Question) -> str:
    """The SQL of `holders`. What is looked for comes first, materialized: else SQLite scans the large tables."""
    if question.base_model is not None:
        return "SELECT adapter, directly FROM adapter_base_model WHERE base_model = :base_model"
    return (
        f"WITH found AS MATERIALIZED ({_datasets_query(question)}) "
        "SELECT adapter, MAX(CASE WHEN directly THEN 1 ELSE 0 END) FROM adapter_dataset "
        "WHERE dataset IN (SELECT dataset FROM found) GROUP BY adapter"
    )


def holds(session: Session, adapter_id: str, question: Question) -> bool:
    """Whether one adapter holds what is asked for. Raises IntegrityError for one that the index does not know, and
    where a row about it is gone."""
    assert_complete(session, adapter_id)
    if question.document is not None:
        _assert_document_counted(session, question.document)
    if question.base_model is not None:
        return session.get(AdapterBaseModel, (question.base_model, adapter_id)) is not None
    own = select(AdapterDataset.dataset).where(AdapterDataset.adapter == adapter_id)
    return any(_dataset_fits(session, dataset, question) for dataset in session.scalars(own))


def _dataset_fits(session: Session, dataset: int, question: Question) -> bool:
    """Whether a dataset is, or has, all that is asked for. Each look-up is of one key."""
    if question.dataset is not None:
        row = session.get(HeldDataset, dataset)
        return row is not None and row.digest == question.dataset
    if question.source is not None and session.get(DatasetSource, (question.source, dataset)) is None:
        return False
    if question.document is None:
        return True
    document = session.scalar(select(HeldDocument.id).where(HeldDocument.name == question.document))
    return document is not None and session.get(DatasetDocument, (document, dataset)) is not None


def _datasets_query(question: Question) -> str:
    of_source = "SELECT dataset FROM dataset_source WHERE source = :source"
    if question.dataset is not None:
        return "SELECT id AS dataset FROM held_dataset WHERE digest = :dataset"
    if question.document is None:
        return of_source
    of_document = (
        "SELECT dataset FROM dataset_document WHERE document = (SELECT id FROM document WHERE name = :document)"
    )
    return of_document if question.source is None else f"{of_document} AND dataset IN ({of_source})"


def _incomplete(rows: Iterable[str]) -> IntegrityError:
    return IntegrityError(
        f"The index of what adapters hold lacks rows: {and_more(rows)}.",
        "Rebuild it from the artifacts.",
        act="rebuild_index",
    )
