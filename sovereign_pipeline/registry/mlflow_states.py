"""MLflow's aliases `candidate`, `staging` and `production` of a line, and where MLflow differs from the registry.

The registry is the authority; MLflow is written after an act was committed, and a failure there undoes nothing. What
belongs here: which version has which alias, the comparison by one query, and writing anew what differs. What does not:
mirroring an adapter as a version (`mlflow_mirror.py`).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.database import Registry, parsed_url
from sovereign_pipeline.ledger.rows_on_record import adapters_on_record
from sovereign_pipeline.ledger.signed_artifacts.sealing import open_store
from sovereign_pipeline.ledger.states import State, states
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.registry.mlflow_mirror import LATEST, MIRRORED, mirror_adapter, mirrored

REPAIRED = "mlflow repaired"
ALIASES: Mapping[str, frozenset[State]] = {
    "candidate": frozenset({"registered", "in review", "approved"}),
    "staging": frozenset({"staged"}),
    "production": frozenset({"production"}),
}
"""Alias -> the states of which the newest version has it."""

_QUERY = """
SELECT v.name, v.version, v.source, mirrored.value, named.value, a.alias
FROM model_versions v
LEFT JOIN model_version_tags mirrored ON mirrored.workspace = v.workspace AND mirrored.name = v.name
    AND mirrored.version = v.version AND mirrored.key = :mirrored
LEFT JOIN model_version_tags named ON named.workspace = v.workspace AND named.name = v.name
    AND named.version = v.version AND named.key = 'id'
LEFT JOIN registered_model_aliases a ON a.workspace = v.workspace AND a.name = v.name AND a.version = v.version
WHERE v.current_stage IS NULL OR v.current_stage <> 'Deleted_Internal'
ORDER BY v.name, v.version
"""


@dataclass(frozen=True)
class Version:
    """A version of a model in MLflow."""

    model: str
    number: int
    source: str | None
    record: str | None
    """Digest that its tag says it mirrors."""
    adapter: str | None
    """Id that its tag says it is."""
    aliases: frozenset[str]


@dataclass(frozen=True)
class Difference:
    """Something that MLflow has otherwise than the registry."""

    line: str
    what: str
    wrong: Version | None = None
    """A version that mirrors an adapter of the registry wrongly, or once too often."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


def differences(registry: Registry, settings: Settings, line: str | None = None) -> list[Difference]:
    """Where MLflow differs in name, version, source, digest or alias, of one line or of all. Changes nothing.

    Raises NotFoundError where MLflow's database cannot be read.
    """
    store = open_store(settings, registry=registry)
    with registry.reading() as session:
        lines = _lines(session) if line is None else [line]
        adapters = {each: adapters_on_record(session, each) for each in lines}
        state = states(session, line)
    versions = _versions(settings) if any(adapters.values()) else []
    found: list[Difference] = []
    for each in lines:
        found += _differences_of(each, adapters[each], state, [v for v in versions if v.model == each], store)
    records = {adapter.record_digest for of_line in adapters.values() for adapter in of_line}
    if line is None:
        found += [
            Difference(v.model, f"version {v.number} of a model that is no line says that it is {v.adapter}", v)
            for v in versions
            if v.model not in adapters and (v.record in records or v.adapter is not None)
        ]
    return found


def follow(registry: Registry, settings: Settings, line: str) -> None:
    """Let the aliases of a line be where the registry has its states. Nothing is done where MLflow was never used."""
    if not _is_there(settings):
        return
    with registry.reading() as session:
        expected = expected_aliases(adapters_on_record(session, line), states(session, line))
    with mirrored(settings) as client:
        by_record = {
            version.tags.get(MIRRORED): str(version.version)
            for version in client.search_model_versions(f"name = '{line}'")
        }
        if not by_record:
            return
        current = {name: str(number) for name, number in client.get_registered_model(line).aliases.items()}
        for alias in (*ALIASES, LATEST):
            adapter = expected.get(alias)
            number = by_record.get(adapter.record_digest) if adapter is not None else None
            if number is not None and current.get(alias) != number:
                client.set_registered_model_alias(line, alias, number)
            elif number is None and alias in current:
                client.delete_registered_model_alias(line, alias)


def follow_after_act(registry: Registry, settings: Settings, line: str, tell: Callable[[str], None]) -> str | None:
    """As `follow`, after an act was committed: what fails is told, and the act stays. Returns what failed, or None."""
    try:
        follow(registry, settings, line)
    except Exception as error:  # whatever MLflow, its database or its disk raises
        failed = f"MLflow does not show the state of line {line} yet ({type(error).__name__}); the act is on record"
        tell(f"{failed}. `sovereign adapters mlflow --repair` writes it anew.")
        return failed
    return None


