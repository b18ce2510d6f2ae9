"""What is stored is signed and on record, and whatever reads it refuses anything else, with the file named."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, SignInError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.audit_log import SEALED, entries
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.gates import GATE_RECORD
from sovereign_pipeline.record.keys import FileSigner, generate, write_key
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.officers import PIPELINE_KEY_FILE
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.sealing import PROVENANCE_BUNDLE, bundles_of, open_store
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.record.statements import read_statement, sign_statement
from sovereign_pipeline.record.trust_changes import revoke, rotate_key
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.record.small_stages import CONTENT, FIRST, SECOND, make, writes
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.trusted import demonstration, demonstration_key


@pytest.fixture
def first(workplace: Workplace) -> ArtifactRef:
    return make(FIRST, workplace)


def directory_of(workplace: Workplace, ref: ArtifactRef) -> Path:
    return workplace.store.path_of(ref.digest)


def sealed(settings: Settings) -> list[dict[str, str]]:
    log = entries(open_registry(settings))
    return [{**entry.subjects, "actor": entry.actor} for entry in log if entry.action == SEALED]


def signed_again(bundle: Path, signer: FileSigner) -> bytes:
    return sign_statement(signer, read_statement(bundle.read_bytes()))


def refused(settings: Settings, ref: ArtifactRef, match: str) -> None:
    """Every way of reading refuses it, in a store that is opened anew as well."""
    store = open_store(settings, settings.corpus)
    for read in (store.read_manifest, store.open, store.open_as_given):
        with pytest.raises(IntegrityError, match=match):
            read(ref)


def test_what_is_sealed_is_on_record_and_signed(workplace: Workplace, first: ArtifactRef) -> None:
    (entry, of_the_gate) = sealed(workplace.settings)
    named = {"kind": "first", "line": "lamps", "digest": first.digest, "manifest_sha256": first.manifest_sha256}
    assert entry == {**named, "actor": f"pipeline:{demonstration_key('pipeline').keyid}"}
    assert of_the_gate["kind"] == GATE_RECORD
    artifact = workplace.store.open(first)
    assert artifact.bundles == (PROVENANCE_BUNDLE,)
    statement = read_statement((artifact.path / PROVENANCE_BUNDLE).read_bytes())
    assert statement.predicate["buildDefinition"]["externalParameters"]["stage"] == "first"
    assert statement.predicate["runDetails"]["metadata"] == {"finishedOn": artifact.manifest.circumstances.created_at}
    record = workplace.store.ref_of(of_the_gate["digest"])
    said = read_statement((directory_of(workplace, record) / "verdict.json.sigstore.json").read_bytes()).predicate
    assert said == {"gate": "is_short", "artifact": first.digest, "outcome": "pass"}


def _changed(bundle: Path) -> None:
    content = bundle.read_bytes()
    place = content.index(b'"sig":"') + 20
    bundle.write_bytes(content[:place] + (b"A" if content[place] != 65 else b"B") + content[place + 1 :])


def _link(bundle: Path) -> None:
    bundle.rename(bundle.with_name("elsewhere"))
    bundle.symlink_to("elsewhere")


@pytest.mark.security_case(
    "An artifact's signature is removed, changed in one byte, empty, a link, or by another key",
    "every reader rejects the artifact, with the file's name",
)
@pytest.mark.parametrize(
    "change",
    [
        Path.unlink,
        _changed,
        _link,
        lambda bundle: bundle.write_bytes(b""),
        lambda bundle: bundle.write_bytes(bundle.read_bytes() + b"\n"),
        lambda bundle: bundle.write_bytes(signed_again(bundle, generate())),
        lambda bundle: bundle.write_bytes(signed_again(bundle, demonstration_key("officer-1"))),
        lambda bundle: bundle.write_bytes(signed_again(bundle, demonstration_key("bundle"))),
    ],
    ids=["removed", "one byte", "link", "empty", "one byte more", "stranger", "officer", "bundle's key"],
)
def test_a_signature_that_is_none_is_refused(
    workplace: Workplace, first: ArtifactRef, change: Callable[[Path], object]
) -> None:
    change(directory_of(workplace, first) / PROVENANCE_BUNDLE)
    refused(workplace.settings, first, r"manifest\.json\.sigstore\.json")
    with pytest.raises(IntegrityError, match=r"manifest\.json\.sigstore\.json"):
        produce(SECOND, workplace, {"first": first})
    with pytest.raises(IntegrityError, match=r"manifest\.json\.sigstore\.json"):
        produce(FIRST, workplace, {})


@pytest.mark.security_case("the signatures of two artifacts are exchanged", "rejected, with the file's name")
def test_the_signature_of_another_artifact_is_refused(workplace: Workplace, first: ArtifactRef) -> None:
    second = make(SECOND, workplace, first=first)
    here, there = (directory_of(workplace, ref) / PROVENANCE_BUNDLE for ref in (first, second))
    ours, theirs = here.read_bytes(), there.read_bytes()
    here.write_bytes(theirs)
    there.write_bytes(ours)
    for ref in (first, second):
        refused(workplace.settings, ref, r"manifest\.json\.sigstore\.json: The statement is about")


@pytest.mark.security_case(
    "A gate's signed verdict on one artifact is copied to another artifact with the same verdict",
    "rejected, with the file's name",
)
def test_a_signed_verdict_on_another_artifact_is_refused(workplace: Workplace) -> None:
    """Both verdicts have the same bytes, so the signature is over the right file."""
    for text in ("abc", "xyz"):
        make(Stage("first", text, writes(text), gates=FIRST.gates), workplace)
    records = [each for each in sealed(workplace.settings) if each["kind"] == GATE_RECORD]
    here, there = (workplace.store.ref_of(each["digest"]) for each in records)
    name = "verdict.json.sigstore.json"
    shutil.copy(directory_of(workplace, here) / name, directory_of(workplace, there) / name)
    assert workplace.store.open(here)
    with pytest.raises(IntegrityError, match=r"verdict\.json\.sigstore\.json: the statement contradicts"):
        workplace.store.open(there)


@pytest.mark.security_case(
    "A file, such as another signature, is added beside an artifact's signatures", "rejected, with the file's name"
)
def test_a_signature_that_does_not_belong_there_is_refused(workplace: Workplace, first: ArtifactRef) -> None:
    directory = directory_of(workplace, first)
    for name in (f"{CONTENT}.sigstore.json", "verdict.json.sigstore.json"):
        shutil.copy(directory / PROVENANCE_BUNDLE, directory / name)
        with pytest.raises(IntegrityError, match=rf"{name}: this file does not belong"):
            workplace.store.open(first)
        (directory / name).unlink()


def _planted(workplace: Workplace, text: str, *, index: bool = True) -> ArtifactRef:
    """An artifact without a signature, whole in every other way, by somebody who can write to the home."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / CONTENT).write_text(text)
        return Built(summary={"length": len(text)})

    ref = produce(Stage("first", "1", build), workplace, {}).ref
    (directory_of(workplace, ref) / PROVENANCE_BUNDLE).unlink()
    return ref


