"""What the registry holds, as plain dictionaries that are ready for JSON. Read by the command line and by pages."""

import datetime
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.dataset.stages import CARD, CARD_FOR_PEOPLE
from sovereign_pipeline.errors import IntegrityError, NotFoundError
from sovereign_pipeline.registry.database import Registry
from sovereign_pipeline.registry.models import Adapter, BaseModelRow, Dataset, Table


def list_adapters(registry: Registry, line: str | None = None) -> list[dict[str, Any]]:
    """Every registered adapter, or those of one line, in the order of registration."""
    query = select(Adapter).order_by(Adapter.registered_at, Adapter.id)
    if line is not None:
        query = query.where(Adapter.line == line)
    with registry.reading() as session:
        return [row_as_dict(adapter) for adapter in session.scalars(query)]


def show_adapter(registry: Registry, adapter_id: str) -> dict[str, Any]:
    """One adapter with the acceptances of officers and the rows of its datasets and its base model.

    Raises NotFoundError that lists the known ones.
    """
    with registry.reading() as session:
        adapter = find_adapter(registry, adapter_id)
        digests = [digest for digest in (adapter.dataset_digest, adapter.preference_dataset_digest) if digest]
        datasets = session.scalars(select(Dataset).where(Dataset.digest.in_(digests)).order_by(Dataset.kind.desc()))
        return {
            **row_as_dict(adapter),
            "acceptances": acceptances_of(adapter),
            "datasets": [row_as_dict(dataset) for dataset in datasets],
            "base": row_as_dict(session.get_one(BaseModelRow, adapter.base_model_digest)),
        }


def acceptances_of(adapter: Adapter) -> list[dict[str, Any]]:
    """Where an officer let the adapter pass a gate that did not: stage, gate, outcome, and who, why, when."""
    return [
        {**{name: each[name] for name in ("stage", "gate", "outcome")}, **each["acceptance"]}
        for each in adapter.gate_records
        if "acceptance" in each
    ]


def acceptances_of_line(registry: Registry, line: str, besides: str | None = None) -> list[dict[str, Any]]:
    """Every acceptance and override behind the registered adapters of a line whose artifact is not `besides`, oldest
    adapter first."""
    query = select(Adapter).where(Adapter.line == line).order_by(Adapter.registered_at, Adapter.id)
    with registry.reading() as session:
        return [
            {"adapter": adapter.id, **each}
            for adapter in session.scalars(query)
            if adapter.adapter_digest != besides
            for each in acceptances_of(adapter)
        ]


def list_datasets(registry: Registry, line: str | None = None) -> list[dict[str, Any]]:
    """Every dataset that made a registered adapter, or those of one line, oldest first, with the adapters it made."""
    query = select(Dataset).order_by(Dataset.created_at, Dataset.digest)
    if line is not None:
        query = query.where(Dataset.line == line)
    with registry.reading() as session:
        adapters = session.scalars(select(Adapter).order_by(Adapter.registered_at, Adapter.id)).all()
        return [_dataset_as_dict(dataset, adapters) for dataset in session.scalars(query)]


def show_dataset(registry: Registry, digest: str) -> dict[str, Any]:
    """One dataset by its digest or the first digits of it. Raises NotFoundError for none, or for more than one."""
    found = [dataset for dataset in list_datasets(registry) if dataset["digest"].startswith(digest)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(dataset["digest"][:12] for dataset in found or list_datasets(registry)) or "none"
    problem = f"{len(found)} datasets begin with" if found else "There is no registered dataset"
    raise NotFoundError(f"{problem} '{digest}'. Give one of these, or more of its digits: {known}.")


@dataclass(frozen=True)
class CardOfDataset:
    """The data card of a registered dataset: for programs, and as Markdown for people."""

    facts: dict[str, Any]
    markdown: str


def card_of_dataset(store: ArtifactStore, row: dict[str, Any]) -> CardOfDataset:
    """The card that was registered with a dataset, `row` being as `show_dataset` gives it.

    Raises NotFoundError when the artifact is not there, and IntegrityError naming the file when a byte of it changed.
    """
    artifact = open_dataset(store, row)
    file = artifact.file(CARD)
    if row["card_sha256"] not in (None, file_sha256(file)):
        raise IntegrityError(f"{file}: not the data card that was registered. Restore the registry from a copy.")
    return CardOfDataset(json.loads(file.read_bytes()), artifact.file(CARD_FOR_PEOPLE).read_text(encoding="utf-8"))


def open_dataset(store: ArtifactStore, row: dict[str, Any]) -> Artifact:
    return store.open(ArtifactRef(**{name: row[name] for name in ("kind", "line", "digest", "manifest_sha256")}))


def registered_as(registry: Registry, record_digest: str) -> Adapter | None:
    """The adapter that was registered from a record, or None."""
    with registry.reading() as session:
        return session.scalars(select(Adapter).where(Adapter.record_digest == record_digest)).one_or_none()


def is_registered(registry: Registry, record_digest: str) -> bool:
    return registered_as(registry, record_digest) is not None


def find_adapter(registry: Registry, adapter_id: str) -> Adapter:
    """The row itself. Raises NotFoundError that lists the known ones."""
    with registry.reading() as session:
        adapter = session.get(Adapter, adapter_id)
        if adapter is not None:
            return adapter
        known = ", ".join(session.scalars(select(Adapter.id).order_by(Adapter.id))) or "none"
    raise NotFoundError(f"There is no registered adapter '{adapter_id}'; known adapters: {known}.")


def last_adapter(registry: Registry, line: str, besides: Collection[str | None]) -> Adapter | None:
    """The adapter of a line with the highest version whose artifact is not one of `besides`, or None.

    Versions only rise, so it is the one that was registered last; times of registration are whole seconds and may tie.
    """
    with registry.reading() as session:
        adapters = session.scalars(select(Adapter).where(Adapter.line == line)).all()
    others = [adapter for adapter in adapters if adapter.adapter_digest not in besides]
    return max(others, key=lambda adapter: adapter.version_numbers, default=None)


def row_as_dict(row: Table) -> dict[str, Any]:
    """Every column by its name; days and times in ISO 8601, times in UTC."""
    return {column.name: _plain(getattr(row, column.name)) for column in row.__table__.columns}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.date) else value


def _dataset_as_dict(dataset: Dataset, adapters: Any) -> dict[str, Any]:
    made = [each.id for each in adapters if dataset.digest in (each.dataset_digest, each.preference_dataset_digest)]
    return {**row_as_dict(dataset), "adapters": made}
