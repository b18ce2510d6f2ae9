"""How long `sovereign adapters list`, `show` and the other questions take with 10,000 adapters, as whole processes.

    python -m benchmarks.registry.adapters [--adapters 10000] [--keep DIRECTORY]

The registry is made by the program, with a valid ledger: every adapter has its entry, every fifth was approved,
staged and promoted by requests and approvals that are really signed, with recalls and known issues beside. What is
measured is the process, from its start to its end, as a shell's `time` does.
"""

import argparse
import datetime
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from benchmarks.harness import machine_facts, run, say
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.record.audit_log import append, contents_of, enter_adapter
from sovereign_pipeline.record.catalog import REQUESTED, STATE_CHANGED, facts_of
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.keys import FileSigner, read_key
from sovereign_pipeline.record.statements import APPROVAL, REQUEST, TRANSITION, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import (
    Adapter,
    BaseModelRow,
    Dataset,
    ReleaseDecision,
    ReleaseRequest,
    Table,
    Transition,
)
from sovereign_pipeline.record.trust_changes import demonstration_trust
from sovereign_pipeline.release.acts import add_issue
from sovereign_pipeline.release.recall import Question, ask, open_recall
from sovereign_pipeline.release.standing import DECIDED

LINES, DATASETS, USED = 20, 2_000, 5
"""Every so many-th adapter was in production."""
EMPTY = contents_of((), ())
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
SOVEREIGN = ("-c", "from sovereign_pipeline.cli.main import main; main()")
ROUTE = (
    ("approve", "registered", "approved", 2),
    ("stage", "approved", "staged", 1),
    ("promote", "staged", "production", 2),
)


def digest(kind: str, number: int) -> str:
    return hashlib.sha256(f"{kind}{number}".encode()).hexdigest()


class Office:
    """The keys of the demonstration, and what is signed with them."""

    def __init__(self, settings: Settings) -> None:
        demonstration_trust(settings.data / "trust", settings.keys)
        self.officers = [read_key(settings.keys / f"officer-{each}.key", lambda: "") for each in (1, 2, 3)]
        self.pipeline = read_key(settings.keys / "pipeline.key", lambda: "")

    def promote(self, session: Session, adapter: Adapter, incumbent: Adapter | None, sequence: int) -> int:
        """Everything from `registered` to `production`. Returns the number of the line's last transition."""
        for name, before, after, needed in ROUTE:
            at = START + datetime.timedelta(minutes=sequence)
            request = self.request(session, adapter, incumbent, at, name, before, after, needed)
            of_request, approvals = {"line": adapter.line, "adapter": adapter.id, "request": request}, []
            for officer in self.officers[1 : 1 + needed]:
                decided = self._sign(
                    officer,
                    request,
                    APPROVAL,
                    {"decision": "approve", "request": request, "adapter": adapter.id, "reason": ""},
                )
                approvals.append(hashlib.sha256(decided).hexdigest())
                given = ReleaseDecision(
                    request_id=request, keyid=officer.keyid, decision="approve", entered_at=at, statement=decided
                )
                of_decision = {**of_request, "statement": approvals[-1]}
                self._enter(session, given, officer, DECIDED["approve"], of_decision)
            moves = [(adapter, name, before, after)]
            if name == "promote" and incumbent is not None:
                moves.insert(0, (incumbent, "supersede", "production", "superseded"))
            for moved, move, left, reached in moves:
                sequence += 1
                facts = {
                    "line": moved.line,
                    "sequence": sequence,
                    "adapter": moved.id,
                    "transition": move,
                    "from": left,
                    "to": reached,
                    "request": request,
                    "approvals": sorted(approvals),
                }
                made = Transition(
                    line=moved.line,
                    sequence=sequence,
                    adapter_id=moved.id,
                    transition=move,
                    before=left,
                    after=reached,
                    request_id=request,
                    made_at=at,
                    statement=self._sign(self.pipeline, moved.record_manifest_sha256, TRANSITION, facts),
                )
                self._enter(session, made, self.pipeline, STATE_CHANGED, facts_of(made))
        return sequence

    def request(
        self,
        session: Session,
        adapter: Adapter,
        incumbent: Adapter | None,
        at: datetime.datetime,
        name: str,
        before: str,
        after: str,
        needed: int,
    ) -> str:
        """Enter a signed request. Returns its id."""
        content = {
            "line": adapter.line,
            "adapter": adapter.id,
            "classification": adapter.classification,
            "transition": name,
            "from": before,
            "to": after,
            "incumbent": incumbent.id if incumbent else None,
            "evidence": {"record": adapter.record_digest},
            "approvals": needed,
            "policy": {},
            "reason": "Benchmark.",
            "expires": (START + datetime.timedelta(days=3650)).isoformat(),
        }
        asked = self._sign(self.officers[0], adapter.record_manifest_sha256, REQUEST, content)
        request = hashlib.sha256(asked).hexdigest()
        row = ReleaseRequest(
            id=request, line=adapter.line, adapter_id=adapter.id, transition=name, entered_at=at, statement=asked
        )
        of_request = {"line": adapter.line, "adapter": adapter.id, "request": request}
        self._enter(session, row, self.officers[0], REQUESTED, of_request)
        return request

    def _sign(self, signer: FileSigner, sha256: str, predicate: str, content: dict[str, Any]) -> bytes:
        return sign_statement(signer, Statement((Subject("subject", sha256),), predicate, content))

    def _enter(
        self, session: Session, row: Table, signer: FileSigner, action: str, subjects: Mapping[str, object]
    ) -> None:
        session.add(row)
        session.flush()
        append(session, f"officer:{signer.keyid}", action, subjects)


