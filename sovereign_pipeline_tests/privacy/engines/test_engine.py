"""A whole file: the same bytes whoever works on it, workers that end with their parent, the policy that stops."""

import ipaddress
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyrage
import pytest

from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Corpus, Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.privacy.engines import engine
from sovereign_pipeline.privacy.engines import ray as ray_engine
from sovereign_pipeline.privacy.engines.batches import ScrubJob
from sovereign_pipeline.privacy.engines.engine import scrub_file
from sovereign_pipeline.privacy.scrubbing import Findings
from sovereign_pipeline.privacy.vault.vault import MappingRow, Vault, read_vault
from sovereign_pipeline.settings import PROJECT_ROOT
from sovereign_pipeline_tests.privacy.conftest import document

PATTERNS = Privacy(name_models={}, patterns_only=("en", "ar"))
IDENTITY = pyrage.x25519.Identity.generate()


def job_for(directory: Path, treatments: Treatments | None = None, cache: str | None = "cache") -> ScrubJob:
    return ScrubJob(
        source=directory / "in.jsonl",
        line="lamps",
        run="run",
        privacy=PATTERNS,
        treatments=treatments or {},
        detector="d" * 64,
        cache=directory / cache if cache is not None else None,
    )


def vault_in(directory: Path) -> Vault:
    return Vault(directory / "vault", str(IDENTITY.to_public()))


def mapping(directory: Path) -> list[MappingRow]:
    return list(read_vault(directory / "vault", str(IDENTITY)))


def scrub_in(directory: Path, corpus: Corpus | None = None, **changes: Any) -> Findings:
    job = job_for(directory, **changes)
    return scrub_file(job, directory / "out.jsonl", vault_in(directory), corpus or Corpus(), lambda message: None)


def demonstration() -> Iterator[Document]:
    """The letters of the demonstration institution, in both scripts, as far as they are whole."""
    for file in sorted((PROJECT_ROOT / "data" / "sources").glob("*/*.jsonl")):
        for number, line in enumerate(file.read_bytes().splitlines()):
            try:
                row = json.loads(line)
                yield document(
                    row["letter"],
                    id=f"{file.parent.name}-{number}",
                    case=row["case"],
                    author=row["author"],
                    date=row["date"],
                    language=row["language"],
                    response=row.get("reply") or row["chosen"],
                    rejected=row.get("rejected"),
                )
            except (ValueError, KeyError):
                continue


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "in.jsonl"
    assert write_documents(path, demonstration()) > 200
    return path


def result_of(directory: Path, corpus_file: Path, corpus: Corpus, **changes: Any) -> tuple[bytes, object, object]:
    """All that a scrubbing leaves: its text, its findings, and the rows of the vault."""
    directory.mkdir(exist_ok=True)
    (directory / "in.jsonl").write_bytes(corpus_file.read_bytes())
    findings = scrub_in(directory, corpus, **changes)
    rows = sorted(mapping(directory), key=lambda row: (row.case, row.row, row.field))
    return (directory / "out.jsonl").read_bytes(), findings.to_json("run"), rows


@pytest.fixture
def workers_are_always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SECONDS_WORTH_A_WORKER", 1e-9)


def write_result(directory: Path, corpus_file: Path, corpus: Corpus) -> None:
    """What a process of its own does with the file; its parent reads `result`."""
    engine.SECONDS_WORTH_A_WORKER = 1e-9
    text, findings, rows = result_of(directory, corpus_file, corpus)
    (directory / "result").write_bytes(pickle.dumps((text, findings, rows)))


