"""Attachments of mail: what is read, where their text goes, and what becomes of each."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sovereign_pipeline.corpus import parsing
from sovereign_pipeline.corpus.document import read_documents, read_jsonl
from sovereign_pipeline.corpus.folders import look_at_folder
from sovereign_pipeline.corpus.mail import LARGEST_MESSAGE, MOST_ATTACHMENTS
from sovereign_pipeline.corpus.stages import DOCUMENTS, FILES, read_sources
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.corpus import document_files, office
from sovereign_pipeline_tests.corpus.outlook import outlook_message
from sovereign_pipeline_tests.corpus.test_extraction import outcomes, put, raw_corpus
from sovereign_pipeline_tests.examples import examples

DESK = "desk@coasts.example"
TEXT = "The lamp of the street is out. Please mend it soon, with thanks."
REPLY = "We have mended the lamp of the street. Thank you for the letter."
ARABIC = "السلام عليكم، نرجو إصلاح المصباح القديم في المنطقة الثانية مع الشكر."
ARABIC_REPLY = "تم إصلاح المصباح المذكور في المنطقة الثانية، مع الشكر."
PERMIT = "You may build the jetty at the old quay until the end of the year."
ALONE = "Does anybody mend the lamp of the street?"

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


TEXTS = {
    "text": TEXT,
    "permit": PERMIT,
    "alone": ALONE,
    "not read": "left out: a kind of file that is not read",
    "unreadable": "quarantined: an attachment of its conversation cannot be read",
    "no level": "quarantined: a marking is not in the ladder, nor in `levels`",
    "a * 10,000": "a" * 10_000,
}
"""Texts of the table -> what stands for them."""


def filled(text: str) -> str:
    for name, each in TEXTS.items():
        text = text.replace(f"{{{name}}}", each)
    return text


def file_of(name: str, content: Any, media: str = "application/octet-stream") -> File:
    """An attachment as the table describes it: a text, a document with its header and properties and perhaps cut, or a
    message with attachments, headers and an alternative in HTML."""
    if isinstance(content, str):
        return filled(name), filled(content).encode(), media
    if "message" in content:
        files = [file_of(*each) for each in content.get("files", ())]
        made = message("other", "omar@mail.example", content["message"], files, headers=content.get("headers", {}))
        if "html" in content:
            made.add_alternative(content["html"], subtype="html")
        return name, made
    return name, written(json.dumps(content))[: content.get("to")], media


@cache  # a document that is written again has another time in it
def written(described: str) -> bytes:
    (suffix, text), *how = json.loads(described).items()
    return office.WRITERS[suffix](filled(text), **{key: value for key, value in how if key != "to"})


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


def example_of(row: dict[str, Any]) -> Example:
    """An example of the table."""
    each: dict[str, Any] = {key: filled(value) if isinstance(value, str) else value for key, value in row.items()}
    for files in ("letter", "reply"):
        each[files] = [file_of(*file) for file in row.get(files, ())]
    for outcomes_ in ("files", "of_reply"):
        each[outcomes_] = {name: filled(outcome) for name, outcome in row.get(outcomes_, {}).items()}
    return Example(**each)


TO_ARABIC = ("إليكم الكتاب المرفق من السيد.", f"إليكم الكتاب المرفق من السيد.\n\n{ARABIC}")
EXAMPLES: dict[str, Example] = {
    **{
        f"a letter as {suffix[1:]}": Example(
            [(f"letter{suffix}", write(TEXT))], f"See below.\n\n{TEXT}", {f"1{suffix}": "row"}
        )
        for suffix, write in office.WRITERS.items()
    },
    **{
        f"Arabic, {form}": Example([(f"ا.{kind}", content, media)], turn, {f"1.{kind}": "row"}, body, (), ARABIC_REPLY)
        for form, kind, content, media in (
            ("as PDF", "pdf", office.pdf(ARABIC), "application/pdf"),
            ("text in cp1256", "txt", ARABIC.encode("cp1256"), "text/plain"),
            (
                "HTML in a charset that only the message states",
                "html",
                f"<p>{ARABIC}</p>".encode("cp1256"),
                "text/html; charset=windows-1256",
            ),
        )
        for body, turn in (TO_ARABIC,)
    },
    **{what: example_of(row) for what, row in examples(__file__, "examples").items()},
    "an Outlook message as attachment": Example(
        [("a.msg", outlook_message({0x1000: "It is ours.", 0x5D01: "omar@mail.example", 0x0039: 1.7e9}))],
        "See below.\n\nIt is ours.",
        {"1.msg": "row"},
    ),
}


BOX = "all.mbox"


def _put_examples(institution: DemoInstitution, examples: Mapping[str, Example], box: str = "") -> None:
    """Write each example as two messages in a mailbox, or as two files."""
    written = list[bytes]()
    for number, each in enumerate(examples.values()):
        person = f"person{number}@mail.example"
        pair = (
            message(f"a{number}", person, each.body, each.letter),
            message(f"b{number}", person, each.text, each.reply, sent=True, answers=f"a{number}"),
        )
        for name, made in zip(("in", "out"), pair, strict=True):
            content = bytes(made).replace(b"\n\nQkFTRTY0\n", b"\n\nQkFTRTY0A\n")
            written.append(content)
            if not box:
                put(institution, {f"{number}-{name}.eml": content})
    if box:
        envelope = b"From a@b.example Mon Feb  5 08:30:00 2024\n"
        put(institution, {box: b"".join(envelope + each + b"\n\n" for each in written)})


def test_each_attachment_has_one_outcome(institution: DemoInstitution) -> None:
    _put_examples(institution, EXAMPLES)
    raw = raw_corpus(institution, kind="mail", ours=[DESK], attachments="read")
    found = {name: f"{kind}: {reason}" if kind != "row" else "row" for name, (kind, reason) in outcomes(raw).items()}
    expected = dict[str, str]()
    for number, example in enumerate(EXAMPLES.values()):
        letter, reply = f"{number}-in.eml", f"{number}-out.eml"
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
    place, content = [*EXAMPLES].index("the letter is sent back"), EXAMPLES["the letter is sent back"].letter[0][1]
    assert isinstance(content, bytes)
    assert digests[f"{place}-in.eml/1.docx"] == hashlib.sha256(content).hexdigest()


def test_attachments_of_an_outlook_file(institution: DemoInstitution) -> None:
    inner: dict[int, Any] = {0x0037: "Lamp", 0x1000: "المصباح لنا.", 0x5D01: "omar@mail.example", 0x0039: 1.7e9}
    files: list[Any] = [
        {0x3707: "letter.docx", 0x3701: office.docx(TEXT)},
        {0x370E: "application/pdf", 0x3701: office.pdf(PERMIT)},
        {0x3705: 5, 0x3701: inner},
        {0x3704: "LOGO.PNG", 0x370E: "image/png", 0x3701: b"x"},
        {0x3705: 2},
    ]
    properties: dict[int, Any] = {**inner, 0x1000: "See below.", 0x1035: "<1@x>", 0x5D01: "a@mail.example"}
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
    files = [*{(each.outcome, each.reason): each for each in files}.values()]
    examples = dict[str, Example]()
    for file in files:
        assert isinstance(file.content, bytes)
        reply = ARABIC_REPLY if "Arabic" in file.what else REPLY
        examples[file.what] = Example([(f"a{Path(file.name).suffix}", file.content)], None, {}, "", (), reply)
    _put_examples(institution, examples, BOX)
    institution.recipe["quarantine"] = {"max_share": 0.99}
    found = outcomes(raw_corpus(institution, kind="mail", ours=[DESK], attachments="read"))
    for number, file in enumerate(files):
        letter, reply = f"{BOX}#{2 * number + 1}", f"{BOX}#{2 * number + 2}"
        (of_file,) = (outcome for path, outcome in found.items() if path.startswith(f"{letter}/"))
        of_message = found[letter][0], found[reply][0]
        if file.outcome == "quarantined":
            assert (file.what, *of_message, *of_file) == (file.what, *["quarantined"] * 3, file.reason)
        elif of_file[0] == "row":
            assert (file.what, *of_message) == (file.what, "row", "row")
        else:
            assert (file.what, *of_file) == (file.what, "left out", "a kind of file that is not read")


def test_large_and_numerous_attachments(institution: DemoInstitution) -> None:
    """A message above a limit is quarantined alone."""
    envelope = b"From a@b.example Mon Feb  5 08:30:00 2024\n"
    letter = message("1", "a@mail.example", "Lamp?")
    reply = message("2", "a@mail.example", REPLY, sent=True, answers="1")
    many = message("3", "b@mail.example", "x", [("a.txt", b"x")] * (MOST_ATTACHMENTS + 1))
    large = message("4", "b@mail.example", "x", [("a.txt", b"LARGE")])
    head, _, end = bytes(large).partition(b"TEFSR0U=")
    path = put(institution, {}) / "box.mbox"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(envelope + bytes(letter) + b"\n\n" + envelope + bytes(many) + b"\n\n" + envelope + head)
        for _ in range((LARGEST_MESSAGE >> 20) + 2):
            stream.write((b"QUFB" * 19 + b"\n") * ((1 << 20) // 77))
        stream.write(end + b"\n\n" + envelope + bytes(reply))
    found = outcomes(raw_corpus(institution, kind="mail", ours=[DESK], attachments="read"))
    assert {name: outcome for name, (outcome, _) in found.items()} == {
        "box.mbox#1": "row", "box.mbox#2": "quarantined", "box.mbox#3": "quarantined", "box.mbox#4": "row",
    }  # fmt: skip


LEVELS = examples(__file__, "levels")


def test_markings_of_attachments_raise_the_level_of_the_thread(institution: DemoInstitution) -> None:
    of_letters = {name: Example([file_of(*file)] if file else [], "", {}) for name, (file, _) in LEVELS.items()}
    _put_examples(institution, of_letters)
    number = [*LEVELS].index("a letter that is not answered")
    files = [("a.rtf", office.rtf(TEXT, "SECRET"))]
    last = message("last", f"person{number}@mail.example", "Thanks", files, answers=f"a{number}")
    put(institution, {"last.eml": bytes(last)})
    raw = raw_corpus(institution, kind="mail", ours=[DESK], attachments="read")
    found = [each.classification for each in read_documents(raw.file(DOCUMENTS))]
    assert sorted(found) == sorted(level for _, level in LEVELS.values())


@pytest.mark.parametrize("of_copy", [[], [("a.txt", TEXT.encode())]], ids=["without", "the same"])
def test_copies_of_a_message_share_their_attachments(institution: DemoInstitution, of_copy: Sequence[File]) -> None:
    letters = [message("1", "a@mail.example", "See below.", each) for each in (of_copy, [("a.txt", TEXT.encode())])]
    reply = message("2", "a@mail.example", REPLY, sent=True, answers="1")
    put(institution, {f"{number}.eml": bytes(each) for number, each in enumerate((*letters, reply))})
    raw = raw_corpus(institution, kind="mail", ours=[DESK], attachments="read")
    assert [each.request for each in read_documents(raw.file(DOCUMENTS))] == [f"See below.\n\n{TEXT}"]
    found = sorted(outcome for outcome, _ in outcomes(raw).values())
    assert found == sorted([*["duplicate"] * (1 + len(of_copy)), *["row"] * 3])


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


def test_attachments_are_left_out_with_their_message(institution: DemoInstitution) -> None:
    """Also damaged ones, which then quarantine nothing."""
    files = [("a.docx", b"x"), ("b.txt", TEXT.encode())]
    private = message("1", "a@mail.example", "Lamp?", files, headers={"Sensitivity": "Private"})
    reply = message("2", "a@mail.example", REPLY, sent=True, answers="1")
    not_answered = message("3", "b@mail.example", "Lamp?", files)
    put(institution, {"1.eml": bytes(private), "2.eml": bytes(reply), "3.eml": bytes(not_answered)})
    _put_examples(institution, {"row": Example([], "See below.", {})})
    found = outcomes(raw_corpus(institution, kind="mail", ours=[DESK], attachments="read"))
    names = [f"{mail}{file}" for mail in ("1.eml", "3.eml") for file in ("", "/1.docx", "/2.txt")]
    assert [found[each][0] for each in names] == ["left out"] * 6
