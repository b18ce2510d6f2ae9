"""Look-ups in the registry: its rows, and as plain dictionaries for the command line and pages.

What belongs here: reading. What does not: entering anything (`registry/registration.py`, `review/`).
"""

import difflib
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select

from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.rows_on_record import adapters_on_record, assert_entered, assert_on_record
from sovereign_pipeline.ledger.states import ENDED, state_of, states
from sovereign_pipeline.ledger.tables import Adapter, BaseModelRow, Dataset, row_as_dict


def list_adapters(registry: Registry, line: str | None = None) -> list[dict[str, Any]]:
    """Every registered adapter, or those of one line, in the order of registration.

    Raises IntegrityError naming a row that no entry of the audit log names; columns are not compared here.
    """
    query = select(Adapter).order_by(Adapter.registered_at, Adapter.id)
    if line is not None:
        query = query.where(Adapter.line == line)
    with registry.reading() as session:
        adapters = list(session.scalars(query))
        assert_entered(session, [adapter.id for adapter in adapters])
        state = states(session, line)
        return [{**row_as_dict(adapter), "state": state[adapter.id]} for adapter in adapters]


def adapters_in_brief(registry: Registry, line: str | None = None) -> list[dict[str, Any]]:
    """What a table shows of each adapter, quick for thousands; ordered and refused as by `list_adapters`."""
    query = select(*_BRIEF).order_by(_COLUMNS.registered_at, _COLUMNS.id)
    if line is not None:
        query = query.where(_COLUMNS.line == line)
    names = [column.name for column in _BRIEF]
    with registry.reading() as session:
        rows = session.execute(query).all()
        assert_entered(session, [row.id for row in rows])
        state = states(session, line)
        return [dict(zip(names, row, strict=True), state=state[row.id]) for row in rows]


_COLUMNS = Adapter.__table__.c
_BRIEF = [
    *(_COLUMNS.id, _COLUMNS.classification, _COLUMNS.method, _COLUMNS.adapter_digest, _COLUMNS.dataset_digest),
    *(_COLUMNS.base_model, _COLUMNS.registered_at, _COLUMNS.review_date),
]


def show_adapter(registry: Registry, adapter_id: str) -> dict[str, Any]:
    """One adapter with its waivers (`acceptances`) and the rows of its datasets and its base model.

    Raises NotFoundError that lists the known adapters.
    """
    with registry.reading() as session:
        adapter = find_adapter(registry, adapter_id)
        digests = [digest for digest in (adapter.dataset_digest, adapter.preference_dataset_digest) if digest]
        datasets = session.scalars(select(Dataset).where(Dataset.digest.in_(digests)).order_by(Dataset.kind.desc()))
        return {
            **row_as_dict(adapter),
            "state": state_of(session, adapter),
            "acceptances": waivers_of(adapter),
            "datasets": [row_as_dict(dataset) for dataset in datasets],
            "base": row_as_dict(session.get_one(BaseModelRow, adapter.base_model_digest)),
        }


def waivers_of(adapter: Adapter) -> list[dict[str, Any]]:
    """The waivers behind an adapter: stage, gate, outcome, officer, reason and time of each."""
    return [
        {**{name: each[name] for name in ("stage", "gate", "outcome")}, **each["acceptance"]}
        for each in adapter.gate_records
        if "acceptance" in each
    ]


def waivers_of_line(registry: Registry, line: str, besides: str | None = None) -> list[dict[str, Any]]:
    """The waivers behind a line's registered adapters, oldest first, without those of the artifact `besides`."""
    query = select(Adapter).where(Adapter.line == line).order_by(Adapter.registered_at, Adapter.id)
    with registry.reading() as session:
        return [
            {"adapter": adapter.id, **each}
            for adapter in session.scalars(query)
            if adapter.adapter_digest != besides
            for each in waivers_of(adapter)
        ]


