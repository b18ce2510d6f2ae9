"""The verifier of a package finds whatever was changed in it, also where index and signature were made anew."""

import base64
import datetime
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.evidence import verify
from sovereign_pipeline.evidence.package import SHOWN
from sovereign_pipeline.record import notes
from sovereign_pipeline.record.keys import FileSigner, keyid_of
from sovereign_pipeline.record.notes import COSIGNS, SIGNS, Note, Signature, Signer
from sovereign_pipeline.record.statements import EARLY_CLOSING, HOLD, HOLD_ACCEPTANCE, PURGE, REVIEW
from sovereign_pipeline.record.trust_changes import create_trust
from sovereign_pipeline_tests.evidence.conftest import FIRST, SECOND, Desk
from sovereign_pipeline_tests.evidence.packages import INDEX, SIGNATURE, Package, changed
from sovereign_pipeline_tests.evidence.story import ADAPTER, OTHER, RECORD, SIGNERS, Review, Story, moment
from sovereign_pipeline_tests.trusted import demonstration_key

UNREFERRED = ("README.md", "verify.py", "documents")
"""What nobody but the index vouches for: who has the pipeline's key can give another one."""


@pytest.fixture(scope="module")
def pipeline() -> FileSigner:
    return demonstration_key("pipeline")


def _mutations(package: Package, before: Package, places: int) -> Iterator[tuple[str, str, bytes | None]]:
    """What is done to which file of a package: other bytes, or None where it is gone; and files that are put in."""
    for name, content in package.files.items():
        for place in (len(content) // 2, 0, len(content) - 1)[:places] if content else ():
            yield f"{name}: byte {place}", name, changed(content, place)
        yield f"{name}: missing", name, None
        if before.files.get(name, content) != content:
            yield f"{name}: older", name, before.files[name]
    for folder in sorted({str(Path(name).parent) for name in package.files}):
        yield f"{folder}: one more", f"{folder}/9.root.json" if folder == "trust" else f"{folder}/more", b"{}"


def test_every_file_with_another_byte_missing_extra_or_older_is_found(desk: Desk) -> None:
    tried = [(what, desk.package.but({name: new})) for what, name, new in _mutations(desk.package, desk.before, 3)]
    assert [what for what, made in tried if made.refusal() is None] == []
    assert len(tried) > 4 * len(desk.package.files) > 1000


def test_one_in_ten_is_found_where_the_index_was_made_anew_without_a_key(desk: Desk) -> None:
    """The index's own signature refuses them all alike."""
    tried = [each for each in _mutations(desk.smaller, desk.before, 1) if each[1] not in (INDEX, SIGNATURE)][::10]
    made = [(what, desk.smaller.indexed({name: new})) for what, name, new in tried]
    assert [what for what, each in made if each.refusal() is None] == []
    assert len(made) > 30


def test_every_one_is_found_where_the_pipeline_itself_signed_the_index_anew(desk: Desk, pipeline: FileSigner) -> None:
    vouched_for_by_the_index = (INDEX, SIGNATURE, *UNREFERRED)
    tried = _mutations(desk.smaller, desk.before, 1)
    made = [
        (what, desk.smaller.indexed({name: new}, pipeline))
        for what, name, new in tried
        if name.split("/")[0] not in vouched_for_by_the_index
    ]
    assert [what for what, each in made if each.refusal() is None] == []
    assert len(made) > 300
    assert desk.smaller.indexed({}, pipeline).refusal() is None


def _entries(package: Package, action: str, **subjects: object) -> list[tuple[str, dict[str, Any]]]:
    """File and content of the entries of an act."""
    found = []
    for name, content in package.files.items():
        if not name.startswith("log/entries/"):
            continue
        entry = json.loads(base64.b64decode(content.decode().split("\n")[1].removeprefix("extra ")))
        if entry["action"] == action and all(entry["subjects"].get(each) == subjects[each] for each in subjects):
            found.append((name, entry))
    return sorted(found, key=lambda each: int(each[1]["sequence"]))


def _statement(entry: dict[str, Any]) -> str:
    return f"statements/{entry['subjects']['statement']}.sigstore.json"


@pytest.mark.security_case("An evidence package replaces a missing approval by another adapter's", "rejected by name")
def test_another_adapters_approval_does_not_count(desk: Desk, pipeline: FileSigner) -> None:
    of_first = _statement(_entries(desk.package, "release approved", adapter=FIRST)[0][1])
    of_second = _statement(_entries(desk.package, "release approved", adapter=SECOND)[0][1])
    files = desk.package.files
    made = desk.package.indexed({of_first: files[of_second]}, pipeline)
    assert f"{of_first}: it is not the statement that entry" in str(made.refusal())


@pytest.mark.security_case("An evidence package replaces an entry's proof by another entry's", "rejected by name")
def test_the_proof_of_another_entry_is_refused(desk: Desk, pipeline: FileSigner) -> None:
    names = sorted(name for name in desk.package.files if name.startswith("log/entries/"))
    made = desk.package.indexed({names[3]: desk.package.files[names[4]]}, pipeline)
    assert f"{names[3]}: this is not the proof of entry" in str(made.refusal())


@pytest.mark.security_case(
    "An evidence package has trust files from before an officer was added", "rejected as outdated"
)
def test_older_trust_files_are_refused(desk: Desk, pipeline: FileSigner, tmp_path: Path) -> None:
    office, older = desk.office, tmp_path / "older"
    keys = {"pipeline": [office.pipeline.public_pem]}
    create_trust(older, office.roots, keys)
    files = {f"trust/{path.name}": path.read_bytes() for path in older.iterdir()}
    other = desk.package.indexed(files, pipeline)
    assert "its SHA-256 is" in str(other.refusal()), "another first root is not the one on paper"
    targets = {"trust/targets.json": files["trust/targets.json"]}  # signed by the same root keys
    put_back = desk.package.indexed(targets, pipeline)
    assert put_back.refusal() is not None


@pytest.mark.security_case("An evidence package omits a transition, or an entry about the trust root", "rejected")
@pytest.mark.parametrize("action", ["state changed", "flag changed", "release requested", "trust root named"])
def test_the_first_entry_of_a_kind_cannot_be_left_out(desk: Desk, pipeline: FileSigner, action: str) -> None:
    name, entry = _entries(desk.package, action)[0]
    left_out: dict[str, bytes | None] = {name: None}
    if "statement" in entry["subjects"]:
        left_out[_statement(entry)] = None
    if action == "flag changed":
        left_out[f"flags/lamps/{entry['subjects']['change']}.json"] = None
    made = desk.package.indexed(left_out, pipeline)
    assert made.refusal() is not None


@pytest.mark.security_case("An evidence package omits every change of a line's flag", "reported as missing")
def test_flags_that_are_all_left_out_are_missed(desk: Desk, pipeline: FileSigner) -> None:
    flags = _entries(desk.package, "flag changed")
    left_out: dict[str, bytes | None] = dict.fromkeys([name for name, _ in flags] + [_statement(of) for _, of in flags])
    left_out |= dict.fromkeys(name for name in desk.package.files if name.startswith("flags/"))
    said: list[str] = []
    assert desk.package.indexed(left_out, pipeline).refusal(said=said) is None
    told = f": production: {FIRST}; staged: {SECOND} by its transitions; no flag change is here, which would state who"
    assert told in "\n".join(said)


@pytest.mark.security_case("The pipeline signs a flag for an adapter that no officer approved", "rejected")
def test_a_flag_alone_lets_no_adapter_answer(desk: Desk) -> None:
    package = desk.package.read()
    with pytest.raises(verify.Refused, match=f"no transition before it made {FIRST} production"):
        verify.read_flags(package, "lamps", [])


@pytest.mark.security_case("A JSON file of an evidence package repeats a key", "rejected")
def test_a_key_that_stands_twice_is_refused(desk: Desk) -> None:
    twice = desk.package.files[INDEX].replace(b'"adapters"', b'"adapters": ["other-1.0.0"], "adapters"', 1)
    assert desk.package.but({INDEX: twice}).refusal() == "index.json: an object has the same key twice"


@pytest.mark.security_case("One root key has two ids in a root that requires two signatures", "rejected")
def test_one_key_under_two_ids_is_not_two(tmp_path: Path, desk: Desk, pipeline: FileSigner) -> None:
    signer = demonstration_key("root-1")
    root = json.loads(desk.package.files["trust/1.root.json"])
    keyid = keyid_of(signer.public_pem)
    signed, twin = root["signed"], "0" * 64
    signed["keys"] = {keyid: signed["keys"][keyid], twin: signed["keys"][keyid]}
    signed["roles"]["root"] = {"keyids": [keyid, twin], "threshold": 2}
    sig = signer.sign(verify.tuf_canonical(signed).encode()).hex()
    root["signatures"] = [{"keyid": each, "sig": sig} for each in (keyid, twin)]
    content = json.dumps(root).encode()
    made = desk.package.indexed({"trust/1.root.json": content, "trust/root.json": content}, pipeline)
    made = Package(made.files, verify.sha256(content))  # even whoever has this root on paper refuses it
    assert "has an id that is not its own" in str(made.refusal())


@pytest.mark.security_case("An evidence package is dated after its trust root expired", "rejected")
def test_a_trust_root_that_had_expired_is_refused(desk: Desk, pipeline: FileSigner) -> None:
    late = desk.package.indexed({}, pipeline, made_at="2036-01-01T00:00:00+00:00")
    assert "expired on" in str(late.refusal())


@pytest.mark.security_case("An evidence package is dated before its content", "rejected")
def test_a_package_is_not_older_than_its_entries(desk: Desk, pipeline: FileSigner) -> None:
    early = desk.package.indexed({}, pipeline, made_at="2020-01-01T00:00:00+00:00")
    assert "is younger than the package" in str(early.refusal())


@pytest.mark.security_case("An evidence package about another adapter has this adapter's name", "rejected")
def test_evidence_of_another_adapter_is_refused(desk: Desk, pipeline: FileSigner) -> None:
    rows = {each: f"registry/{each}.json" for each in (FIRST, SECOND)}
    exchanged = {rows[FIRST]: desk.package.files[rows[SECOND]], rows[SECOND]: desk.package.files[rows[FIRST]]}
    made = desk.package.indexed(exchanged, pipeline)
    assert "no entry of the log registered this row" in str(made.refusal())


@pytest.mark.security_case("A record names weights that its lineage did not produce", "rejected")
def test_the_weights_are_those_of_the_manifest(desk: Desk) -> None:
    package = desk.package.read()
    row = package.rows[FIRST]
    verify.check_adapter(package, row)
    made = package.artifacts[row["adapter_digest"]].manifest["files"]
    next(each for each in made if each["path"].endswith(".safetensors"))["sha256"] = "0" * 64
    with pytest.raises(verify.Refused, match="record, row and manifests differ in: weights"):
        verify.check_adapter(package, row)


@pytest.mark.security_case("A waiver reverses the order of levels, so that its own is below the verdict's", "rejected")
def test_a_manifest_does_not_choose_the_order_of_levels() -> None:
    def artifact(digest: str, level: str, ladder: list[str], **inputs: str) -> verify.Artifact:
        circumstances = {"input_manifests": inputs}
        manifest = {"classification": level, "ladder": ladder, "inputs": inputs, "external_inputs": {}}
        return verify.Artifact(digest, {**manifest, "circumstances": circumstances}, digest, 0)

    def check(**artifacts: verify.Artifact) -> None:
        package = verify.Package({})
        package.artifacts, package.roots = artifacts, {"w"}
        verify.check_lineage(package)

    verdict = artifact("v", "SECRET", ["PUBLIC", "SECRET"])
    for level, ladder in (("SECRET", ["PUBLIC", "SECRET"]), ("TOP", ["PUBLIC", "SECRET", "TOP"])):
        check(v=verdict, w=artifact("w", level, ladder, gate_record="v"))
    for ladder in (["PUBLIC", "SECRET"], ["SECRET", "PUBLIC"]):
        with pytest.raises(verify.Refused, match="it is PUBLIC, but its input gate_record is SECRET"):
            check(v=verdict, w=artifact("w", "PUBLIC", ladder, gate_record="v"))


@pytest.mark.security_case("A registry row has other figures or another base model than the record", "rejected")
@pytest.mark.parametrize("column", ["base_model", "code_version", "evaluation", "version", "source_sha256"])
def test_a_row_says_what_the_record_says(desk: Desk, column: str) -> None:
    package = desk.package.read()
    with pytest.raises(verify.Refused, match=f"{FIRST}: record, row and manifests differ in: "):
        verify.check_adapter(package, {**package.rows[FIRST], column: "another"})


@pytest.mark.security_case(
    "An evidence package's index lists an adapter twice, or its number of entries is not an integer", "rejected"
)
def test_the_index_is_as_it_is_written(desk: Desk, pipeline: FileSigner) -> None:
    entries = float(desk.smaller.index["entries"])
    wrong: list[dict[str, object]] = [{"adapters": [FIRST, FIRST]}, {"adapters": []}, {"entries": entries}]
    for facts in wrong:
        assert "index.json: it names an adapter twice" in str(desk.smaller.indexed({}, pipeline, **facts).refusal())
    assert "near index.json" in str(desk.smaller.but({INDEX: b"null"}).refusal())
    changed_after = desk.smaller.indexed({"README.md": b"Trust it."}).refusal()
    assert f"{SIGNATURE}: index.json, with the SHA-256" in str(changed_after)


@pytest.mark.security_case("An evidence package's signed index has a lower level than its content", "rejected")
def test_the_index_has_the_highest_level(desk: Desk, pipeline: FileSigner) -> None:
    package = desk.package.read()
    for artifact in package.artifacts.values():
        artifact.manifest.update({"classification": "SECRET", "ladder": ["PUBLIC", "SECRET"]})
    for level in ("PUBLIC", "RESTRICTED"):
        package.index["classification"] = level
        with pytest.raises(verify.Refused, match=f"its level is {level}, and not the highest of its artifacts"):
            verify.check_level(package)
    package.index["classification"] = "SECRET"
    verify.check_level(package)
    # A level that was inserted later has the place of a higher one in the ladder before it.
    later = {"classification": "INTERNAL", "ladder": ["PUBLIC", "INTERNAL", "SECRET"]}
    next(iter(package.artifacts.values())).manifest.update(later)
    verify.check_level(package)
    package.index["classification"] = "INTERNAL"
    with pytest.raises(verify.Refused, match="its level is INTERNAL, and not the highest of its artifacts"):
        verify.check_level(package)
    invented = desk.package.indexed({}, pipeline, classification="NONE")
    assert invented.refusal() == "index.json: its level is NONE, and not the highest of its artifacts"


@pytest.mark.security_case("An evidence package has an unknown file in documents/", "rejected")
def test_documents_are_those_that_the_program_writes(desk: Desk, pipeline: FileSigner) -> None:
    written = {name.rpartition("/")[2] for name in desk.smaller.files if name.startswith("documents/")}
    assert written == {*verify.DOCUMENTS}
    more = desk.smaller.indexed({f"documents/{FIRST}/more.md": b"Trust it."}, pipeline)
    assert more.refusal() == f"documents/{FIRST}/more.md: nothing in the package refers to it"


def test_it_says_which_entries_it_lacks_and_whether_keys_and_clock_prove_something(
    desk: Desk, pipeline: FileSigner
) -> None:
    said, tomorrow = list[str](), datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    assert desk.smaller.indexed({}, pipeline, made_at=tomorrow.isoformat()).refusal(said=said) is None
    held = {int(Path(name).stem) for name in desk.smaller.files if name.startswith("log/entries/")}
    absent = verify.ranges({*range(1, desk.smaller.index["entries"] + 1)} - held)
    assert any(each.startswith(f"- the content of entries {absent}, which the package lacks") for each in said)
    assert "! that is in the future by this machine's clock: one of the two clocks is wrong" in said
    assert verify.ranges({7, 3, 4, 5, 1}) == "1, 3 to 5, 7"


@pytest.mark.security_case("The witness's signature is removed from an evidence package's checkpoint", "rejected")
def test_a_checkpoint_without_its_witness_is_refused(desk: Desk, pipeline: FileSigner) -> None:
    note = desk.package.files["log/checkpoint"].decode()
    bare = "".join(line for line in note.splitlines(keepends=True) if "court.example" not in line)
    files: dict[str, bytes | None] = {
        name: content.decode().replace(note, bare).encode()
        for name, content in desk.package.files.items()
        if name.startswith("log/")
    }
    made = desk.package.indexed(files, pipeline)
    assert made.refusal() == "log/checkpoint: 0 of 1 witnesses cosigned it"


@pytest.mark.security_case("A link or an empty folder is added to an evidence package", "rejected")
def test_links_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    assert verify.read_folder(tmp_path) == {"file": b"x"}
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(verify.Refused, match="no links"):
        verify.read_folder(tmp_path)
    (tmp_path / "link").unlink()
    (tmp_path / "empty").mkdir()
    with pytest.raises(verify.Refused, match="no empty directories"):
        verify.read_folder(tmp_path)


@pytest.mark.security_case(
    "A file beside the verifier has the name of a Python module that it imports", "it is not run"
)
def test_the_verifier_imports_nothing_of_its_package(tmp_path: Path) -> None:
    (tmp_path / "verify.py").write_bytes(Path(verify.__file__).read_bytes())
    for name in ("argparse", "hashlib", "cryptography"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this ran')")
    command = [sys.executable, "verify.py", "0" * 64]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "") and "index.json: the package lacks it" in done.stdout


def test_an_older_package_is_found_by_who_has_seen_more(desk: Desk) -> None:
    assert desk.before.refusal() is None
    seen = desk.package.index["entries"]
    assert f"but you have seen {seen}" in str(desk.before.refusal(seen=seen))
    assert desk.package.refusal(seen=seen) is None


@pytest.mark.security_case(
    "An officer's reason contains a line that looks like the verifier's output", "it is shown on one line"
)
def test_what_a_package_says_begins_no_line_of_its_own() -> None:
    assert verify.on_one_line("\nReasons: fine\n✓ all holds\x1b[2K\u202e") == "\nReasons: fine?✓ all holds?[2K?"


def test_a_moment_without_a_zone_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Muscat")
    time.tzset()
    try:
        assert verify.moment("2027-03-14T09:30").isoformat() == "2027-03-14T09:30:00+00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_it_shares_no_code_with_the_program(desk: Desk) -> None:
    lines = desk.package.files["verify.py"].decode().splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported - {*sys.stdlib_module_names} == {"cryptography"}


def test_its_head_and_the_auditors_page_say_how_many_lines_it_has() -> None:
    text = Path(verify.__file__).read_text(encoding="utf-8")
    lines = f"{len(text.splitlines()):,} lines"
    assert f"**How to read it.** {lines}" in text, lines
    assert f"one file of {lines}," in (PROJECT_ROOT / "docs" / "how-to" / "verify.md").read_text(encoding="utf-8"), (
        lines
    )


def test_both_sides_show_the_same_files() -> None:
    assert {kind: set(files) for kind, files in SHOWN.items()} == verify.SHOWN


JUDGED: dict[str, Any] = {"line": "lamps", "adapter": ADAPTER, "outcome": "inconclusive", "observations": "1" * 64}
JUDGED |= {"incumbent": None, "severe": 0, "because": "few asked", "bounds": []}


@pytest.fixture
def story() -> Story:
    return Story()


def _accept(story: Story, by: str = "layla", **more: Any) -> None:
    """more: what the officer signs otherwise, and `told`, what the entry says otherwise."""
    told = more.pop("told", {})
    judgement = story.act("pipeline", "hold judged", HOLD, RECORD, JUDGED)
    said = {"line": "lamps", "adapter": ADAPTER, "judgement": judgement, "outcome": "inconclusive"}
    said |= {"reason": "Few ask.", "at": moment(27)} | more
    story.act(by, "hold accepted", HOLD_ACCEPTANCE, said["judgement"], said, **told)


def test_a_hold_and_who_accepted_it_are_told(story: Story) -> None:
    _accept(story)
    accepted = f'inconclusive hold of {ADAPTER} accepted by layla: "Few ask."'
    assert story.told("Holds") == [f"hold of {ADAPTER}: inconclusive", accepted]


@pytest.mark.security_case(
    (
        "A trial result is accepted by an officer without the right to promote, with another text, or "
        "for another adapter"
    ),
    "rejected by name",
)
@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"by": "clerk"}, "clerk may not promote this"),
        ({"told": {"reason": "All is well."}}, "differs from the signed statement"),
        ({"adapter": OTHER}, "accepts a trial result that is not logged, or another adapter's"),
        ({"judgement": "2" * 64}, "accepts a trial result that is not logged, or another adapter's"),
        ({"outcome": "promote"}, "accepts a trial result that is not logged, or another adapter's"),
        ({"at": moment(29)}, "it is dated 2026-11-29T09:00:00.*, after entry 3"),
    ],
    ids=["who may not", "another reason", "another adapter", "an unknown judgement", "another outcome", "another day"],
)
def test_a_hold_is_accepted_as_it_was_judged(story: Story, planted: dict[str, Any], why: str) -> None:
    _accept(story, **planted)
    with pytest.raises(verify.Refused, match=why):
        story.told("Holds")