@pytest.mark.usefixtures("workers_are_always_worth_it")
@pytest.mark.parametrize("chosen", ["processes", "ray"])
def test_every_engine_gives_the_same_bytes(tmp_path: Path, corpus_file: Path, chosen: str) -> None:
    """Each in a process of its own, as a step has one: Ray keeps for a process what it reads at its import."""
    alone = result_of(tmp_path / "alone", corpus_file, Corpus(workers=1), cache=None)
    assert {"NAME", "PHONE", "NID"} <= alone[1]["by_kind"].keys()  # type: ignore[index]
    assert {"ar", "en"} == alone[1]["by_language"].keys()  # type: ignore[index]
    (tmp_path / "program.py").write_text(
        "import sys; from pathlib import Path\n"
        "from sovereign_pipeline.policy.corpus import Corpus\n"
        "from sovereign_pipeline_tests.privacy.test_engine import write_result\n"
        "if __name__ == '__main__':\n"
        "    write_result(Path(sys.argv[1]), Path(sys.argv[2]), Corpus(engine=sys.argv[3], workers=2))\n"
    )
    arguments = [tmp_path / "program.py", tmp_path / "many", corpus_file, chosen]
    subprocess.run([sys.executable, *arguments], env=of_no_cluster(), check=True, timeout=240)
    assert pickle.loads((tmp_path / "many" / "result").read_bytes()) == alone


