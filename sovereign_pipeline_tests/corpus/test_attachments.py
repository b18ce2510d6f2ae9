"""Attachments of mail: what is read, where their text goes, and what becomes of each."""

import hashlib
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sovereign_pipeline.corpus import parsing
from sovereign_pipeline.corpus.document import read_documents, read_jsonl
from sovereign_pipeline.corpus.folders import look_at_folder
from sovereign_pipeline.corpus.mail import MOST_ATTACHMENTS
from sovereign_pipeline.corpus.stages import DOCUMENTS, FILES, read_sources
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.corpus import document_files, office
from sovereign_pipeline_tests.corpus.outlook import outlook_message
from sovereign_pipeline_tests.corpus.test_extraction import outcomes, put, raw_corpus

DESK = "desk@coasts.example"
TEXT = "The lamp of the street is out. Please mend it soon, with thanks."
REPLY = "We have mended the lamp of the street. Thank you for the letter."
ARABIC = "السلام عليكم، نرجو إصلاح المصباح القديم في المنطقة الثانية مع الشكر."
ARABIC_REPLY = "تم إصلاح المصباح المذكور في المنطقة الثانية، مع الشكر."
PERMIT = "You may build the jetty at the old quay until the end of the year."
ALONE = "Does anybody mend the lamp of the street?"
NOT_READ, PICTURE = "left out: a kind of file that is not read", "left out: a picture"
UNREADABLE = "quarantined: an attachment of its conversation cannot be read"

File = tuple[str, bytes | EmailMessage] | tuple[str, bytes | EmailMessage, str]
"""Name, content and media type."""


def message(
    id: str, person: str, text: str, files: Sequence[File] = (), *, sent: bool = False, answers: str = "",
    headers: Mapping[str, str] = {},
) -> EmailMessage:  # fmt: skip
    made = EmailMessage()
    made["From"], made["To"] = (DESK, person) if sent else (person, DESK)
    made["Message-ID"] = f"<{id}@post.example>"
    made["Subject"] = "Re: Lamp" if answers else "Lamp"
    made["Date"] = f"Mon, 5 Feb 2024 {8 + sent:02}:30:00 +0400"
    if answers:
        made["In-Reply-To"] = f"<{answers}@post.example>"
    for name, value in headers.items():
        del made[name]
        made[name] = value
    made.set_content(text)
    for name, content, *kind in files:
        if isinstance(content, EmailMessage):
            made.add_attachment(content)
            continue
        main, _, sub = (kind[0] if kind else "application/octet-stream").partition("/")
        made.add_attachment(content, main, sub, filename=name or None)
    return made


def forwarded(text: str, files: Sequence[File] = (), headers: Mapping[str, str] = {}) -> EmailMessage:
    return message("other", "omar@mail.example", text, files, headers=headers)


def _with_html(html: str) -> EmailMessage:
    made = forwarded("x")
    made.add_alternative(html, subtype="html")
    return made


class Example(NamedTuple):
    letter: Sequence[File]
    """Attachments of the letter."""
    turn: str | None
    """The letter's text in the row; None without a row."""
    files: dict[str, str]
    """Number and suffix of an attachment -> its outcome."""
    body: str = "See below."
    reply: Sequence[File] = ()
    text: str = REPLY
    """The reply's text."""
    of_reply: dict[str, str] = {}
    message: str = "row"
    """Outcome of both messages."""