@pytest.mark.security_case("The pipeline signs another trial result than the one in its entry", "rejected")
def test_a_hold_is_judged_as_its_entry_says(story: Story) -> None:
    story.act("pipeline", "hold judged", HOLD, RECORD, JUDGED, outcome="promote")
    with pytest.raises(verify.Refused, match="entry 2 differs from the signed statement"):
        story.told("Holds")


@pytest.mark.security_case("An officer's act is dated before its adapter was registered", "rejected")
def test_an_act_is_dated_after_its_adapter_was_registered(story: Story) -> None:
    story.enter("adapter registered", {"adapter": ADAPTER}, "")
    said = {"adapter": ADAPTER, "number": 1, "text": "It stays.", "at": moment(20)}
    story.act("layla", "adapter reviewed", REVIEW, RECORD, said)
    with pytest.raises(verify.Refused, match=r"it is dated 2026-11-20T09:00:00.*, before entry 2"):
        story.told("Officers' acts")


def _purge(story: Story, by: str = "layla", adapter: str = ADAPTER) -> None:
    said = {"line": "lamps", "adapter": adapter, "files": [], "reason": "The disk is full."}
    bundle = story.sign(by, PURGE, RECORD, said)
    told = {"line": "lamps", "adapter": ADAPTER, "weights": [], "bytes": 1}
    told |= {"statement": verify.sha256(bundle), "bundle": bundle.decode()}
    story.enter("release weights purged", told, f"officer:{SIGNERS[by].keyid}")