def fill(registry: Registry, office: Office, count: int, lines: int = LINES) -> None:
    """Enter invented adapters of the lines `line-0`, … with all that follows a registration, in one transaction."""
    started = time.monotonic()
    with registry.writing() as session:
        base = BaseModelRow(digest=digest("b", 0), name="base", licence="none", files=[])
        datasets = [_dataset(number, lines) for number in range(min(DATASETS, count))]
        session.add_all([base, *datasets])
        session.flush()
        production: dict[str, Adapter] = {}
        sequences: dict[str, int] = {}
        for number in range(count):
            adapter = _adapter(number, lines)
            session.add(adapter)
            session.flush()
            rests_on = {adapter.dataset_digest: {"directly": True, "contents": hashlib.sha256(EMPTY).hexdigest()}}
            stated = {"datasets": rests_on, "base_models": {adapter.base_model_digest: True}}
            enter_adapter(session, adapter, "pipeline", stated, [EMPTY])
            if number // lines % USED == 0:
                line = adapter.line
                sequences[line] = office.promote(session, adapter, production.get(line), sequences.get(line, 0))
                production[line] = adapter
            if number % 1_000 == 999:
                say(f"{number + 1:,} of {count:,} adapters, {time.monotonic() - started:.0f} s")
                session.expunge_all()
                production = {line: session.get_one(Adapter, each.id) for line, each in production.items()}
    officer = office.officers[0]
    for number in range(0, count, 100):
        add_issue(registry, adapter_id(number, lines), "It quotes old fees.", officer)
    for number in range(3):
        open_recall(registry, ask(registry, Question(dataset=digest("d", number))), officer, "Benchmark.")
    say(f"{count:,} adapters in {time.monotonic() - started:.0f} s")


def _dataset(number: int, lines: int) -> Dataset:
    return Dataset(
        digest=digest("d", number),
        manifest_sha256=digest("m", number),
        kind="training_dataset",
        line=f"line-{number % lines}",
        rows=5_000,
        file_sha256=digest("f", number),
        classification="INTERNAL",
        sources=[],
        created_at=START,
        rows_held_out=500,
        by_classification={"INTERNAL": 5_000},
        tokens={},
        findings={},
        card_sha256=digest("c", number),
    )


def adapter_id(number: int, lines: int = LINES) -> str:
    return f"line-{number % lines}-1.{number // lines}.0"


def _adapter(number: int, lines: int) -> Adapter:
    digests = ("adapter_digest", "adapter_sha256", "manifest_sha256", "record_digest", "record_manifest_sha256")
    record = {"stage": "training_dataset", "gate": "digests_verified"}
    return Adapter(
        id=adapter_id(number, lines),
        line=f"line-{number % lines}",
        version=f"1.{number // lines}.0",
        **{name: digest(name, number) for name in (*digests, "evaluation_report_digest", "source_sha256")},
        dataset_digest=digest("d", number % DATASETS),
        base_model="base",
        base_model_digest=digest("b", 0),
        framework_versions={"torch": "2.13.0"},
        classification="INTERNAL",
        evaluation={"held": {}, "figures": {f"figure {each}": each / 7 for each in range(40)}},
        method="sft",
        review_date=START.date() + datetime.timedelta(days=365),
        registered_at=START + datetime.timedelta(minutes=number),
        code_version="1",
        gate_records=[{**record, "digest": digest("g", each), "manifest_sha256": "0" * 64} for each in range(30)],
    )


def commands(count: int) -> Iterator[tuple[str, ...]]:
    last = adapter_id(count - 1)
    yield ("adapters", "list")
    yield ("adapters", "list", "--json")
    yield ("adapters", "list", "--line", "line-3")
    yield ("adapters", "show", last)
    yield ("adapters", "show", last, "--json")
    yield ("adapters", "production", "line-3")
    yield ("adapters", "production", "line-3", "--at", "2026-01-02")
    yield ("adapters", "history", adapter_id(0))
    yield ("adapters", "status")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--adapters", type=int, default=10_000)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--keep", type=Path, help="Make the registry here, or measure the one that is here.")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = given.keep or Path(temporary)
        settings = Settings(home=root / "home", data=root / "data")
        if not (root / "home" / "registry.db").exists():
            (root / "data" / "lines").mkdir(parents=True)
            ladder = "classification: [PUBLIC, INTERNAL]\n"
            (root / "data" / "institution.yaml").write_text(f"name: Benchmark\n{ladder}", encoding="utf-8")
            settings.keys.mkdir(mode=0o700, parents=True)
            registry = open_registry(settings)
            fill(registry, Office(settings), given.adapters)
            registry.engine.dispose()
        environment = {VARIABLES[field]: settings.to_environment()[VARIABLES[field]] for field in VARIABLES}
        environment["PYTHONDONTWRITEBYTECODE"] = ""  # an installation has its modules compiled
        machine = machine_facts()
        out = [
            f"{given.adapters:,} adapters of {LINES} lines; {machine['processor']}, {machine['cores']} cores, "
            f"load {os.getloadavg()[0]:.1f}",
            "",
            "| command | median s | fastest s | CPU s |",
            "|---|---|---|---|",
        ]
        for command in commands(given.adapters):
            used = [run([*SOVEREIGN, *command], environment) for _ in range(given.repeats)]
            wall = [each["whole_seconds"] for each in used]
            cpu = min(each["cpu_seconds"] for each in used)
            shown = " ".join(command)
            out.append(f"| `{shown}` | {statistics.median(wall):.2f} | {min(wall):.2f} | {cpu:.2f} |")
        sys.stdout.write("\n".join([*out, ""]))


if __name__ == "__main__":
    main()