EXAMPLES: dict[str, Example] = {
    **{
        f"a letter as {suffix[1:]}": Example(
            [(f"letter{suffix}", write(TEXT))], f"See below.\n\n{TEXT}", {f"1{suffix}": "row"}
        )
        for suffix, write in office.WRITERS.items()
    },
    "the reply is the attachment": Example(
        [], ALONE, {}, ALONE, [("r.docx", office.docx(PERMIT))], REPLY, {"1.docx": "row"}
    ),
    "no text but the attachment's": Example([("l.docx", office.docx(TEXT))], TEXT, {"1.docx": "row"}, ""),
    "several, in their order": Example(
        [("b.txt", TEXT.encode()), ("a.docx", office.docx(PERMIT))],
        f"See below.\n\n{TEXT}\n\n{PERMIT}", {"1.txt": "row", "2.docx": "row"},
    ),
    "Arabic": Example(
        [("كتاب.pdf", office.pdf(ARABIC))], f"إليكم الكتاب المرفق من السيد.\n\n{ARABIC}", {"1.pdf": "row"},
        "إليكم الكتاب المرفق من السيد.", (), ARABIC_REPLY,
    ),
    "text in cp1256": Example(
        [("l.txt", ARABIC.encode("cp1256"), "text/plain")], f"إليكم الكتاب المرفق من السيد.\n\n{ARABIC}",
        {"1.txt": "row"}, "إليكم الكتاب المرفق من السيد.", (), ARABIC_REPLY,
    ),
    "HTML in a charset that only the message states": Example(
        [("l.html", f"<p>{ARABIC}</p>".encode("cp1256"), "text/html; charset=windows-1256")],
        f"إليكم الكتاب المرفق من السيد.\n\n{ARABIC}", {"1.html": "row"},
        "إليكم الكتاب المرفق من السيد.", (), ARABIC_REPLY,
    ),
    "a kind by its media type": Example(
        [("", office.pdf(TEXT), "application/pdf")], f"See below.\n\n{TEXT}", {"1.pdf": "row"}
    ),
    "a name without a suffix": Example(
        [("letter no. 17", office.pdf(TEXT), "application/pdf")], f"See below.\n\n{TEXT}", {"1.pdf": "row"}
    ),
    "a letter in two formats": Example(
        [("l.pdf", office.pdf(TEXT, header="Lamps")), ("l.docx", office.docx(TEXT))],
        f"See below.\n\n{TEXT}", {"1.pdf": "duplicate: {}/2.docx", "2.docx": "row"},
    ),
    "two letters of one form": Example(
        [("a.docx", office.docx(f"{PERMIT} No. 1")), ("b.pdf", office.pdf(f"{PERMIT} No. 2"))],
        f"See below.\n\n{PERMIT} No. 1\n\n{PERMIT} No. 2", {"1.docx": "row", "2.pdf": "row"},
    ),
    "the same bytes, twice": Example(
        [("a.txt", TEXT.encode()), ("b.txt", TEXT.encode())],
        f"See below.\n\n{TEXT}", {"1.txt": "row", "2.txt": "duplicate: {}/1.txt"},
    ),
    "the letter is sent back": Example(
        [("a.docx", letter := office.docx(TEXT))], f"See below.\n\n{TEXT}", {"1.docx": "row"}, "See below.",
        [("a.docx", letter)], REPLY, {"1.docx": "duplicate: {}/1.docx"},
    ),
    "kinds that are not read": Example(
        [
            ("a.zip", b"PK"), ("winmail.dat", b"x", "application/ms-tnef"), ("a.xlsx", b"PK"), ("a.doc", b"x"),
            ("invite.ics", b"BEGIN", "text/calendar"), ("a.exe", b"MZ"), ("a.docm", b"PK"), ("smime.p7s", b"x"),
        ],
        "See below.",
        dict.fromkeys(("1.zip", "2.dat", "3.xlsx", "4.doc", "5.ics", "6.exe", "7.docm", "8.p7s"), NOT_READ),
    ),
    "pictures": Example(
        [("logo.png", b"\x89PNG", "image/png"), ("", b"\xff\xd8", "image/jpeg")], "See below.",
        {"1.png": PICTURE, "2.jpeg": PICTURE},
    ),
    "a text without text": Example(
        [("ATT00001.htm", b"<html><br></html>", "text/html"), ("b.txt", b" \n")], "See below.",
        dict.fromkeys(("1.htm", "2.txt"), "left out: without text"),
    ),
    "hostile names": Example(
        [
            ("../../etc/passwd.txt", TEXT.encode()), ("a\u2028b\u202e.txt", f"{TEXT} 2".encode()),
            (f"{'a' * 10_000}.txt", f"{TEXT} 3".encode()), ("...", b"x"), ("a.txt/../..", b"x"),
        ],
        f"See below.\n\n{TEXT}\n\n{TEXT} 2\n\n{TEXT} 3",
        {"1.txt": "row", "2.txt": "row", "3.txt": "row", "4": NOT_READ, "5": NOT_READ},
    ),
    "a message as attachment": Example(
        [("", forwarded("The lamp is ours."))], "See below.\n\nThe lamp is ours.", {"1.eml": "row"}
    ),
    "a message with an attachment as attachment": Example(
        [
            ("", forwarded("It is ours.", [("l.odt", office.odt(TEXT)), ("a.png", b"x", "image/png")])),
            ("b.txt", PERMIT.encode()),
        ],
        f"See below.\n\nIt is ours.\n\n{TEXT}\n\n{PERMIT}",
        {"1.eml": "row", "2.odt": "row", "3.png": PICTURE, "4.txt": "row"},
    ),
    "an automatic reply as attachment": Example(
        [("", forwarded("I am out.", [("a.txt", b"x")], {"Auto-Submitted": "auto-replied"}))], "See below.",
        {"1.eml": "left out: an automatic reply", "2.txt": "left out: its message is left out"},
    ),
    "an Outlook message as attachment": Example(
        [("a.msg", outlook_message({0x1000: "It is ours.", 0x5D01: "omar@mail.example", 0x0039: 1.7e9}))],
        "See below.\n\nIt is ours.", {"1.msg": "row"},
    ),
    "a damaged attachment": Example(
        [("a.docx", office.docx(TEXT)[:-50]), ("b.txt", b"x")], None,
        {"1.docx": "quarantined: damaged (BadZipFile)", "2.txt": "quarantined: its message is quarantined"},
        message=UNREADABLE,
    ),
    "a damaged attachment of the reply": Example(
        [("b.txt", b"x")], None, {"1.txt": "quarantined: its message is quarantined"}, "See below.",
        [("a.pdf", office.pdf(TEXT)[:300])], REPLY, {"1.pdf": "quarantined: damaged (PDF)"}, UNREADABLE,
    ),
    "a marking that the ladder lacks": Example(
        [("a.docx", office.docx(TEXT, header="RESTRICTED"))], None,
        {"1.docx": "quarantined: its message is quarantined"},
        message="quarantined: a marking is not in the ladder, nor in `levels`",
    ),
    "a marking that the ladder lacks, in HTML of an attached message": Example(
        [("", _with_html("<p>RESTRICTED</p>"))], None, {"1.eml": "quarantined: its message is quarantined"},
        message="quarantined: a marking is not in the ladder, nor in `levels`",
    ),
    "messages in messages in messages": Example(
        [("", forwarded("1", [("", forwarded("2", [("", forwarded("3"))]))]))], None,
        {
            "1.eml": "quarantined: its message is quarantined", "2.eml": "quarantined: its message is quarantined",
            "3.eml": "quarantined: messages nested too deep",
        },
        message=UNREADABLE,
    ),
    "a damaged message as attachment": Example(
        [("a.eml", b"Dear Sir")], None, {"1.eml": "quarantined: no address under From"}, message=UNREADABLE
    ),
    "broken base64": Example(
        [("a.txt", b"BASE64")], None, {"1.txt": "quarantined: base64 that cannot be decoded"}, message=UNREADABLE
    ),
}  # fmt: skip


