"""Define the registry's tables, and the triggers that make them append-only."""

import datetime
import hashlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sovereign_pipeline.base.errors import IntegrityError

DIGEST = String(64)
NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
# INSERT OR REPLACE could otherwise overwrite a row by its hidden row number, past every key.
WITHOUT_HIDDEN_KEY = {"sqlite_with_rowid": False}


class UtcDateTime(TypeDecorator[datetime.datetime]):
    """A point in time in UTC. SQLite stores no time zone, so it is added when a row is read."""

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


class Table(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {
        dict[str, Any]: JSON(none_as_null=True),
        dict[str, str]: JSON(),
        dict[str, int]: JSON(none_as_null=True),
        list[dict[str, Any]]: JSON(),
        datetime.datetime: UtcDateTime(),
        datetime.date: Date(),
    }


def row_as_dict(row: Table) -> dict[str, Any]:
    """Return every column by name. Dates and times are ISO 8601, times in UTC; bytes are given as SHA-256."""
    return {column.name: _plain(getattr(row, column.name)) for column in row.__table__.columns}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value.isoformat() if isinstance(value, datetime.date) else value


class Dataset(Table):
    """A dataset on which a registered adapter was trained. NULL: an earlier version did not record the value."""

    __tablename__ = "dataset"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    """Digest of the artifact."""
    manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    kind: Mapped[str]
    line: Mapped[str] = mapped_column(index=True)
    rows: Mapped[int]
    file_sha256: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of the dataset's JSONL file."""
    classification: Mapped[str]
    sources: Mapped[list[dict[str, Any]]]
    """The institution's source files, each with digest, licence and retention."""
    created_at: Mapped[datetime.datetime]
    rows_held_out: Mapped[int | None]
    """Number of held-out rows of the same kind."""
    by_classification: Mapped[dict[str, int] | None]
    """Classification level -> number of rows."""
    tokens: Mapped[dict[str, Any] | None]
    """Token counts of the training rows and of the held-out rows, by the base model's tokenizer."""
    findings: Mapped[dict[str, int] | None]
    """Name of a warning on the data card -> number of rows."""
    card_sha256: Mapped[str | None] = mapped_column(DIGEST)
    """SHA-256 of the data card."""


class BaseModelRow(Table):
    """The base model of a registered adapter."""

    __tablename__ = "base_model"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    """Digest over the names and SHA-256 of the model's files."""
    name: Mapped[str]
    licence: Mapped[str]
    files: Mapped[list[dict[str, Any]]]
    """Name and SHA-256 of each file."""


class Adapter(Table):
    """A registered adapter."""

    __tablename__ = "adapter"
    __table_args__ = (UniqueConstraint("line", "version"), WITHOUT_HIDDEN_KEY)

    id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[str] = mapped_column(index=True)
    version: Mapped[str]
    adapter_digest: Mapped[str] = mapped_column(DIGEST)
    """Digest of the adapter's artifact."""
    adapter_sha256: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of the weights file, or a digest over the names and SHA-256 of its shards."""
    manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of the manifest of the adapter's artifact."""
    record_digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    """Digest of the record's artifact. Its lineage contains everything else."""
    record_manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    dataset_digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("dataset.digest"))
    preference_dataset_digest: Mapped[str | None] = mapped_column(DIGEST, ForeignKey("dataset.digest"))
    base_model: Mapped[str]
    base_model_digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("base_model.digest"))
    framework_versions: Mapped[dict[str, str]]
    classification: Mapped[str]
    evaluation_report_digest: Mapped[str] = mapped_column(DIGEST)
    evaluation: Mapped[dict[str, Any]]
    """Numbers from the evaluation report and from the scores that it was computed from."""
    method: Mapped[str]
    review_date: Mapped[datetime.date]
    registered_at: Mapped[datetime.datetime]
    code_version: Mapped[str]
    """Code version of the stage that trained the adapter."""
    source_sha256: Mapped[str] = mapped_column(DIGEST)
    """Digest of this package's source code when the adapter was trained."""
    gate_records: Mapped[list[dict[str, Any]]]
    """Stage, gate, digest and manifest SHA-256 of each gate's record, with outcome and waiver if waived."""

    @property
    def version_numbers(self) -> tuple[int, int, int]:
        """Major, minor and patch number, by which versions are ordered."""
        major, minor, patch = (int(number) for number in self.version.split("."))
        return major, minor, patch


