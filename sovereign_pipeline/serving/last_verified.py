"""What a gateway may serve while the registry is down since its start, or since its engine was lost.

Two must agree. The gateway notes in its own directory, outside the home, what it verified in the ledger last; what was
refused there since is not noted any more. And the line's flag, which is signed, must name the same adapter. Every
signature and byte is verified again all the same. What the ledger has been told since by others is not known here.

What belongs here: that note, and what it lets be served. What does not: what the ledger lets be served
(`deployable.py`).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.base.errors import IntegrityError, SovereignError
from sovereign_pipeline.base.files import write_atomically
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.states import State
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.serving.deployable import NOT_VERIFIED, Found, Verified, in_order, named, verified_adapter
from sovereign_pipeline.serving.flags.flag import Flag
from sovereign_pipeline.serving.tokens import serving_directory


class Noted(Frozen):
    """An adapter that was verified in the ledger."""

    adapter: str
    line: str
    state: State
    record: ArtifactRef
    manifest_sha256: str
    """Of the manifest of the artifact with its weights."""


class LastVerified(Frozen):
    """Everything that was verified at the last look at the ledger."""

    adapters: tuple[Noted, ...] = ()


def note(settings: Settings, found: Found) -> None:
    """Keep what was verified now, and nothing else."""
    _write(settings, LastVerified(adapters=tuple(map(_noted, found.verified))))


def forget(settings: Settings) -> None:
    """Keep nothing: the ledger was reached, and is not believed."""
    _write(settings, LastVerified())


def find_last_verified(settings: Settings, store: ArtifactStore, flags: Mapping[str, Flag]) -> Found:
    """What may be served by note and flags.

    Args:
        flags: line -> the flag that is in force.

    Raises IntegrityError for a note that cannot be read.
    """
    verified: list[Verified] = []
    refused: dict[str, SovereignError] = {}
    for noted in _read(settings).adapters:
        try:
            found = verified_adapter(store, _row(store, noted), noted.state)
            _assert_named(found, flags.get(noted.line))
        except NOT_VERIFIED as error:
            refused[noted.adapter] = named(noted.adapter, error)
        else:
            verified.append(found)
    return Found(in_order(verified), refused)


def _noted(verified: Verified) -> Noted:
    return Noted(
        adapter=verified.deployable.adapter,
        line=verified.deployable.line,
        state=verified.state,
        record=verified.record,
        manifest_sha256=verified.artifact.ref.manifest_sha256,
    )


def _row(store: ArtifactStore, noted: Noted) -> Adapter:
    """The registry's row, from the record that it was made from."""
    return Adapter(
        id=noted.adapter,
        version=noted.adapter.removeprefix(f"{noted.line}-"),
        manifest_sha256=noted.manifest_sha256,
        record_digest=noted.record.digest,
        record_manifest_sha256=noted.record.manifest_sha256,
        **read_record(store.open(noted.record)).row_facts,
    )


def _assert_named(verified: Verified, flag: Flag | None) -> None:
    adapter = verified.deployable
    way = flag.adapters.get(adapter.adapter) if flag is not None and adapter.adapter in _in_use(flag) else None
    facts = (adapter.digest, verified.record.manifest_sha256, adapter.classification)
    if way is None or (way.digest, way.record_manifest, way.classification) != facts:
        raise IntegrityError(
            f"{adapter.adapter}: the registry is not reached, and the flag of line {adapter.line} does not name it.",
            "Start the registry's database.",
        )


def _in_use(flag: Flag) -> set[str | None]:
    """What users get, and what an officer can go back to: not what was just taken back."""
    return {flag.production, flag.staged, *(each.adapter for each in flag.back)}


def _file(settings: Settings) -> Path:
    return serving_directory(settings) / "last-verified.json"


def _read(settings: Settings) -> LastVerified:
    path = _file(settings)
    try:
        return LastVerified.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return LastVerified()
    except (OSError, ValidationError):
        raise IntegrityError(
            f"{path}: what this gateway verified last cannot be read.", "Remove it, and start the registry's database."
        ) from None


def _write(settings: Settings, now: LastVerified) -> None:
    path = _file(settings)
    content = json.dumps(now.model_dump(mode="json"), indent=1) + "\n"
    try:
        if not path.exists() or path.read_text() != content:
            write_atomically(path, content)
    except OSError:  # of this file: it must not pass for a registry that is not reached
        _remove(path)


def _remove(path: Path) -> None:
    """Keep nothing where nothing can be written: what was noted before may have been refused since."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise IntegrityError(
            f"{path}: what was verified cannot be noted ({error.strerror}).", "Let the gateway write its directory."
        ) from None
