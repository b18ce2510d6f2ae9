"""From mail and a database, as an office keeps them, to a dataset in three commands.

The first command looks at the source. The last line of each command names the next one, with the decisions that a
person must make. No file is edited.
"""

import datetime
import random
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Date, Integer, LargeBinary, MetaData, String, Table, create_engine
from sqlalchemy.engine import make_url

from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.corpus.document import read_documents, read_jsonl
from sovereign_pipeline.corpus.stages import DOCUMENTS, FILES
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.corpus import mailboxes
from sovereign_pipeline_tests.end_to_end.conftest import WARM, Installation, newcomer
from sovereign_pipeline_tests.tiny_model import write_card

pytestmark = pytest.mark.slow

MARK = re.compile(r"Z[PRX]\d{5,6}Q")
"""Words of the invented texts, one for each letter."""
ANSWERS = {
    "purpose": "Answer letters about the harbour.",
    "owner": "team:harbour",
    "licence": "own records",
    "retention": "10 years",
    "where.Status": "final",
    "where.status": "final",
}


@dataclass
class Truth:
    """A source, and what must become of it."""

    command: list[str]
    """Arguments of `sovereign sources look`."""
    files: int
    """Number of files or messages, or of rows."""
    pairs: set[tuple[str, str]]
    """Marks of each letter and its reply."""
    made: Callable[[Artifact], set[tuple[str, str]]]
    """Returns the pairs in a raw corpus, in the same form."""
    folder: Path | None = None


