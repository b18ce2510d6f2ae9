import datetime
import io
import json
import re
from collections import Counter
from typing import Any

import pytest

from sovereign_pipeline.corpus import parsing
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.mail import Mail, parse_mail, text_of_html
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.corpus.mail_files import ARABIC, MAILS, TEXT
from sovereign_pipeline_tests.corpus.mailboxes import DESK
from sovereign_pipeline_tests.corpus.outlook import outlook_message
from sovereign_pipeline_tests.corpus.test_extraction import outcomes, put, raw_corpus
from sovereign_pipeline_tests.examples import examples

_HEAD = b"From: A <a@mail.example>\nTo: b@coasts.example\nDate: Mon, 5 Feb 2024 08:30:00 +0400\nMessage-ID: <1@x>\n"


def _one(content: bytes) -> dict[str, Any]:
    (found,) = parse_mail(io.BytesIO(content), "")
    found.pop("attachments", None)
    return found


def _read(content: bytes) -> Mail:
    found = _one(content)
    assert "broken" not in found, found
    return Mail.of_item("a.eml", json.loads(json.dumps(found)))


def test_reads_a_message() -> None:
    found = _read(
        b"From: =?utf-8?b?2LPYp9mE2YU=?= <Salim@Mail.example>\r\nTo: Desk <desk@coasts.example>, x@y.example\r\n"
        b"Cc: z@y.example\r\nSubject: =?windows-1256?Q?=E3=E6=D6=E6=DA?=\r\n =?utf-8?q?_two?=\r\n"
        b"Date: Mon, 5 Feb 2024 08:30:00 +0400\r\nMessage-ID: <1@x>\r\nIn-Reply-To: <b@x>\r\n"
        b"References: <a@x>\r\n <b@x>\r\nX-Harbour-Classification: secret\r\nSensitivity: Company-Confidential\r\n"
        b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n"
        b"Text\r\n--b\r\nContent-Type: application/pdf; name=../../etc/passwd\r\n\r\nx\r\n--b--\r\n"
    )
    assert (found.sender, found.recipients) == (
        "salim@mail.example",
        ("desk@coasts.example", "x@y.example", "z@y.example"),
    )
    assert (found.id, found.references, found.subject, found.text) == ("1@x", ("a@x", "b@x"), "موضوع two", "Text")
    assert found.date == datetime.datetime(2024, 2, 5, 4, 30, tzinfo=datetime.UTC)
    assert found.markings == ("secret", "Company-Confidential")
    assert found.left_out is None


TEXTS = examples(__file__, "texts")
"""What the message is -> the encoding of its bytes, the end of its headers with its body, and the text that is read."""


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_a_message(name: str) -> None:
    encoding, content, expected = TEXTS[name]
    assert _read(_HEAD + content.encode(encoding)).text == expected


@pytest.mark.parametrize(("html", "text"), examples(__file__, "html"))
def test_text_of_html(html: str, text: str) -> None:
    assert text_of_html(html) == text


REPLY = "You may, and the fee is ten. We have noted it for the two boats of yours."
ARABIC_REPLY = "نعم، لا مانع لدينا من إصلاح الرصيف المذكور في المنطقة الثانية."


