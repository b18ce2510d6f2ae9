"""A chain of small artifacts, a workplace, and a trust root with known keys, which is made once and copied."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Targets

from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.keys import FileSigner, generate
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.trust_changes import add_officer, create_trust
from sovereign_pipeline.record.trust_root import RootSigner, Trust, load_trust, written
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.registry.bench import Bench, small_bench

BEGINNING = datetime(2026, 11, 26, 12, tzinfo=UTC)
IN_A_WEEK = BEGINNING + timedelta(days=7)


@dataclass(frozen=True)
class Holders:
    """Everybody's keys, and the public directory that names them."""

    directory: Path
    roots: tuple[FileSigner, ...]
    pipeline: FileSigner
    log: FileSigner
    officers: tuple[FileSigner, ...]
    """Layla Haddad, for everything, and Omar Nasser, who may approve staging up to INTERNAL."""

    @property
    def trust(self) -> Trust:
        return load_trust(self.directory, now=IN_A_WEEK)


@pytest.fixture(scope="session")
def first_holders(tmp_path_factory: pytest.TempPathFactory) -> Holders:
    directory = tmp_path_factory.mktemp("signing") / "trust"
    roots = tuple(generate() for _ in range(3))
    pipeline, officers = generate(), (generate(), generate())
    log = generate("ed25519")
    keys = {"pipeline": [pipeline.public_pem], "log": [log.public_pem]}
    create_trust(directory, roots, keys, now=BEGINNING)
    first, second = officers
    add_officer(directory, first.public_pem, "Layla Haddad", ["*"], ["*"], roots[:2], now=BEGINNING)
    levels = ["PUBLIC", "INTERNAL"]
    add_officer(directory, second.public_pem, "Omar Nasser", ["stage"], levels, roots[1:], now=BEGINNING)
    return Holders(directory, roots, pipeline, log, officers)


@pytest.fixture
def holders(first_holders: Holders, tmp_path: Path) -> Holders:
    directory = tmp_path / "trust"
    shutil.copytree(first_holders.directory, directory)
    return Holders(directory, first_holders.roots, first_holders.pipeline, first_holders.log, first_holders.officers)


def load(directory: Path, **arguments: Any) -> Trust:
    return load_trust(directory, **{"now": IN_A_WEEK, **arguments})


def rewrite(holders: Holders, change: Callable[[Targets], object], signers: tuple[Any, ...] = ()) -> None:
    """Change targets.json and sign it, with what python-tuf alone would let through."""
    path = holders.directory / "targets.json"
    metadata: Metadata[Targets] = Metadata.from_bytes(path.read_bytes())
    change(metadata.signed)
    metadata.signatures.clear()
    for signer in signers or holders.roots[:2]:
        metadata.sign(RootSigner(signer), append=True)
    path.write_bytes(written(metadata))


def delegations(targets: Targets) -> Any:
    return targets.delegations


@pytest.fixture
def bench(institution: DemoInstitution) -> Bench:
    return small_bench(institution)


@pytest.fixture
def registry(bench: Bench) -> Registry:
    """In a file; a test that takes `database` before it has PostgreSQL too."""
    return bench.open_registry()


@pytest.fixture
def workplace(institution: DemoInstitution) -> Workplace:
    return institution.workplace()