def test_a_purge_is_told(story: Story) -> None:
    _purge(story)
    (told,) = story.told("Officers' acts")
    assert told.endswith(f': release weights purged by layla, {ADAPTER}: "The disk is full."')


@pytest.mark.security_case(
    "Weights are purged by an officer without the right, or with another adapter's purge", "rejected"
)
@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"by": "clerk"}, "clerk may not retire this"),
        ({"adapter": OTHER}, "differs from the signed statement"),
    ],
    ids=["who may not", "another adapter"],
)
def test_a_purge_is_an_officers(story: Story, planted: dict[str, Any], why: str) -> None:
    _purge(story, **planted)
    with pytest.raises(verify.Refused, match=why):
        story.told("Officers' acts")


def _close_early(story: Story, by: str | None = "omar", ballots: int = 2, **told: Any) -> Review:
    """A review of which two of five ballots were given. `by`: the officer who signs that; None: nobody."""
    review = Review(story, ballots=5)
    said = {
        "line": "lamps",
        "review": review.NAME,
        "ballots": ballots,
        "ballots_sha256": "9" * 64,
        "reason": "On leave.",
    }
    signed = {}
    if by is not None:
        bundle = story.sign(by, EARLY_CLOSING, review.plan.manifest_sha256, said)
        signed = {"officer": SIGNERS[by].keyid, "statement": bundle.decode()}
    result = {"kind": "blind_review", "inputs": {}}
    result["external_inputs"] = {"review_plan": review.plan.digest, "ballots": "9" * 64}
    made = verify.Artifact("7" * 64, result, "8" * 64, 0)
    story.package.artifacts[made.digest] = made
    found = {"adapter": ADAPTER, "opponent": "tiny", "wins": 2, "losses": 0, "ties": 0, "seed": review.seed.hex()}
    story.package.files[f"{made.folder}/review.json"] = verify.canonical(found)
    review.close(2, "review closed early", **{"reason": "On leave.", **signed, **told})
    return review


