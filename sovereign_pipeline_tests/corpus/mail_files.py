"""Files that may lie in a mailbox, with what becomes of each: a test's table, and the page that lists it."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from sovereign_pipeline_tests.corpus import document_files
from sovereign_pipeline_tests.corpus.document_files import LEFT_OUT, QUARANTINED, ROW
from sovereign_pipeline_tests.corpus.mailboxes import DESK
from sovereign_pipeline_tests.corpus.outlook import outlook_message

TEXT = b"May I build a jetty at the old quay, and what would be the fee for it?"
ARABIC = "نرجو منحنا تصريحا لإصلاح الرصيف القديم قرب المرسى مع الشكر."
HEAD = b"From: A <a@mail.example>\nTo: %s\nDate: Mon, 5 Feb 2024 08:30:00 +0400\nMessage-ID: <1@x>\n" % DESK.encode()
TURN = (ROW, "a turn of a thread")
ATTACHED = TURN, (LEFT_OUT, "an attachment")
LARGE = 64 << 20
Content = bytes | Callable[[Path], object]


class Mail(NamedTuple):
    """An entry of the table."""

    what: str
    files: Mapping[str, Content]
    outcomes: tuple[tuple[str, str], ...] = (TURN,)
    """Outcome and reason of each message, by the names of the files. The reason of a duplicate is left out."""


def _mail(what: str, content: Content, outcome: str = ROW, reason: str = TURN[1], name: str = "a.eml") -> Mail:
    return Mail(what, {name: content}, ((outcome, reason),))


def _broken(what: str, content: Content, reason: str) -> Mail:
    return _mail(what, content, QUARANTINED, reason)


def _left_out(what: str, content: Content, reason: str) -> Mail:
    return _mail(what, content, LEFT_OUT, reason)


def _parts(kind: bytes, *parts: bytes) -> bytes:
    return (
        HEAD + b"Content-Type: %s; boundary=b\n\n" % kind + b"".join(b"--b\n%s\n" % each for each in parts) + b"--b--"
    )


def _nested(depth: int) -> bytes:
    parts = (b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d" % (n, n) for n in range(depth))
    ends = (b"--b%d--\n" % n for n in reversed(range(depth)))
    return HEAD + b"\n".join(parts) + b"\n\nx\n" + b"".join(ends)


def _outlook(kind: str = "IPM.Note") -> bytes:
    return outlook_message({
        0x001A: kind, 0x0037: "Jetty", 0x1000: TEXT.decode(), 0x1035: f"<{kind}@x>", 0x5D01: f"{kind}@mail.example",
        0x0039: 1.7e9,
    }, (DESK,))  # fmt: skip


def _large(path: Path) -> None:
    with path.open("wb") as sparse:
        sparse.write(HEAD + b"\n")
        sparse.truncate(LARGE + 2)


_ENVELOPE = b"From a@mail.example Mon Feb  5 08:30:00 2024\n"
_PLAIN = HEAD + b"\n" + TEXT


def _mbox(*bodies: bytes) -> bytes:
    """Messages of one thread, a minute apart."""
    later = (HEAD.replace(b"<1@x>", b"<%d@x>" % n).replace(b"08:30", b"08:%d" % (29 + n)) for n in range(2, 9))
    heads = [HEAD, *(head + b"In-Reply-To: <1@x>\n" for head in later)]
    return b"".join(_ENVELOPE + head + body + b"\n\n" for head, body in zip(heads, bodies, strict=False))


_TEXT_PART = b"\n" + TEXT
_KILLER = b"Content-Type: text/html\n\n" + b"<div>" * 90_000
_CALENDAR = b"Content-Type: text/calendar\n\nBEGIN:VCALENDAR"
MAILS = (
    # kinds
    _mail(".eml", _PLAIN),
    _mail("no suffix", _PLAIN, name="letter"),
    _mail("Outlook .msg", _outlook(), name="a.msg"),
    _mail("Maildir, new and read", _PLAIN, name="new/1.M1.host"),
    _mail("Maildir, read", _PLAIN, name="cur/1.M1.host:2,RS"),
    Mail("mbox", {"archive": _mbox(_TEXT_PART, b"\nAnd when?")}, (TURN, TURN)),
    _mail("HTML alone", HEAD + b"Content-Type: text/html\n\n<p>" + TEXT),
    _mail("text and HTML", _parts(b"multipart/alternative", b"Content-Type: text/html\n\n<p>no", _TEXT_PART)),
    *(
        Mail(what, {"a.eml": _parts(kind, _TEXT_PART, b"Content-Type: %s\n\nx" % attached)}, ATTACHED)
        for what, kind, attached in (
            ("with an attachment", b"multipart/mixed", b"image/png"),
            ("signed (S/MIME)", b"multipart/signed", b"application/pkcs7-signature"),
            ("signed (PGP)", b"multipart/signed", b"application/pgp-signature"),
            ("with Outlook's winmail.dat (TNEF)", b"multipart/mixed", b"application/ms-tnef; name=winmail.dat"),
        )
    ),
    _mail("Arabic in windows-1256", HEAD + b"Content-Type: text/plain; charset=windows-1256\n\n"
          + ARABIC.encode("cp1256")),
    _mail("Arabic, with a wrong charset", HEAD + b"Content-Type: text/plain; charset=iso-8859-1\n\n"
          + ARABIC.encode("cp1256")),
    _mail("Arabic, without a charset", HEAD + b"\n" + ARABIC.encode("cp1256")),
    _mail("without a date, with that of a server", HEAD.replace(b"Date:", b"Received: from x;")
          + b"\n" + TEXT),
    _mail("without an id, answered under its subject",
          HEAD.replace(b"Message-ID", b"Subject: Jetty\nX-ID") + b"\n" + TEXT),
    *(
        _mail(f"`{header.decode()}`", HEAD + header + b"\n\n" + TEXT)
        for header in (b"Auto-Submitted: no", b"List-Unsubscribe: <mailto:x@y>", b"Return-Path: <a@b>",
                       b"Sensitivity: Normal")
    ),
    # names and copies
    _mail("name with a newline", _PLAIN, name="name\n..eml"),
    _mail("name with two dots", _PLAIN, name="...eml", outcome=LEFT_OUT, reason="a file of the system"),
    _mail("name that is no UTF-8", _PLAIN, name=os.fsdecode(b"a\xff.eml")),
    _mail("name with accents written apart (macOS)", _PLAIN, name="re\u0301ponse.eml"),
    Mail("in two mailboxes", {"inbox/1": _PLAIN, "sent/1": b"X-Seen: 1\n" + _PLAIN + b"\n\nExternal"},
         (TURN, ("duplicate", ""))),
    Mail("two messages with one id", {"1": _PLAIN, "2": _PLAIN.replace(b"08:30", b"09:30").replace(TEXT, b"Buy boats")},
         ((QUARANTINED, "two messages of its thread have one id"),) * 2),
    Mail("answers in a circle", {
        "1": HEAD + b"In-Reply-To: <2@x>\n\n" + TEXT,
        "2": HEAD.replace(b"<1@x>", b"<2@x>").replace(b":30", b":31") + b"In-Reply-To: <1@x>\n\nAnd when?",
    }, (TURN, TURN)),
    # no correspondence
    *(
        _left_out(f"automatic reply: {name}", HEAD + header + b"\n\nx", "an automatic reply")
        for name, header in {
            "`Auto-Submitted`": b"Auto-Submitted: auto-replied", "`Precedence`": b"Precedence: auto_reply",
            "`X-Autoreply`": b"X-Autoreply: yes", "its English subject": b"Subject: Out of Office: permit",
            "its Arabic subject": b"Subject: =?utf-8?b?2LHYryDYqtmE2YLYp9im2Yo6INiq2LXYsdmK2K0=?=",
        }.items()
    ),
    _left_out("bounce: a report", _parts(b"multipart/report", b"\nx"), "a bounce"),
    _left_out("bounce: no return path", HEAD + b"Return-Path: <>\n\nx", "a bounce"),
    _left_out("bounce of Outlook", _outlook("REPORT.IPM.Note.NDR"), "a bounce"),
    _left_out("calendar entry", _parts(b"multipart/alternative", b"\nx", _CALENDAR), "a calendar entry"),
    _left_out("calendar entry of Outlook", _outlook("IPM.Schedule.Meeting.Request"), "a calendar entry"),
    _left_out("newsletter", HEAD + b"List-Unsubscribe: <https://x>\nPrecedence: bulk\n\nx", "a newsletter"),
    _left_out("private", HEAD + b"Sensitivity: Private\n\nx", "private"),
    _left_out("draft", HEAD + b"X-Unsent: 1\n\nx", "a draft, or deleted"),
    _left_out("deleted in Mozilla", HEAD + b"X-Mozilla-Status: 0009\n\nx", "a draft, or deleted"),
    _mail("Maildir, a draft", _PLAIN, LEFT_OUT, "a draft, or deleted", "cur/1.M1.host:2,D"),
    _mail("Maildir, deleted", _PLAIN, LEFT_OUT, "a draft, or deleted", "cur/1.M1.host:2,ST"),
    _mail("Maildir, not delivered", b"From: a", LEFT_OUT, "a message that was not delivered", "tmp/1.M1.host"),
    _mail("index of a mail server", b"3 V1\n", LEFT_OUT, "a file of the system", "dovecot-uidlist"),
    _mail("index of Mozilla", b"<!-- ", LEFT_OUT, "a file of the system", "inbox.msf"),
    Mail("no text, an attachment alone", {"a.eml": HEAD + b"Content-Type: application/pdf\n\nx"},
         ((LEFT_OUT, "without text"), ATTACHED[1])),
    _left_out("spaces alone", HEAD + b"\n \n", "without text"),
    # faults
    _broken("no byte", b"", "no address under From"),
    _broken("no message", b"Dear Sir,\n\nFrom: here", "no address under From"),
    _broken("binary", bytes(range(256)) * 40, "no address under From"),
    _broken("Outlook archive (.pst)", b"!BDN" + bytes(600), "an Outlook archive: export its messages as .msg or mbox"),
    _broken("compressed mbox", b"\x1f\x8b\x08" + bytes(600), "compressed: unpack it"),
    _broken("no sender", _PLAIN.replace(b"From:", b"X:"), "no address under From"),
    *(
        _broken(f"senders {what}", _PLAIN.replace(b"A <a@mail.example>", senders), "several addresses under From")
        for what, senders in {
            "in a header": b"%s, a@mail.example" % DESK.encode(),
            "in two headers": b"%s\nFrom: a@mail.example" % DESK.encode(),
            "one behind brackets": b"<%s> a@mail.example" % DESK.encode(),
        }.items()
    ),
    _mail("an address as the sender's name", _PLAIN.replace(b"From: A", b"From: " + DESK.encode())),
    _broken("no date", b"From: a@mail.example\n\nx", "no readable date"),
    _broken("encrypted (S/MIME)", HEAD + b"Content-Type: application/pkcs7-mime\n\nx", "encrypted"),
    _broken("encrypted (PGP/MIME)", _parts(b"multipart/encrypted", b"\nx", b"\nx"), "encrypted"),
    _broken("encrypted (PGP in the text)", HEAD + b"\n-----BEGIN PGP MESSAGE-----\n", "encrypted"),
    _broken("encrypted (Outlook)", _outlook("IPM.Note.SMIME"), "encrypted"),
    _broken("text and signature in one part (S/MIME)",
            HEAD + b"Content-Type: application/pkcs7-mime; smime-type=signed-data\n\nx",
            "signed as a whole: its text is in no part that is read"),
    _broken("multipart, cut", HEAD + b"Content-Type: multipart/mixed; boundary=b\n\n--b\n\nDear",
            "cut off: a multipart without its end"),
    _broken("multipart without a boundary", HEAD + b"Content-Type: multipart/mixed\n\nDear",
            "a multipart without a boundary"),
    _broken("base64, cut", HEAD + b"Content-Transfer-Encoding: base64\n\nA", "base64 that cannot be decoded"),
    _broken("base64 with a list's footer", HEAD + b"Content-Transfer-Encoding: base64\n\nVGV4dA==\n-- list footer!",
            "base64 that cannot be decoded"),
    _broken("NUL characters", HEAD + b"\na\0b", "a text with NUL characters"),
    _broken("parts nested 60 deep", _nested(60), "parts nested too deep"),
    _broken("parts nested 1,000 deep", _nested(1_000), "parts nested too deep"),
    _broken("headers of 300 kB", HEAD + b"X-A: " + b"a" * 300_000, "headers longer than 256 kB"),
    _broken("text of 2,000,000 lines", HEAD + b"\n" + b"a\n" * 2_000_000, "a text longer than 500,000 characters"),
    _broken("larger than 64 MiB", _large, "larger than 64 MiB"),
    _mail("Outlook .msg, cut", _outlook()[:900], QUARANTINED, "no readable message (ValueError)", "b.msg"),
    _mail("Outlook .msg, other bytes", _outlook()[:76].ljust(4096, b"\1"), QUARANTINED,
          "no readable message (OleFileError)", "b.msg"),
    _broken("a marking that the ladder lacks", HEAD + b"Subject: [VS-NfD] Jetty\nX-Classification: VS-NfD\n\n" + TEXT,
            "a header states a classification that is not in the ladder, nor in `levels`"),
    *(
        _mail(f"header: {name}", HEAD + header + b"\n\n" + TEXT)
        for name, header in {
            "a newline in an encoded word": b"Subject: =?utf-8?q?a=0ABcc:_b?=",
            "encoded words without an end": b"Subject: " + b"=?a?q?" * 30_000,
            "15,000 addresses": b"Cc: " + b"a@b.example, " * 15_000,
            "200,000 open brackets": b"To: " + b"<" * 200_000,
            "40,000 references": b"References: " + b"<a@b> " * 40_000,
        }.items()
    ),
    _broken("header: 200,000 open comments", HEAD + b"To: " + b"(" * 200_000 + b"\n\n" + TEXT, "parts nested too deep"),
    Mail("mbox, a line that begins with `From ` in a text",
         {"archive": _mbox(_TEXT_PART + b"\n\nFrom here it is far.\n>From A", b"\nAnd when?")}, (TURN, TURN)),
    Mail("mbox, a whole envelope in a text", {"archive": _mbox(_TEXT_PART + b"\n\n" + _ENVELOPE + b"was above.")},
         (TURN, (QUARANTINED, "no address under From"))),
    Mail("mbox, a sentence like an envelope",
         {"archive": _mbox(_TEXT_PART + b"\n\nFrom the train at 10:30 in 2024.", b"\nAnd when?")}, (TURN, TURN)),
    Mail("mbox without blank lines",
         {"archive": _mbox(_TEXT_PART, b"\nAnd when?").replace(b"\n\nFrom ", b"\nFrom ")}, (TURN, TURN)),
    Mail("mbox, a damaged message in the middle", {
        "archive": _mbox(_TEXT_PART, b"Content-Transfer-Encoding: base64\n\nA", b"\nAnd when?"),
    }, (TURN, (QUARANTINED, "base64 that cannot be decoded"), TURN)),
    Mail("mbox, a message that ends the parser in the middle", {
        "archive": _mbox(_TEXT_PART, _KILLER, b"\nAnd when?"),
    }, (TURN, (QUARANTINED, "ended its parser: damaged, or too much time or memory"), TURN)),
    Mail("mbox, cut within headers", {"archive": _mbox(_TEXT_PART, b"\nAnd when?")[:-60]},
         (TURN, (LEFT_OUT, "without text"))),
    _mail("a link out of the folder", lambda path: path.symlink_to("/etc/passwd"), QUARANTINED, "a link"),
    _mail("a pipe", os.mkfifo, QUARANTINED, "no regular file"),
)  # fmt: skip


def source_files_markdown() -> str:
    """Return the page `docs/reference/source-files.md`."""
    lines = [
        "# Mail and documents",
        "",
        "What becomes of each kind of file and fault in a source of the kind `mail` or `documents`. `files.jsonl` of",
        "the raw corpus names every file or message with its outcome and reason. Tests write all files of a table into",
        "one folder and read it, so a damaged file loses no other one. `make docs` makes this page from the tests'",
        "tables (`corpus/mail_files.py`, `corpus/document_files.py`).",
        "",
        "## Mailboxes",
        "",
        "The institution answered each message. A reply to a message that is not used is left out, too.",
        "",
        "| the message | outcome | reason |",
        "|---|---|---|",
    ]
    for mail in MAILS:
        both = (", ".join(dict.fromkeys(column)) for column in zip(*mail.outcomes, strict=True))
        lines.append(f"| {mail.what} | {' | '.join(both)} |")
    lines += ["", "## Documents", "", "| the file | outcome | reason |", "|---|---|---|"]
    lines += [f"| {file.what} | {file.outcome} | {file.reason} |" for file in document_files.FILES]
    return "\n".join(lines) + "\n"
