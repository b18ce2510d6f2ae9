"""Who gets which adapter, and what leaves the change before in force."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.release.recall import answering
from sovereign_pipeline.serving.gateway.server import SECONDS_BETWEEN_HOLDS
from sovereign_pipeline.serving.high_water_marks import FlagMark
from sovereign_pipeline.serving.rollout import in_force
from sovereign_pipeline.serving.rollout.flag import FLAGS_FILE, SIGNATURE_FILE, root_of, sequences
from sovereign_pipeline.serving.rollout.rollback import rollback, stop
from sovereign_pipeline_tests.serving.gateway.scripted import LINE
from sovereign_pipeline_tests.serving.rollout.conftest import Desk, adapter_of, adapters_of

SECONDS_BETWEEN_LOOKS = in_force.SECONDS_BETWEEN_LOOKS
"""As users have it: a fixture makes the tests' gateways look always."""
USERS = [f"user-{number}" for number in range(1000)]


def newest(desk: Desk) -> Path:
    return root_of(desk.settings) / LINE / f"{sequences(desk.settings, LINE)[-1]:08d}"


def test_a_line_without_a_flag_answers_nobody(desk: Desk) -> None:
    assert adapter_of(desk.gateway()) is None
    assert desk.gateway().which("../lamps", "anybody") is None


def test_users_are_drawn_by_share_and_keep_their_arm(desk: Desk) -> None:
    before = desk.in_production()
    desk.rules(share=0.2, groups=["pilot"])
    after = desk.staged()
    flags = desk.gateway()
    chosen = adapters_of(flags, USERS)
    counted = Counter(chosen.values())
    assert set(counted) == {before.id, after.id}
    assert 124 <= counted[after.id] <= 276  # 200 expected; six standard deviations are 76
    assert adapters_of(desk.gateway(), USERS) == chosen
    of_group = [flags.which(LINE, user, ["pilot", "other"]) for user in USERS[:50]]
    assert {(each.adapter, each.drawn) for each in of_group if each} == {(after.id, False)}

    desk.rules(share=0.5)
    desk.follow()
    widened = adapters_of(flags, USERS)
    drawn, more = ({user for user, got in of.items() if got == after.id} for of in (chosen, widened))
    assert drawn < more


@pytest.mark.parametrize(
    ("rollout", "answers"), [({"share": 0}, False), ({"share": 0.2}, True), ({"share": 0, "groups": ["pilot"]}, True)]
)
def test_a_staged_adapter_answers_only_whom_the_flag_gives_it(
    desk: Desk, rollout: dict[str, Any], *, answers: bool
) -> None:
    production = desk.in_production()
    desk.rules(**rollout)
    staged, registry = desk.staged(), desk.office.registry
    with registry.reading() as session:
        last = answering(session, registry.settings, LINE)[-1]
    assert last.adapters == [production.id, *([staged.id] if answers else [])]


def test_who_had_the_staged_adapter_has_it_again_after_a_stop(desk: Desk) -> None:
    desk.in_production()
    desk.rules(share=0.3)
    adapter = desk.staged()
    flags = desk.gateway()

    first = adapters_of(flags, USERS[:300])
    assert adapter.id in first.values()
    desk.office.move("unstage", adapter)
    desk.follow()
    assert adapter.id not in adapters_of(flags, USERS[:300]).values()
    desk.office.move("stage", adapter)
    desk.follow()
    assert adapters_of(flags, USERS[:300]) == first


def test_no_change_of_the_ledger_writes_no_change(desk: Desk) -> None:
    desk.in_production()
    before = sequences(desk.settings, LINE)
    desk.follow()
    assert sequences(desk.settings, LINE) == before


@pytest.mark.security_case(
    "A line's flag is edited, damaged, replaced by a link, or unsigned",
    "the previous flag stays in force; after a restart nothing of the line is served",
)
@pytest.mark.parametrize("fault", ["corrupt", "unsigned", "edited", "link", "empty"])
def test_what_cannot_be_believed_leaves_the_one_before_in_force(desk: Desk, fault: str) -> None:
    first = desk.in_production()
    flags = desk.gateway()
    assert adapter_of(flags) is not None
    second = desk.in_production()
    directory = newest(desk)
    if fault == "corrupt":
        (directory / FLAGS_FILE).write_bytes(b"{" + os.urandom(20))
    elif fault == "unsigned":
        (directory / SIGNATURE_FILE).unlink()
    elif fault == "edited":
        text = (directory / FLAGS_FILE).read_text()
        (directory / FLAGS_FILE).write_text(text.replace(second.id, first.id))
    elif fault == "link":
        moved = directory.parent.parent / "elsewhere.json"
        (directory / FLAGS_FILE).rename(moved)
        (directory / FLAGS_FILE).symlink_to(moved)
    else:
        (directory / FLAGS_FILE).write_bytes(b"")
    assert adapter_of(flags) == first.id
    assert f"{LINE}" in flags.problems()
    fresh = desk.gateway()
    assert adapter_of(fresh) is None, "at the start there is none before"
    assert LINE in fresh.problems()

    desk.follow()  # written and signed anew
    assert adapter_of(fresh) == second.id
    assert adapter_of(flags) is not None
    assert flags.problems() == {}


