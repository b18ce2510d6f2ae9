import datetime
import itertools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.corpus import parsing
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.extraction import KINDS
from sovereign_pipeline.corpus.folders import look_at_folder
from sovereign_pipeline.corpus.mail import parse_mail
from sovereign_pipeline.corpus.parsing import Cache, Outcome, Unit, Units, files_of, units_of
from sovereign_pipeline.corpus.stages import DOCUMENTS, read_sources
from sovereign_pipeline.corpus.threads import KnownMessages, assemble, own_text
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.corpus import mailboxes
from sovereign_pipeline_tests.corpus.test_extraction import outcomes, raw_corpus
from sovereign_pipeline_tests.examples import examples

LADDER = ClassificationLadder(("PUBLIC", "INTERNAL", "CONFIDENTIAL", "SECRET"))
SOURCE = Source(
    name="mail", kind="mail", path=Path("mail"), ours=mailboxes.OURS, licence="own", retention="1 year",
    levels={"سري": "CONFIDENTIAL", "سري للغاية": "SECRET"},
)  # fmt: skip
DESK, ANNA, OMAR, CHIEF = mailboxes.DESK, "anna@mail.example", "omar@mail.example", "chief@hq.coasts.example"


def _mail(id: str, sender: str, to: str, text: str, answers: str = "", hours: float = 0, **others: Any) -> Unit:
    date = datetime.datetime(2024, 2, 5, 8, tzinfo=datetime.UTC) + datetime.timedelta(hours=hours)
    name = others.pop("name", f"{id}.eml")
    item = {
        "id": id, "references": answers.split(), "date": date.isoformat(), "sender": sender, "recipients": to.split(),
        "subject": "Re: Jetty" if answers else "Jetty", "text": text, **others,
    }  # fmt: skip
    return Unit(name, "", item)


def _rows(units: Iterable[Unit]) -> tuple[list[dict[str, Any]], list[Outcome]]:
    both = [*assemble(SOURCE, LADDER, Units(units), Path())]
    return [each for each in both if isinstance(each, dict)], [each for each in both if isinstance(each, Outcome)]


