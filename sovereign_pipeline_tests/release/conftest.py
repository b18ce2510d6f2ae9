"""An institution with a trust root, three officers and a line of small real adapters."""

import atexit
import datetime
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from sovereign_pipeline.record import checkpoints
from sovereign_pipeline.record.catalog import State, states
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.keys import FileSigner, read_public_file
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.record.trust_changes import add_officer, create_trust
from sovereign_pipeline.record.trust_root import Trust, load_trust
from sovereign_pipeline.release.requests import decide, propose, request
from sovereign_pipeline.release.standing import Decision, Standing
from sovereign_pipeline_tests.conftest import LADDER, DemoInstitution, letter
from sovereign_pipeline_tests.registry.bench import Bench, small_bench
from sovereign_pipeline_tests.release.holders import Ask, Holders
from sovereign_pipeline_tests.trusted import demonstration_key, trust_demonstration

TO_PRODUCTION = ("approve", "stage", "promote")
OFFICERS = ("Layla Haddad", "Omar Nasser", "Ines Farah")


@dataclass
class Office:
    """Officers, their keys, and the line `lamps`."""

    bench: Bench
    roots: tuple[FileSigner, ...]
    officers: Mapping[str, FileSigner]
    """By first name in lower case."""
    pipeline: FileSigner

    @cached_property
    def registry(self) -> Registry:
        return self.bench.open_registry()

    @property
    def trust(self) -> Trust:
        return load_trust(self.bench.settings.data / "trust")

    def adapter(self, *transitions: str) -> Adapter:
        """One more version of the line, trained on one document more, and moved through these transitions."""

        def move(adapter: Adapter) -> None:
            for transition in transitions:
                self.move(transition, adapter)

        rows = self.bench.institution.rows
        rows.append(letter(len(rows)))
        return self.bench.register(" ".join(transitions), move)

    def twin_of(self, adapter: Adapter) -> Adapter:
        """One more version of the line, with the weights of the newest one."""
        self.bench.recipe["purpose"] = "The same weights for another purpose."
        twin = self.bench.register()
        assert twin.adapter_digest == adapter.adapter_digest
        return twin

    def ask(self, transition: str, adapter: Adapter, officer: str = "layla", reason: str = "It is needed.") -> Standing:
        workplace = self.bench.workplace()
        now = datetime.datetime.now(datetime.UTC)
        proposal = propose(self.registry, workplace, adapter.id, transition, reason, now)
        return request(self.registry, workplace, self.officers[officer], proposal)

    def decide(self, standing: Standing, officer: str, decision: Decision = "approve") -> Standing:
        return decide(self.registry, self.bench.workplace(), standing.request.id, decision, self.officers[officer])

    def move(self, transition: str, adapter: Adapter) -> None:
        """Ask for a transition, and let the others approve it as long as it is needed."""
        standing = self.ask(transition, adapter)
        for officer in ("omar", "ines"):
            if standing.ended is None:
                standing = self.decide(standing, officer)
        assert standing.ended is not None, standing
        assert "was made" in standing.ended

    def to_production(self, adapter: Adapter) -> None:
        for transition in TO_PRODUCTION:
            self.move(transition, adapter)

    def states(self, at: datetime.datetime | None = None) -> dict[str, State]:
        with self.registry.reading() as session:
            return states(session, "lamps", at)


@pytest.fixture
def office(institution: DemoInstitution) -> Office:
    return open_office(institution)


def open_office(institution: DemoInstitution, bench: Bench | None = None, witnesses: Sequence[str] = ()) -> Office:
    """Its trust root is none of a demonstration; its keys are those that were made once for all tests.

    Args:
        bench: else a small one. witnesses: public keys (name+id+key) of the log's witnesses.
    """
    roots, officers = keys_of_office()
    institution.rules["release"] = {"blind_review": "not_required", "promote_without_hold": list(LADDER)}
    settings = institution.settings
    made = trust_of_office(tuple(witnesses))
    shutil.copytree(made / "trust", settings.data / "trust")
    checkpoints.keep(settings, checkpoints.read_key(made / "log.key"))
    trust_demonstration(settings)
    by_name = {name.split()[0].lower(): officer for name, officer in zip(OFFICERS, officers, strict=True)}
    return Office(bench or small_bench(institution), roots, by_name, demonstration_key("pipeline"))


def keys_of_office() -> tuple[tuple[FileSigner, ...], tuple[FileSigner, ...]]:
    """Those of the root and those of the officers."""
    roots, officers = (
        tuple(demonstration_key(f"{role}-{number}") for number in (1, 2, 3)) for role in ("root", "officer")
    )
    return roots, officers


@cache
def trust_of_office(witnesses: tuple[str, ...]) -> Path:
    """A directory with `trust/` and the key of the log, made once a process."""
    directory = Path(tempfile.mkdtemp(prefix="sovereign-office-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    log = checkpoints.new_log()
    checkpoints.write_key(directory / "log.key", log)

    def pem(verifier: object) -> str:
        (directory / "key.pub").write_text(f"{verifier}\n")
        return read_public_file(directory / "key.pub")

    roots, officers = keys_of_office()
    of_witnesses = {"witness": [pem(each) for each in witnesses]} if witnesses else {}
    keys = {"pipeline": [demonstration_key("pipeline").public_pem], "log": [pem(log.verifier)], **of_witnesses}
    create_trust(directory / "trust", roots, keys)
    for name, officer in zip(OFFICERS, officers, strict=True):
        add_officer(directory / "trust", officer.public_pem, name, ["*"], ["*"], roots[:2])
    return directory


@pytest.fixture
def holders(institution: DemoInstitution) -> Holders:
    return Holders(small_bench(institution))


@pytest.fixture
def ask(holders: Holders, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Opening Dagster's instance sets variables of the whole process; they are taken back."""
    monkeypatch.setenv("SOVEREIGN_HOME", str(holders.bench.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(holders.bench.settings.data))
    given = dict(os.environ)
    yield Ask()
    os.environ.clear()
    os.environ.update(given)
