"""Tables of an adapter's life after registration: the index of what it holds, recalls, known issues, reviews.

The index is derived data: it is rebuilt from the artifacts (`release/recall_index.py`). All other tables only grow.
"""

import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from sovereign_pipeline.ledger.tables import DIGEST, WITHOUT_HIDDEN_KEY, Table
from sovereign_pipeline.ledger.triggers import MAY_CHANGE

DERIVED = {**WITHOUT_HIDDEN_KEY, "info": MAY_CHANGE}
"""Of the index: its tables have no triggers."""


class HeldDocument(Table):
    """Index: the integer that stands for a document's id."""

    __tablename__ = "document"
    __table_args__ = (DERIVED,)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(unique=True)
    """The id as it stands in the datasets' rows."""
    datasets: Mapped[int] = mapped_column(server_default="0")
    """How many datasets have a row of it."""


class HeldDataset(Table):
    """Index: the integer that stands for a dataset."""

    __tablename__ = "held_dataset"
    __table_args__ = (DERIVED,)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    """Of the artifact. It need not be registered: a base model may have been made here of an unregistered one."""
    documents: Mapped[int] = mapped_column(server_default="0")
    """How many documents it has rows of."""
    sources: Mapped[int] = mapped_column(server_default="0")
    """From how many sources it was made."""


class HeldAdapter(Table):
    """Index: how many rows it has of an adapter."""

    __tablename__ = "held_adapter"
    __table_args__ = (DERIVED,)

    adapter: Mapped[str] = mapped_column(primary_key=True)
    datasets: Mapped[int]
    base_models: Mapped[int]


class DatasetDocument(Table):
    """Index: a document of which a dataset has a row. Found from either side."""

    __tablename__ = "dataset_document"
    __table_args__ = (Index("ix_dataset_document_dataset", "dataset", "document"), DERIVED)

    document: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    dataset: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class DatasetSource(Table):
    """Index: a source of the recipe from which a dataset was made."""

    __tablename__ = "dataset_source"
    __table_args__ = (DERIVED,)

    source: Mapped[str] = mapped_column(primary_key=True)
    dataset: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class AdapterDataset(Table):
    """Index: a dataset on which an adapter, one of its parents, or a base model that was made here was trained."""

    __tablename__ = "adapter_dataset"
    __table_args__ = (Index("ix_adapter_dataset_adapter", "adapter"), DERIVED)

    dataset: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    adapter: Mapped[str] = mapped_column(primary_key=True)
    directly: Mapped[bool]
    """False where only a parent or a base model was trained on it."""


class AdapterBaseModel(Table):
    """Index: a base model on which an adapter rests. Every indexed adapter has one."""

    __tablename__ = "adapter_base_model"
    __table_args__ = (Index("ix_adapter_base_model_adapter", "adapter"), DERIVED)

    base_model: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    adapter: Mapped[str] = mapped_column(primary_key=True)
    directly: Mapped[bool]
    """False where the adapter's own base model was made here of this one."""


class Recall(Table):
    """A recall that an officer opened. What it is about is in one of four columns; a document may have its source."""

    __tablename__ = "recall"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    id: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[str | None]
    source: Mapped[str | None]
    dataset: Mapped[str | None] = mapped_column(DIGEST)
    base_model: Mapped[str | None] = mapped_column(DIGEST)
    reason: Mapped[str]
    officer: Mapped[str]
    """The id of their key."""
    opened_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """The signed bundle by which the officer did so."""


class RecallAdapter(Table):
    """An adapter that a recall named when it was opened."""

    __tablename__ = "recall_adapter"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    recall_id: Mapped[str] = mapped_column(ForeignKey("recall.id"), primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)


class RecallWaiver(Table):
    """An officer's decision that a recall does not hold for one adapter."""

    __tablename__ = "recall_waiver"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    recall_id: Mapped[str] = mapped_column(ForeignKey("recall.id"), primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    reason: Mapped[str]
    officer: Mapped[str]
    """The id of their key."""
    waived_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """The signed bundle by which the officer did so."""


class KnownIssue(Table):
    """What people found wrong with an adapter, in their own words."""

    __tablename__ = "known_issue"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Of the adapter's issues, from 1."""
    text: Mapped[str]
    officer: Mapped[str]
    """The id of their key."""
    added_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """The signed bundle by which the officer did so."""


class AdapterReview(Table):
    """An officer reviewed an adapter and keeps it; its next review is counted from here."""

    __tablename__ = "adapter_review"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Of the adapter's reviews, from 1."""
    text: Mapped[str]
    officer: Mapped[str]
    """The id of their key."""
    reviewed_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """The signed bundle by which the officer did so."""