def _put_examples(institution: DemoInstitution, examples: Mapping[str, Example], box: str = "") -> None:
    """Write each example as two messages in a mailbox, or as two files."""
    written = list[bytes]()
    for number, each in enumerate(examples.values()):
        person = f"person{number}@mail.example"
        pair = (
            message(f"a{number}", person, each.body, each.letter),
            message(
                f"b{number}",
                person,
                each.text,
                each.reply,
                sent=True,
                answers=f"a{number}",
            ),
        )
        for name, made in zip(("in", "out"), pair, strict=True):
            content = bytes(made).replace(b"\n\nQkFTRTY0\n", b"\n\nQkFTRTY0A\n")
            written.append(content)
            if not box:
                put(institution, {f"{number}-{name}.eml": content})
    if box:
        envelope = b"From a@b.example Mon Feb  5 08:30:00 2024\n"
        put(institution, {box: b"".join(envelope + each + b"\n\n" for each in written)})


def _name(number: int, side: str, box: str) -> str:
    return f"{box}#{2 * number + 1 + (side == 'out')}" if box else f"{number}-{side}.eml"


@pytest.mark.parametrize("box", ["", "all.mbox"])
def test_each_attachment_has_one_outcome(institution: DemoInstitution, box: str) -> None:
    _put_examples(institution, EXAMPLES, box)
    raw = raw_corpus(institution, kind="mail", ours=[DESK], attachments="read")
    found = {name: f"{kind}: {reason}" if kind != "row" else "row" for name, (kind, reason) in outcomes(raw).items()}
    expected = dict[str, str]()
    for number, example in enumerate(EXAMPLES.values()):
        letter, reply = (_name(number, side, box) for side in ("in", "out"))
        expected |= {letter: example.message, reply: example.message}
        expected |= {f"{letter}/{name}": outcome.format(letter) for name, outcome in example.files.items()}
        expected |= {f"{reply}/{name}": outcome.format(letter) for name, outcome in example.of_reply.items()}
    assert found == expected
    turns = {(each.request, each.response) for each in read_documents(raw.file(DOCUMENTS))}
    expected_turns = {(each.turn, each.text) for each in EXAMPLES.values() if each.turn is not None}
    assert turns == {(turn, f"{REPLY}\n\n{PERMIT}" if turn == ALONE else text) for turn, text in expected_turns}
    (source,) = read_sources(raw)
    assert source["attachments"] == sum(len(each.files) + len(each.of_reply) for each in EXAMPLES.values())
    digests = {row["path"]: row["sha256"] for row in read_jsonl(raw.file(FILES))}
    place = [*EXAMPLES].index("the letter is sent back")
    assert digests[f"{_name(place, 'in', box)}/1.docx"] == hashlib.sha256(letter_of(place)).hexdigest()


