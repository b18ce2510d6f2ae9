"""Artifacts: addressed by content, verified by whoever reads them, made once, and held by gates."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import GateRefused, IntegrityError, StaleInput
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.record.gates import assert_usable, evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Gate, Inputs, Stage, Verdict, Workplace, identity_of
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.record.small_stages import FIRST, SECOND, make, writes


def verdict_of(workplace: Workplace, reference: str) -> str:
    ref = ArtifactRef.model_validate_json(reference)
    return (workplace.store.path_of(ref.digest) / "verdict.json").read_text()


def test_the_same_work_is_found_and_has_one_digest(workplace: Workplace) -> None:
    first = produce(FIRST, workplace, {})
    again = produce(FIRST, workplace, {})
    assert (first.reused, again.reused) == (False, True)
    assert first.ref == again.ref
    assert workplace.store.path_of(first.ref.digest).name == first.ref.digest


def test_time_does_not_change_the_digest_but_is_held_by_the_reference(workplace: Workplace, tmp_path: Path) -> None:
    here = produce(FIRST, workplace, {}).ref
    elsewhere = replace(workplace, store=replace(workplace.store, root=tmp_path / "elsewhere"))
    there = produce(FIRST, elsewhere, {}).ref
    assert here.digest == there.digest
    manifest = workplace.store.path_of(here.digest) / "manifest.json"
    content = manifest.read_text()
    year = Manifest.from_file(manifest).circumstances.created_at[:4]
    manifest.write_text(content.replace(f'"created_at":"{year}', '"created_at":"1999'))
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        workplace.store.open(here)


@pytest.mark.parametrize("change", ["code", "config", "external", "library"])
def test_whatever_identifies_the_work_makes_it_anew(workplace: Workplace, change: str) -> None:
    changed = {
        "code": replace(FIRST, code_version="2"),
        "config": replace(FIRST, config=lambda line: {"wide": True}),
        "external": replace(FIRST, external=lambda workplace: {"file": "0" * 64}),
        "library": replace(FIRST, libraries=("pydantic",)),
    }[change]
    before = produce(FIRST, workplace, {})
    after = produce(changed, workplace, {})
    assert not after.reused
    assert after.ref.digest != before.ref.digest


def test_the_classification_is_the_highest_of_all_that_went_in(workplace: Workplace) -> None:
    low = replace(SECOND, build=writes("low", "PUBLIC"))
    first = make(FIRST, workplace)
    second = make(low, workplace, first=first)
    assert workplace.store.open(second).manifest.classification == "INTERNAL"


@pytest.mark.parametrize("damage", ["changed", "missing", "extra"])
def test_a_damaged_file_is_named(workplace: Workplace, damage: str) -> None:
    ref = make(FIRST, workplace)
    content = workplace.store.path_of(ref.digest) / "content.txt"
    name = "content.txt"
    if damage == "changed":
        content.write_text("abd")
    elif damage == "missing":
        content.unlink()
    else:
        name = "more.txt"
        (content.parent / name).write_text("")
    with pytest.raises(IntegrityError, match=name):
        produce(SECOND, workplace, {"first": ref})


@pytest.mark.security_case("A file of an artifact is replaced by a link to the same bytes", "rejected by name")
@pytest.mark.security_case("A directory of an artifact is replaced by a link", "rejected by name")
@pytest.mark.security_case("A whole artifact is replaced by a link to a copy elsewhere", "rejected by name")
@pytest.mark.security_case("A link, an empty directory or a pipe is added to an artifact", "rejected by name")
@pytest.mark.parametrize("planted", ["file", "manifest", "directory", "artifact", "added", "empty", "pipe"])
def test_what_is_no_plain_file_of_the_artifact_is_named(workplace: Workplace, tmp_path: Path, planted: str) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / "inner").mkdir()
        (workspace / "inner" / "content.txt").write_text("abc")
        return Built(summary={})

    ref = make(replace(FIRST, build=build, gates=()), workplace)
    path, elsewhere = workplace.store.path_of(ref.digest), tmp_path / "elsewhere"
    moved = {
        "file": path / "inner" / "content.txt",
        "manifest": path / "manifest.json",
        "directory": path / "inner",
        "artifact": path,
    }
    if planted in moved:
        moved[planted].rename(elsewhere)
        moved[planted].symlink_to(elsewhere)
    elif planted == "added":
        (path / "more").symlink_to(path / "inner" / "content.txt")
    elif planted == "empty":
        (path / "inner" / "more").mkdir()
    else:
        os.mkfifo(path / "more")
    name = moved.get(planted, path / ("inner/more" if planted == "empty" else "more"))
    with pytest.raises(IntegrityError, match=rf"{name}: this (directory is empty|is a link or a device)"):
        workplace.store.open(ref)


def test_a_build_that_leaves_a_link_makes_no_artifact(workplace: Workplace) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / "content.txt").symlink_to("/etc/hostname")
        return Built(summary={})

    with pytest.raises(IntegrityError, match="link"):
        produce(replace(FIRST, build=build), workplace, {})
    assert workplace.store.find(identity_of(FIRST, workplace, {}).fingerprint) is None


def test_a_gate_that_said_no_stops_the_consumer_with_its_numbers(workplace: Workplace) -> None:
    long = replace(FIRST, build=writes("far too long a text"))
    ref = make(long, workplace)
    with pytest.raises(GateRefused, match=r"'is_short' failed for first .*it has 19 bytes"):
        produce(SECOND, workplace, {"first": ref})


def test_a_gate_that_was_never_asked_stops_the_consumer(workplace: Workplace) -> None:
    ref = produce(FIRST, workplace, {}).ref
    workplace.store.make_current(workplace.line.line, "first", ref)
    with pytest.raises(GateRefused, match="'is_short' has no record"):
        produce(SECOND, workplace, {"first": ref})


def test_a_record_that_was_tampered_with_does_not_count(workplace: Workplace) -> None:
    ref = make(replace(FIRST, build=writes("far too long a text")), workplace)
    (verdict,) = workplace.store.root.glob("*/verdict.json")
    verdict.write_text(verdict.read_text().replace('"outcome":"fail"', '"outcome":"pass"'))
    with pytest.raises(IntegrityError, match=r"verdict\.json"):
        produce(SECOND, workplace, {"first": ref})


def test_a_gate_that_reads_an_outside_file_is_asked_again_when_it_changes(workplace: Workplace, tmp_path: Path) -> None:
    limit = tmp_path / "limit"
    limit.write_text("5")

    def within(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        size = artifact.file("content.txt").stat().st_size
        return Verdict(size < int(limit.read_text()), f"it has {size} bytes.")

    gate = Gate("within", "Is it within?", "1", within, external=lambda workplace: {"limit": file_sha256(limit)})
    first = replace(FIRST, gates=(gate,))
    second = replace(SECOND, inputs=(first,))
    ref = make(first, workplace)
    produce(second, workplace, {"first": ref})
    limit.write_text("2")
    with pytest.raises(GateRefused, match="'within' has no record"):
        produce(second, workplace, {"first": ref})
    evaluate_gates(first, workplace, ref)
    with pytest.raises(GateRefused, match="'within' failed"):
        produce(second, workplace, {"first": ref})
    limit.write_text("5")
    assert produce(second, workplace, {"first": ref}).reused


def test_a_gate_whose_outside_file_changes_while_it_judges_leaves_no_record(
    workplace: Workplace, tmp_path: Path
) -> None:
    limit = tmp_path / "limit"
    limit.write_text("5")

    def meddles(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        limit.write_text("6")
        return Verdict(True, "yes.")

    gate = Gate("meddled", "Is it?", "1", meddles, external=lambda workplace: {"limit": file_sha256(limit)})
    first = replace(FIRST, gates=(gate,))
    ref = produce(first, workplace, {}).ref
    with pytest.raises(IntegrityError, match="'meddled' reads was changed while it was read"):
        evaluate_gates(first, workplace, ref)
    assert not list(workplace.store.root.glob("*/verdict.json"))


def test_the_index_is_not_trusted(workplace: Workplace) -> None:
    """The entry of a gate that said yes, copied over that of one that said no."""
    good = make(FIRST, workplace)
    bad = make(replace(FIRST, build=writes("far too long a text"), code_version="2"), workplace)
    entries = list((workplace.store.root / ".index").rglob("*.json"))
    records = {entry: entry.read_text() for entry in entries if "gate_record" in entry.read_text()}
    assert len(records) == 2
    (yes,) = [text for text in records.values() if '"outcome":"pass"' in verdict_of(workplace, text)]
    for entry in records:
        entry.write_text(yes)
    with pytest.raises(IntegrityError, match="has a different identity"):
        produce(SECOND, workplace, {"first": bad})
    assert good.digest != bad.digest


@pytest.mark.security_case(
    "An artifact is stored again with a lower level than its inputs', and becomes current",
    "every user of it, direct or indirect, rejects it: a level can never fall",
)
def test_an_artifact_below_its_input_is_refused(workplace: Workplace) -> None:
    third = Stage("third", "1", writes("third"), inputs=(SECOND,))
    first = make(FIRST, workplace)
    second = workplace.store.open(make(SECOND, workplace, first=first))
    lowered = second.manifest.model_copy(update={"classification": "PUBLIC"})
    with workplace.store.workspace() as workspace:
        (workspace / "content.txt").write_bytes(second.file("content.txt").read_bytes())
        ref = workplace.store.seal(workspace, lambda files: lowered)
    workplace.store.remember(identity_of(SECOND, workplace, {"first": first}).fingerprint, ref)
    workplace.store.make_current("lamps", "second", ref)
    with pytest.raises(
        IntegrityError, match=r"this second has the level PUBLIC, but its input first has the level INTERNAL"
    ):
        produce(third, workplace, {"second": ref})


@pytest.mark.security_case(
    "A recipe excludes a row or raises a level after a corpus was built, and only downstream stages are run",
    "every downstream stage is rejected",
)
def test_what_was_made_of_rows_that_are_selected_otherwise_now_is_refused(workplace: Workplace) -> None:
    settings = {"exclude": ""}
    first = replace(FIRST, config=lambda line: dict(settings), selects_rows=True)
    second = replace(SECOND, inputs=(first,))
    third = Stage("third", "1", writes("third"), inputs=(second,))
    refs = {"first": make(first, workplace)}
    refs["second"] = make(second, workplace, first=refs["first"])
    settings["exclude"] = "row 7"
    for stage in (second, third):
        with pytest.raises(StaleInput):
            produce(stage, workplace, {each.kind: refs[each.kind] for each in stage.inputs})
    assert produce(replace(third, judges_what_is_recorded=True), workplace, {"second": refs["second"]}).ref
    settings["exclude"] = ""
    assert produce(third, workplace, {"second": refs["second"]}).ref


@pytest.mark.security_case(
    "A file outside the store changes after an artifact was built from it, and only downstream stages are run",
    "every downstream stage is rejected; reviews still evaluate the registered adapter",
)
def test_what_was_made_from_an_outside_file_of_other_bytes_is_refused(workplace: Workplace, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("then")
    first = replace(
        FIRST, external=lambda workplace: {"outside": file_sha256(outside)}, changed_rows=lambda *_: "row 7"
    )
    second = replace(SECOND, inputs=(first,))
    third = Stage("third", "1", writes("third"), inputs=(second,))
    refs = {"first": make(first, workplace)}
    refs["second"] = make(second, workplace, first=refs["first"])
    outside.write_text("now")
    for stage in (second, third):
        with pytest.raises(StaleInput, match="have changed since it was built: outside: row 7"):
            produce(stage, workplace, {each.kind: refs[each.kind] for each in stage.inputs})
    with pytest.raises(StaleInput):
        assert_usable(second, workplace, refs["second"])
    assert produce(replace(third, judges_what_is_recorded=True), workplace, {"second": refs["second"]}).ref
    outside.unlink()
    outside.write_text("then")
    assert produce(third, workplace, {"second": refs["second"]}).ref


def test_a_file_that_changes_while_it_is_read_stops_the_work(workplace: Workplace) -> None:
    answers = iter([{"file": "1"}, {"file": "2"}])
    stage = replace(FIRST, external=lambda workplace: next(answers))
    with pytest.raises(IntegrityError, match="was changed while it was read"):
        produce(stage, workplace, {})
    assert not list(workplace.store.root.glob("*/manifest.json"))


def test_what_a_killed_process_left_is_no_artifact_and_is_cleared_away(workplace: Workplace) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from sovereign_pipeline.record.store import ArtifactStore\n"
        "with ArtifactStore(Path(sys.argv[1]), seals=None).workspace() as workspace:\n"
        "    (workspace / 'half.txt').write_text('half')\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(workplace.store.root)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert list(workplace.store.root.rglob("half.txt"))
    assert not list(workplace.store.root.glob("*/manifest.json"))
    produce(FIRST, workplace, {})
    assert not list(workplace.store.root.rglob("half.txt"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(value.items())))
