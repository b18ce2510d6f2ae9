"""The registry's tables. They only grow: triggers in the database itself refuse UPDATE and DELETE.

What belongs here: tables and columns. What does not: what a fact means (`record.py`) and how tables come into being and
change (`migrations/`).
"""

import datetime
from typing import Any

from sqlalchemy import JSON, Date, DateTime, Dialect, ForeignKey, MetaData, String, TypeDecorator, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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
    """A point in time, always with its zone; SQLite keeps none."""

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


class Dataset(Table):
    """digest, manifest_sha256: of the artifact. file_sha256: of its JSONL file. sources: the institution's files, each
    with its digest, licence and retention. rows_held_out: of the same kind, on the other side of the split. tokens:
    lengths in tokens of the base model, a side. findings: those that warn, and how many rows. card_sha256: of the data
    card. What a dataset that was registered by an earlier version did not state is NULL.
    """

    __tablename__ = "dataset"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    kind: Mapped[str]
    line: Mapped[str] = mapped_column(index=True)
    rows: Mapped[int]
    file_sha256: Mapped[str] = mapped_column(DIGEST)
    classification: Mapped[str]
    sources: Mapped[list[dict[str, Any]]]
    created_at: Mapped[datetime.datetime]
    rows_held_out: Mapped[int | None]
    by_classification: Mapped[dict[str, int] | None]
    tokens: Mapped[dict[str, Any] | None]
    findings: Mapped[dict[str, int] | None]
    card_sha256: Mapped[str | None] = mapped_column(DIGEST)


class BaseModelRow(Table):
    """digest: over files. files: name and SHA-256 of each."""

    __tablename__ = "base_model"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    digest: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    name: Mapped[str]
    licence: Mapped[str]
    files: Mapped[list[dict[str, Any]]]


class Adapter(Table):
    """One registered adapter.

    adapter_digest, manifest_sha256: of the adapter's artifact and of its manifest. adapter_sha256: of the weights file,
    or over the names and SHA-256 of its shards.
    record_digest, record_manifest_sha256: of the record's artifact, from which everything else is reached.
    gate_records: stage, gate, digest and manifest_sha256 of each gate's answer.
    code_version, source_sha256: of the code that trained it. evaluation: its numbers.
    """

    __tablename__ = "adapter"
    __table_args__ = (UniqueConstraint("line", "version"), WITHOUT_HIDDEN_KEY)

    id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[str] = mapped_column(index=True)
    version: Mapped[str]
    adapter_digest: Mapped[str] = mapped_column(DIGEST)
    adapter_sha256: Mapped[str] = mapped_column(DIGEST)
    manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    record_digest: Mapped[str] = mapped_column(DIGEST, unique=True)
    record_manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    dataset_digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("dataset.digest"))
    preference_dataset_digest: Mapped[str | None] = mapped_column(DIGEST, ForeignKey("dataset.digest"))
    base_model: Mapped[str]
    base_model_digest: Mapped[str] = mapped_column(DIGEST, ForeignKey("base_model.digest"))
    framework_versions: Mapped[dict[str, str]]
    classification: Mapped[str]
    evaluation_report_digest: Mapped[str] = mapped_column(DIGEST)
    evaluation: Mapped[dict[str, Any]]
    method: Mapped[str]
    review_date: Mapped[datetime.date]
    registered_at: Mapped[datetime.datetime]
    code_version: Mapped[str]
    source_sha256: Mapped[str] = mapped_column(DIGEST)
    gate_records: Mapped[list[dict[str, Any]]]

    @property
    def version_numbers(self) -> tuple[int, int, int]:
        """Major, minor and patch, in which versions are ordered."""
        major, minor, patch = (int(number) for number in self.version.split("."))
        return major, minor, patch


class AuditEntry(Table):
    """One entry of the audit log. previous: the hash of the entry before. hash: over everything else (`audit.py`)."""

    __tablename__ = "audit_entry"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime.datetime]
    actor: Mapped[str]
    action: Mapped[str]
    subjects: Mapped[dict[str, Any]]
    previous: Mapped[str] = mapped_column(DIGEST, unique=True)
    hash: Mapped[str] = mapped_column(DIGEST, unique=True)


class BlindReview(Table):
    """One review that was opened. id: says nothing about what is compared, since operators' browsers get it.

    plan_digest, plan_manifest_sha256: of the review_plan artifact, which holds prompts, answers and settings.
    seed_sha256: of the sealed seed that says which side is A. ballots: the pre-registered number.
    """

    __tablename__ = "blind_review"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    id: Mapped[str] = mapped_column(primary_key=True)
    line: Mapped[str] = mapped_column(index=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapter.id"))
    opponent_id: Mapped[str | None] = mapped_column(ForeignKey("adapter.id"))
    record_digest: Mapped[str] = mapped_column(DIGEST)
    plan_digest: Mapped[str] = mapped_column(DIGEST)
    plan_manifest_sha256: Mapped[str] = mapped_column(DIGEST)
    seed_sha256: Mapped[str] = mapped_column(DIGEST)
    ballots: Mapped[int]
    opened_at: Mapped[datetime.datetime]


class SignInLink(Table):
    """A one-time link of one operator. token_sha256: the token itself is stored nowhere."""

    __tablename__ = "sign_in_link"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    token_sha256: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"))
    operator: Mapped[str]
    expires_at: Mapped[datetime.datetime]


class SignInUse(Table):
    """That a link was used; the key refuses a second time."""

    __tablename__ = "sign_in_use"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    token_sha256: Mapped[str] = mapped_column(DIGEST, ForeignKey("sign_in_link.token_sha256"), primary_key=True)
    used_at: Mapped[datetime.datetime]


class Ballot(Table):
    """What one operator said of one pair, as it was shown: which side A was, only the sealed seed tells.

    preference: a, b or tie. ratings: `a.accuracy` and so on -> 1 to 5; NULL where nobody was asked because both answers
    were the same.
    """

    __tablename__ = "ballot"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"), primary_key=True)
    operator: Mapped[str] = mapped_column(primary_key=True)
    pair: Mapped[str] = mapped_column(primary_key=True)
    preference: Mapped[str]
    ratings: Mapped[dict[str, int] | None]
    given_at: Mapped[datetime.datetime]


class Guess(Table):
    """Which answer of a pair the operator took for the new side's, asked after the last ballot: a or b."""

    __tablename__ = "guess"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"), primary_key=True)
    operator: Mapped[str] = mapped_column(primary_key=True)
    pair: Mapped[str] = mapped_column(primary_key=True)
    choice: Mapped[str]
    given_at: Mapped[datetime.datetime]


class ReviewClosing(Table):
    """The end of a review; the key refuses a second one, and from here on no ballot is taken.

    seed: the sealed seed, 64 hex digits, revealed. ballots_sha256: over every ballot and guess. officer, reason: of who
    closed before the pre-registered number was reached.
    """

    __tablename__ = "review_closing"
    __table_args__ = (WITHOUT_HIDDEN_KEY,)

    review_id: Mapped[str] = mapped_column(ForeignKey("blind_review.id"), primary_key=True)
    closed_at: Mapped[datetime.datetime]
    seed: Mapped[str] = mapped_column(DIGEST)
    ballots: Mapped[int]
    ballots_sha256: Mapped[str] = mapped_column(DIGEST)
    officer: Mapped[str | None]
    reason: Mapped[str | None]