def letter_of(place: int) -> bytes:
    content = [*EXAMPLES.values()][place].letter[0][1]
    assert isinstance(content, bytes)
    return content


def test_attachments_of_an_outlook_file(institution: DemoInstitution) -> None:
    inner: dict[int, Any] = {0x0037: "Lamp", 0x1000: "المصباح لنا.", 0x5D01: "omar@mail.example", 0x0039: 1.7e9}
    files: list[Any] = [
        {0x3707: "letter.docx", 0x3701: office.docx(TEXT)},
        {0x370E: "application/pdf", 0x3701: office.pdf(PERMIT)},
        {0x3705: 5, 0x3701: inner},
        {0x3704: "LOGO.PNG", 0x370E: "image/png", 0x3701: b"x"},
        {0x3705: 2},
    ]
    properties: dict[int, Any] = {
        0x0037: "Lamp",
        0x1000: "See below.",
        0x1035: "<1@x>",
        0x5D01: "a@mail.example",
        0x0039: 1.7e9,
    }
    reply = message("2", "a@mail.example", REPLY, sent=True)
    reply["In-Reply-To"] = "<1@x>"
    put(institution, {"1.msg": outlook_message(properties, (DESK,), files), "2.eml": bytes(reply)})
    raw = raw_corpus(institution, kind="mail", ours=[DESK], attachments="read")
    texts = [each.request for each in read_documents(raw.file(DOCUMENTS))]
    assert texts == [f"See below.\n\n{TEXT}\n\n{PERMIT}\n\nالمصباح لنا."]
    attachments = {name.partition("/")[2]: kind for name, (kind, _) in outcomes(raw).items() if "/" in name}
    assert attachments == {"1.docx": "row", "2.pdf": "row", "3.eml": "row", "4.png": "left out", "5": "left out"}


def test_a_look_at_a_folder_counts_attachments_and_proposes_to_read_them(institution: DemoInstitution) -> None:
    ladder = ClassificationLadder(("PUBLIC", "SECRET"))
    pictures = Example([("logo.png", b"x", "image/png")], "See below.", {})
    _put_examples(institution, {"a picture": pictures})
    folder = put(institution, {})
    facts = look_at_folder(institution.settings, folder, folder, ladder)
    assert ("attachments" in facts.source, facts.attachments, facts.attachments_with_text) == (False, {".png": 1}, 0)
    _put_examples(institution, {"a letter": EXAMPLES["a letter as pdf"], "a picture": pictures})
    facts = look_at_folder(institution.settings, folder, folder, ladder)
    assert facts.source["attachments"] == "read"
    assert (facts.attachments, facts.attachments_with_text) == ({".pdf": 1, ".png": 1}, 1)
    assert {each["outcome"]: each["files"] for each in facts.outcomes} == {"row": 5, "left out": 1}


