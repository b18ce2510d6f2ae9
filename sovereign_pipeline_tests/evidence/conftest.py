"""One busy line with everything that evidence can hold, made once for all tests of the room, and its packages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.text import silent
from sovereign_pipeline.evidence.package import write_package
from sovereign_pipeline.evidence.verify import read_folder
from sovereign_pipeline.record import checkpoints, notes, witnesses
from sovereign_pipeline.record.notes import COSIGNS
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.release.acts import add_issue
from sovereign_pipeline.release.cadence import record_review
from sovereign_pipeline.release.recall import Question, waive_recall
from sovereign_pipeline.review.stages import blind_review_stage
from sovereign_pipeline.serving.rollout.publishing import follow
from sovereign_pipeline_tests.conftest import LADDER, DemoInstitution, minimal_recipe
from sovereign_pipeline_tests.evidence.packages import Package
from sovereign_pipeline_tests.officers import recall
from sovereign_pipeline_tests.registry.test_waivers import Demanding
from sovereign_pipeline_tests.release.conftest import Office, open_office
from sovereign_pipeline_tests.review.conftest import ReviewBench, row

FIRST, SECOND = "lamps-1.0.0", "lamps-1.1.0"
WITNESS = notes.new_signer("court.example/witness", COSIGNS)
AT = 1_900_000_000


@dataclass
class Desk:
    """Officers, a line, and the packages about it."""

    office: Office
    root: Path
    before: Package
    """Of when one thing less had been done."""
    package: Package
    """Of both adapters; it lies in `root`."""
    smaller: Package
    """Of the first adapter alone."""


def witnessed(office: Office, root: Path) -> None:
    """Let the witness of the trust root cosign the newest checkpoint."""
    registry, settings = office.registry, office.bench.settings
    log = checkpoints.signer(settings)
    assert log is not None
    note = registry.checkpoint()
    with registry.reading() as session:
        asked = witnesses.request(session, note, witnesses.newest_cosigned_size(settings))
    witnesses.note_asked(settings, note)
    answer = witnesses.answer(asked, WITNESS, [log.verifier], root / "witness", AT)
    policy = root / "witnesses.policy"
    policy.write_text(f"log {log.verifier}\nwitness court {WITNESS.verifier}\nquorum court\n")
    witnesses.add_cosignatures(settings, witnesses.read_policy(policy), answer)


def written(office: Office, folder: Path, adapters: list[str], **options: object) -> Package:
    store, settings = office.bench.store, office.bench.settings
    write_package(office.registry, store, settings, adapters, folder, silent, **options)  # type: ignore[arg-type]
    return Package(read_folder(folder), office.trust.root_sha256)


def one_more_adapter(office: Office, bench: Demanding) -> Adapter:
    """One more version, whose report was inconclusive, which an officer accepted."""
    bench.institution.rows.append(row(len(bench.institution.rows)))
    bench.run(until=bench.report)
    bench.waive()
    return bench.register()


def _reviewed(bench: Demanding) -> None:
    stage, reviews = bench.chain[-1], ReviewBench(bench)
    reviews.open(candidate_stage=stage)
    reviews.vote_all(1)
    reviews.close()
    reviews.materialize(blind_review_stage(stage))


def _busy(office: Office, bench: Demanding) -> None:
    """An adapter that was waived, reviewed blind and promoted, another that was staged beside it, what went wrong."""
    first = one_more_adapter(office, bench)
    _reviewed(bench)
    office.to_production(first)
    follow(office.registry, bench.workplace())
    bench.institution.rules["release"] |= {"blind_review": "not_required"}
    second = one_more_adapter(office, bench)
    office.decide(office.ask("approve", second), "omar", "reject")
    standing = office.ask("approve", second)
    office.decide(standing, "omar")
    office.decide(standing, "omar", "withdraw")
    for transition in ("approve", "stage"):
        office.move(transition, second)
    follow(office.registry, bench.workplace())
    record_review(office.registry, first.id, "It stays.", office.officers["layla"], second.registered_at)
    opened = recall(office.registry, Question(source="letters"), office.officers["omar"])
    waive_recall(office.registry, opened.id, first.id, office.officers["omar"], "The desk asked for a day.")


def busy_office(root: Path, witnesses: Sequence[str] = (), **recipe: Any) -> tuple[Office, Demanding]:
    """An institution under a directory whose line `lamps` has gone through everything; `recipe`: changes of it."""
    institution = DemoInstitution(root / "institution", minimal_recipe(**recipe), [row(number) for number in range(60)])
    institution.root.mkdir()
    bench = Demanding(institution)
    bench.demand("inconclusive")
    bench.with_base_model("tiny")
    institution.recipe["gates"] = {
        "capability": {"officer_may": "accept_inconclusive"},
        "review": {"prompts_each": 2, "shared_prompts": 2, "guess_pairs": 2},
    }
    institution.rules["rollout"] = {"share": 0.25}
    office = open_office(institution, bench, witnesses)
    institution.rules["release"] = {"promote_without_hold": list(LADDER)}
    _busy(office, bench)
    return office, bench


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    root = tmp_path_factory.mktemp("evidence")
    office, _ = busy_office(root, [str(WITNESS.verifier)])
    witnessed(office, root)
    before = written(office, root / "before", [FIRST, SECOND])
    add_issue(office.registry, FIRST, "It takes candles for lamps.", office.officers["layla"])
    witnessed(office, root)
    package = written(office, root / "package", [FIRST, SECOND])
    yield Desk(office, root, before, package, written(office, root / "smaller", [FIRST]))
    office.registry.engine.dispose()
