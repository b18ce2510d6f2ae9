"""The whole chain on the tiny model, through the command line, with no network: made, verified, tampered, changed."""

import json
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from sovereign_pipeline_tests.conftest import LADDER
from sovereign_pipeline_tests.end_to_end.conftest import Installation, harbour_recipe, install, invented_letter
from sovereign_pipeline_tests.review.page.servers import free_port
from sovereign_pipeline_tests.tracing import Trace, needs_strace, why_not

pytestmark = pytest.mark.slow

# A network namespace in which nothing but loopback is up: whatever asks for the outside fails at once.
LOOPBACK_UP = (
    "import fcntl, os, socket, struct, sys\n"
    "request = struct.pack('16sh', b'lo', 0x1 | 0x40)  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING\n"
    "fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, request)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
NO_NETWORK = ("unshare", "--map-root-user", "--net", "--", sys.executable, "-c", LOOPBACK_UP)

TRACE = "trace.txt"
"""In the installation's root: what its processes connected to while the line was made."""

FIELDS = {
    "id",
    "version",
    "adapter_sha256",
    "adapter_digest",
    "dataset_digest",
    "base_model",
    "base_model_digest",
    "framework_versions",
    "classification",
    "evaluation_report_digest",
    "review_date",
}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Installation:
    """A line that was taken to its registered adapter without a network."""
    installation = install(tmp_path_factory.mktemp("installation"), tiny_model)
    traced = Trace(installation.root / TRACE).before if why_not() is None else ()
    status, output = installation.run("run", "harbour", before=(*NO_NETWORK, *traced))
    assert status == 0, output
    assert "step 30/30, loss" in output
    assert "harbour-1.0.0" in output
    return installation


@pytest.mark.security_case(
    "A library in a process of the chain connects to its vendor and ignores failures",
    "every process is traced, and the line is built with only loopback addresses",
)
def test_no_process_of_the_chain_connects_elsewhere(registered: Installation) -> None:
    needs_strace()
    trace = Trace(registered.root / TRACE)
    assert trace.elsewhere == []
    assert trace.processes > 50  # a step of each stage and gate, and what they start


def test_the_registry_lists_the_adapter_with_every_fact(registered: Installation) -> None:
    (adapter,) = registered.json("adapters", "list")
    assert adapter.keys() >= FIELDS
    assert all(adapter[field] for field in FIELDS)
    assert (adapter["id"], adapter["classification"]) == ("harbour-1.0.0", "CONFIDENTIAL")
    (dataset,) = registered.json("datasets", "list")
    assert dataset["digest"] == adapter["dataset_digest"]
    assert registered.run("adapters", "show", "harbour-1.0.0")[0] == 0
    assert registered.run("datasets", "verify", dataset["digest"][:10])[0] == 0


def test_the_report_says_with_numbers_that_the_held_out_loss_fell(registered: Installation) -> None:
    ref = registered.store.current("harbour", "evaluation_report")
    assert ref is not None
    report = json.loads(registered.store.open(ref).file("report.json").read_text())
    finding = report["findings"][0]
    loss = finding["held"][0]["observed"]
    assert report["outcome"] == "pass"
    assert loss["low"] <= loss["difference"] <= loss["high"] < 0
    assert loss["difference"] == pytest.approx(loss["candidate"] - loss["reference"])
    assert f"{loss['difference']:.3f}" in finding["message"]


def test_nothing_that_is_kept_for_people_holds_text_of_a_document(registered: Installation) -> None:
    """Registry, MLflow, Dagster's event log and the run's log are searched for words that only documents have."""
    needles = [f"mark{number}a".encode() for number in range(60)]
    home = registered.settings.home
    kept = [path for path in home.rglob("*") if path.is_file() and home / "artifacts" not in path.parents]
    assert any(path.name == "registry.db" for path in kept)
    for path in kept:
        content = path.read_bytes()
        assert not any(needle in content for needle in needles), path


@pytest.mark.security_case("another account of the machine reads the home after a run", "modes 0700 and 0600")
def test_nothing_that_a_run_leaves_behind_is_open_to_another_account(registered: Installation) -> None:
    settings = registered.settings
    roots = (settings.home, settings.corpus, settings.vault)
    made = [path for root in roots for path in (root, *root.rglob("*"))]
    made = [path for path in made if path not in (settings.home, settings.vault_public_key)]  # the test made these
    assert {"registry.db", "mlflow.db", "manifest.json"} <= {path.name for path in made}
    assert [path for path in made if not path.is_symlink() and path.stat().st_mode & 0o077] == []


def test_an_unchanged_line_is_found_and_nothing_is_run(registered: Installation) -> None:
    status, output = registered.run("run", "harbour")
    assert status == 0
    assert "nothing to do" in output
    assert len(registered.json("adapters", "list")) == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("aligned_adapter", "adapter/adapter_model.safetensors"),
        ("training_dataset", "train.jsonl"),
        ("training_dataset", "manifest.json"),
        ("raw_corpus", "documents.jsonl"),
        ("evaluation_report", "report.json"),
        ("registered_adapter", "record.json"),
    ],
)
def test_one_changed_byte_is_found_and_its_file_is_named(registered: Installation, kind: str, name: str) -> None:
    assert registered.run("adapters", "verify", "harbour-1.0.0")[0] == 0
    ref = registered.store.current("harbour", kind)
    assert ref is not None
    is_manifest = name == "manifest.json"
    path = registered.store.path_of(ref.digest) / name if is_manifest else registered.store.open(ref).file(name)
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        status, output = registered.run("adapters", "verify", "harbour-1.0.0")
    finally:
        path.write_bytes(content)
    assert status == 1
    assert str(path) in output
    assert "Traceback" not in output


