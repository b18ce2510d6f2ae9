import datetime
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.corpus.mail import LARGEST_MESSAGE, Mail, parse_mail, text_of_html
from sovereign_pipeline_tests.corpus.outlook import outlook_message

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
        b"Text\r\n--b\r\nContent-Type: application/pdf; name=../../etc/passwd\r\n\r\nx\r\n--b--\r\n",
    )
    assert (found.sender, found.recipients) == (
        "salim@mail.example",
        ("desk@coasts.example", "x@y.example", "z@y.example"),
    )
    assert (found.id, found.references, found.subject, found.text) == ("1@x", ("a@x", "b@x"), "موضوع two", "Text")
    assert found.date == datetime.datetime(2024, 2, 5, 4, 30, tzinfo=datetime.UTC)
    assert found.markings == ("secret", "Company-Confidential")
    assert found.left_out is None


_ARABIC = "الموضوع: تصريح"
TEXTS: dict[str, tuple[bytes, str]] = {
    "utf-8": (b"Content-Type: text/plain; charset=utf-8\n\n" + _ARABIC.encode(), _ARABIC),
    "wrong charset": (b"Content-Type: text/plain; charset=iso-8859-1\n\n" + _ARABIC.encode("cp1256"), _ARABIC),
    "no charset": (b"\n" + _ARABIC.encode("cp1256"), _ARABIC),
    "unknown charset": (b"Content-Type: text/plain; charset=hex\n\n" + _ARABIC.encode("cp1256"), _ARABIC),
    "charset that runs code": (b"Content-Type: text/plain; charset=unicode_escape\n\n\\x41", "\\x41"),
    "western": (b"Content-Type: text/plain; charset=iso-8859-1\n\nd\xe9j\xe0 vu", "déjà vu"),
    "arabic of ISO": (b"Content-Type: text/plain; charset=iso-8859-6\n\n" + _ARABIC.encode("iso8859-6"), _ARABIC),
    "utf-16": (b"Content-Type: text/plain; charset=utf-16\nContent-Transfer-Encoding: base64\n\n//5BAA==", "A"),
    "quoted-printable": (b"Content-Transfer-Encoding: quoted-printable\n\nlong=\n =3D line", "long = line"),
    "flowed": (b"Content-Type: text/plain; format=flowed\n\none \ntwo\n> a \n> b\n-- \nme", "one two\n> a b\n--\nme"),
    "flowed with spaces deleted": (b"Content-Type: text/plain; format=flowed; delsp=yes\n\nw \nord", "word"),
    "alternative": (
        b"Content-Type: multipart/alternative; boundary=b\n\n--b\nContent-Type: text/html\n\n<p>no</p>\n--b\n"
        b"Content-Type: text/plain\n\nyes\n--b--\n",
        "yes",
    ),
    "alternative with blank text": (
        b"Content-Type: multipart/alternative; boundary=b\n\n--b\n\n \n--b\n"
        b"Content-Type: text/html\n\n<p>yes</p>\n--b--\n",
        "yes",
    ),
    "text around an attachment": (
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b\nContent-Type: image/png\n\nx\n"
        b"--b\n\ntwo\n--b--\n",
        "one\n\ntwo",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_text_of_a_message(name: str) -> None:
    content, expected = TEXTS[name]
    assert _read(_HEAD + content).text == expected


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<style>x</style><div>a\n b<br></div><div><br></div><div>c</div><!-- d -->", "a b\n\nc"),
        ("<p>a</p><blockquote>b<br>c<blockquote><p>d</p></blockquote></blockquote><p>e", "a\n\n> b\n> c\n>\n>> d\n\ne"),
        ("<ul><li>a<li>b</ul><pre>c\n d</pre>", "a\nb\n\nc\nd"),
    ],
)
def test_text_of_html(html: str, text: str) -> None:
    assert text_of_html(html) == text


LEFT_OUT = {
    "an automatic reply": (
        b"Auto-Submitted: auto-replied\n\nx",
        b"Precedence: auto_reply\n\nx",
        b"X-Autoreply: yes\n\nx",
        b"Subject: Out of Office: permit\n\nx",
        b"Subject: =?utf-8?b?2LHYryDYqtmE2YLYp9im2Yo6INiq2LXYsdmK2K0=?=\n\nx",
    ),
    "a bounce": (
        b"Content-Type: multipart/report; boundary=b\n\n--b\n\nx\n--b--",
        b"Return-Path: <>\n\nx",
    ),
    "a calendar entry": (
        b"Content-Type: multipart/alternative; boundary=b\n\n--b\n\nx\n--b\nContent-Type: text/calendar\n\nx\n--b--",
    ),
    "a newsletter": (b"List-Unsubscribe: <https://x>\nPrecedence: bulk\n\nx",),
    "private": (b"Sensitivity: Private\n\nx",),
    "a draft, or deleted": (b"X-Unsent: 1\n\nx", b"X-Mozilla-Status: 0009\n\nx"),
    "without text": (b"Content-Type: application/pdf\n\nx", b"\n \n"),
}
KEPT = (
    b"Auto-Submitted: no\n\nx",
    b"List-Unsubscribe: <mailto:x@y>\n\nx",
    b"Return-Path: <a@b>\n\nx",
    b"Sensitivity: Normal\n\nx",
)


