"""A whole file: order, what was found before, the policy that stops, the way back through the vault."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign_pipeline.base import text as countdown
from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.corpus.document import read_documents, write_documents
from sovereign_pipeline.policy.corpus import Corpus
from sovereign_pipeline.privacy import engines
from sovereign_pipeline.privacy.engines import scrub_file
from sovereign_pipeline.privacy.vault import MappingRow
from sovereign_pipeline_tests.corpus.sources import changed_document
from sovereign_pipeline_tests.privacy.conftest import document
from sovereign_pipeline_tests.privacy.engines.scrubbed_files import (
    IDENTITY,
    job_for,
    mapping,
    result_of,
    scrub_in,
    vault_in,
)


def test_what_was_found_before_gives_the_same_bytes(
    tmp_path: Path, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = result_of(tmp_path / "one", corpus_file, Corpus(workers=1))
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "cache").rename(tmp_path / "two" / "cache")
    monkeypatch.setattr(engines, "DOCUMENTS_PER_BATCH", 7)  # another cut of the corpus
    assert result_of(tmp_path / "two", corpus_file, Corpus(workers=1)) == first
    assert scrub_in(tmp_path / "two").searched == 0


def test_a_machine_of_a_cluster_reads_and_writes_a_cache_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_documents(tmp_path / "in.jsonl", [document("CR 1000000")])
    job, vault, searched = job_for(tmp_path), vault_in(tmp_path), list[int]()
    for node in (job.node, "second", "second", "third", job.node):
        monkeypatch.setattr(platform, "node", lambda node=node: node)
        findings = scrub_file(job, tmp_path / "out.jsonl", vault, Corpus(), lambda message: None)
        searched.append(findings.searched)
    first = searched[0]
    assert searched == [first, first, 0, first, 0] and first > 0


def test_a_changed_document_is_all_that_is_searched(tmp_path: Path, corpus_file: Path) -> None:
    documents = list(read_documents(corpus_file))
    write_documents(tmp_path / "in.jsonl", documents)
    scrub_in(tmp_path)
    documents[17] = changed_document(documents[17], {"request": "The buoy at House 14, Way 3021 has gone."})
    write_documents(tmp_path / "in.jsonl", documents)
    assert scrub_in(tmp_path).searched == 1


def test_a_file_is_scrubbed_in_order_although_cases_are_read_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "DOCUMENTS_PER_BATCH", 3)
    monkeypatch.setattr(countdown, "SECONDS_BETWEEN_MESSAGES", 0)
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
    assert "privacy: 17 documents in 4 case files" in messages
    assert any(message.startswith("privacy, scrubbing: document 5 of 17, ") for message in messages)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "vault"]
    assert len(mapping(tmp_path)) == 34
    assert len(list((tmp_path / "vault" / "lamps").glob("*.age"))) > 1


def test_spellings_of_one_case_file_share_the_numbers_of_their_placeholders(tmp_path: Path) -> None:
    cases = ["PRM/2024/017", "A/1", "prm / ٢٠٢٤/017"]
    rows = [document(f"CR {1000000 + n} and CR 9999999", id=f"R-{n}", case=case) for n, case in enumerate(cases)]
    write_documents(tmp_path / "in.jsonl", rows)
    assert scrub_in(tmp_path).cases == 2
    out = [each.request for each in read_documents(tmp_path / "out.jsonl")]
    assert out == ["CR CR_1 and CR CR_2", "CR CR_1 and CR CR_2", "CR CR_3 and CR CR_2"]


def test_a_language_without_detector_stops(tmp_path: Path) -> None:
    write_documents(tmp_path / "in.jsonl", [document("Bonjour", language="fr")])
    with pytest.raises(PrivacyError, match=r"\bfr\b"):
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
    with pytest.raises(PrivacyError, match=r"CR in 30 rows: R-000, .* and 20 more; IBAN in 1 row: R-900\)") as stopped:
        scrub_in(tmp_path, treatments={"CR": "stop", "IBAN": "stop"})
    assert "100000" not in str(stopped.value) and "OM82" not in str(stopped.value)
    assert not (tmp_path / "vault").exists() and not (tmp_path / "out.jsonl").exists()


def test_a_kind_that_stops_and_is_nowhere_lets_through(tmp_path: Path) -> None:
    write_documents(tmp_path / "in.jsonl", [document("CR 1000000")])
    scrub_in(tmp_path, treatments={"IBAN": "stop"})
    assert next(read_documents(tmp_path / "out.jsonl")).request == "CR CR_1"


# --- the way back ----------------------------------------------------------------------------------------------------

# Every opening of a file is seen; one that could read the vault, or a private key, ends the process.
WITHOUT_READING = """
import os, sys
from pathlib import Path
from sovereign_pipeline_tests.privacy.engines.scrubbed_files import scrub_without_identity
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


@pytest.mark.security_case(
    "A combining mark after a line break would break the escape if the written JSON were normalised",
    "texts are normalised before writing, so that every row is read back unchanged",
)
@pytest.mark.parametrize("mark", ["\u0303", "\u0301", "\u0327"])
def test_a_combining_mark_behind_a_line_break_leaves_every_row_readable(tmp_path: Path, mark: str) -> None:
    texts = [f"one\n{mark}two, phone 92341187", f"\t{mark} end", "plain"]
    rows = [document(text, id=f"R-{number}", case=f"C-{number}") for number, text in enumerate(texts)]
    write_documents(tmp_path / "in.jsonl", rows)
    scrub_in(tmp_path)
    scrubbed = [each.request for each in read_documents(tmp_path / "out.jsonl")]
    assert scrubbed == [f"one\n{mark}two, phone PHONE_1", *texts[1:]]