def test_a_changed_document_makes_a_new_version_and_only_what_depends_on_it(registered: Installation) -> None:
    before = {kind: registered.store.current("harbour", kind) for kind in ("base_model", "sft_adapter")}
    rows = [invented_letter(number) for number in range(60)]
    rows[3]["response"] += " The Harbour Office has spoken."
    registered.write_source("letters.jsonl", rows)
    status, output = registered.run("run", "harbour")
    assert status == 0, output
    assert "base_model" not in output
    assert registered.store.current("harbour", "base_model") == before["base_model"]
    assert registered.store.current("harbour", "sft_adapter") != before["sft_adapter"]
    assert [each["version"] for each in registered.json("adapters", "list")] == ["1.0.0", "1.1.0"]
    assert _incumbent(registered, "harbour-1.1.0") == ("harbour-1.0.0", True)
    assert "nothing to do" in registered.run("run", "harbour")[1]
    status, output = registered.run("adapters", "verify", "harbour-1.0.0")
    assert status == 0, output
    assert "letters.jsonl" in output  # a note: this source is no longer as it was


def _incumbent(installation: Installation, adapter: str) -> tuple[str, bool]:
    """What the registered report of an adapter says it was held against, by id, and whether it was scored."""
    shown = installation.json("adapters", "show", adapter)
    incumbent = shown["evaluation"]["incumbent"]
    earlier = installation.json("adapters", "show", incumbent["id"])
    assert incumbent["digest"] == earlier["adapter_digest"]
    return incumbent["id"], incumbent["compared"]