@pytest.fixture(scope="module")
def office_of_newcomers(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Installation:
    installation = replace(newcomer(tmp_path_factory.mktemp("newcomers") / "new"), site=WARM)
    write_card(installation.settings.data, "tiny", tiny_model)
    return installation


def given(installation: Installation) -> Path:
    """The folder of the sources."""
    folder = installation.root / "given"
    folder.mkdir(exist_ok=True)
    return folder


def mail(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Truth:
    folder = given(installation) / "mail"
    box = mailboxes.mailbox(threads=60)
    mailboxes.write(box, folder)

    def made(raw: Artifact) -> set[tuple[str, str]]:
        found = set[tuple[str, str]]()
        for document in read_documents(raw.file(DOCUMENTS)):
            turns = [(turn.role, MARK.findall(turn.content)) for turn in document.messages]
            found |= {
                (a, b) for (_, asked), (role, own) in pairwise(turns) for a in asked for b in own if role != "user"
            }
        return found

    assert len(box.letters) >= 300
    return Truth([str(folder)], len(box.letters) + box.copies, box.pairs, made, folder)


NAMES = ["Letter no", "File no", "Received", "Incoming letter", "Our reply", "Marking", "Status", "Clerk"]
ROWS = 60


def rows_of_a_register() -> list[list[Any]]:
    """Return invented rows: one in ten is a draft, and one has no reply."""
    draw, start = random.Random(3), datetime.date(2024, 1, 3)
    return [
        [
            f"L-{number:04d}",
            f"F/{number // 2:03d}",
            start + datetime.timedelta(days=number),
            mailboxes._prose(draw, ("en", "ar")[number % 2], f"ZP{number:05d}Q"),
            mailboxes._prose(draw, ("en", "ar")[number % 2], f"ZR{number:05d}Q") if number != 50 else "",
            ("INTERNAL", "CONFIDENTIAL")[number % 3 == 0],
            ("final", "draft")[number % 10 == 9],
            ("Salim", "Maryam")[number % 4 == 0],
        ]
        for number in range(ROWS)
    ]


def _of_register(command: list[str]) -> Truth:
    pairs = {(f"ZP{number:05d}Q", f"ZR{number:05d}Q") for number in range(ROWS) if number != 50 and number % 10 != 9}

    def made(raw: Artifact) -> set[tuple[str, str]]:
        rows = [*read_documents(raw.file(DOCUMENTS))]
        return {(MARK.findall(each.request)[0], MARK.findall(each.response)[0]) for each in rows}

    return Truth(command, ROWS, pairs, made)


def _fill(url: str) -> None:
    """Write the register as tables of a database: the letters, their scans, and the officers."""
    tables = MetaData()
    officers = Table("officers", tables, Column("id", Integer, primary_key=True), Column("name", String(40)))
    kinds: dict[str, Any] = {"Received": Date, "Letter no": String(20)}
    columns: list[Column[Any]] = [
        Column(each.lower().replace(" ", "_"), kinds.get(each, String(9_000))) for each in NAMES
    ]
    of_letters = Table("correspondence", tables, *columns, Column("scan", LargeBinary))
    engine = create_engine(url)
    tables.drop_all(engine)
    tables.create_all(engine)
    with engine.begin() as connection:
        connection.execute(officers.insert(), [{"id": 1, "name": "Salim"}, {"id": 2, "name": "Maryam"}])
        names = [each.name for each in columns]
        rows = [dict(zip(names, row, strict=True), scan=b"\x00\xff") for row in rows_of_a_register()]
        connection.execute(of_letters.insert(), rows)
    engine.dispose()


def postgresql(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Truth:
    return _of_register(["--url-from", "ARCHIVE_URL"])


@pytest.fixture
def truth(
    request: pytest.FixtureRequest, office_of_newcomers: Installation, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Truth]:
    make = request.param
    if make is postgresql:
        url = make_url(request.getfixturevalue("postgresql_server")).update_query_dict({"application_name": SECRET})
        monkeypatch.setenv("ARCHIVE_URL", url.render_as_string(hide_password=False))
        _fill(url.render_as_string(hide_password=False))
    yield make(office_of_newcomers, monkeypatch)


SECRET = "walnut-in-the-url"
SOURCES = [mail, pytest.param(postgresql, marks=pytest.mark.postgresql)]


@pytest.mark.parametrize("truth", SOURCES, indirect=True)
def test_three_commands_lead_from_a_source_to_a_dataset(truth: Truth, office_of_newcomers: Installation) -> None:
    installation, said = office_of_newcomers, list[str]()
    command = shlex.join(["sovereign", "sources", "look", *truth.command])
    while " datasets show " not in command:
        assert len(said) < 3, "\n".join(said)
        words = shlex.split(command)[1:]
        status, output = (installation.run if words[0] == "run" else installation.ask)(*words)
        said.append(output)
        assert status == 0, output
        command = answered(output)
    line = re.findall(r"sovereign run (\S+)", said[1])[-1]
    raw_ref, dataset = (installation.store.current(line, kind) for kind in ("raw_corpus", "training_dataset"))
    assert raw_ref is not None and dataset is not None and dataset.digest[:12] in command
    raw = installation.store.open(raw_ref)

    counts = counted_by_gate(said[2])
    assert sum(counts.values()) == truth.files
    if truth.folder is not None:
        outcomes = {str(row["path"]): row for row in read_jsonl(raw.file(FILES))}
        lying = {path.relative_to(truth.folder).as_posix() for path in truth.folder.rglob("*") if path.is_file()}
        assert {name.partition("#")[0] for name in outcomes} == lying and len(outcomes) == truth.files
        assert all(row["reason"] for row in outcomes.values() if row["outcome"] != "row")
        assert all(file_sha256(truth.folder / name) == outcomes[name]["sha256"] for name in outcomes if "#" not in name)
    assert raw.manifest.external_inputs.keys() == {"source:letters"}

    made = truth.made(raw)
    assert made <= truth.pairs  # precision 1.00
    assert len(made) >= 0.95 * len(truth.pairs)
    assert not [text for text in said if MARK.search(text)]
    assert not files_with_text(installation)


def answered(output: str) -> str:
    """Return the command in the last line, with the decisions of a person."""
    (command,) = re.findall(r"(sovereign .*)", output.splitlines()[-1])
    share = re.search(r"max_share: .*such as ([\d.]+)", output)
    answers = {**ANSWERS, **({"quarantine.max_share": share[1]} if share else {})}
    words = [
        f"{key}={answers[key]}" if (key := word.removesuffix("=FILL IN")) != word else word
        for word in shlex.split(command)
    ]
    if "--set" in words:
        words += ["--set", "training.base_model=tiny"]
    return shlex.join(words)


def counted_by_gate(output: str) -> dict[str, int]:
    """Return outcome -> number of files, messages or rows, as the gate states them."""
    (stated,) = re.findall(r"✓ rows_accounted_for: (.*)", output)
    of_files = re.search(r"[\d,]+ files or messages = ([^.]*)", stated)
    sums = of_files[1] if of_files else re.findall(r"rows = ([^,]*),", stated)[0]
    parts = [part.split(" ", 1) for part in sums.split(" + ")]
    return {what: int(number.replace(",", "")) for number, what in parts}


HOLDS_TEXT = re.compile(
    r"home(?:-corpus)?/artifacts/[0-9a-f]{64}/(?:documents|train|held_out|conversations)\.jsonl|home-corpus/cache/(?:parsed|rows)/.*"
)
"""Paths of the files that are there to hold texts."""


def files_with_text(installation: Installation) -> list[str]:
    """Return the other files of the installation, its logs and databases included, that have a word of a source's
    text, or of a database's URL."""
    found = list[str]()
    for path in installation.root.rglob("*"):
        name = path.relative_to(installation.root)
        if path.is_file() and name.parts[0] != "given" and name.parts[:2] != ("data", "sources"):
            content = path.read_bytes()
            has_text = re.search(MARK.pattern.encode(), content) and not HOLDS_TEXT.fullmatch(str(name))
            found += [str(name)] if has_text or SECRET.encode() in content else []
    return found