def repair(registry: Registry, settings: Settings) -> list[Difference]:
    """Write anew what differs, with an entry in the ledger. Returns what still differs: what others put into MLflow."""
    found = differences(registry, settings) if _is_there(settings) else []
    store = open_store(settings, registry=registry)
    with registry.reading() as session:
        adapters = {each: adapters_on_record(session, each) for each in _lines(session)}
    with mirrored(settings) as client:
        for each in found:
            if each.wrong is not None and each.wrong.record is not None:
                client.delete_model_version(each.wrong.model, str(each.wrong.number))
    for line, of_line in adapters.items():
        for adapter in sorted(of_line, key=lambda adapter: adapter.version_numbers):
            mirror_adapter(settings, store, adapter)
        follow(registry, settings, line)
    if found:
        with registry.writing() as session:
            append(session, account(), REPAIRED, {"differences": [str(each) for each in found]})
    return differences(registry, settings)


def expected_aliases(adapters: Sequence[Adapter], state: Mapping[str, State]) -> dict[str, Adapter]:
    """Alias -> the adapter of the line that has it; an alias that none has is left out."""
    ordered = sorted(adapters, key=lambda adapter: adapter.version_numbers)
    found = {alias: each for alias, of in ALIASES.items() for each in ordered if state[each.id] in of}
    return found | ({LATEST: ordered[-1]} if ordered else {})


def _lines(session: Session) -> list[str]:
    return list(session.scalars(select(Adapter.line).distinct().order_by(Adapter.line)))


def _differences_of(
    line: str,
    adapters: Sequence[Adapter],
    state: Mapping[str, State],
    versions: Sequence[Version],
    store: ArtifactStore,
) -> list[Difference]:
    found: list[Difference] = []
    by_record = defaultdict[str | None, list[Version]](list)
    for version in versions:
        by_record[version.record].append(version)
    shown: dict[str, Version] = {}
    for adapter in adapters:
        source = store.path_of(adapter.adapter_digest).as_uri()
        mirrors = by_record.pop(adapter.record_digest, [])
        for place, version in enumerate(sorted(mirrors, key=lambda v: (v.source, v.adapter) != (source, adapter.id))):
            shown.setdefault(adapter.id, version)
            where = f"version {version.number}, which mirrors {adapter.id},"
            if version.source != source:
                found.append(Difference(line, f"{where} leads to {version.source}, not to {source}", version))
            elif version.adapter != adapter.id:
                found.append(Difference(line, f"{where} says that it is {version.adapter}", version))
            elif place > 0:
                found.append(Difference(line, f"{where} does so a second time", version))
        if not mirrors:
            found.append(Difference(line, f"{adapter.id} has no version"))
    for record, others in by_record.items():
        for version in others:
            what = f"mirrors {short(record)}" if record is not None else "mirrors nothing"
            found.append(Difference(line, f"version {version.number} {what}, and no adapter is registered so", version))
    has = {alias: version for version in versions for alias in version.aliases}
    expected = expected_aliases(adapters, state)
    for alias in (*ALIASES, LATEST):
        wanted = expected.get(alias)
        meant = shown.get(wanted.id) if wanted is not None else None
        if has.get(alias) != meant:
            now = f"is version {has[alias].number}" if alias in has else "is nowhere"
            should = f"{wanted.id} is meant" if wanted is not None else "no adapter is meant"
            found.append(Difference(line, f"the alias {alias} {now}, and {should}"))
    return found


def _versions(settings: Settings) -> list[Version]:
    """Every version with its tags and aliases, by one query: MLflow's own search takes sixty times as long."""
    if not _is_there(settings):
        return []
    engine = create_engine(settings.mlflow_url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(text(_QUERY), {"mirrored": MIRRORED}).all()
    except SQLAlchemyError as error:
        raise NotFoundError(
            f"MLflow's database cannot be read ({type(error).__name__}).",
            "Check SOVEREIGN_MLFLOW_URL, and that the database is running.",
        ) from None
    finally:
        engine.dispose()
    found: list[Version] = []
    for (model, number, source, record, adapter), of_version in groupby(rows, key=lambda row: tuple(row[:5])):
        aliases = frozenset(row[5] for row in of_version if row[5] is not None)
        found.append(Version(model, number, source, record, adapter, aliases))
    return found


def _is_there(settings: Settings) -> bool:
    """Whether MLflow has a database: of SQLite, a file."""
    url = parsed_url(VARIABLES["mlflow_url"], settings.mlflow_url)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()