def list_datasets(registry: Registry, line: str | None = None) -> list[dict[str, Any]]:
    """Every registered dataset, or those of one line, oldest first, with the adapters that were trained on it."""
    query = select(Dataset).order_by(Dataset.created_at, Dataset.digest)
    if line is not None:
        query = query.where(Dataset.line == line)
    with registry.reading() as session:
        adapters = session.scalars(select(Adapter).order_by(Adapter.registered_at, Adapter.id)).all()
        return [_dataset_as_dict(dataset, adapters) for dataset in session.scalars(query)]


def show_dataset(registry: Registry, digest: str) -> dict[str, Any]:
    """One dataset by its digest or the first digits of it. Raises NotFoundError for none or several."""
    found = [dataset for dataset in list_datasets(registry) if dataset["digest"].startswith(digest)]
    if len(found) == 1:
        return found[0]
    known = and_more(dataset["digest"][:12] for dataset in found or list_datasets(registry)) or "none"
    problem = f"{len(found)} datasets begin with" if found else "There is no registered dataset"
    raise NotFoundError(f"{problem} '{digest}'.", f"Give one of these, or more of its digits: {known}.")


def registered_as(registry: Registry, record_digest: str) -> Adapter | None:
    """The adapter that was registered from a record, or None.

    Raises IntegrityError for a row that was put in or changed.
    """
    with registry.reading() as session:
        adapter = session.scalars(select(Adapter).where(Adapter.record_digest == record_digest)).one_or_none()
        if adapter is not None:
            assert_on_record(session, adapter)
        return adapter


def is_registered(registry: Registry, record_digest: str) -> bool:
    """Whether an adapter was registered from a record."""
    return registered_as(registry, record_digest) is not None


def find_adapter(registry: Registry, adapter_id: str) -> Adapter:
    """The row of an adapter, as its entry has it.

    Raises NotFoundError that names some known adapters, those with an id like it first, and IntegrityError for a row
    that was put in or changed.
    """
    with registry.reading() as session:
        adapter = session.get(Adapter, adapter_id)
        if adapter is not None:
            assert_on_record(session, adapter)
            return adapter
        known = session.scalars(select(Adapter.id).order_by(Adapter.id)).all()
    nearest = difflib.get_close_matches(adapter_id, known)
    told = and_more([*nearest, *(each for each in known if each not in nearest)]) or "none"
    raise NotFoundError(f"There is no registered adapter '{adapter_id}'.", f"Known adapters: {told}.")


def line_of(adapter_id: str) -> str:
    """The line of an adapter: its id is line and version."""
    return adapter_id.rpartition("-")[0]


def incumbent_of(registry: Registry, line: str, weights: str | None, besides: Collection[str | None]) -> Adapter | None:
    """The adapter of a line that a candidate would replace, or None: the one in production, else the last registered.

    Args:
        weights: SHA-256 of the candidate's weights (`Adapter.adapter_sha256`), which are no incumbent of themselves.
        besides: of weights that are none either.

    What was rejected, recalled or retired is none. For a candidate that is registered, earlier adapters count in the
    state that they had then: what happens to them afterwards makes its scores no older. Versions only rise, so the
    highest is the last: times of registration are whole seconds and may tie.
    """
    with registry.reading() as session:
        adapters = adapters_on_record(session, line)
        state = states(session, line)
        same = [adapter for adapter in adapters if adapter.adapter_sha256 == weights]
        if same:
            first = min(same, key=lambda adapter: adapter.version_numbers)
            earlier = {adapter.id for adapter in adapters if adapter.version_numbers < first.version_numbers}
            then = states(session, line, first.registered_at)
            state |= {adapter: then[adapter] for adapter in earlier if adapter in then}
    others = [
        adapter
        for adapter in adapters
        if adapter.adapter_sha256 not in {weights, *besides} and state[adapter.id] not in ENDED
    ]
    serving = [adapter for adapter in others if state[adapter.id] == "production"]
    return max(serving or others, key=lambda adapter: adapter.version_numbers, default=None)


def _dataset_as_dict(dataset: Dataset, adapters: Sequence[Adapter]) -> dict[str, Any]:
    trained = [each.id for each in adapters if dataset.digest in (each.dataset_digest, each.preference_dataset_digest)]
    return {**row_as_dict(dataset), "adapters": trained}