def test_who_closed_a_review_early_is_told(story: Story) -> None:
    words = [*_close_early(story).words()]
    early = '2 of 5 ballots, closed early by omar: "On leave."'
    assert words == [f"{ADAPTER} against tiny: 2 won, 0 lost, 0 tied; {early}"]


@pytest.mark.security_case(
    "A blind review is closed early with its key, but without an officer's signature or with another officer's",
    "the evidence package is rejected",
)
@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ({"by": None}, "review-1, closed early: no officer signed the closing"),
        ({"by": "clerk"}, "clerk may not close this"),
        ({"ballots": 5}, "the statement differs from the recorded facts"),
        ({"reason": "All is well."}, "the statement differs from the recorded facts"),
        ({"officer": SIGNERS["layla"].keyid}, "its entry names another officer"),
    ],
    ids=["nobody", "who may not", "of other ballots", "another reason", "another officer"],
)
def test_a_review_is_closed_early_by_an_officer(story: Story, planted: dict[str, Any], why: str) -> None:
    with pytest.raises(verify.Refused, match=why):
        [*_close_early(story, **planted).words()]


@pytest.mark.security_case("A blind review is closed below its number of ballots, but recorded as complete", "rejected")
def test_a_review_of_too_few_ballots_was_closed_early(story: Story) -> None:
    review = Review(story, ballots=5)
    review.close(4)
    with pytest.raises(verify.Refused, match="review review-1: it was closed with 4 of 5 ballots"):
        [*review.words()]


