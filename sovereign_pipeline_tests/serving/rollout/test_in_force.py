"""Who gets which adapter, and what leaves the change before in force."""

import os
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.release.recall import answering
from sovereign_pipeline.serving.high_water_marks import FlagMark
from sovereign_pipeline.serving.rollout import in_force
from sovereign_pipeline.serving.rollout.flag import FLAGS_FILE, SIGNATURE_FILE, root_of, sequences
from sovereign_pipeline.serving.rollout.rollback import stop
from sovereign_pipeline_tests.serving.gateway.scripted import LINE
from sovereign_pipeline_tests.serving.rollout.conftest import Desk, adapter_of, adapters_of

USERS = [f"user-{number}" for number in range(1000)]


def newest(desk: Desk) -> Path:
    return root_of(desk.settings) / LINE / f"{sequences(desk.settings, LINE)[-1]:08d}"


def test_users_are_drawn_by_share_and_keep_their_arm(desk_of_two: Desk) -> None:
    desk, (_, before) = desk_of_two, desk_of_two.adapters
    desk.rules(share=0.2, groups=["pilot"])
    after, flags = desk.staged(), desk.gateway()
    assert flags.which("../lamps", "anybody") is None
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
    written = sequences(desk.settings, LINE)
    desk.follow()
    assert sequences(desk.settings, LINE) == written, "nothing changed"


def test_a_staged_adapter_answers_only_whom_the_flag_gives_it(rolling_out: Desk) -> None:
    (production, staged), registry = rolling_out.adapters, rolling_out.office.registry
    rollouts: list[tuple[dict[str, Any], bool]] = [
        ({"share": 0.2}, True),
        ({"share": 0}, False),
        ({"share": 0, "groups": ["pilot"]}, True),
    ]
    for rollout, answers in rollouts:
        rolling_out.rules(**rollout)
        rolling_out.follow()
        with registry.reading() as session:
            last = answering(session, registry.settings, LINE)[-1]
        assert last.adapters == [production.id, *([staged.id] if answers else [])]


@pytest.mark.security_case(
    "A line's flag is edited, damaged, replaced by a link, or unsigned",
    "the previous flag stays in force; after a restart nothing of the line is served",
)
@pytest.mark.parametrize("fault", ["corrupt", "unsigned", "edited", "link"])
def test_what_cannot_be_believed_leaves_the_one_before_in_force(rolling_out: Desk, fault: str) -> None:
    desk, (first, staged), flags = rolling_out, rolling_out.adapters, rolling_out.gateway()
    before = adapters_of(flags, USERS[:100])
    assert {*before.values()} == {first.id, staged.id}
    desk.rules(share=0)
    desk.follow()
    directory = newest(desk)
    if fault == "corrupt":
        (directory / FLAGS_FILE).write_bytes(b"{" + os.urandom(20))
    elif fault == "unsigned":
        (directory / SIGNATURE_FILE).unlink()
    elif fault == "edited":
        text = (directory / FLAGS_FILE).read_text()
        (directory / FLAGS_FILE).write_text(text.replace(first.id, staged.id))
    else:
        moved = directory.parent.parent / "elsewhere.json"
        (directory / FLAGS_FILE).rename(moved)
        (directory / FLAGS_FILE).symlink_to(moved)
    assert adapters_of(flags, USERS[:100]) == before
    assert LINE in flags.problems()
    fresh = desk.gateway()
    assert adapter_of(fresh) is None, "at the start there is none before"
    assert LINE in fresh.problems()

    desk.follow()  # written and signed anew
    for gateway in (fresh, flags):
        assert {*adapters_of(gateway, USERS[:100]).values()} == {first.id}
        assert gateway.problems() == {}


@pytest.mark.security_case(
    "Someone restores an older flag with a valid signature, so that an earlier adapter would answer",
    "the newer flag stays in force; after a restart nothing of the line is served",
)
def test_an_older_change_that_is_put_back_is_refused(desk_of_two: Desk) -> None:
    desk, (_, second), flags = desk_of_two, desk_of_two.adapters, desk_of_two.gateway()
    assert adapter_of(flags) == second.id
    shutil.rmtree(newest(desk))  # now the first one is the newest
    assert adapter_of(flags) == second.id
    assert "was accepted before" in flags.problems()[LINE]
    assert adapter_of(desk.gateway()) is None, "a gateway that starts again remembers, too"

    other = desk.gateway("another.json")
    assert adapter_of(other) is not None, "a gateway that has seen nothing cannot know"
    another = desk.gateway("third.json")
    another.compare_with({LINE: FlagMark(sequence=2, sha256="0" * 64)})
    assert adapter_of(another) is None, "unless the ledger says so"


