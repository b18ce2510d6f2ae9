"""The whole chain on the tiny model, through the command line, with no network.

Made, killed, verified, tampered with, and made again when its review is due. Each test continues on one installation
or on a copy of it.
"""

import datetime
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from sovereign_pipeline.base.settings import VARIABLES
from sovereign_pipeline.dagster.definitions import chain_job
from sovereign_pipeline.dagster.jobs import CHAIN_JOB, PERIOD_TAG, reviews_due
from sovereign_pipeline.dagster.resources import open_instance
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.release.cadence import Cause, due_reviews
from sovereign_pipeline_tests.end_to_end.conftest import (
    HALTING,
    WARM,
    Installation,
    harbour_recipe,
    install,
    invented_letter,
)
from sovereign_pipeline_tests.tracing import Trace, needs_strace, why_not
from sovereign_pipeline_tests.waiting import free_port, processes_of, wait_until_ended

pytestmark = pytest.mark.slow

# A network namespace in which nothing but loopback is up: whatever asks for the outside fails at once.
LOOPBACK_UP = (
    "import fcntl, os, socket, struct, sys\n"
    "request = struct.pack('16sh', b'lo', 0x1 | 0x40)  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING\n"
    "fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, request)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
NO_NETWORK = ("unshare", "--map-root-user", "--net", "--", sys.executable, "-c", LOOPBACK_UP)

TRACES = ("corpus.txt", "training.txt")
"""In the installation's root: what its processes connected to while the line was made."""

EVENTS = ["base_superseded", "template_changed", "source_withdrawn", "policy_changed"]
RECIPE = {
    **harbour_recipe(),
    "ceiling": "SECRET",
    "review": {"every": "6 months", "on": EVENTS, "retrain": True},
}


def run_traced(installation: Installation, trace: str, *arguments: str) -> str:
    traced = Trace(installation.root / trace).before if why_not() is None else ()
    status, output = installation.run("run", "harbour", *arguments, before=(*NO_NETWORK, *traced))
    assert status == 0, output
    return output


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Installation:
    """A line whose training dataset was made without a network."""
    installation = install(tmp_path_factory.mktemp("installation"), tiny_model)
    installation.write_recipe(RECIPE)
    run_traced(installation, TRACES[0], "--until", "training_dataset")
    return installation


def copy_of(installation: Installation, root: Path) -> Installation:
    return Installation(Path(shutil.copytree(installation.root, root, symlinks=True, dirs_exist_ok=True)))


@pytest.fixture(scope="module")
def registered(ready: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A copy of the line, taken to its registered adapter without a network, and without the unscrubbed texts."""
    installation = replace(copy_of(ready, tmp_path_factory.mktemp("registered")), site=WARM)
    corpus = installation.settings.corpus
    corpus.rename(corpus.with_name("away"))
    output = run_traced(installation, TRACES[1])
    assert "step 30/30, loss" in output and "harbour-1.0.0" in output
    assert "sft_adapter" in output and "✓ leakage_safe_split" not in output
    assert not corpus.exists()
    return installation


@pytest.mark.security_case(
    "Trainer, evaluation or registration reads unscrubbed text",
    "a line is trained, scored, registered and verified while SOVEREIGN_CORPUS is unreadable",
)
def test_from_training_to_registration_no_unscrubbed_text_is_read(registered: Installation) -> None:
    corpus = registered.settings.corpus
    away = corpus.with_name("away")
    try:
        report = registered.json("adapters", "verify", "harbour-1.0.0")
        assert not corpus.exists()
    finally:
        away.rename(corpus)
    assert report["outcomes"] == ["verified", "corpus withheld"]
    assert {each["what"] for each in report["withheld"]} == {"raw_corpus", "classified_corpus"}
    assert registered.json("adapters", "verify", "harbour-1.0.0")["outcomes"] == ["verified"]


Trainings = Callable[..., tuple[Installation, "subprocess.Popen[str]", psutil.Process]]


@pytest.fixture
def training(ready: Installation, tmp_path: Path) -> Trainings:
    """A function that begins a training of so many steps. It returns the installation, the run and its trainer."""

    def begin(max_steps: int, site: str = "") -> tuple[Installation, "subprocess.Popen[str]", psutil.Process]:
        installation = replace(copy_of(ready, tmp_path), site=site)
        sft = {**RECIPE["training"]["sft"], "max_steps": max_steps, "epochs": 100_000}
        installation.write_recipe({**RECIPE, "training": {**RECIPE["training"], "sft": sft}})
        run = installation.start("run", "harbour", "--until", "sft_adapter")
        assert run.stdout is not None
        printed = ""
        for line in run.stdout:
            printed += line
            if "step 3/" in line:
                for process in processes_of(".worker", under=run.pid):
                    return installation, run, process
        raise AssertionError(f"the training never began:\n{printed}")

    return begin


def test_a_killed_step_leaves_nothing(training: Trainings) -> None:
    installation, run, trainer = training(100_000)
    family = psutil.Process(run.pid).children(recursive=True)
    step = trainer.parent()
    assert step is not None and run.stdout is not None
    step.send_signal(signal.SIGKILL)
    printed = run.stdout.read()
    assert run.wait() == 1, printed
    assert "Traceback" not in printed
    wait_until_ended([*family, trainer])
    assert installation.store.current("harbour", "sft_adapter") is None
    assert not [path for path in installation.settings.artifacts.glob("*/adapter")]


def test_ctrl_c_saves_a_checkpoint_and_the_next_run_resumes_from_it(training: Trainings) -> None:
    installation, run, _ = training(12, HALTING)
    assert run.stdout is not None
    family = psutil.Process(run.pid).children(recursive=True)
    # As a terminal does it: to every process of its own, which the trainer is not.
    for process in (psutil.Process(run.pid), *family):
        if os.getsid(process.pid) == os.getsid(run.pid):
            process.send_signal(signal.SIGINT)
    printed = run.stdout.read()
    assert run.wait() != 0 and "Traceback" not in printed, printed
    wait_until_ended(family)
    (newest,) = (each.name for each in (installation.settings.home / "checkpoints").glob("harbour.sft/*/step-*"))
    assert f"Line harbour: stopped; the newest checkpoint is at step {int(newest.removeprefix('step-'))}." in printed
    assert "Interrupted" not in printed and "Run again to resume." in printed
    assert "sovereign run harbour --until sft_adapter" in printed
    assert installation.store.current("harbour", "sft_adapter") is None

    status, output = installation.run("run", "harbour", "--until", "sft_adapter")
    assert status == 0, output
    assert f"resuming from {newest}" in output
    assert "raw_corpus" not in output  # what was made before is reused
    assert not list((installation.settings.artifacts / ".building").iterdir())
    assert not list((installation.settings.home / "checkpoints").glob("harbour.sft/*"))


@pytest.mark.security_case(
    "A library in a process of the chain connects to its vendor and ignores failures",
    "every process is traced, and the line is built with only loopback addresses",
)
def test_no_process_of_the_chain_connects_elsewhere(registered: Installation) -> None:
    needs_strace()
    traces = [Trace(registered.root / name) for name in TRACES]
    assert [each for trace in traces for each in trace.elsewhere] == []
    assert all(trace.processes > 10 for trace in traces)  # a step of each stage, and what they start
    assert sum(trace.processes for trace in traces) > 50


def test_nothing_that_is_kept_for_people_holds_text_of_a_document(registered: Installation) -> None:
    """Registry, MLflow, Dagster's event log and the run's log are searched for words that only documents have."""
    home = registered.settings.home
    assert (home / "registry.db").is_file()
    # In another process: if this one closes a file of SQLite's, it loses its locks on it, and later reads an old state.
    search = ["grep", "-rlaE", "--exclude-dir=artifacts", "mark[0-9]+a", str(home)]
    found = subprocess.run(search, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (1, "", "")


@pytest.mark.security_case("another account of the machine reads the home after a run", "modes 0700 and 0600")
def test_nothing_that_a_run_leaves_behind_is_open_to_another_account(registered: Installation) -> None:
    settings = registered.settings
    roots = (settings.home, settings.corpus, settings.vault)
    made = [path for root in roots for path in (root, *root.rglob("*"))]
    made = [path for path in made if path not in (settings.home, settings.vault_public_key)]  # the test made these
    assert {"registry.db", "mlflow.db", "manifest.json"} <= {path.name for path in made}
    assert [path for path in made if not path.is_symlink() and path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("aligned_adapter", "adapter/adapter_model.safetensors"),
        ("training_dataset", "manifest.json"),
        ("raw_corpus", "documents.jsonl"),
    ],
)
def test_one_changed_byte_is_found_and_its_file_is_named(registered: Installation, kind: str, name: str) -> None:
    ref = registered.store.current("harbour", kind)
    assert ref is not None
    is_manifest = name == "manifest.json"
    path = registered.store.path_of(ref.digest) / name if is_manifest else registered.store.open(ref).file(name)
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        status, output = registered.ask("adapters", "verify", "harbour-1.0.0")
    finally:
        path.write_bytes(content)
    assert status == 1
    assert str(path) in output


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
        assert any("all services are ready" in line for line in process.stdout)
        for port in ports[:2]:  # the pages of Dagster and MLflow are asked
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=120).status == 200
    finally:
        process.terminate()
        process.wait(120)
    assert trace.elsewhere == []
    assert trace.local["AF_INET"] > 0  # it waits until each answers
    assert trace.processes > len(ports)


def test_recipe_and_policy_that_changed_are_causes_of_a_review(registered: Installation) -> None:
    """Those that only the real chain's manifests tell."""
    policy = registered.settings.data / "institution.yaml"
    before = policy.read_text()
    assert causes(registered) == []
    try:
        registered.write_recipe({**RECIPE, "training": {**RECIPE["training"], "instruction": "Answer politely."}})
        assert causes(registered) == [Cause("template_changed", "the recipe's instruction changed")]
        registered.write_recipe(RECIPE)
        policy.write_text(f"{before}\nsensitive: {{PHONE: stop}}\n")
        assert causes(registered) == [Cause("policy_changed", "the treatment of PHONE changed")]
    finally:
        registered.write_recipe(RECIPE)
        policy.write_text(before)
    assert causes(registered) == []


def causes(installation: Installation) -> list[Cause]:
    today = datetime.datetime.now(datetime.UTC).date()
    (due,) = due_reviews(open_registry(installation.settings), installation.settings, today)
    return list(due.causes)


def requested(installation: Installation, instance: dg.DagsterInstance, after: int) -> list[dg.RunRequest]:
    """The runs of the chain that the sensor requests so many days from now."""
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=after)
    resources = {"installation": installation.settings, "clock": lambda: now}
    result: Any = reviews_due(dg.build_sensor_context(instance=instance, resources=resources))
    return [each for each in result.run_requests if each.job_name == CHAIN_JOB.name]


def test_one_document_that_became_secret_makes_a_new_secret_version_once_the_review_is_due(
    registered: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what depends on the document is made anew, dataset and adapter are SECRET, and the earlier adapter stays."""
    for variable in (*VARIABLES.values(), "DAGSTER_HOME"):
        monkeypatch.setenv(variable, "")  # restored, whatever opening the instance sets
    monkeypatch.setenv("PYTHONPATH", registered.environment["PYTHONPATH"])
    (first,) = registered.json("adapters", "list")
    before = {kind: registered.store.current("harbour", kind) for kind in ("base_model", "sft_adapter")}
    rows = [invented_letter(number) for number in range(60)]
    rows[3] |= {"classification": "SECRET", "response": f"{rows[3]['response']} The Harbour Office has spoken."}
    registered.write_source("letters.jsonl", rows)
    instance = open_instance(registered.settings)
    assert requested(registered, instance, after=0) == []
    (request,) = requested(registered, instance, after=190)
    key = request.tags[PERIOD_TAG]
    assert (request.run_key, request.partition_key) == (key, "harbour")
    assert key.startswith("harbour:20") and "-H" in key
    result = dg.execute_job(
        dg.reconstructable(chain_job),
        instance=instance,
        tags={**request.tags, "dagster/partition": "harbour", "dagster/run_key": key},
    )
    assert result.success
    assert requested(registered, instance, after=0) == requested(registered, instance, after=190) == []
    assert registered.store.current("harbour", "base_model") == before["base_model"]
    assert registered.store.current("harbour", "sft_adapter") != before["sft_adapter"]
    old, new = registered.json("adapters", "list")
    assert old == first
    assert (new["line"], new["version"], new["classification"]) == ("harbour", "1.1.0", "SECRET")
    assert [each["classification"] for each in registered.json("datasets", "list")] == ["CONFIDENTIAL", "SECRET"]
    assert new["review_date"] >= old["review_date"]
    incumbent = registered.json("adapters", "show", new["id"])["evaluation"]["incumbent"]
    assert (incumbent["id"], incumbent["digest"], incumbent["compared"]) == (old["id"], old["adapter_digest"], True)
    (due,) = registered.json("adapters", "status")["reviews"]
    assert (due["adapter"], due["state"], due["run"]) == (new["id"], "not due", None)
    assert "nothing to do" in registered.run("run", "harbour")[1]
    status, output = registered.ask("adapters", "verify", old["id"])
    assert status == 0, output
    assert "letters.jsonl" in output  # a note: this source is no longer as it was