@pytest.mark.security_case("An act is added to a blind review after its closing", "rejected")
def test_nothing_comes_after_the_closing_of_a_review(story: Story) -> None:
    review = Review(story, ballots=5)
    review.close(5)
    assert [*review.words()] == []
    review.act("ballot given")
    with pytest.raises(verify.Refused, match="review review-1: its last act does not close it"):
        [*review.words()]


@pytest.mark.parametrize(
    "options",
    [["--on", ""], ["--on", "0001-01-01T00:00+23:00"], ["--seen", "-5"], ["--folder", "f" * 300]],
    ids=["no day", "before all days", "fewer entries than none", "a name that no folder has"],
)
def test_a_wrong_call_ends_two(options: list[str], tmp_path: Path) -> None:
    assert verify.main(["0" * 64, "--folder", str(tmp_path), *options]) == 2


@pytest.mark.security_case("A file of an evidence package is unreadable or huge", "rejected by name without being read")
def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(verify.LARGEST + 1)
    with pytest.raises(verify.Refused, match=r"the package has .* bytes, more than the limit: it was not read"):
        verify.read_folder(tmp_path)
    (tmp_path / "huge").write_bytes(b"")

    def refuses(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuses)  # who runs the tests may be allowed to read everything
    with pytest.raises(verify.Refused, match=r"huge: it cannot be read \(Permission denied\)"):
        verify.read_folder(tmp_path)