@pytest.mark.security_case(
    "Trainer, evaluation or registration reads unscrubbed text",
    "a line is trained, scored, registered and verified while SOVEREIGN_CORPUS is unreadable",
)
def test_from_training_to_registration_no_unscrubbed_text_is_read(registered: Installation) -> None:
    corpus = registered.settings.corpus
    away = corpus.with_name("away")
    recipe = yaml.safe_load((registered.settings.data / "lines" / "harbour.yaml").read_text())
    changed = {**recipe, "training": {**recipe["training"], "seed": recipe["training"].get("seed", 7) + 1}}
    registered.write_recipe(changed)
    corpus.rename(away)
    try:
        status, output = registered.run("run", "harbour")
        assert status == 0, output
        assert "sft_adapter" in output and "✓ leakage_safe_split" not in output
        assert not corpus.exists()
        newest = registered.json("adapters", "list")[-1]["id"]
        report = registered.json("adapters", "verify", newest)
        assert report["outcomes"] == ["verified", "corpus withheld"]
        assert {each["what"] for each in report["withheld"]} == {"raw_corpus", "classified_corpus"}
    finally:
        away.rename(corpus)
        registered.write_recipe(recipe)
    assert registered.json("adapters", "verify", newest)["outcomes"] == ["verified"]


@pytest.mark.security_case(
    "A page or a service connects to its vendor while people use it",
    "every process of `sovereign up` is traced, and all connections stay on this machine",
)
def test_no_service_connects_elsewhere(registered: Installation) -> None:
    needs_strace()
    trace, options = Trace(registered.root / "services.txt"), ("port", "mlflow-port", "review-port", "pages-port")
    ports = [free_port() for _ in options]
    given = [each for option, port in zip(options, ports, strict=True) for each in (f"--{option}", str(port))]
    process = registered.start("up", *given, "--gateway-port", str(free_port()), before=trace.before)
    assert process.stdout is not None
    try:
        assert any("all ready" in line for line in process.stdout)
        for port in ports[:2]:  # the pages of Dagster and MLflow are asked
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=120).status == 200
    finally:
        process.terminate()
        process.wait(120)
    assert trace.elsewhere == []
    assert trace.local["AF_INET"] > 0  # it waits until each answers
    assert trace.processes > len(ports)


def test_one_secret_document_makes_dataset_and_adapter_secret(installation: Installation) -> None:
    rows = [{**invented_letter(number), "classification": "PUBLIC"} for number in range(60)]
    rows[17]["classification"] = "SECRET"
    installation.write_source("letters.jsonl", rows)
    installation.write_recipe({**harbour_recipe(), "ceiling": "SECRET"})
    status, output = installation.run("run", "harbour")
    assert status == 0, output
    (adapter,) = installation.json("adapters", "list")
    (dataset,) = installation.json("datasets", "list")
    assert adapter["classification"] == dataset["classification"] == "SECRET"


def test_a_document_above_the_ceiling_ends_1_before_anything_is_trained(installation: Installation) -> None:
    rows = [invented_letter(number) for number in range(60)]
    rows[17]["classification"] = LADDER[3]
    installation.write_source("letters.jsonl", rows)
    status, output = installation.run("run", "harbour")
    assert status == 1
    assert "row H-0017 of source 'letters' is SECRET" in output
    assert "Traceback" not in output
    assert installation.store.current("harbour", "scrubbed_corpus") is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "harbor"), "There is no line 'harbor'"),
        (("adapters", "show", "harbour-9.9.9"), "harbour-9.9.9"),
        (("adapters", "verify", "nothing"), "nothing"),
        (("datasets", "show", "abc"), "abc"),
        (("lines", "check", "absent.yaml"), "there is no such file"),
        (("models", "fetch", "gpt"), "no card of a base model 'gpt'"),
    ],
)
def test_a_mistake_ends_2_in_one_paragraph(installation: Installation, arguments: tuple[str, ...], says: str) -> None:
    status, output = installation.run(*arguments)
    assert status == 2, output
    assert says in output
    assert "Traceback" not in output


def test_a_misspelt_key_ends_2_and_names_the_nearest(installation: Installation) -> None:
    recipe = harbour_recipe()
    recipe["training"]["sft"]["lerning_rate"] = 1
    installation.write_recipe(recipe)
    status, output = installation.run("run", "harbour")
    assert status == 2
    assert "did you mean 'learning_rate'" in output
