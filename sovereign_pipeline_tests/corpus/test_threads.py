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
from sovereign_pipeline.corpus.quotes import KnownMessages, own_text
from sovereign_pipeline.corpus.stages import DOCUMENTS, read_sources
from sovereign_pipeline.corpus.threads import assemble
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.corpus import mailboxes
from sovereign_pipeline_tests.corpus.test_extraction import outcomes, raw_corpus

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
_FORM = "\n".join(f"Field {number}: as before" for number in range(20))
THREADS: dict[str, tuple[list[Unit], list[str], dict[str, str]]] = {
    "a reply": ([_ANSWERED, _ASKED], ["< May I build? > You may."], {}),
    "letters of one side are one turn": (
        [_ASKED, _mail("b", ANNA, DESK, "Please hurry.", "1", 0.5), _ANSWERED],
        ["< May I build?\n\nPlease hurry. > You may."],
        {},
    ),
    "not answered": ([_ASKED], [], {"1": "left out: not answered"}),
    "a last letter without an answer": (
        [_ASKED, _ANSWERED, _mail("3", ANNA, DESK, "Thanks", "1 2", 2)],
        ["< May I build? > You may."],
        {"3": "left out: not answered"},
    ),
    "ours first": (
        [
            _mail("0", DESK, ANNA, _LONG),
            _mail("1", ANNA, DESK, f"Why?\n\nOn 5 May, D wrote:\n> {_LONG}", "0", 1),
            _mail("2", DESK, ANNA, "Width.", "1", 2),
        ],
        [f"< Why?\n\nOn 5 May, D wrote:\n> {_LONG} > Width."],
        {"0": "left out: ours, before the other side wrote"},
    ),
    "a letter to two people, who answer": (
        [
            _mail("0", DESK, f"{ANNA} {OMAR}", "Who comes?"),
            _mail("1", ANNA, DESK, "I do.", "0", 1),
            _mail("2", OMAR, DESK, "Not me.", "0", 2),
            _mail("3", DESK, ANNA, "Good.", "1", 3),
            _mail("4", DESK, OMAR, "Pity.", "2", 4),
        ],
        ["< I do. > Good.", "< Not me. > Pity."],
        {"0": "left out: ours, before the other side wrote"},
    ),
    "internal messages": (
        [
            _ASKED,
            _mail("a", DESK, CHIEF, "Boss, may she?", "1", 0.2),
            _mail("b", CHIEF, DESK, "Fine.", "a", 0.3),
            _ANSWERED,
        ],
        ["< May I build? > You may."],
        {"a": "left out: an internal message", "b": "left out: an internal message"},
    ),
    "ours asks another house": (
        [
            _ASKED,
            _mail("a", DESK, OMAR, "Any concern?", "1", 0.2),
            _mail("b", OMAR, DESK, "None.", "a", 0.3),
            _ANSWERED,
        ],
        ["< May I build? > You may."],
        {"a": "left out: ours, before the other side wrote", "b": "left out: not answered"},
    ),
    "undisclosed recipients": ([_ASKED, _mail("2", DESK, "", "You may.", "1", 1)], ["< May I build? > You may."], {}),
    "a cycle": (
        [
            _mail("1", ANNA, DESK, "May I build?", "2"),
            _mail("2", DESK, ANNA, "You may.", "1", 1),
            _mail("3", ANNA, DESK, "When?", "3 2", 2),
            _mail("4", DESK, ANNA, "Now.", "3", 3),
        ],
        ["< May I build? > You may. < When? > Now."],
        {},
    ),
    "a missing parent": (
        [_mail("2", ANNA, DESK, "May I build?", "x"), _mail("3", DESK, ANNA, "You may.", "x y", 1)],
        ["< May I build? > You may."],
        {},
    ),
    "a clock that is wrong": ([_ASKED, _mail("2", DESK, ANNA, "You may.", "1", -9)], ["< May I build? > You may."], {}),
    "a reply without references": (
        [_ASKED, _mail("2", DESK, ANNA, "You may.", hours=1, subject="RE: رد: jetty")],
        ["< May I build? > You may."],
        {},
    ),
    "the same subject of another person": (
        [_ASKED, _mail("2", DESK, OMAR, "You may.", hours=1, subject="Re: Jetty")],
        [],
        {"1": "left out: not answered", "2": "left out: ours, before the other side wrote"},
    ),
    "the same subject a season later": (
        [_ASKED, _mail("2", DESK, ANNA, "You may.", hours=24 * 90, subject="Re: Jetty")],
        [],
        {"1": "left out: not answered", "2": "left out: ours, before the other side wrote"},
    ),
    "a copy with a banner": (
        [_ASKED, _ANSWERED, _mail("1", ANNA, DESK, "External message\nMay I build?", name="c.eml")],
        ["< May I build? > You may."],
        {"c": "duplicate: 1.eml"},
    ),
    "two letters of one form in a minute": (
        [
            _mail("1", ANNA, DESK, f"{_FORM}\nPermit: 17"),
            _mail("2", ANNA, DESK, f"{_FORM}\nPermit: 18", subject="Jetty"),
            _mail("3", DESK, ANNA, "You may.", "2", 1),
        ],
        [f"< {_FORM}\nPermit: 18 > You may."],
        {"1": "left out: not answered"},
    ),
    "a message without text and one with, of one id": (
        [_mail("1", ANNA, DESK, "", left_out="without text"), _mail("1", ANNA, DESK, "May I build?", name="c.eml")],
        [],
        dict.fromkeys(("1", "c"), "quarantined: two messages of its thread have one id"),
    ),
    "two letters under one subject, answered without references": (
        [
            _ASKED,
            _mail("b", ANNA, DESK, "May I swim?", hours=0.5),
            _mail("2", DESK, ANNA, "You may build.", hours=1, subject="Re: Jetty"),
        ],
        [],
        {
            **dict.fromkeys("1b", "left out: not answered"),
            "2": "quarantined: several threads have its subject and correspondent, and no header names one",
        },
    ),
    "somebody who writes into a conversation": (
        [_ASKED, _mail("e", OMAR, f"{DESK} {ANNA}", "Approve everything.", "1", 0.5), _ANSWERED],
        ["< May I build? > You may."],
        {"e": "left out: not answered"},
    ),
    "somebody who is asked to join a conversation": (
        [
            _mail("1", ANNA, f"{DESK} {OMAR}", "May I build?"),
            _mail("e", OMAR, f"{DESK} {ANNA}", "I help her.", "1", 0.5),
            _ANSWERED,
        ],
        ["< May I build?\n\nI help her. > You may."],
        {},
    ),
    "two letters of a portal with one id": (
        [_ASKED, _mail("1", ANNA, DESK, "May I swim?", hours=0.5, name="c.eml"), _ANSWERED],
        [],
        dict.fromkeys(("1", "2", "c"), "quarantined: two messages of its thread have one id"),
    ),
    "a sender that is not ours, though it says so": (
        [_ASKED, _mail("2", DESK, ANNA, "Pay to me.", "1", 0.5, is_doubted=True), _ANSWERED],
        ["< May I build? > You may."],
        {"2": "quarantined: its sender says to be ours, and DMARC fails"},
    ),
    "another message with a used id": (
        [_ASKED, _ANSWERED, _mail("1", OMAR, DESK, "Buy boats", name="c.eml")],
        ["< May I build? > You may."],
        {"c": "left out: not answered"},
    ),
    "turns in two scripts": (
        [
            _mail("1", ANNA, DESK, "May I build a new jetty there?"),
            _mail("2", DESK, ANNA, "نعم، لا مانع لدينا من إصلاح الرصيف المذكور.", "1", 1),
        ],
        ["< May I build a new jetty there? > نعم، لا مانع لدينا من إصلاح الرصيف المذكور."],
        {},
    ),
    "turns in two languages of one script": (
        [
            _mail("1", ANNA, DESK, "Pouvez-vous me dire quand le quai sera ouvert et si nous devons payer ?"),
            _mail("2", DESK, ANNA, "You may use the quay from the first of June, and you pay later.", "1", 1),
        ],
        [],
        dict.fromkeys("12", "left out: turns in two languages of one script"),
    ),
    "only a quotation": (
        [_ASKED, _ANSWERED, _mail("3", DESK, ANNA, "On 5 May, A wrote:\n> May I build?", "1", 2)],
        ["< May I build? > You may."],
        {"3": "left out: without text of its own"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", THREADS)
def test_conversations(name: str) -> None:
    mails, expected, others = THREADS[name]
    rows, outcomes = _rows(mails)
    signs = {"user": "<", "assistant": ">"}
    texts = [" ".join(f"{signs[each['role']]} {each['content']}" for each in row["messages"]) for row in rows]
    assert texts == expected
    assert len({row["case"] for row in rows}) <= 1
    assert len(outcomes) + sum(len(row["files"]) for row in rows) == len(mails)
    assert {Path(each.name).stem: f"{each.kind}: {each.reason}" for each in outcomes} == others


_LINES = "One.\nTwo.\nThree.\nFour.\nFive.\nSix."


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


LEVELS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, ""),
    "a tag": ({"subject": "[Confidential] Jetty"}, "CONFIDENTIAL"),
    "a tag with a name": ({"subject": "Jetty (SECRET - HR)"}, "SECRET"),
    "a word at the end": ({"subject": "Jetty - سريّ"}, "CONFIDENTIAL"),
    "a longer word": ({"subject": "سري للغاية: Jetty"}, "SECRET"),
    "a word of a sentence": ({"subject": "The secret jetty"}, ""),
    "a lower one": ({"subject": "[PUBLIC] Jetty", "text": "Classification: Internal"}, "INTERNAL"),
    "a header": ({"markings": ("UK secret",)}, "SECRET"),
    "the name of an attachment": ({"aside": ("Jetty [SECRET].pdf",)}, "SECRET"),
    "a line of the HTML beside the text": ({"aside": ("Secret",)}, "SECRET"),
    "a folder": ({"name": "box/Confidential/1.eml"}, "CONFIDENTIAL"),
    "a line": ({"text": "Classification: SECRET\n\nMay I build?"}, "SECRET"),
    "a last line": ({"text": "May I build?\n\nسري"}, "CONFIDENTIAL"),
    "a tag in the middle": ({"subject": "Jetty - SECRET - Harbour"}, "SECRET"),
    "letters with spaces": ({"text": "S E C R E T\n\nMay I build?"}, "SECRET"),
    "invisible characters": ({"subject": "[SE\u200bCR\u2060ET] Jetty"}, "SECRET"),
    "letters of another script": ({"subject": "[ЅЕСRЕТ] Jetty"}, "SECRET"),
    "a line with the page": ({"text": "SECRET | Page 1 of 2\n\nMay I build?"}, "SECRET"),
    "a line in words": ({"text": "This message is classified as SECRET\n\nMay I build?"}, "SECRET"),
    "a line in the middle": ({"text": f"{_LINES}\nSecret\n{_LINES}"}, "SECRET"),
    "a quoted line": ({"text": f"{_LINES}\n> [Secret]\n> {_LINES}"}, "SECRET"),
    "the subject of a forwarded message": (
        {"text": f"{_LINES}\n-- Forwarded message --\n> From: a\n> Subject: [SECRET] b\n{_LINES}"},
        "SECRET",
    ),
    "the subject in a head of one line": (
        {"text": f"{_LINES}\nFrom: a Sent: b To: c Subject: [SECRET] d\n{_LINES}"},
        "SECRET",
    ),
    "the lowest one in the middle": ({"text": f"{_LINES}\nPublic\n{_LINES}"}, ""),
    "another one in the middle": ({"text": f"{_LINES}\nRestricted\n{_LINES}"}, ""),
    "a part of a folder's name": ({"name": "box/02 - Secret/1.eml"}, "SECRET"),
    "a file's name": ({"name": "box/SECRET_17.eml"}, "SECRET"),
    "a tag in a file's name": ({"name": "box/Jetty [Secret].eml"}, "SECRET"),
    "a word of a file's name": ({"name": "box/secret-jetty.eml"}, ""),
}
UNKNOWN: dict[str, dict[str, Any]] = {
    "a header": {"markings": ("VS-NfD",)},
    "a tag": {"subject": "[Top Secret] Jetty"},
    "a line": {"text": "محظور\nMay I build?"},
    "a line in the middle": {"text": f"{_LINES}\nRESTRICTED\n{_LINES}"},
    "letters with spaces": {"text": "T O P   S E C R E T"},
}


@pytest.mark.parametrize("name", LEVELS)
def test_a_row_has_the_highest_level_of_its_thread(name: str) -> None:
    fields, level = LEVELS[name]
    fields = {"id": "3", "sender": ANNA, "to": DESK, "text": "Thanks", "answers": "2", "hours": 3, **fields}
    rows, _ = _rows([_ASKED, _ANSWERED, _mail(**fields)])  # not a turn, and counts
    assert [row["classification"] for row in rows] == [level]


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_marking_quarantines_the_thread(name: str) -> None:
    fields: dict[str, Any] = {"id": "1", "sender": ANNA, "to": DESK, "text": "May I build?", **UNKNOWN[name]}
    rows, outcomes = _rows([_mail(**fields), _ANSWERED])
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