@pytest.mark.security_case("An evidence package's folder is nested in a thousand others", "rejected in one sentence")
def test_folders_in_folders_are_refused(tmp_path: Path) -> None:
    """Planted: so many that Python's own walk gives up."""
    (tmp_path / "in").mkdir()
    above = os.open(tmp_path / "in", os.O_DIRECTORY)
    for _ in range(sys.getrecursionlimit() + 100):
        os.mkdir("d", dir_fd=above)
        below = os.open("d", os.O_DIRECTORY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    try:
        with pytest.raises(verify.Refused, match=r"too many nested folders|it cannot be read"):
            verify.read_folder(tmp_path)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "in")], check=True)


def test_a_full_disk_is_said_and_nothing_counts_as_verified(desk: Desk) -> None:
    command = [sys.executable, str(desk.root / "package" / "verify.py"), desk.package.root_sha256]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    said = b"What was found cannot be written (No space left on device).\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_it_prints_wherever_it_is_read(desk: Desk) -> None:
    command = [sys.executable, str(desk.root / "package" / "verify.py"), desk.package.root_sha256]
    plain = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (plain.returncode, plain.stderr) == (0, b"")
    assert plain.stdout.startswith(b"\\u2713 ") and b"was checked, and holds" in plain.stdout.splitlines()[-1]
    reads, writes = os.pipe()
    os.close(reads)
    closed = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (closed.returncode, closed.stderr) == (0, b"")
    never = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE)
    assert (never.returncode, never.stderr) == (0, b"")