def of_no_cluster() -> dict[str, str]:
    """The environment of a process that was told nothing of a Ray."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**others, "PYTHONPATH": str(PROJECT_ROOT)}


def test_nobody_else_reaches_the_ray_that_scrubs(tmp_path: Path) -> None:
    """Not from the network, whatever Ray listens on by default, and not from another account of this machine."""
    program = (
        "import sys; from pathlib import Path\n"
        "from sovereign_pipeline.privacy.engines.ray import ray_actors\n"
        "from sovereign_pipeline_tests.privacy.test_engine import job_for\n"
        "with ray_actors(job_for(Path(sys.argv[1])), 1):\n"
        "    import ray\n"
        "    print(ray.get_runtime_context().gcs_address, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    asks = "import sys, ray; print(ray._raylet.GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None))"
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        env=of_no_cluster(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        address = process.stdout.readline().strip()
        held = psutil.Process(process.pid)
        ports = {
            port.laddr.ip
            for each in [held, *held.children(recursive=True)]
            for port in each.net_connections()
            if port.status == psutil.CONN_LISTEN
        }
        stranger = subprocess.run(
            [sys.executable, "-c", asks, address], env=of_no_cluster(), capture_output=True, text=True, timeout=120
        )
        process.stdin.close()
    assert ports
    assert all(ipaddress.ip_address(port.removeprefix("::ffff:")).is_loopback for port in ports), ports
    assert stranger.returncode != 0
    assert "InvalidAuthToken" in stranger.stderr


def test_a_ray_that_was_imported_open_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys, ray; from pathlib import Path\n"
        "from sovereign_pipeline.privacy.engines.ray import ray_actors\n"
        "from sovereign_pipeline_tests.privacy.test_engine import job_for\n"
        "with ray_actors(job_for(Path(sys.argv[1])), 1): pass\n"
    )
    refused = subprocess.run(
        [sys.executable, "-c", program, tmp_path], env=of_no_cluster(), capture_output=True, text=True, timeout=120
    )
    assert refused.returncode != 0
    assert "Run the step in a process of its own" in refused.stderr


def test_what_was_found_before_gives_the_same_bytes(
    tmp_path: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = result_of(tmp_path / "one", corpus_file, Corpus(workers=1))
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "cache").rename(tmp_path / "two" / "cache")
    monkeypatch.setattr(engine, "DOCUMENTS_A_BATCH", 7)  # another cut of the corpus
    assert result_of(tmp_path / "two", corpus_file, Corpus(workers=1)) == first
    assert scrub_in(tmp_path / "two").searched == 0


def test_a_changed_document_is_all_that_is_searched(tmp_path: Path, corpus_file: Path) -> None:
    documents = list(read_documents(corpus_file))
    write_documents(tmp_path / "in.jsonl", documents)
    scrub_in(tmp_path)
    documents[17] = documents[17].model_copy(update={"request": "The buoy at House 14, Way 3021 has gone."})
    write_documents(tmp_path / "in.jsonl", documents)
    assert scrub_in(tmp_path).searched == 1


def test_a_file_is_scrubbed_in_order_although_cases_are_read_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "NEW_DOCUMENTS_A_BATCH", 3)
    documents = [
        document(f"CR {1000000 + number} and CR 9999999", id=f"R-{number}", case=f"A/2024/{number % 4}")
        for number in range(17)
    ]
    write_documents(tmp_path / "in.jsonl", documents)
    messages: list[str] = []
    job = job_for(tmp_path, cache=None)
    findings = scrub_file(job, tmp_path / "out.jsonl", vault_in(tmp_path), Corpus(), messages.append)
    out = list(read_documents(tmp_path / "out.jsonl"))
    assert [each.id for each in out] == [each.id for each in documents]
    assert [each.request for each in out[:5]] == ["CR CR_1 and CR CR_2"] * 4 + ["CR CR_3 and CR CR_2"]
    assert (findings.documents, findings.cases, findings.by_kind) == (17, 4, {"CR": 34})
    assert len(messages) > 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "vault"]
    assert len(mapping(tmp_path)) == 34
    assert len(list((tmp_path / "vault" / "lamps").glob("*.age"))) > 1


def test_a_language_without_detector_stops(tmp_path: Path) -> None:
    write_documents(tmp_path / "in.jsonl", [document("Bonjour", language="fr")])
    with pytest.raises(PrivacyError, match=r"fr \(1 rows\)"):
        scrub_in(tmp_path)


# --- the policy ------------------------------------------------------------------------------------------------------


def test_a_kind_that_is_kept_stays_and_the_canaries_hold(tmp_path: Path) -> None:
    write_documents(
        tmp_path / "in.jsonl", [document("Phone 92341187, civil number 87654321", author="Salma Al Harthi")]
    )
    findings = scrub_in(tmp_path, treatments={"PHONE": "keep", "NAME": "keep"})
    (out,) = read_documents(tmp_path / "out.jsonl")
    assert (out.request, out.author) == ("Phone 92341187, civil number NID_1", "Salma Al Harthi")
    assert (findings.by_kind, findings.kept) == ({"NID": 1}, {"PHONE": 1})
    assert [row.original for row in mapping(tmp_path)] == ["87654321"]


def test_a_kept_value_is_not_eaten_by_a_weaker_kind(tmp_path: Path) -> None:
    write_documents(tmp_path / "in.jsonl", [document("My civil number is 87654321 and 87654321.")])
    scrub_in(tmp_path, treatments={"NID": "keep"})
    assert next(read_documents(tmp_path / "out.jsonl")).request == "My civil number is 87654321 and 87654321."


def test_a_kind_that_stops_names_its_rows_and_leaves_nothing(tmp_path: Path) -> None:
    rows = [document(f"CR {1000000 + number}", id=f"R-{number:03d}", case=f"C-{number}") for number in range(30)]
    write_documents(tmp_path / "in.jsonl", [*rows, document("IBAN OM820270310045566770012", id="R-900", case="C-900")])
    with pytest.raises(PrivacyError, match=r"CR in 30 rows: R-000, .* and 10 more; IBAN in 1 rows: R-900\.") as stopped:
        scrub_in(tmp_path, treatments={"CR": "stop", "IBAN": "stop"})
    assert "100000" not in str(stopped.value) and "OM82" not in str(stopped.value)
    assert not (tmp_path / "vault").exists() and not (tmp_path / "out.jsonl").exists()


def test_a_kind_that_stops_and_is_nowhere_lets_through(tmp_path: Path) -> None:
    write_documents(tmp_path / "in.jsonl", [document("CR 1000000")])
    scrub_in(tmp_path, treatments={"IBAN": "stop"})
    assert next(read_documents(tmp_path / "out.jsonl")).request == "CR CR_1"


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_missing_ray_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_documents(tmp_path / "in.jsonl", [document("CR 1000000")])
    monkeypatch.setattr(ray_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PrivacyError, match=r"pip install 'sovereign-pipeline\[ray\]'"):
        scrub_in(tmp_path, Corpus(engine="ray"))


@pytest.mark.usefixtures("workers_are_always_worth_it")
def test_an_error_of_a_worker_arrives_as_it_is(tmp_path: Path) -> None:
    rows = [
        document("CR 1000000" if number else "as NAME_3 said", id=f"R-{number}", case=f"C-{number}")
        for number in range(300)
    ]
    write_documents(tmp_path / "in.jsonl", rows)
    with pytest.raises(PrivacyError, match=r"Row R-0: its request already holds"):
        scrub_in(tmp_path, Corpus(workers=2))


@pytest.fixture
def endless(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that scrubs with two workers for a long time."""
    rows = (document(f"Mr Said Al Busaidi {n}. " * 400, id=f"R-{n}", case=f"C-{n}") for n in range(3_000))
    write_documents(tmp_path / "in.jsonl", rows)
    program = (
        "import sys; from pathlib import Path\n"
        "from sovereign_pipeline.policy.corpus import Corpus\n"
        "from sovereign_pipeline_tests.privacy.test_engine import scrub_in\n"
        "if __name__ == '__main__': scrub_in(Path(sys.argv[1]), Corpus(workers=2))\n"
    )
    (tmp_path / "endless.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "endless.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stderr=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.communicate()


def workers_of(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        if len(workers) == 2 and all(child.cpu_times().user > 1.5 for child in workers):
            return workers
        time.sleep(0.1)
    raise AssertionError("no workers were started")


def test_workers_die_when_their_parent_is_killed(endless: "subprocess.Popen[bytes]") -> None:
    workers = workers_of(endless)
    os.kill(endless.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive


def test_a_worker_that_is_killed_stops_the_work_and_says_so(endless: "subprocess.Popen[bytes]") -> None:
    workers_of(endless)[0].kill()
    _, errors = endless.communicate(timeout=120)
    assert endless.returncode != 0
    assert b"A worker of the scrubbing was killed" in errors


# --- the way back ----------------------------------------------------------------------------------------------------

# Every opening of a file is seen; one that could read the vault, or a private key, ends the process.
WITHOUT_READING = """
import os, sys
from pathlib import Path
from sovereign_pipeline_tests.privacy.test_engine import scrub_without_identity
directory = Path(sys.argv[1])
vault = str(directory / "vault")

def refuse(event, arguments):
    if event == "open" and str(arguments[0]).startswith(vault) and arguments[2] & os.O_ACCMODE != os.O_WRONLY:
        os._exit(41)
    if event in ("os.listdir", "os.scandir") and str(arguments[0]).startswith(vault):
        os._exit(42)

sys.addaudithook(refuse)
scrub_without_identity(directory, sys.argv[2])
if len(sys.argv) > 3:
    next((directory / "vault").rglob("*.age")).read_bytes()
"""


def scrub_without_identity(directory: Path, public_key: str) -> None:
    scrub_file(
        job_for(directory),
        directory / "out.jsonl",
        Vault(directory / "vault", public_key),
        Corpus(),
        lambda message: None,
    )


@pytest.mark.parametrize(("more", "status"), [([], 0), (["and read it"], 42)])
def test_scrubbing_never_opens_the_vault_for_reading(tmp_path: Path, more: list[str], status: int) -> None:
    write_documents(tmp_path / "in.jsonl", [document("Mr Said Al Busaidi, CR 1000000")])
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_READING, tmp_path, str(IDENTITY.to_public()), *more],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        check=False,
    )
    assert ended.returncode == status
    assert {row.original for row in mapping(tmp_path)} == {"Said Al Busaidi", "1000000"}


def test_the_vault_and_the_private_key_restore_every_field(tmp_path: Path, corpus_file: Path) -> None:
    result_of(tmp_path, corpus_file, Corpus(workers=1))
    originals: dict[tuple[str, str], list[MappingRow]] = {}
    for row in mapping(tmp_path):
        originals.setdefault((row.row, row.field), []).append(row)
    before, after = read_documents(corpus_file), read_documents(tmp_path / "out.jsonl")
    for given, scrubbed in zip(before, after, strict=True):
        for name, text in {**scrubbed.texts, "author": scrubbed.author}.items():
            restored = ""
            for row in originals.pop((scrubbed.id, name), []):
                piece, text = text.split(row.placeholder, 1)
                restored += piece + row.original
            assert restored + text == getattr(given, name)
    assert not originals