def test_attachments_are_left_out_and_counted_by_default(institution: DemoInstitution) -> None:
    _put_examples(institution, EXAMPLES)
    raw = raw_corpus(institution, kind="mail", ours=[DESK])
    attachments = {outcome for name, outcome in outcomes(raw).items() if "/" in name}
    assert attachments == {("left out", "an attachment")}
    (source,) = read_sources(raw)
    assert source["attachments"] == source["left_out"]["an attachment"]
    assert "jetty" not in raw.file(DOCUMENTS).read_text()


@pytest.mark.security_case(
    "Each damaged and hostile file of the folder of letters comes as an attachment of mail, all in one mailbox",
    "each is quarantined with its own conversation, or left out, and every other message of the mailbox is read",
)
def test_hostile_attachments_harm_only_their_conversation(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "SECONDS", 5)
    unlike = {"text in cp1256", "spaces alone", "HTML without text", "a marking that the ladder lacks"}
    files = [each for each in document_files.FILES if isinstance(each.content, bytes)]
    files = [each for each in files if each.what not in unlike and each.reason != "a file of the system"]
    examples = dict[str, Example]()
    for file in files:
        assert isinstance(file.content, bytes)
        reply = ARABIC_REPLY if "Arabic" in file.what else REPLY
        examples[file.what] = Example([(f"a{Path(file.name).suffix}", file.content)], None, {}, "", (), reply)
    _put_examples(institution, examples, "all.mbox")
    found = outcomes(raw_corpus(institution, kind="mail", ours=[DESK], attachments="read"))
    for number, file in enumerate(files):
        name = _name(number, "in", "all.mbox")
        (of_file,) = (outcome for path, outcome in found.items() if path.startswith(f"{name}/"))
        of_message = found[name][0], found[_name(number, "out", "all.mbox")][0]
        if file.outcome == "quarantined":
            assert (file.what, *of_message, *of_file) == (file.what, *["quarantined"] * 3, file.reason)
        elif of_file[0] == "row":
            assert (file.what, *of_message) == (file.what, "row", "row")
        else:
            assert (file.what, *of_file) == (file.what, "left out", "a kind of file that is not read")


