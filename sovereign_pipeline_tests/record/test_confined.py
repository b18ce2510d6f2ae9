"""Unscrubbed text under a root of its own: where it lies, and who is given it."""

import shutil

import pytest

from sovereign_pipeline.base.errors import CorpusWithheld, IntegrityError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS, QUARANTINE, RAW_CORPUS, SOURCES
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline_tests.record.small_stages import make

WORD = b"w3x7"
"""Stands in one letter."""


@pytest.fixture
def raw(workplace: Workplace) -> ArtifactRef:
    return make(RAW_CORPUS, workplace)


def without_corpus(workplace: Workplace) -> ArtifactStore:
    return open_store(workplace.settings)


@pytest.mark.security_case(
    "Someone looks for raw and classified documents in the home, which contains the scrubbed ones",
    "they are under SOVEREIGN_CORPUS with mode 0700, and the home contains no word of them",
)
def test_no_word_of_a_letter_lies_in_the_home(workplace: Workplace, raw: ArtifactRef) -> None:
    make(CLASSIFIED_CORPUS, workplace, raw_corpus=raw)
    home = [path for path in workplace.settings.home.rglob("*") if path.is_file()]
    assert [path for path in home if WORD in path.read_bytes()] == []
    corpus = workplace.settings.corpus
    assert sum(path.is_file() and WORD in path.read_bytes() for path in corpus.rglob("*")) == 2
    assert corpus == workplace.settings.home.with_name("home-corpus")
    directories = [corpus, *(path for path in corpus.rglob("*") if path.is_dir() and path.name != ".building")]
    assert {oct(path.stat().st_mode & 0o777) for path in directories} == {"0o700"}


def test_what_holds_no_text_stays_where_everybody_reads_it(workplace: Workplace, raw: ArtifactRef) -> None:
    store = without_corpus(workplace)
    assert store.read_manifest(raw).summary["rows"] == 40
    artifact = store.open_as_given(raw)
    assert artifact.file(SOURCES).is_file()
    assert {entry.path for entry in artifact.withheld} == {DOCUMENTS, QUARANTINE}
    assert workplace.store.open(raw).withheld == ()


@pytest.mark.security_case(
    "A process that needs no unscrubbed text opens the raw corpus", "it gets an error instead of the corpus root"
)
def test_a_process_without_the_root_is_refused(workplace: Workplace, raw: ArtifactRef) -> None:
    store = without_corpus(workplace)
    with pytest.raises(CorpusWithheld, match=rf"raw_corpus {short(raw.digest)}: .*documents\.jsonl, quarantine\.jsonl"):
        store.open(raw)
    with pytest.raises(CorpusWithheld, match="raw_corpus"):
        store.open_as_given(raw).file(DOCUMENTS)
    with pytest.raises(CorpusWithheld), store.workspace("classified_corpus"):
        pass


@pytest.mark.parametrize("fault", ["changed", "extra", "all missing"])
def test_a_fault_under_the_root_is_named(workplace: Workplace, raw: ArtifactRef, fault: str) -> None:
    directory = workplace.settings.corpus / "artifacts" / raw.digest
    file = directory / DOCUMENTS
    if fault == "changed":
        file.write_bytes(file.read_bytes().replace(b"PUBLIC", b"SECRET", 1))
    elif fault == "extra":
        file = directory / "more.jsonl"
        file.write_text("{}")
    else:
        shutil.rmtree(directory)
        file = directory
    with pytest.raises(IntegrityError, match=str(file)):
        workplace.store.open(raw)


def test_what_a_build_leaves_when_it_is_killed_lies_under_the_root(workplace: Workplace) -> None:
    with workplace.store.workspace("raw_corpus") as workspace:
        assert workspace.is_relative_to(workplace.settings.corpus)
    with workplace.store.workspace("scrubbed_corpus") as workspace:
        assert workspace.is_relative_to(workplace.settings.home)


def test_what_a_killed_process_had_put_under_the_root_is_replaced(workplace: Workplace) -> None:
    ref = make(RAW_CORPUS, workplace)
    shutil.rmtree(workplace.store.root)
    documents = workplace.settings.corpus / "artifacts" / ref.digest / DOCUMENTS
    documents.write_text("cut off")
    assert make(RAW_CORPUS, workplace).digest == ref.digest
    assert documents.read_text() != "cut off"