@pytest.mark.parametrize(
    ("reason", "content"), [(reason, each) for reason, every in LEFT_OUT.items() for each in every]
)
def test_recognises_what_is_no_correspondence(reason: str, content: bytes) -> None:
    assert _read(_HEAD + content).left_out == reason


@pytest.mark.parametrize("content", KEPT)
def test_keeps_correspondence(content: bytes) -> None:
    assert _read(_HEAD + content).left_out is None


def _nested(depth: int) -> bytes:
    return (
        b"\n".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d" % (n, n) for n in range(depth)) + b"\n\nx\n"
    )


BROKEN = {
    "empty": b"",
    "no message": b"Dear Sir,\n\nFrom: here",
    "binary": bytes(range(256)) * 40,
    "no date": b"From: a@mail.example\n\nx",
    "nested parts": _HEAD + _nested(1_000),
    "deep parts": _HEAD + _nested(60),
    "headers without an end": _HEAD + b"X-A: " + b"a" * 300_000,
    "2,000,000 short lines": _HEAD + b"\n" + b"a\n" * 2_000_000,
    "broken base64": _HEAD + b"Content-Transfer-Encoding: base64\n\nA",
    "foreign characters in base64": _HEAD + b"Content-Transfer-Encoding: base64\n\nVGV4dA==\n-- list footer!",
    "NUL": _HEAD + b"\na\0b",
    "cut off": _HEAD + b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nDear",
    "no boundary": _HEAD + b"Content-Type: multipart/mixed\n\nDear",
    "encrypted": _HEAD + b"Content-Type: application/pkcs7-mime\n\nx",
    "PGP": _HEAD + b"\n-----BEGIN PGP MESSAGE-----\n",
    "Outlook, cut off": outlook_message({0x0037: "Subject"})[:900],
    "Outlook, no message": outlook_message({0x0037: "Subject"})[:76].ljust(4096, b"\1"),
    "Outlook, encrypted": outlook_message({0x001A: "IPM.Note.SMIME", 0x5D01: "a@mail.example"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_and_hostile_messages_are_named(name: str) -> None:
    start = time.monotonic()
    found = _one(BROKEN[name])
    assert found.keys() == {"broken"}
    assert "Dear" not in found["broken"]
    assert time.monotonic() - start < 20


HOSTILE_HEADERS = {
    "encoded words without an end": b"Subject: " + b"=?a?q?" * 40_000,
    "a newline in an encoded word": b"Subject: =?utf-8?q?a=0ABcc:_b?=",
    "many addresses": b"Cc: " + b"a@b.example, " * 15_000,
    "open brackets": b"To: " + b"<" * 200_000,
    "open comments": b"To: " + b"(" * 200_000,
    "many ids": b"References: " + b"<a@b> " * 40_000,
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_hostile_headers(name: str) -> None:
    start = time.monotonic()
    found = _one(_HEAD + HOSTILE_HEADERS[name] + b"\n\nx")
    assert "broken" in found or "\n" not in found["subject"]
    assert time.monotonic() - start < 10


def test_a_message_above_the_limit_is_not_read(tmp_path: Path) -> None:
    envelope = b"From a@b.example Mon Feb  5 08:30:00 2024\n"
    for name, begin in (("big.eml", b""), ("big.mbox", envelope)):
        with (tmp_path / name).open("wb") as sparse:
            sparse.write(begin + _HEAD + b"\n")
            sparse.seek(LARGEST_MESSAGE * 3)
            sparse.write(b"\n\n" + envelope + _HEAD + b"\nShort\n")
    assert ["broken" in each for each in parse_mail((tmp_path / "big.eml").open("rb"), ".eml")] == [True]
    assert ["broken" in each for each in parse_mail((tmp_path / "big.mbox").open("rb"), ".mbox")] == [True, False]


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
    for kind, reason in (("IPM.Schedule.Meeting.Request", "a calendar entry"), ("REPORT.IPM.Note.NDR", "a bounce")):
        content = outlook_message({0x001A: kind, 0x5D01: "a@mail.example", 0x0039: 1.7e9, 0x1000: "x"})
        assert _read(content).left_out == reason