def test_a_moved_clock_hides_no_change(rolling_out: Desk) -> None:
    flags, (first, staged) = rolling_out.gateway(), rolling_out.adapters
    assert {*adapters_of(flags, USERS[:100]).values()} == {first.id, staged.id}
    stop(rolling_out.settings, LINE, staged.id, "errors: 0.4 more")
    for path in [newest(rolling_out), *newest(rolling_out).iterdir()]:
        os.utime(path, (1, 1))  # 1970
    assert {*adapters_of(flags, USERS[:100]).values()} == {first.id}


def test_a_writer_that_is_killed_leaves_the_change_before(desk_of_two: Desk) -> None:
    settings, (_, second) = desk_of_two.settings, desk_of_two.adapters
    half = root_of(settings) / LINE / f".{sequences(settings, LINE)[-1] + 1:08d}.new"
    half.mkdir()
    (half / FLAGS_FILE).write_text("{")
    assert adapter_of(desk_of_two.gateway()) == second.id
    desk_of_two.office.move("retire", second)
    desk_of_two.follow()
    assert not half.exists()


def test_a_lost_trust_root_takes_nothing_away(desk_of_two: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = desk_of_two.gateway()
    adapter_of(flags)
    monkeypatch.setattr(in_force, "SECONDS_BETWEEN_CHECKS", 0.0)
    trust = desk_of_two.settings.data / "trust"
    trust.rename(trust.with_name("gone"))
    assert adapter_of(flags) is not None
    assert "no trust root" in flags.problems()[LINE]
    assert adapter_of(desk_of_two.gateway()) is None


def test_another_evaluator_gives_everybody_the_incumbent(rolling_out: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, (before, _) = rolling_out.gateway(), rolling_out.adapters
    monkeypatch.setattr(in_force, "installed_evaluator", lambda: "openfeature-flagd-core 9.0.0")
    assert {*adapters_of(flags, USERS[:100]).values()} == {before.id}
    assert "9.0.0" in flags.problems()[LINE]


def test_an_adapter_that_is_not_loaded_takes_over_from_none(desk_of_two: Desk) -> None:
    """Not even if another version with the same weights is loaded."""
    desk, (_, first) = desk_of_two, desk_of_two.adapters
    desk.loaded = {first.id}
    flags = desk.gateway()
    assert adapter_of(flags) == first.id
    twin = desk.office.twin_of(first)
    desk.office.to_production(twin)
    desk.follow()
    assert adapter_of(flags) == first.id
    assert "waits until" in flags.problems()[LINE]
    desk.loaded.add(twin.id)
    assert adapter_of(flags) == twin.id
    assert flags.problems() == {}


def test_eight_threads_never_see_half_a_change(rolling_out: Desk) -> None:
    desk, (first, second), flags = rolling_out, rolling_out.adapters, rolling_out.gateway()
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


def test_what_does_harm_is_taken_back_without_registry_and_stays_so(rolling_out: Desk) -> None:
    desk, (before, after), flags = rolling_out, rolling_out.adapters, rolling_out.gateway()
    first = adapters_of(flags, USERS[:100])
    assert {*first.values()} == {before.id, after.id}
    assert stop(desk.settings, LINE, after.id, "errors: 0.4 more") is not None
    assert {*adapters_of(flags, USERS[:100]).values()} == {before.id}
    assert stop(desk.settings, LINE, after.id, "again") is None
    assert desk.follow().stopped == "errors: 0.4 more"
    desk.office.move("unstage", after)
    desk.follow()
    assert {*adapters_of(flags, USERS[:100]).values()} == {before.id}
    desk.office.move("stage", after)
    assert desk.follow().stopped is None
    assert adapters_of(flags, USERS[:100]) == first, "who had it has it again"