@pytest.mark.security_case(
    "Someone restores an older flag with a valid signature, so that an earlier adapter would answer",
    "the newer flag stays in force; after a restart nothing of the line is served",
)
def test_an_older_change_that_is_put_back_is_refused(desk: Desk) -> None:
    first = desk.in_production()
    flags = desk.gateway()
    adapter_of(flags)
    second = desk.in_production()
    assert adapter_of(flags) == second.id
    shutil.rmtree(newest(desk))  # now the first one is the newest
    assert adapter_of(flags) == second.id != first.id
    assert "was in force" in flags.problems()[LINE]
    assert adapter_of(desk.gateway()) is None, "a gateway that starts again remembers, too"

    other = desk.gateway("another.json")
    assert adapter_of(other) is not None, "a gateway that has seen nothing cannot know"
    another = desk.gateway("third.json")
    another.compare_with({LINE: FlagMark(sequence=2, sha256="0" * 64)})
    assert adapter_of(another) is None, "unless the ledger says so"


def test_a_moved_clock_hides_no_change(desk: Desk) -> None:
    desk.in_production()
    flags = desk.gateway()
    adapter_of(flags)
    second = desk.in_production()
    for path in [newest(desk), *newest(desk).iterdir()]:
        os.utime(path, (1, 1))  # 1970
    assert adapter_of(flags) == second.id


def test_a_writer_that_is_killed_leaves_the_change_before(desk: Desk) -> None:
    first = desk.in_production()
    half = root_of(desk.settings) / LINE / ".00000002.new"
    half.mkdir()
    (half / FLAGS_FILE).write_text("{")
    assert adapter_of(desk.gateway()) == first.id
    desk.staged()
    assert not half.exists()


def test_a_lost_trust_root_takes_nothing_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.in_production()
    flags = desk.gateway()
    adapter_of(flags)
    monkeypatch.setattr(in_force, "SECONDS_BETWEEN_CHECKS", 0.0)
    trust = desk.settings.data / "trust"
    trust.rename(trust.with_name("gone"))
    assert adapter_of(flags) is not None
    assert "no trust root" in flags.problems()[LINE]
    assert adapter_of(desk.gateway()) is None


def test_another_evaluator_gives_everybody_the_incumbent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    before = desk.in_production()
    desk.rules(share=0.5)
    desk.staged()
    flags = desk.gateway()
    monkeypatch.setattr(in_force, "installed_evaluator", lambda: "openfeature-flagd-core 9.0.0")
    assert {*adapters_of(flags, USERS[:100]).values()} == {before.id}
    assert "9.0.0" in flags.problems()[LINE]


def test_an_adapter_that_is_not_loaded_takes_over_from_none(desk: Desk) -> None:
    desk.loaded = set()
    first = desk.in_production()
    flags = desk.gateway()
    adapter_of(flags)
    desk.loaded.add(first.id)
    second = desk.in_production()
    assert adapter_of(flags) == first.id
    assert "waits until" in flags.problems()[LINE]
    desk.loaded.add(second.id)
    assert adapter_of(flags) == second.id
    assert flags.problems() == {}


def test_the_same_weights_under_another_version_are_not_loaded_yet(desk: Desk) -> None:
    desk.loaded = set()
    first = desk.in_production()
    flags = desk.gateway()
    adapter_of(flags)
    desk.loaded.add(first.id)
    twin = desk.office.twin_of(first)
    desk.office.to_production(twin)
    desk.follow()
    assert adapter_of(flags) == first.id
    desk.loaded.add(twin.id)
    assert adapter_of(flags) == twin.id


def test_eight_threads_never_see_half_a_change(desk: Desk) -> None:
    first = desk.in_production()
    desk.rules(share=0.5)
    second = desk.staged()
    flags = desk.gateway()
    seen: set[str | None] = set()
    wrong: list[BaseException] = []
    ends = threading.Event()

    def ask(number: int) -> None:
        try:
            while not ends.is_set():
                seen.update(adapters_of(flags, USERS[number : number + 20]).values())
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        for number in range(4):
            desk.rules(share=0.5 if number % 2 else 0.25)
            desk.follow()
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert seen == {first.id, second.id}


def test_a_flag_is_what_flagd_reads(desk: Desk) -> None:
    desk.in_production()
    desk.rules(share=0.25, groups=["pilot"])
    adapter = desk.staged()
    content = json.loads((newest(desk) / FLAGS_FILE).read_text())
    rule = content["flags"][LINE]
    assert rule["defaultVariant"] == "production"
    assert rule["variants"]["staged"] == adapter.id
    assert "fractional" in json.dumps(rule["targeting"])
    assert content["metadata"]["evaluator"].startswith("openfeature-flagd-core ")


def test_a_rollback_takes_effect_at_the_next_look(desk: Desk) -> None:
    first = desk.in_production()
    second = desk.in_production()
    flags = desk.gateway()
    assert adapter_of(flags) == second.id
    rollback(desk.settings, LINE, None, desk.office.officers["omar"], "It answers in verse.")
    assert adapter_of(flags) == first.id


def test_changes_and_holds_are_looked_for_often() -> None:
    assert SECONDS_BETWEEN_LOOKS <= 0.5 and SECONDS_BETWEEN_HOLDS < 60


def test_what_does_harm_is_taken_back_without_registry_and_stays_so(desk: Desk) -> None:
    before = desk.in_production()
    desk.rules(share=0.5)
    after = desk.staged()
    flags = desk.gateway()
    assert {*adapters_of(flags, USERS[:100]).values()} == {before.id, after.id}
    assert stop(desk.settings, LINE, after.id, "errors: 0.4 more") is not None
    assert {*adapters_of(flags, USERS[:100]).values()} == {before.id}
    assert stop(desk.settings, LINE, after.id, "again") is None
    assert desk.follow().stopped == "errors: 0.4 more"
    desk.office.move("unstage", after)
    desk.office.move("stage", after)
    assert desk.follow().stopped is None


def test_importing_the_evaluator_needs_no_network_library() -> None:
    code = "import sys; from openfeature.contrib.tools.flagd.core import FlagdCore; print('grpc' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
