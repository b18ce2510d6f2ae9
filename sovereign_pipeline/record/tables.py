"""Define the tables of the registry's database, and the tables of the in-memory view (`replay.py`)."""

import datetime
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    JSON,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sovereign_pipeline.record.manifest import ArtifactRef

DIGEST = String(64)
NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
STORED = "stored"
"""Key in a table's `info` that marks a table of the database. Tables without this key belong to the view."""
ENTRIES = {"info": {STORED: True}}
"""Options of the database's own tables, which store the ledger and its content. Rows of these tables never change."""


class UtcDateTime(TypeDecorator[datetime.datetime]):
    """A column of times in UTC. SQLite stores no time zone, so reading a row adds UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a zone cannot be registered")
        return value.astimezone(datetime.UTC) if value is not None else None

    def process_result_value(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)


class Bytes(LargeBinary):
    """A column of bytes that rejects other types. SQLite can store a number in such a column, and `bytes(number)` would
    return that many zero bytes."""

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], bytes | None]:
        def process(value: Any) -> bytes | None:
            if value is None or isinstance(value, bytes):
                return value
            raise TypeError(f"the column has a {type(value).__name__} instead of bytes")

        return process


class _Store(threading.local):
    """This thread's access to signed statements and large values (`database.py`)."""

    read: Callable[[str], bytes] | None = None
    """Returns content by its SHA-256 from the database that is being read. None outside a session of the registry."""


STORE = _Store()


class Signed(TypeDecorator[bytes]):
    """The bytes of a signed statement. The view stores only their SHA-256, because statements are large and seldom
    read. Loading a row fetches the bytes from the database."""

    impl = String(64)
    cache_ok = True

    def process_bind_param(self, value: bytes | str | None, dialect: Dialect) -> str | None:
        return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value

    def process_result_value(self, value: str | bytes | None, dialect: Dialect) -> bytes | None:
        return stored_content(value) if isinstance(value, str) else value


class Large(TypeDecorator[Any]):
    """A large JSON value. The view stores only the SHA-256 of the row's content. Loading a row fetches the value from
    the database."""

    impl = Text
    cache_ok = True

    def __init__(self, column: str) -> None:
        super().__init__()
        self.column = column

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return value if isinstance(value, str) else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        if value is None or not value.isalnum() or len(value) != DIGEST.length:
            return json.loads(value or "null")
        return json.loads(stored_content(value))[self.column]


def stored_content(sha256: str) -> bytes:
    """Return a signed statement or a row's content by its SHA-256. Raises IntegrityError if the content is missing or
    changed, and RuntimeError outside a session of the registry."""
    if STORE.read is None:
        raise RuntimeError("signed statements and large values can only be loaded in a session of the registry")
    return STORE.read(sha256)