AT = 1_900_000_000
LOG, COURT, PRESS = notes.new_signer("log", SIGNS), *(notes.new_signer(name, COSIGNS) for name in ("court", "press"))
TEXT = f"log\n5\n{notes.encoded(bytes(32))}\n"


def _trust(log_revoked_from: int | None, **witnesses: int | None) -> verify.Trust:
    """A trust root with this log and these witnesses, each with the index from which on it is revoked."""

    def key(signer: Signer, revoked_from: int | None) -> verify.Key:
        public = ed25519.Ed25519PublicKey.from_public_bytes(signer.verifier.key)
        return verify.Key(public, None, (), (), revoked_from)

    signers = {"court": COURT, "press": PRESS}
    roles = {
        "log": {"log": key(LOG, log_revoked_from)},
        "witness": {name: key(signers[name], revoked_from) for name, revoked_from in witnesses.items()},
    }
    return verify.Trust(1, 1, False, roles, len(witnesses))


def _cosigned(trust: verify.Trust, *signers: Signer) -> list[str]:
    signatures = (notes.signed(TEXT, LOG), *(notes.cosigned(TEXT, each, AT) for each in signers))
    return sorted(verify.read_checkpoint(str(Note(TEXT, signatures)), trust).cosigned)


def test_a_witness_is_named_with_its_key() -> None:
    trust = _trust(None, court=None, press=5)
    court, press = (verify.keyid_of(each.public) for each in trust.roles["witness"].values())
    assert _cosigned(trust, COURT, PRESS) == [f"court, key {court},", f"press, key {press},"]


