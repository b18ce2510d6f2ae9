"""Every engine gives the same bytes; workers end with their parent."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sovereign_pipeline.base.errors import InputError, PrivacyError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.corpus.document import write_documents
from sovereign_pipeline.policy.corpus import Corpus
from sovereign_pipeline_tests.privacy.conftest import document
from sovereign_pipeline_tests.privacy.engines.scrubbed_files import of_no_cluster, result_of, scrub_in
from sovereign_pipeline_tests.waiting import SECONDS, processes_of, wait_until, wait_until_ended

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("workers_are_always_worth_it")
@pytest.mark.parametrize("chosen", ["processes", "ray"])
def test_every_engine_gives_the_same_bytes(tmp_path: Path, corpus_file: Path, chosen: str) -> None:
    """Each in a process of its own, as a step has one: Ray keeps for a process what it reads at its import."""
    alone = result_of(tmp_path / "alone", corpus_file, Corpus(workers=1), cache=None)
    _, findings, _ = alone
    assert {"NAME", "PHONE", "NID"} <= findings["by_kind"].keys()
    assert {"ar", "en"} == findings["by_language"].keys()
    (tmp_path / "program.py").write_text(
        "import sys; from pathlib import Path\n"
        "from sovereign_pipeline.policy.corpus import Corpus\n"
        "from sovereign_pipeline_tests.privacy.engines.scrubbed_files import write_result\n"
        "if __name__ == '__main__':\n"
        "    write_result(Path(sys.argv[1]), Path(sys.argv[2]), Corpus(engine=sys.argv[3], workers=2))\n"
    )
    arguments: list[str | Path] = [tmp_path / "program.py", tmp_path / "many", corpus_file, chosen]
    subprocess.run([sys.executable, *arguments], env=of_no_cluster(), check=True, timeout=SECONDS)
    assert pickle.loads((tmp_path / "many" / "result").read_bytes()) == alone


# --- workers ---------------------------------------------------------------------------------------------------------


def test_a_missing_ray_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_documents(tmp_path / "in.jsonl", [document("CR 1000000")])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'sovereign-pipeline\[ray\]'"):
        scrub_in(tmp_path, Corpus(engine="ray"))


@pytest.mark.usefixtures("workers_are_always_worth_it")
def test_an_error_of_a_worker_arrives_as_it_is(tmp_path: Path) -> None:
    rows = [
        document("CR 1000000" if number else "as NAME_3 said", id=f"R-{number}", case=f"C-{number}")
        for number in range(300)
    ]
    write_documents(tmp_path / "in.jsonl", rows)
    with pytest.raises(PrivacyError, match=r"Row R-0: the field request already contains"):
        scrub_in(tmp_path, Corpus(workers=2))


@pytest.fixture
def endless(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that scrubs with two workers for a long time."""
    rows = (document(f"Mr Said Al Busaidi {n}. " * 400, id=f"R-{n}", case=f"C-{n}") for n in range(3_000))
    write_documents(tmp_path / "in.jsonl", rows)
    program = (
        "import sys; from pathlib import Path\n"
        "from sovereign_pipeline.policy.corpus import Corpus\n"
        "from sovereign_pipeline_tests.privacy.engines.scrubbed_files import scrub_in\n"
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
    """Its two workers, once they are at work."""

    def at_work() -> list[psutil.Process]:
        # Importing Presidio takes up to 7 seconds.
        return [worker for worker in processes_of("spawn_main", under=process.pid) if worker.cpu_times().user > 9]

    wait_until(lambda: len(at_work()) == 2, lambda: "no workers were started")
    return at_work()


def test_workers_die_when_their_parent_is_killed(endless: "subprocess.Popen[bytes]") -> None:
    workers = workers_of(endless)
    os.kill(endless.pid, signal.SIGKILL)
    wait_until_ended(workers)


def test_a_worker_that_is_killed_stops_the_work_and_says_so(endless: "subprocess.Popen[bytes]") -> None:
    workers_of(endless)[0].kill()
    _, errors = endless.communicate(timeout=SECONDS)
    assert endless.returncode != 0
    assert b"A worker process was killed" in errors