class Table(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {
        dict[str, Any]: JSON(none_as_null=True),
        dict[str, str]: JSON(),
        dict[str, int]: JSON(none_as_null=True),
        list[dict[str, Any]]: JSON(),
        bytes: Bytes(),
        datetime.datetime: UtcDateTime(),
        datetime.date: Date(),
    }


def row_as_dict(row: Table) -> dict[str, Any]:
    """Return every column by name. Times are ISO 8601 in UTC; bytes are replaced by their SHA-256."""
    return {column.name: _plain(getattr(row, column.name)) for column in row.__table__.columns}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value.isoformat() if isinstance(value, datetime.date) else value


class Dataset(Table):
    __tablename__ = "dataset"

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    kind: Mapped[str]
    line: Mapped[str] = mapped_column(index=True)
    rows: Mapped[int]
    file_sha256: Mapped[str] = mapped_column(DIGEST)
    classification: Mapped[str]
    sources: Mapped[list[dict[str, Any]]]
    """The institution's source files, each with digest, licence and retention."""
    created_at: Mapped[datetime.datetime]
    rows_held_out: Mapped[int]
    by_classification: Mapped[dict[str, int]]
    """Mapping of classification level to number of rows."""
    tokens: Mapped[dict[str, Any]]
    """Token counts of the training rows and of the held-out rows, with the base model's tokenizer."""
    findings: Mapped[dict[str, int]]
    """Mapping of each warning on the data card to the number of rows with this warning."""
    card_sha256: Mapped[str] = mapped_column(DIGEST)


class BaseModelRow(Table):
    __tablename__ = "base_model"

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    """Digest of the names and SHA-256 of the model's files."""
    name: Mapped[str]
    licence: Mapped[str]
    files: Mapped[list[dict[str, Any]]]
    """Name and SHA-256 of each file."""


class Adapter(Table):
    __tablename__ = "adapter"
    __table_args__ = (UniqueConstraint("line", "version"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[str] = mapped_column(index=True)
    version: Mapped[str]
    adapter_digest: Mapped[str] = mapped_column(DIGEST)
    adapter_sha256: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of the weights file, or digest over the names and SHA-256 of the weights' shards."""
    manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of the manifest of the adapter's artifact."""
    record_digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    """Digest of the record's artifact. All artifacts from which the adapter was built are in the lineage of the
    record's artifact."""
    record_manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    dataset_digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("dataset.digest"))
    preference_dataset_digest: Mapped[str | None] = mapped_column(DIGEST, ForeignKey("dataset.digest"))
    base_model: Mapped[str]
    base_model_digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("base_model.digest"))
    framework_versions: Mapped[dict[str, str]]
    classification: Mapped[str]
    evaluation_report_digest: Mapped[str] = mapped_column(DIGEST)
    evaluation: Mapped[dict[str, Any]] = mapped_column(Large("evaluation"))
    """Numbers of the evaluation report and of its scores."""
    method: Mapped[str]
    review_date: Mapped[datetime.date]
    registered_at: Mapped[datetime.datetime]
    code_version: Mapped[str]
    """Code version of the stage that trained the adapter."""
    source_sha256: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of this package's source code when the adapter was trained."""
    gate_records: Mapped[list[dict[str, Any]]] = mapped_column(Large("gate_records"))
    """Stage, gate, digest and manifest SHA-256 of each gate's record. A waived gate also has its outcome and waiver."""

    @property
    def record_ref(self) -> ArtifactRef:
        """Reference to the artifact with the adapter's record, including the SHA-256 of its registered manifest."""
        return ArtifactRef(
            kind="registered_adapter",
            line=self.line,
            digest=self.record_digest,
            manifest_sha256=self.record_manifest_sha256,
        )

    @property
    def version_numbers(self) -> tuple[int, int, int]:
        return numbers_of(self.version)


def numbers_of(version: str) -> tuple[int, int, int]:
    """Return an adapter's major, minor and patch number, for sorting."""
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch


class AuditEntry(Table):
    """A ledger entry with its fields as columns (`audit_log.py`). The view contains no entries about sealed
    artifacts."""

    __tablename__ = "audit_entry"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime.datetime]
    actor: Mapped[str]
    action: Mapped[str] = mapped_column(index=True)
    subjects: Mapped[dict[str, Any]]
    previous: Mapped[str] = mapped_column(DIGEST)
    hash: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of all other columns."""


class LedgerEntry(Table):
    """The bytes of a ledger entry, which is a leaf of the ledger's Merkle tree."""

    __tablename__ = "entry"
    __table_args__ = (ENTRIES,)

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[bytes]
    """Canonical JSON of `audit_log.as_dict`."""
    head: Mapped[str | None]
    """Size and root hash of the tree that ends with this entry, signed with the ledger's key. Only the last entry of an
    act has such a head."""


class LedgerNode(Table):
    """The hash of one complete subtree of the ledger's tree (`merkle.py`)."""

    __tablename__ = "node"
    __table_args__ = (ENTRIES,)

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[bytes]