@pytest.mark.security_case("A witness's revoked key cosigns an evidence package's checkpoint", "it is not counted")
def test_a_revoked_witness_is_not_counted() -> None:
    assert len(_cosigned(_trust(None, court=None, press=4), COURT, PRESS)) == 1
    with pytest.raises(verify.Refused, match="no key of the role log"):
        _cosigned(_trust(4, court=None), COURT)


@pytest.mark.security_case(
    "A witness chooses a name so that its key id (four bytes) equals another witness's", "it is counted once"
)
@pytest.mark.parametrize("order", [("court", "press"), ("press", "court")])
def test_a_key_that_is_named_as_another_counts_once(monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]) -> None:
    real = hashlib.sha256

    def colliding(content: bytes) -> SimpleNamespace:
        """Every key under the name `found` has the same four bytes: some 2^32 tries find such a name."""
        found = real(b"the same" if content.startswith(b"found\n") else content)
        return SimpleNamespace(digest=found.digest, hexdigest=found.hexdigest)

    cosigned = notes.cosigned(TEXT, PRESS, AT)
    found = Signature("found", real(b"the same").digest()[:4], cosigned.content)
    note = Note(TEXT, (notes.signed(TEXT, LOG), cosigned, found))
    monkeypatch.setattr(verify, "hashlib", SimpleNamespace(sha256=colliding))
    names = verify.read_checkpoint(str(note), _trust(None, **dict.fromkeys(order))).cosigned
    assert [name.partition(",")[0] for name in names] == ["press"]