@pytest.mark.security_case(
    "Damaged and hostile messages lie in a mailbox: bombs, cycles, hostile headers, wrong names, links, cut archives",
    "each is quarantined or left out by name and reason, every other message is read, and nothing is followed or run",
)
def test_each_message_has_the_outcome_of_the_table(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All messages lie in one folder, so that one that ends the sandbox could lose another."""
    monkeypatch.setattr(parsing, "SECONDS", 3)
    folder = put(institution, {})
    for number, mail in enumerate(MAILS):
        for name, content in mail.files.items():
            path = folder / f"{number:03}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, bytes):
                content(path)
            elif name.endswith(".msg"):
                path.write_bytes(content)
            else:
                path.write_bytes(_as_own(content, number))
        id, person = ("IPM.Note@x", "ipm.note") if "a.msg" in mail.files else (f"{number}.1@x", f"a{number}")
        reply = (
            f"From: {DESK}\nTo: {person}@mail.example\nSubject: Re: Jetty\nIn-Reply-To: <{id}>\n"
            f"Date: Mon, 5 Feb 2024 {10 + number // 60}:{number % 60:02}:00 +0400\n\n"
            f"{ARABIC_REPLY if 'Arabic' in mail.what else REPLY}"
        )
        put(institution, {f"replies/{number:03}.eml": reply.encode()})
    raw = raw_corpus(institution, kind="mail", ours=[DESK])
    found = dict[str, list[tuple[str, str]]]()
    for name, (outcome, reason) in sorted(outcomes(raw).items()):
        found.setdefault(name.partition("/")[0], []).append((outcome, reason if outcome != "duplicate" else ""))
    replies = Counter(outcome for outcome, _ in found.pop("replies"))
    assert {mail.what: found[f"{number:03}"] for number, mail in enumerate(MAILS)} == {
        mail.what: [*mail.outcomes] for mail in MAILS
    }
    rows = sum(mail.outcomes[0][0] == "row" for mail in MAILS)
    assert (replies["row"], replies.total()) == (rows, len(MAILS))
    texts = [each.messages[0].content for each in read_documents(raw.file(DOCUMENTS))]
    assert len(texts) == rows
    assert all(text.startswith((TEXT.decode(), ARABIC)) for text in texts)


def _as_own(content: bytes, number: int) -> bytes:
    """Give a message an id and a sender of its own, so that it is a thread of its own."""
    content = re.sub(rb"<(\d)@x>", rb"<%d.\1@x>" % number, content)
    return content.replace(b"a@mail.example", b"a%d@mail.example" % number)


def test_mbox() -> None:
    envelope = b"From a@b.example Mon Feb  5 08:30:00 2024\n"
    first = envelope + _HEAD + b"\nDear\n\nFrom here\n>From A\n\n"
    archive = io.BytesIO(first + envelope + b"broken\n\n" + envelope + _HEAD + b"\nTwo\n")
    found = [each.get("text", "broken") for each in parse_mail(archive, "")]
    assert found == ["Dear\n\nFrom here\nFrom A", "broken", "Two"]


def test_outlook() -> None:
    """A message that was received has the headers of the internet, one that was sent has properties."""
    received = outlook_message(
        {0x007D: (_HEAD + b"References: <0@x>\nContent-Type: text/html\n").decode(), 0x0037: "Permit", 0x1000: "تصريح"},
        attachments=[{0x370E: "application/pdf"}],
    )
    sent = outlook_message(
        {
            0x001A: "IPM.Note", 0x0037: "Permit", 0x1013: b"<p>Granted</p>", 0x1035: "<2@x>", 0x1042: "<1@x>",
            0x5D01: "Desk@coasts.example", 0x0039: 1.7e9, 0x0036: 3,
        },
        ("a@mail.example",),
    )  # fmt: skip
    first, second = _read(received), _read(sent)
    assert (first.id, first.references, first.text) == ("1@x", ("0@x",), "تصريح")
    assert (second.id, second.references, second.text) == ("2@x", ("1@x",), "Granted")
    assert (second.sender, second.recipients, second.date.year) == ("desk@coasts.example", ("a@mail.example",), 2023)
    assert second.markings == ("Company-Confidential",)


@pytest.mark.security_case(
    "A message of an mbox parses to more text than the limit, or several do together",
    "it is quarantined; every later message is read, or quarantined by name",
)
@pytest.mark.parametrize(
    ("text", "most", "expected", "level"),
    [("x" * 10_000, 4_000, "rrLrrrr", "SECRET"), ("x", 800, "rrrLLBB", "PUBLIC")],
    ids=["one message", "several together"],
)
def test_too_much_text_loses_no_later_message(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, text: str, most: int, expected: str, level: str
) -> None:
    monkeypatch.setattr(parsing, "MOST_ENDS", 2)
    monkeypatch.setattr(parsing, "LARGEST_RESULT", most)
    monkeypatch.setattr(parsing, "RESULT_PER_BYTE", 0)
    texts = ["May I build?", "x", text, "x", "x", "x", "SECRET\n\nThanks"]
    heads = [_HEAD.replace(b"<1@x>", b"<%d@x>\nIn-Reply-To: <1@x>" % number) for number in range(2, 8)]
    envelope = b"From a@mail.example Mon Feb  5 08:30:00 2024\n"
    messages = zip((_HEAD, *heads), texts, strict=True)
    put(institution, {"all": b"".join(envelope + head + b"\n%s\n\n" % each.encode() for head, each in messages)})
    reply = _HEAD.replace(b"From: A <a@mail.example>\nTo: b@coasts", b"To: a@mail.example\nFrom: b@coasts")
    put(institution, {"reply.eml": reply.replace(b"<1@x>", b"<8@x>\nIn-Reply-To: <1@x>") + b"\nYou may."})
    institution.recipe["quarantine"] = {"max_share": 0.95}
    raw = raw_corpus(institution, kind="mail", ours=["coasts.example"])
    states = {"holds more than": "L", "after 2 message": "B"}
    found = [reason for name, (_, reason) in sorted(outcomes(raw).items()) if name.startswith("all#")]
    assert "".join(states.get(reason[:15], "r") for reason in found) == expected
    assert [each.classification for each in read_documents(raw.file(DOCUMENTS))] == [level]