@pytest.mark.security_case("An unsigned artifact is added to the store", "rejected, with its name")
def test_an_artifact_that_is_put_in_unsigned_is_refused(workplace: Workplace, first: ArtifactRef) -> None:
    planted = _planted(workplace, "planted")
    refused(workplace.settings, planted, f"{planted.digest}/{PROVENANCE_BUNDLE}: the signature is missing")


def test_a_revoked_key_counts_for_what_was_on_record_before(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    settings, trust = workplace.settings, workplace.settings.data / "trust"
    before = make(FIRST, workplace)
    roots = [demonstration_key(f"root-{number}") for number in (1, 2)]
    size = len(entries(open_registry(settings)))
    after = make(Stage("first", "2", writes("after"), gates=FIRST.gates), workplace)
    new = generate()
    rotate_key(trust, "pipeline", new.public_pem, size, roots)
    store = open_store(settings)
    assert store.open(before)
    refused(settings, after, f"revoked from index {size} of the log")
    with pytest.raises(SignInError, match="revoked"):
        produce(Stage("first", "3", writes("more")), workplace, {})
    for suffix in ("", ".pub"):
        (settings.keys / (PIPELINE_KEY_FILE + suffix)).unlink(missing_ok=True)
    write_key(settings.keys / PIPELINE_KEY_FILE, new, None)
    assert store.open(produce(Stage("first", "3", writes("more")), workplace, {}).ref)
    revoke(trust, new.keyid, size, roots)
    assert store.open(before)


@pytest.mark.security_case(
    "A thief signs an artifact with a revoked key and adds it", "rejected: it has no ledger entry"
)
def test_what_a_revoked_key_signs_without_an_entry_is_refused(institution: DemoInstitution, tmp_path: Path) -> None:
    workplace = institution.workplace()
    thief = DemoInstitution(tmp_path / "thief", institution.recipe, institution.rows)
    make(FIRST, workplace)
    stolen = produce(Stage("first", "1", writes("stolen")), thief.workplace(), {}).ref
    shutil.copytree(thief.settings.artifacts / stolen.digest, directory_of(workplace, stolen))
    assert workplace.store.open(stolen)  # the key counts still
    roots = [demonstration_key(f"root-{number}") for number in (1, 2)]
    revoke(workplace.settings.data / "trust", demonstration_key("pipeline").keyid, 999, roots)
    refused(workplace.settings, stolen, "revoked from index 999")


@pytest.mark.parametrize("missing", ["trust", "key"])
def test_nothing_is_begun_where_nothing_can_be_signed(workplace: Workplace, missing: str) -> None:
    settings = workplace.settings
    shutil.rmtree(settings.data / "trust") if missing == "trust" else (settings.keys / PIPELINE_KEY_FILE).unlink()

    def begun(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        raise AssertionError("work began")

    with pytest.raises(NotFoundError, match="nothing can be signed"):
        produce(Stage("first", "1", begun), workplace, {})


def test_nothing_is_stored_that_is_not_on_record(
    workplace: Workplace, first: ArtifactRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = workplace.settings.ledger / "checkpoint"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(b"no checkpoint")
    before = sorted(workplace.store.root.glob("*/manifest.json"))
    with pytest.raises(IntegrityError, match="checkpoint"):
        produce(SECOND, workplace, {"first": first})
    assert sorted(workplace.store.root.glob("*/manifest.json")) == before
    checkpoint.write_bytes(content)


KILLED = """
import os, signal, sys
from pathlib import Path
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.sealing import LedgerSeals
from sovereign_pipeline_tests.record.small_stages import FIRST
from sovereign_pipeline_tests.conftest import DemoInstitution, minimal_recipe

enter = LedgerSeals.enter
def killed(self, manifest):
    enter(self, manifest)
    os.kill(os.getpid(), signal.SIGKILL)
LedgerSeals.enter = killed
produce(FIRST, DemoInstitution(Path(sys.argv[1]), minimal_recipe(), []).workplace_as_written(), {})
"""


def test_killed_between_entry_and_its_place_it_is_made_again(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    ended = subprocess.run([sys.executable, "-c", KILLED, str(institution.root)], capture_output=True, timeout=120)
    assert ended.returncode == -9, ended.stderr.decode()
    (entry,) = sealed(workplace.settings)
    assert not (workplace.store.root / entry["digest"]).exists()
    made = make(FIRST, workplace)
    assert made.digest == entry["digest"] and workplace.store.open(made)
    assert [each["kind"] for each in sealed(workplace.settings)] == ["first", "first", GATE_RECORD]


def test_an_adapter_carries_every_signature_that_belongs_to_it(bench: Bench) -> None:
    bench.register()
    found = {kind: bench.artifact(kind).bundles[1:] for kind in bench.refs}
    weights = ("adapter.sigstore.json",)
    assert {kind: names for kind, names in found.items() if names} == {
        "sft_adapter": weights,
        "aligned_adapter": weights,
        "evaluation_report": ("report.json.sigstore.json",),
        "registered_adapter": ("bill_of_materials.json.sigstore.json", "record.json.sigstore.json"),
    }
    record = bench.artifact("registered_adapter")
    said = read_statement((record.path / "record.json.sigstore.json").read_bytes())
    assert said.predicate == {"line": "lamps", "adapter": record.manifest.inputs["aligned_adapter"]}


@pytest.mark.security_case(
    "The signature of an adapter's weights, record or report is removed or replaced by another adapter's",
    "rejected, with the file's name",
)
def test_each_further_signature_is_held_to_its_file(bench: Bench) -> None:
    bench.register()
    first = {kind: bench.refs[kind] for kind in ("aligned_adapter", "evaluation_report", "registered_adapter")}
    bench.institution.rows = bench.institution.rows[:11]
    bench.register()
    for kind, ref in first.items():
        here, there = (bench.store.path_of(each.digest) for each in (ref, bench.refs[kind]))
        for name in bundles_of(Manifest.from_file(here / "manifest.json"))[1:]:
            content = (here / name).read_bytes()
            shutil.copy(there / name, here / name)
            with pytest.raises(IntegrityError, match=rf"{name}"):
                bench.store.open(ref)
            (here / name).unlink()
            with pytest.raises(IntegrityError, match=rf"{name}: the signature is missing"):
                bench.store.open(ref)
            (here / name).write_bytes(content)
        assert bench.store.open(ref)


@pytest.mark.skipif(shutil.which("cosign") is None, reason="cosign is not installed")
def test_cosign_verifies_what_the_store_holds(bench: Bench, tmp_path: Path) -> None:
    bench.register()
    record, key = bench.artifact("registered_adapter").path, demonstration() / "keys" / "pipeline.key.pub"
    (tmp_path / "other.pub").write_text(generate().public_pem)
    empty = tmp_path / "empty.json"
    empty.write_text('{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')

    def cosign(file: str, kind: str, key: Path) -> int:
        command = ["cosign", "verify-blob-attestation", "--key", str(key), "--insecure-ignore-tlog"]
        command += ["--new-bundle-format", "--bundle", f"{file}.sigstore.json", "--trusted-root", str(empty)]
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin", "HTTPS_PROXY": "http://127.0.0.1:9"}
        return subprocess.run(
            [*command, "--type", kind, file], cwd=record, env=environment, capture_output=True, timeout=60
        ).returncode

    for file, kind in (
        ("manifest.json", "slsaprovenance1"),
        ("record.json", "https://sovereign-pipeline.example/record/v1"),
        ("bill_of_materials.json", "cyclonedx"),
    ):
        assert cosign(file, kind, key) == 0
        assert cosign(file, kind, tmp_path / "other.pub") != 0


@pytest.mark.slow
def test_model_signings_own_command_line_verifies_the_weights(bench: Bench) -> None:
    bench.register()
    artifact = bench.artifact("aligned_adapter").path
    command = [sys.executable, "-m", "model_signing", "verify", "key", "--signature", "adapter.sigstore.json"]
    command += ["--public_key", str(demonstration() / "keys" / "pipeline.key.pub"), "adapter"]

    def status() -> int:
        return subprocess.run(command, cwd=artifact, capture_output=True, timeout=120).returncode

    assert status() == 0
    (artifact / "adapter" / "adapter_config.json").write_text("{}")
    assert status() != 0