def test_an_invented_mailbox(tmp_path: Path) -> None:
    """Every message has one outcome, each reply is paired with the letters that it answers, and texts are whole."""
    box = mailboxes.mailbox()
    letters = mailboxes.write(box, tmp_path)
    units = list[Unit]()
    for file in files_of(tmp_path):
        with file.path.open("rb") as stream:
            items = [*parse_mail(stream, "")]
        units += [Unit(file.name + f"#{n}" * (len(items) > 1), "", item) for n, item in enumerate(items, start=1)]
    rows, others = _rows(units)
    became = {each.name: f"{each.kind}: {each.reason}" for each in others}
    became |= {name: "row" for row in rows for name in row["files"]}
    assert len(became) == len(others) + sum(len(row["files"]) for row in rows) == len(units) >= 300
    assert {name: each for name, each in became.items() if name in letters} == {
        name: letter.expected for name, letter in letters.items()
    }
    assert Counter(each.kind for each in others)["duplicate"] == box.copies
    pairs, own = set[tuple[str, str]](), {letter.mark: letter.own for letter in box.letters}
    for row in rows:
        turns = [(turn, re.findall(r"ZX\d{5}Q", turn["content"])) for turn in row["messages"]]
        assert [turn["role"] for turn, _ in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert [turn["content"] for turn, _ in turns] == [
            "\n\n".join(own[mark] for mark in marks) for _, marks in turns
        ]
        for (_, before), (turn, marks) in itertools.pairwise(turns):
            pairs |= {(one, other) for one in before for other in marks if turn["role"] == "assistant"}
    assert pairs - box.pairs == set()  # precision 1.00
    assert len(pairs) >= 0.95 * len(box.pairs)


def test_a_folder_of_mail_is_a_source(institution: DemoInstitution) -> None:
    """Messages pass the sandbox and the gates, and the corpus records what became of each."""
    folder = institution.settings.data / "sources" / "folder"
    box = mailboxes.mailbox(threads=15)
    letters = mailboxes.write(box, folder)
    raw = raw_corpus(institution, kind="mail", ours=[*mailboxes.OURS])
    facts = look_at_folder(institution.settings, folder, Path("sources/folder"), LADDER)
    assert (facts.source["kind"], facts.source["ours"]) == ("mail", ["coasts.example"])
    assert {each["outcome"] for each in facts.outcomes} == {"row", "left out", "quarantined", "duplicate"}
    found = {name: kind for name, (kind, _) in outcomes(raw).items()}
    assert {name: each for name, each in found.items() if name in letters} == {
        name: letter.expected.partition(":")[0] for name, letter in letters.items()
    }
    assert Counter(found.values())["duplicate"] == box.copies
    documents = [*read_documents(raw.file(DOCUMENTS))]
    assert {each.language for each in documents} == {"en", "ar"}
    assert max(len(each.messages) for each in documents) >= 8
    (source,) = read_sources(raw)
    assert source["documents"] == len(documents)
    assert source["units"] == len(box.letters) + box.copies


def test_an_mbox_of_any_size_is_read_to_its_end(tmp_path: Path) -> None:
    head = b"From a@b.example Mon Feb  5 08:30:00 2024\nFrom: a@mail.example\nDate: Mon, 5 Feb 2024 08:30:00 +0400\n"
    with (tmp_path / "archive.mbox").open("wb") as archive:
        archive.write(head + b"\nOne\n\n" + head)
        archive.seek(parsing.LARGEST_FILE)
        archive.write(b"\n\n" + head + b"\nThree\n")
    cache = Cache(tmp_path / "cache", bytes(32))
    units = Units(units_of(KINDS["mail"][0], files_of(tmp_path), cache), cache.directory)
    assert [unit.item.get("text") for unit in units] == ["One", None, "Three"]
    assert units.again("archive.mbox#3").item["text"] == "Three"
    assert not [each for each in (tmp_path / "cache").iterdir() if each.is_file()]


_ASKED, _ANSWERED = _mail("1", ANNA, DESK, "May I build?"), _mail("2", DESK, ANNA, "You may.", "1", 1)
_LONG = "We refuse the jetty at the old quay because the channel is too narrow for it."
_LINES = "One.\nTwo.\nThree.\nFour.\nFive.\nSix."
_FORM = "\n".join(f"Field {number}: as before" for number in range(20))
_PEOPLE = {"anna": ANNA, "omar": OMAR, "desk": DESK, "chief": CHIEF}
THREADS = examples(__file__, "threads")


def _filled(text: str) -> str:
    return text.replace("{form}", _FORM).replace("{long}", _LONG).replace("{lines}", _LINES)


def _unit(written: Any) -> Unit:
    """Return a message of a table: its id, sender, recipients, text, references, hours after the first, and fields."""
    if isinstance(written, str):
        return {"asked": _ASKED, "answered": _ANSWERED}[written]
    id, sender, to, text, *more = written
    usual: list[Any] = ["", 0, {}]
    answers, hours, others = more + usual[len(more) :]
    recipients = " ".join(_PEOPLE[each] for each in to.split())
    return _mail(id, _PEOPLE[sender], recipients, _filled(text), answers, hours, **others)


@pytest.mark.parametrize("name", THREADS)
def test_conversations(name: str) -> None:
    mails, expected, others = map(THREADS[name].get, ("messages", "conversations", "others"))
    rows, outcomes = _rows(map(_unit, mails))
    signs = {"user": "<", "assistant": ">"}
    texts = [" ".join(f"{signs[each['role']]} {each['content']}" for each in row["messages"]) for row in rows]
    assert texts == [*map(_filled, expected)]
    assert len({row["case"] for row in rows}) <= 1
    assert len(outcomes) + sum(len(row["files"]) for row in rows) == len(mails)
    assert {Path(each.name).stem: f"{each.kind}: {each.reason}" for each in outcomes} == others


def test_a_reply_without_references_answers_the_thread_that_waits() -> None:
    """Another thread with its subject and correspondent is answered."""
    letter = _mail("b", ANNA, DESK, "May I swim?", hours=2)
    rows, _ = _rows([_ASKED, _ANSWERED, letter, _mail("3", DESK, ANNA, "Swim.", hours=3, subject="Re: Jetty")])
    assert [row["files"] for row in rows] == [["1.eml", "2.eml"], ["b.eml", "3.eml"]]


def test_a_thread_that_is_too_large_is_quarantined() -> None:
    """Its texts would be in memory together."""
    texts = "a " * 200_000
    letters = [_mail(str(number), ANNA, DESK, f"{number} {texts}", "0", number) for number in range(60)]
    rows, found = _rows([*letters, _mail("x", OMAR, DESK, "May I?"), _mail("y", DESK, OMAR, "Yes.", "x", 1)])
    assert [row["files"] for row in rows] == [["x.eml", "y.eml"]]
    assert Counter(each.kind for each in found) == {"quarantined": 60}


LEVELS, UNKNOWN = examples(__file__, "levels"), examples(__file__, "unknown")


def _with_fields(fields: dict[str, Any], **usual: Any) -> Unit:
    return _mail(
        **{**usual, **{name: _filled(each) if isinstance(each, str) else each for name, each in fields.items()}}
    )


@pytest.mark.parametrize("name", LEVELS)
def test_a_row_has_the_highest_level_of_its_thread(name: str) -> None:
    fields, level = LEVELS[name]
    last = _with_fields(fields, id="3", sender=ANNA, to=DESK, text="Thanks", answers="2", hours=3)
    rows, _ = _rows([_ASKED, _ANSWERED, last])  # not a turn, and counts
    assert [row["classification"] for row in rows] == [level]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_marking_quarantines_the_thread(name: str) -> None:
    asked = _with_fields(UNKNOWN[name], id="1", sender=ANNA, to=DESK, text="May I build?")
    rows, outcomes = _rows([asked, _ANSWERED])
    assert rows == []
    assert [each.kind for each in outcomes] == ["quarantined", "quarantined"]


_KNOWN = "Dear desk,\n\nplease send me the form for the jetty at the old quay\nbefore the end of this month.\n\nAnna"
_MARKED = "\n".join(f"> {line}" for line in _KNOWN.split("\n"))
QUOTES = {
    "no quotation": ("Done.", "Done."),
    "marked": (f"Done.\n\nOn 4 May 2024, Anna wrote:\n{_MARKED}", "Done."),
    "marked, in Arabic": (f"تم.\n\nفي 4 مايو 2024، كتبت آنا:\n{_MARKED}", "تم."),
    "wrapped anew": (f"Done.\n\nOn 4 May 2024, Anna wrote:\n> {_KNOWN.replace(chr(10), ' ')}", "Done."),
    "below": (f"On 4 May 2024, Anna wrote:\n{_MARKED}\n\nDear Anna,\n\nDone.\n--\nD", "Dear Anna,\n\nDone."),
    "between": (f"{_MARKED[:-8]}\n\nWhich?\n\n{_MARKED[-6:]}\n\nToo late.", "Which?\n\nToo late."),
    "Outlook": (f"Done.\n\n____________\nFrom: Anna\nSent: today\nTo: D\nSubject: x\n\n{_KNOWN}", "Done."),
    "Outlook, in Arabic": (f"تم.\n\nمن: آنا\nتاريخ الإرسال: اليوم\nإلى: المكتب\nالموضوع: س\n\n{_KNOWN}", "تم."),
    "without a mark": (f"{_KNOWN}\n\nDone.", "Dear desk,\n\nAnna\n\nDone."),
    "signature": ("Done.\n\n-- \nD\nDesk 4", "Done."),
    "phone": ("Done.\nSent from my iPhone", "Done."),
    "another message": ("See this.\n\nOn 4 May, Omar wrote:\n> No permit for boats", None),
    "forwarded": ("See this.\n\n---- Forwarded message ----\nFrom: O\nTo: D\n\nNo permit for boats\n-- \nO", None),
    "a sentence with a head": ("On 4 May you wrote:\nthat the form is lost. We regret this.", None),
    "a greeting behind another's head": ("On 4 May, Omar wrote:\n> Dear desk,\n> no permit for boats?", None),
}


@pytest.mark.parametrize("name", QUOTES)
def test_quotations_of_known_messages_are_removed(name: str) -> None:
    text, own = QUOTES[name]
    known = KnownMessages()
    known.add(_KNOWN, is_ours=False)
    assert own_text(text, known, is_ours=True) == (text if own is None else own)