def test_large_and_numerous_attachments(institution: DemoInstitution) -> None:
    """A message above a limit is quarantined alone."""
    envelope = b"From a@b.example Mon Feb  5 08:30:00 2024\n"
    letter, reply = (
        message("1", "a@mail.example", "Lamp?"),
        message("2", "a@mail.example", REPLY, sent=True, answers="1"),
    )
    many = message("3", "b@mail.example", "x", [("a.txt", b"x")] * (MOST_ATTACHMENTS + 1))
    large = message("4", "b@mail.example", "x", [("a.txt", b"LARGE")])
    head, _, end = bytes(large).partition(b"TEFSR0U=")
    path = put(institution, {}) / "box.mbox"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(envelope + bytes(letter) + b"\n\n" + envelope + bytes(many) + b"\n\n" + envelope + head)
        for _ in range(200):
            stream.write((b"QUFB" * 19 + b"\n") * ((1 << 20) // 77))
        stream.write(end + b"\n\n" + envelope + bytes(reply))
    found = outcomes(raw_corpus(institution, kind="mail", ours=[DESK], attachments="read"))
    assert {name: outcome for name, (outcome, _) in found.items()} == {
        "box.mbox#1": "row", "box.mbox#2": "quarantined", "box.mbox#3": "quarantined", "box.mbox#4": "row",
    }  # fmt: skip


NONE: File = ("", b"")
LEVELS: dict[str, tuple[File, str]] = {
    "header": (("a.docx", office.docx(TEXT, header="SECRET")), "SECRET"),
    "property": (("a.odt", office.odt(TEXT, properties={"Sensitivity": "Confidential"})), "CONFIDENTIAL"),
    "a line": (("a.txt", f"INTERNAL\n{TEXT}".encode()), "INTERNAL"),
    "subject of an attached message": (("", forwarded("x", headers={"Subject": "[SECRET] Lamp"})), "SECRET"),
    "header of an attached message": (("", forwarded("x", headers={"X-Classification": "Secret"})), "SECRET"),
    "attachment of an attached message": (("", forwarded("x", [("a.html", office.html(TEXT, "SECRET"))])), "SECRET"),
    "HTML alternative of an attached message": (("", _with_html("<p>SECRET</p>")), "SECRET"),
    "file name in an attached message": (("", forwarded("x", [("SECRET_plan.xlsx", b"x")])), "SECRET"),
    "a letter that is not answered": (NONE, "SECRET"),
    "a word within a sentence": (("a.txt", f"This is no secret. {TEXT}".encode()), "PUBLIC"),
}


def test_markings_of_attachments_raise_the_level_of_the_thread(institution: DemoInstitution) -> None:
    of_letters = {name: Example([] if file is NONE else [file], "", {}) for name, (file, _) in LEVELS.items()}
    _put_examples(institution, of_letters)
    number = [*LEVELS].index("a letter that is not answered")
    files = [("a.rtf", office.rtf(TEXT, "SECRET"))]
    last = message("last", f"person{number}@mail.example", "Thanks", files, answers=f"a{number}")
    put(institution, {"last.eml": bytes(last)})
    raw = raw_corpus(institution, kind="mail", ours=[DESK], attachments="read")
    found = [each.classification for each in read_documents(raw.file(DOCUMENTS))]
    assert sorted(found) == sorted(level for _, level in LEVELS.values())


COPIES: dict[str, tuple[list[EmailMessage], list[str], list[str]]] = {
    "a mailbox without attachments": (
        [message("1", "a@mail.example", "See below.", each) for each in ([], [("a.txt", TEXT.encode())])],
        [f"See below.\n\n{TEXT}"], ["duplicate", "row", "row"],
    ),
    "a mailbox with the same attachment": (
        [message("1", "a@mail.example", "See below.", [("a.txt", TEXT.encode())])] * 2,
        [f"See below.\n\n{TEXT}"], ["duplicate", "row", "duplicate", "row"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_a_message_share_their_attachments(institution: DemoInstitution, name: str) -> None:
    letters, texts, expected = COPIES[name]
    reply = message("2", "a@mail.example", REPLY, sent=True, answers="1")
    put(institution, {f"{number}.eml": bytes(each) for number, each in enumerate((*letters, reply))})
    raw = raw_corpus(institution, kind="mail", ours=[DESK], attachments="read")
    assert [each.request for each in read_documents(raw.file(DOCUMENTS))] == texts
    assert sorted(outcome for outcome, _ in outcomes(raw).values()) == sorted([*expected, "row"])


def test_permits_with_one_covering_text_are_no_copies(institution: DemoInstitution) -> None:
    """Two people get one text in one minute, each with a permit."""
    files = dict[str, bytes]()
    for number, person in enumerate(("a@mail.example", "b@mail.example")):
        permit = [("permit.docx", office.docx(f"{PERMIT} It is yours, {person}."))]
        files[f"{number}-in.eml"] = bytes(message(f"a{number}", person, f"May I build? {number}"))
        files[f"{number}-out.eml"] = bytes(
            message(f"b{number}", person, "Find it attached.", permit, sent=True, answers=f"a{number}")
        )
    put(institution, files)
    raw = raw_corpus(institution, kind="mail", ours=[DESK], attachments="read")
    assert {each.response.rpartition(" ")[2] for each in read_documents(raw.file(DOCUMENTS))} == {
        "a@mail.example.", "b@mail.example.",
    }  # fmt: skip


OUTCOMES_WITH_MESSAGE: dict[str, tuple[dict[str, str], bool, str]] = {
    "private": ({"Sensitivity": "Private"}, True, "left out"),
    "not answered": ({}, False, "left out"),
}


@pytest.mark.parametrize("name", OUTCOMES_WITH_MESSAGE)
def test_attachments_are_left_out_with_their_message(institution: DemoInstitution, name: str) -> None:
    """Also damaged ones, which then quarantine nothing."""
    headers, is_answered, expected = OUTCOMES_WITH_MESSAGE[name]
    files = [("a.docx", b"x"), ("b.txt", TEXT.encode())]
    put(institution, {"1.eml": bytes(message("1", "a@mail.example", "Lamp?", files, headers=headers))})
    if is_answered:
        put(institution, {"2.eml": bytes(message("2", "a@mail.example", REPLY, sent=True, answers="1"))})
    _put_examples(institution, {"row": Example([], "See below.", {})})
    found = outcomes(raw_corpus(institution, kind="mail", ours=[DESK], attachments="read"))
    assert [found[each][0] for each in ("1.eml", "1.eml/1.docx", "1.eml/2.txt")] == [expected] * 3