class AuditEntry(Table):
    """An entry of the audit log (`audit_log.py`)."""

    __tablename__ = "audit_entry"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime.datetime]
    actor: Mapped[str]
    action: Mapped[str] = mapped_column(index=True)
    subjects: Mapped[dict[str, Any]]
    previous: Mapped[str] = mapped_column(DIGEST, unique=True)
    """Hash of the previous entry."""
    hash: Mapped[str] = mapped_column(DIGEST, unique=True)
    """Hash over all other columns."""


class LedgerEntry(Table):
    """The exact bytes of an audit entry: a leaf of the ledger's tree. `AuditEntry` has the columns for lookups."""

    __tablename__ = "ledger_entry"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[bytes]
    """Canonical JSON of `audit_log.as_dict`."""


class LedgerNode(Table):
    """The hash of one complete subtree of the ledger's tree (`merkle.py`)."""

    __tablename__ = "ledger_node"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hash: Mapped[bytes]


class LedgerKey(Table):
    """The public key that verifies the ledger's checkpoints. The table has one row, from the first act on."""

    __tablename__ = "ledger_key"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    verifier: Mapped[str] = mapped_column(primary_key=True)
    """C2SP verifier key: name+id+key. The name is the log's origin."""


class BlindReview(Table):
    """A blind review that was opened."""

    __tablename__ = "blind_review"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    id: Mapped[str] = mapped_column(primary_key=True)
    """Id of the review. It reveals nothing about the compared adapters, because operators' browsers receive it."""
    line: Mapped[str] = mapped_column(index=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"))
    opponent_id: Mapped[str | None] = mapped_column(ForeignKey("adapter.id"))
    record_digest: Mapped[str] = mapped_column(DIGEST)
    plan_digest: Mapped[str] = mapped_column(DIGEST)
    """Digest of the review_plan artifact, which holds prompts, answers and settings."""
    plan_manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    seed_sha256: Mapped[str] = mapped_column(DIGEST)
    """SHA-256 of the sealed seed that decides which arm is A."""
    ballots: Mapped[int]
    """The pre-registered number of ballots."""
    opened_at: Mapped[datetime.datetime]
    act_key: Mapped[str] = mapped_column(DIGEST)
    """Public key (Ed25519, hex) that verifies the review's signed acts."""


class SignInLink(Table):
    """A one-time sign-in link of an operator."""

    __tablename__ = "sign_in_link"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    token_sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    """SHA-256 of the token. The token itself is not stored."""
    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"))
    operator: Mapped[str]
    expires_at: Mapped[datetime.datetime]


class SignInUse(Table):
    """The use of a sign-in link. The primary key rejects a second use."""

    __tablename__ = "sign_in_use"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    token_sha256: Mapped[str] = mapped_column(DIGEST, ForeignKey("sign_in_link.token_sha256"), primary_key=True)
    used_at: Mapped[datetime.datetime]


class Ballot(Table):
    """An operator's ballot on one pair, as displayed. Only the sealed seed reveals which arm is A."""

    __tablename__ = "ballot"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"), primary_key=True)
    operator: Mapped[str] = mapped_column(primary_key=True)
    pair: Mapped[str] = mapped_column(primary_key=True)
    preference: Mapped[str]
    """Preferred answer: `a`, `b` or `tie`."""
    ratings: Mapped[dict[str, int] | None]
    """`a.accuracy` and so on -> rating from 1 to 5. NULL if both answers were equal, so that none were requested."""
    given_at: Mapped[datetime.datetime]


class Guess(Table):
    """An operator's guess which answer of a pair is the candidate's, made after the last ballot."""

    __tablename__ = "guess"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"), primary_key=True)
    operator: Mapped[str] = mapped_column(primary_key=True)
    pair: Mapped[str] = mapped_column(primary_key=True)
    choice: Mapped[str]
    """Guessed answer: `a` or `b`."""
    given_at: Mapped[datetime.datetime]


class ReviewClosing(Table):
    """The end of a review. The primary key rejects a second one. Later ballots are rejected."""

    __tablename__ = "review_closing"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"), primary_key=True)
    closed_at: Mapped[datetime.datetime]
    seed: Mapped[str] = mapped_column(DIGEST)
    """The revealed seed, 64 hex digits."""
    ballots: Mapped[int]
    ballots_sha256: Mapped[str] = mapped_column(DIGEST)
    """Digest over every ballot and guess."""
    officer: Mapped[str | None]
    """The officer who closed the review before the pre-registered number was reached; otherwise NULL."""
    reason: Mapped[str | None]


class ReleaseRequest(Table):
    """An officer's signed request to change an adapter's state."""

    __tablename__ = "release_request"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    id: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    """SHA-256 of the signed statement. Approvals refer to it."""
    line: Mapped[str] = mapped_column(index=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"))
    transition: Mapped[str]
    entered_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """The signed sigstore bundle."""


class ReleaseDecision(Table):
    """An officer's decision about a request. The primary key rejects a repeated decision."""

    __tablename__ = "release_decision"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    request_id: Mapped[str] = mapped_column(DIGEST, ForeignKey("release_request.id"), primary_key=True)
    keyid: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    """Id of the officer's key."""
    decision: Mapped[str] = mapped_column(primary_key=True)
    """Decision: `approve`, `reject` or `withdraw`."""
    entered_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]


class Transition(Table):
    """A change of an adapter's state. If two are made at once, the primary key accepts only one."""

    __tablename__ = "transition"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    line: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Number within the line, from 1."""
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"))
    transition: Mapped[str]
    before: Mapped[str]
    after: Mapped[str]
    request_id: Mapped[str] = mapped_column(DIGEST, ForeignKey("release_request.id"))
    made_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """Statement signed by the pipeline. It names the request and the approvals."""

    @property
    def statement_sha256(self) -> str:
        return hashlib.sha256(self.statement).hexdigest()


MESSAGE = "the registry only grows"
FUNCTION = "registry_only_grows"
FUNCTION_BODY = f" BEGIN RAISE EXCEPTION '%: {MESSAGE}', TG_TABLE_NAME; END "
MAY_CHANGE = {"may_change": True}
"""`info` of a table that may change because it holds no records, such as an index that can be rebuilt."""

# Bits of pg_trigger.tgtype: for each row 1, before 2, delete 8, update 16, truncate 32.
POSTGRESQL_KINDS = {"no_change": 1 + 2 + 8 + 16, "no_truncate": 2 + 32}

Keys = Sequence[tuple[str, ...]]


def statements(dialect: str, table: str, keys: Keys) -> list[str]:
    """Return the SQL statements that create the triggers of a table.

    SQLite's INSERT OR REPLACE deletes a row without firing the delete trigger, so another trigger rejects inserts with
    an existing key.

    Args:
        keys: the table's primary and unique keys.
    """
    if dialect == "sqlite":
        return list(_in_sqlite(table, keys).values())
    return [
        f"CREATE OR REPLACE FUNCTION {FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS $${FUNCTION_BODY}$$",
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {FUNCTION}()",
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {FUNCTION}()",
        *always(table).values(),
    ]


def always(table: str) -> dict[str, str]:
    """Return trigger -> PostgreSQL statement that makes it fire in replica sessions too."""
    names = [f"{table}_{kind}" for kind in POSTGRESQL_KINDS]
    return {name: f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}" for name in names}


def assert_in_place(connection: Connection) -> None:
    """Raise IntegrityError naming a trigger that is missing, was changed, or does not belong to its table."""
    tables = [table for table in Table.metadata.sorted_tables if not table.info.get("may_change")]
    find = _wrong_in_sqlite if connection.dialect.name == "sqlite" else _wrong_in_postgresql
    wrong = list(find(connection, tables))
    if wrong:
        raise IntegrityError(
            f"The registry's tables no longer refuse changes: {'; '.join(wrong)}.",
            "Restore the registry from a copy, and find out who changed it. Rows may have been changed meanwhile.",
        )


def keys_of(table: SqlTable) -> list[tuple[str, ...]]:
    """Return the primary key and the unique keys, in no particular order."""
    unique = [each for each in table.constraints if isinstance(each, UniqueConstraint)]
    return [tuple(column.name for column in each.columns) for each in (table.primary_key, *unique)]


def _in_sqlite(table: str, keys: Keys) -> dict[str, str]:
    """Return name of each trigger -> its SQL."""
    refuse = f"BEGIN SELECT RAISE(ABORT, '{table}: {MESSAGE}'); END"
    taken = " OR ".join("(" + " AND ".join(f"{column} = NEW.{column}" for column in key) + ")" for key in keys)
    made = {
        f"{table}_no_{verb.lower()}": f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} {refuse}"
        for verb in ("UPDATE", "DELETE")
    }
    made[f"{table}_no_replace"] = (
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {taken}) {refuse}"
    )
    return made


def _wrong_in_sqlite(connection: Connection, tables: Collection[SqlTable]) -> Iterator[str]:
    rows = connection.execute(text("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'"))
    found = {(table, name): sql for name, table, sql in rows}
    for table in tables:
        # `UNIQUE` constraints have no order.
        allowed = [_in_sqlite(table.name, keys) for keys in itertools.permutations(keys_of(table))]
        for name in allowed[0]:
            sql = found.pop((table.name, name), None)
            if sql is None:
                yield f"trigger {name} is missing"
            elif sql not in {each[name] for each in allowed}:
                yield f"trigger {name} was changed"
    ours = {table.name for table in tables}
    yield from (f"trigger {name} does not belong to table {table}" for table, name in found if table in ours)


def _wrong_in_postgresql(connection: Connection, tables: Collection[SqlTable]) -> Iterator[str]:
    rows = connection.execute(
        text(
            "SELECT c.relname, t.tgname, t.tgtype, t.tgenabled, t.tgqual, t.tgattr::text, p.proname, p.prosrc "
            "FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid "
            "WHERE NOT t.tgisinternal AND c.relnamespace = current_schema()::regnamespace"
        )
    )
    found = {(table, name): rest for table, name, *rest in rows}
    for table in tables:
        for kind, bits in POSTGRESQL_KINDS.items():
            name = f"{table.name}_{kind}"
            state = found.pop((table.name, name), None)
            if state is None:
                yield f"trigger {name} is missing"
            elif state != [bits, "A", None, "", FUNCTION, FUNCTION_BODY]:
                yield f"trigger {name} was changed or switched off"
    ours = {table.name for table in tables}
    yield from (f"trigger {name} does not belong to table {table}" for table, name in found if table in ours)
    rules = connection.execute(text("SELECT tablename, rulename FROM pg_rules WHERE schemaname = current_schema()"))
    yield from (f"rule {name} does not belong to table {table}" for table, name in rules if table in ours)


DERIVED = {**WITHOUT_HIDDEN_KEY, "info": MAY_CHANGE}
"""Table options of the recall index. Its tables have no triggers."""


class HeldDocument(Table):
    """Recall index: the integer id of a document."""

    __tablename__ = "document"
    __table_args__ = (DERIVED,)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(unique=True)
    """The document's id in the datasets' rows."""
    datasets: Mapped[int] = mapped_column(server_default="0")
    """Number of datasets that have a row of the document."""


class HeldDataset(Table):
    """Recall index: the integer id of a dataset."""

    __tablename__ = "held_dataset"
    __table_args__ = (DERIVED,)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    """Digest of the artifact. A base model built here may have used a dataset that is not registered."""
    documents: Mapped[int] = mapped_column(server_default="0")
    """Number of documents of which the dataset has rows."""
    sources: Mapped[int] = mapped_column(server_default="0")
    """Number of sources that the dataset was made from."""


class HeldAdapter(Table):
    """Recall index: the number of index rows about an adapter."""

    __tablename__ = "held_adapter"
    __table_args__ = (DERIVED,)

    adapter: Mapped[str] = mapped_column(primary_key=True)
    datasets: Mapped[int]
    base_models: Mapped[int]


class DatasetDocument(Table):
    """Recall index: a document and a dataset that has a row of it. Indexed by document and by dataset."""

    __tablename__ = "dataset_document"
    __table_args__ = (Index("ix_dataset_document_dataset", "dataset", "document"), DERIVED)

    document: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    dataset: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class DatasetSource(Table):
    """Recall index: a source in the recipe that a dataset was made from."""

    __tablename__ = "dataset_source"
    __table_args__ = (DERIVED,)

    source: Mapped[str] = mapped_column(primary_key=True)
    dataset: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class AdapterDataset(Table):
    """Recall index: a dataset on which an adapter, a parent adapter, or a base model built here was trained."""

    __tablename__ = "adapter_dataset"
    __table_args__ = (Index("ix_adapter_dataset_adapter", "adapter"), DERIVED)

    dataset: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    adapter: Mapped[str] = mapped_column(primary_key=True)
    directly: Mapped[bool]
    """False if only a parent adapter or a base model was trained on it."""


class AdapterBaseModel(Table):
    """Recall index: a base model that an adapter depends on. Every indexed adapter has one."""

    __tablename__ = "adapter_base_model"
    __table_args__ = (Index("ix_adapter_base_model_adapter", "adapter"), DERIVED)

    base_model: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    adapter: Mapped[str] = mapped_column(primary_key=True)
    directly: Mapped[bool]
    """False if the adapter's own base model was built here from this one."""


class Recall(Table):
    """A recall that an officer opened. One of four columns is set; a document may also have its source."""

    __tablename__ = "recall"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    id: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[str | None]
    source: Mapped[str | None]
    dataset: Mapped[str | None] = mapped_column(DIGEST)
    base_model: Mapped[str | None] = mapped_column(DIGEST)
    reason: Mapped[str]
    officer: Mapped[str]
    """Id of the officer's key."""
    opened_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """The officer's signed sigstore bundle."""


class RecallAdapter(Table):
    """An adapter that a recall named when it was opened."""

    __tablename__ = "recall_adapter"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    recall_id: Mapped[str] = mapped_column(ForeignKey("recall.id"), primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)


class RecallWaiver(Table):
    """An officer's decision that a recall does not apply to one adapter."""

    __tablename__ = "recall_waiver"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    recall_id: Mapped[str] = mapped_column(ForeignKey("recall.id"), primary_key=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    reason: Mapped[str]
    officer: Mapped[str]
    """Id of the officer's key."""
    waived_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """The officer's signed sigstore bundle."""


class KnownIssue(Table):
    """A known issue of an adapter, in an officer's words."""

    __tablename__ = "known_issue"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Number among the adapter's issues, from 1."""
    text: Mapped[str]
    officer: Mapped[str]
    """Id of the officer's key."""
    added_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """The officer's signed sigstore bundle."""


class AdapterReview(Table):
    """A review after which an officer kept an adapter. The next review's due date is counted from it."""

    __tablename__ = "adapter_review"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """Number among the adapter's reviews, from 1."""
    text: Mapped[str]
    officer: Mapped[str]
    """Id of the officer's key."""
    reviewed_at: Mapped[datetime.datetime]
    statement: Mapped[bytes]
    """The officer's signed sigstore bundle."""
