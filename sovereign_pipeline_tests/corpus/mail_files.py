"""Files that may lie in a mailbox, with what becomes of each: a test's table, and the page that lists it."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sovereign_pipeline_tests.corpus import document_files
from sovereign_pipeline_tests.corpus.document_files import LEFT_OUT, QUARANTINED, ROW
from sovereign_pipeline_tests.corpus.mailboxes import DESK
from sovereign_pipeline_tests.corpus.outlook import outlook_message
from sovereign_pipeline_tests.examples import examples

TEXT = b"May I build a jetty at the old quay, and what would be the fee for it?"
ARABIC = "نرجو منحنا تصريحا لإصلاح الرصيف القديم قرب المرسى مع الشكر."
HEAD = b"From: A <a@mail.example>\nTo: %s\nDate: Mon, 5 Feb 2024 08:30:00 +0400\nMessage-ID: <1@x>\n" % DESK.encode()
TURN = (ROW, "a turn of a thread")
LARGE = 64 << 20
Content = bytes | Callable[[Path], object]


class Mail(NamedTuple):
    """An entry of the table."""

    what: str
    files: Mapping[str, Content]
    outcomes: tuple[tuple[str, str], ...] = (TURN,)
    """Outcome and reason of each message, by the names of the files. The reason of a duplicate is left out."""


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
_CHARSET = HEAD + b"Content-Type: text/plain; charset=%s\n\n"
_ENDED = "ended its parser: damaged, or too much time or memory"
_DAMAGED = (QUARANTINED, "base64 that cannot be decoded")
MADE: Mapping[str, tuple[str, Content] | tuple[str, Content, Sequence[tuple[str, str]]]] = {
    "Outlook .msg": ("a.msg", _outlook()),
    "mbox": ("archive", _mbox(_TEXT_PART, b"\nAnd when?"), (TURN, TURN)),
    "Arabic in windows-1256": ("a.eml", _CHARSET % b"windows-1256" + ARABIC.encode("cp1256")),
    "Arabic, with a wrong charset": ("a.eml", _CHARSET % b"iso-8859-1" + ARABIC.encode("cp1256")),
    "Arabic, without a charset": ("a.eml", HEAD + b"\n" + ARABIC.encode("cp1256")),
    "name with a newline": ("name\n..eml", _PLAIN),
    "name that is no UTF-8": (os.fsdecode(b"a\xff.eml"), _PLAIN),
    "name with accents written apart (macOS)": ("re\u0301ponse.eml", _PLAIN),
    "bounce of Outlook": ("a.eml", _outlook("REPORT.IPM.Note.NDR"), [(LEFT_OUT, "a bounce")]),
    "calendar entry of Outlook": (
        "a.eml", _outlook("IPM.Schedule.Meeting.Request"), [(LEFT_OUT, "a calendar entry")],
    ),
    "binary": ("a.eml", bytes(range(256)) * 40, [(QUARANTINED, "no address under From")]),
    "compressed mbox": ("a.eml", b"\x1f\x8b\x08" + bytes(600), [(QUARANTINED, "compressed: unpack it")]),
    "encrypted (Outlook)": ("a.eml", _outlook("IPM.Note.SMIME"), [(QUARANTINED, "encrypted")]),
    "parts nested 60 deep": ("a.eml", _nested(60), [(QUARANTINED, "parts nested too deep")]),
    "parts nested 1,000 deep": ("a.eml", _nested(1_000), [(QUARANTINED, "parts nested too deep")]),
    "headers of 300 kB": (
        "a.eml", HEAD + b"X-A: " + b"a" * 300_000, [(QUARANTINED, "headers longer than 256 kB")],
    ),
    "text of 2,000,000 lines": (
        "a.eml", HEAD + b"\n" + b"a\n" * 2_000_000, [(QUARANTINED, "a text longer than 500,000 characters")],
    ),
    "larger than 64 MiB": ("a.eml", _large, [(QUARANTINED, "larger than 64 MiB")]),
    "Outlook .msg, cut": ("b.msg", _outlook()[:900], [(QUARANTINED, "no readable message (ValueError)")]),
    "Outlook .msg, other bytes": (
        "b.msg", _outlook()[:76].ljust(4096, b"\1"), [(QUARANTINED, "no readable message (OleFileError)")],
    ),
    **{
        f"header: {name}": ("a.eml", HEAD + header + b"\n\n" + TEXT)
        for name, header in {
            "encoded words without an end": b"Subject: " + b"=?a?q?" * 30_000,
            "15,000 addresses": b"Cc: " + b"a@b.example, " * 15_000,
            "200,000 open brackets": b"To: " + b"<" * 200_000,
            "40,000 references": b"References: " + b"<a@b> " * 40_000,
        }.items()
    },
    "header: 200,000 open comments": (
        "a.eml", HEAD + b"To: " + b"(" * 200_000 + b"\n\n" + TEXT, [(QUARANTINED, "parts nested too deep")],
    ),
    "mbox, a line that begins with `From ` in a text": (
        "archive", _mbox(_TEXT_PART + b"\n\nFrom here it is far.\n>From A", b"\nAnd when?"), (TURN, TURN),
    ),
    "mbox, a whole envelope in a text": (
        "archive", _mbox(_TEXT_PART + b"\n\n" + _ENVELOPE + b"was above."),
        (TURN, (QUARANTINED, "no address under From")),
    ),
    "mbox, a sentence like an envelope": (
        "archive", _mbox(_TEXT_PART + b"\n\nFrom the train at 10:30 in 2024.", b"\nAnd when?"), (TURN, TURN),
    ),
    "mbox without blank lines": (
        "archive", _mbox(_TEXT_PART, b"\nAnd when?").replace(b"\n\nFrom ", b"\nFrom "), (TURN, TURN),
    ),
    "mbox, a damaged message in the middle": (
        "archive", _mbox(_TEXT_PART, b"Content-Transfer-Encoding: base64\n\nA", b"\nAnd when?"),
        (TURN, _DAMAGED, TURN),
    ),
    "mbox, a message that ends the parser in the middle": (
        "archive", _mbox(_TEXT_PART, _KILLER, b"\nAnd when?"), (TURN, (QUARANTINED, _ENDED), TURN),
    ),
    "mbox, cut within headers": (
        "archive", _mbox(_TEXT_PART, b"\nAnd when?")[:-60], (TURN, (LEFT_OUT, "without text")),
    ),
    "a link out of the folder": (
        "a.eml", lambda path: path.symlink_to("/etc/passwd"), [(QUARANTINED, "a link")],
    ),
    "a pipe": ("a.eml", os.mkfifo, [(QUARANTINED, "no regular file")]),
}  # fmt: skip
"""Entry that is no short text -> its file, content and outcomes."""


def _mail(what: str, content: Any = None, *others: Any) -> Mail:
    """Return an entry of `mail_files.json`: what it is, and its content, outcome, reason and file, or its files and
    their outcomes. An entry without content is in MADE."""
    if content is None:
        name, made, *outcomes = MADE[what]
        return Mail(what, {name: made}, *map(tuple, outcomes))
    if isinstance(content, dict):
        return Mail(what, {name: _filled(each) for name, each in content.items()}, tuple(map(tuple, others[0])))
    usual: list[Any] = [*TURN, "a.eml"]
    outcome, reason, name = list(others) + usual[len(others) :]
    return Mail(what, {name: _filled(content)}, ((outcome, reason),))


def _filled(content: str) -> bytes:
    for name, value in {"head": HEAD, "text": TEXT, "desk": DESK.encode()}.items():
        content = content.replace(f"{{{name}}}", value.decode())
    return content.encode()


MAILS = tuple(_mail(*row) for row in examples(__file__, "mails"))


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
