"""Asking the index of what registered adapters hold. An index that lacks an adapter answers nothing.

What belongs here: questions, and the SQL that answers them. What does not: filling the index from the artifacts
(`holdings.py`), and what follows from an answer (`recall.py`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, or_, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.ledger.lifecycle_tables import (
    AdapterBaseModel,
    AdapterDataset,
    DatasetDocument,
    DatasetSource,
    HeldDataset,
    HeldDocument,
)
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.wording import and_more, counted


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
    states: an answer would lack it. Raises IntegrityError naming those that it does not know."""
    on_base = exists().where(
        AdapterBaseModel.base_model == Adapter.base_model_digest, AdapterBaseModel.adapter == Adapter.id
    )
    preferred = or_(Adapter.preference_dataset_digest.is_(None), _on(Adapter.preference_dataset_digest))
    lacking = select(Adapter.id).where(~and_(on_base, _on(Adapter.dataset_digest), preferred)).order_by(Adapter.id)
    if adapter_id is not None:
        lacking = lacking.where(Adapter.id == adapter_id)
    if found := list(session.scalars(lacking)):
        raise _incomplete(found)


def _on(digest: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """Whether the index has an adapter on this dataset."""
    return exists().where(
        HeldDataset.digest == digest, AdapterDataset.dataset == HeldDataset.id, AdapterDataset.adapter == Adapter.id
    )


def holders(session: Session, question: Question) -> dict[str, bool]:
    """The adapters that hold what is asked for -> whether they hold it directly. `question`: exact, as stored."""
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
    """Whether one adapter holds what is asked for. Raises IntegrityError for one that the index does not know."""
    assert_complete(session, adapter_id)
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


def _incomplete(adapters: Iterable[str]) -> IntegrityError:
    named = list(adapters)
    return IntegrityError(
        f"The index of what adapters hold lacks {counted(len(named), 'adapter')}: {and_more(named)}.",
        "Rebuild it from the artifacts.",
        act="rebuild_index",
    )