class Blob(Table):
    """Content that entries refer to by SHA-256: a row's columns as canonical JSON, a signed statement, or the documents
    and sources of a dataset."""

    __tablename__ = "blob"
    __table_args__ = (ENTRIES,)

    sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    data: Mapped[bytes]


class SealedEntry(Table):
    """Maps the manifest of a sealed artifact to the number of its ledger entry. The entry must still be verified
    (`sealing.sealed_at`)."""

    __tablename__ = "sealed"
    __table_args__ = (ENTRIES,)

    manifest_sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    sequence: Mapped[int]


class LedgerKey(Table):
    """The public key that verifies the ledger's checkpoints. The table has one row after the first act."""

    __tablename__ = "ledger_key"
    __table_args__ = (ENTRIES,)

    verifier: Mapped[str] = mapped_column(primary_key=True)
    """C2SP verifier key: name+id+key. The name is the log's origin."""


class BlindReview(Table):
    __tablename__ = "blind_review"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Id of the review. Operators' browsers receive this id, so it reveals nothing about the compared adapters."""
    line: Mapped[str] = mapped_column(index=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"))
    opponent_id: Mapped[str | None] = mapped_column(ForeignKey("adapter.id"))
    record_digest: Mapped[str] = mapped_column(DIGEST)
    plan_digest: Mapped[str] = mapped_column(DIGEST)
    """Digest of the review_plan artifact, which contains prompts, answers and settings."""
    plan_manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    seed_sha256: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of the sealed seed that decides which arm is A."""
    ballots: Mapped[int]
    opened_at: Mapped[datetime.datetime]
    act_key: Mapped[str] = mapped_column(DIGEST)
    """Public key (Ed25519, hex) that verifies the review's signed acts."""


class SignInLink(Table):
    __tablename__ = "sign_in_link"

    token_sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"))
    operator: Mapped[str]
    expires_at: Mapped[datetime.datetime]


class SignInUse(Table):
    """The use of a sign-in link. The primary key rejects a second use."""

    __tablename__ = "sign_in_use"

    token_sha256: Mapped[str] = mapped_column(DIGEST, ForeignKey("sign_in_link.token_sha256"), primary_key=True)
    used_at: Mapped[datetime.datetime]


class Ballot(Table):
    """An operator's ballot on one pair of answers, which were displayed as A and B. Only the sealed seed reveals which
    arm was A."""

    __tablename__ = "ballot"

    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"), primary_key=True)
    operator: Mapped[str] = mapped_column(primary_key=True)
    pair: Mapped[str] = mapped_column(primary_key=True)
    preference: Mapped[str]
    """Preferred answer: `a`, `b` or `tie`."""
    ratings: Mapped[dict[str, int] | None]
    """Mapping of keys such as `a.accuracy` to ratings from 1 to 5. NULL for identical answers, which are not rated."""
    given_at: Mapped[datetime.datetime]


class Guess(Table):
    """An operator's guess about which answer of a pair is the candidate's, made after the last ballot."""

    __tablename__ = "guess"

    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"), primary_key=True)
    operator: Mapped[str] = mapped_column(primary_key=True)
    pair: Mapped[str] = mapped_column(primary_key=True)
    choice: Mapped[str]
    """Guessed answer: `a` or `b`."""
    given_at: Mapped[datetime.datetime]


class ReviewClosing(Table):
    """The closing of a review, after which ballots are rejected. The primary key rejects a second closing."""

    __tablename__ = "review_closing"

    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"), primary_key=True)
    closed_at: Mapped[datetime.datetime]
    seed: Mapped[str] = mapped_column(DIGEST)
    ballots: Mapped[int]
    ballots_sha256: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of all ballots and guesses."""
    officer: Mapped[str | None]
    """The officer who closed the review early. NULL if it was not closed early."""
    reason: Mapped[str | None]


class ReleaseRequest(Table):
    """An officer's signed request to change an adapter's state."""

    __tablename__ = "release_request"

    id: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    """SHA-256 of the signed statement. Approvals refer to the request by this id."""
    line: Mapped[str] = mapped_column(index=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"))
    transition: Mapped[str]
    entered_at: Mapped[datetime.datetime]
    statement: Mapped[bytes] = mapped_column(Signed())


class ReleaseDecision(Table):
    """An officer's decision about a request. The primary key rejects a repeated decision."""

    __tablename__ = "release_decision"

    request_id: Mapped[str] = mapped_column(DIGEST, ForeignKey("release_request.id"), primary_key=True)
    keyid: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    decision: Mapped[str] = mapped_column(primary_key=True)
    """Decision: `approve`, `reject` or `withdraw`."""
    entered_at: Mapped[datetime.datetime]
    statement: Mapped[bytes] = mapped_column(Signed())


class Transition(Table):
    """A change of an adapter's state. If two changes are made at once, the primary key rejects the second."""

    __tablename__ = "transition"

    line: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Number within the line, from 1."""
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"))
    transition: Mapped[str]
    before: Mapped[str]
    after: Mapped[str]
    request_id: Mapped[str] = mapped_column(DIGEST, ForeignKey("release_request.id"))
    made_at: Mapped[datetime.datetime]
    statement: Mapped[bytes] = mapped_column(Signed())
    """Statement that names the request and the approvals, signed by the pipeline."""


class Recall(Table):
    """A recall that an officer opened. One of `document`, `source`, `dataset` and `base_model` is set, or both
    `document` and `source`."""

    __tablename__ = "recall"

    id: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[str | None]
    source: Mapped[str | None]
    dataset: Mapped[str | None] = mapped_column(DIGEST)
    base_model: Mapped[str | None] = mapped_column(DIGEST)
    reason: Mapped[str]
    officer: Mapped[str]
    opened_at: Mapped[datetime.datetime]
    statement: Mapped[bytes] = mapped_column(Signed())


class RecallAdapter(Table):
    """An adapter that a recall named when the recall was opened."""

    __tablename__ = "recall_adapter"

    recall_id: Mapped[str] = mapped_column(ForeignKey("recall.id"), primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)


class RecallWaiver(Table):
    """An officer's decision that a recall does not apply to one adapter."""

    __tablename__ = "recall_waiver"

    recall_id: Mapped[str] = mapped_column(ForeignKey("recall.id"), primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    reason: Mapped[str]
    officer: Mapped[str]
    waived_at: Mapped[datetime.datetime]
    statement: Mapped[bytes] = mapped_column(Signed())


class KnownIssue(Table):
    """A known issue of an adapter, as an officer described it."""

    __tablename__ = "known_issue"

    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Number among the adapter's issues, from 1."""
    text: Mapped[str]
    officer: Mapped[str]
    added_at: Mapped[datetime.datetime]
    statement: Mapped[bytes] = mapped_column(Signed())


class AdapterReview(Table):
    """An officer's decision to keep an adapter after a review. The next due date is counted from this decision."""

    __tablename__ = "adapter_review"

    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Number among the adapter's reviews, from 1."""
    text: Mapped[str]
    officer: Mapped[str]
    reviewed_at: Mapped[datetime.datetime]
    statement: Mapped[bytes] = mapped_column(Signed())


@cache
def stored_tables() -> Sequence[SqlTable]:
    """Return the tables of the database, each after the tables that it references."""
    return [table for table in Table.metadata.sorted_tables if table.info.get(STORED)]


@cache
def view_tables() -> Sequence[SqlTable]:
    """Return the tables of the view, each after the tables that it references."""
    return [table for table in Table.metadata.sorted_tables if not table.info.get(STORED)]


@cache
def stored_classes() -> Sequence[type[Table]]:
    return [mapper.class_ for mapper in Table.registry.mappers if mapper.class_.__table__.info.get(STORED)]
