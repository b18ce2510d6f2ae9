"""Write invented mailboxes, with what must become of each message."""

import base64
import datetime
import email.utils
import html
import itertools
import quopri
import random
import textwrap
from dataclasses import dataclass, field
from email.header import Header
from pathlib import Path

from sovereign_pipeline_tests.examples import examples

OURS = ("coasts.example", "harbour.desk@post.example")
DESK = "permits@coasts.example"
_START = datetime.datetime(2024, 2, 5, 8, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=4)))

_PIECES, _WROTE, _HEAD, _FORWARDED, _OTHERS = (
    examples(__file__, each) for each in ("pieces", "wrote", "head", "forwarded", "others")
)
QUOTES = ("none", "top", "bottom", "inline", "outlook", "html", "outlook html", "unmarked")
ENCODINGS = (
    ("utf-8", "utf-8", "8bit"),
    ("utf-8", "utf-8", "base64"),
    ("utf-8", "utf-8", "quoted-printable"),
    ("windows-1256", "windows-1256", "8bit"),
    ("windows-1256", "windows-1256", "quoted-printable"),
    ("iso-8859-6", "iso-8859-6", "base64"),
    ("iso-8859-6", "iso-8859-6", "8bit"),
    ("utf-8", None, "8bit"),
    ("windows-1256", None, "8bit"),
    ("utf-8", "us-ascii", "8bit"),
    ("windows-1256", "iso-8859-1", "8bit"),
    ("utf-8", "x-unknown", "base64"),
)  # fmt: skip
"""Charset of the text, charset that the message states, and transfer encoding."""


@dataclass
class Letter:
    """An invented message."""

    number: int
    thread: int
    sender: str
    date: datetime.datetime
    own: str
    """Text that the sender wrote, without signature."""
    raw: bytes = b""
    text: str = ""
    expected: str = "row"
    """Beginning of the outcome."""
    refers: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return f"m{self.number}.{self.thread}@post.example"

    @property
    def mark(self) -> str:
        """Word that only this message's own text has."""
        return f"ZX{self.number:05d}Q"


@dataclass
class Mailbox:
    letters: list[Letter] = field(default_factory=list)
    pairs: set[tuple[str, str]] = field(default_factory=set)
    """Marks of each letter and of each reply of ours that answers it."""
    copies: int = 0


def mailbox(threads: int = 60, seed: int = 7) -> Mailbox:
    """Return invented threads of 2 to 9 messages, and automatic, damaged and private ones among them."""
    draw, made, numbers = random.Random(seed), Mailbox(), itertools.count(1)
    for thread in range(threads):
        language = ("en", "ar", "both")[thread % 3]
        person = f"person{thread}@{draw.choice(('mail.example', 'fish.example', 'boats.example'))}"
        subject = {"en": f"Slipway matter {thread}", "ar": f"بشأن المزلق رقم {thread}"}.get(
            language, f"Permit تصريح {thread}"
        )
        length, has_references = 2 + thread % 8, thread % 7 != 3
        letters, waiting = list[Letter](), list[Letter]()
        for turn in range(length):
            sent = turn % 2 == 1 if thread % 5 else turn % 3 == 2  # every fifth person writes twice in a row
            letter = Letter(next(numbers), thread, DESK if sent else person, _START, "")
            letter.date = _START + datetime.timedelta(days=thread, hours=5 * turn, minutes=draw.randrange(60))
            letter.own = _prose(draw, language, letter.mark)
            kind = QUOTES[(thread + turn) % len(QUOTES)] if letters else ("forwarded" if thread % 6 == 5 else "none")
            _write(letter, letters, kind, language, subject, person, has_references, draw)
            letters.append(letter)
            if sent:
                made.pairs |= {(each.mark, letter.mark) for each in waiting}
            elif waiting and letters[-2].sender == DESK:
                waiting = []
            waiting = [] if not sent and len(letters) > 1 and letters[-2].sender == DESK else waiting
            waiting += [] if sent else [letter]
        for each in reversed(letters):
            if each.sender == DESK:
                break
            each.expected = "left out: not answered"
        made.letters += letters
    made.letters += [_other(next(numbers), threads + n, kind) for n, kind in enumerate([*_OTHERS] * (threads // 15))]
    return made


def _prose(draw: random.Random, language: str, mark: str) -> str:
    if language == "both":
        return (
            f"{_prose(draw, 'en', mark)}\n\n{' '.join(map(draw.choice, _PIECES['ar'][1:5]))} {draw.randrange(10**6)}."
        )
    greeting, *choices, end = _PIECES[language]
    sentences = [
        " ".join(map(draw.choice, choices)) + f" {draw.randrange(10**6)}." for _ in range(draw.randrange(2, 7))
    ]
    body = "\n".join(textwrap.wrap(f"{mark}: " + " ".join(sentences), 76))
    return f"{greeting}\n\n{body}\n\n{end}"


def _write(
    letter: Letter, before: list[Letter], quote: str, language: str, subject: str, person: str, has_references: bool,
    draw: random.Random,
) -> None:  # fmt: skip
    last = before[-1] if before else None
    who = last.sender if last else "harbour-master@elsewhere.example"
    of_head = "ar" if language == "ar" else "en"
    filled = {"who": who, "day": f"{(last or letter).date:%d %B %Y %H:%M}", "subject": subject}
    wrote, head = _WROTE[of_head].format(**filled), _HEAD[of_head].format(**filled)
    quoted = last.text if last else ""
    marked = "\n".join(f"> {line}".rstrip() if line[:1] != ">" else f">{line}" for line in quoted.split("\n"))
    own, kind = letter.own, "plain"
    signed = f"{own}\n\n-- \nDesk 4, {letter.sender}" if letter.number % 3 == 0 else own
    text = own
    if quote == "forwarded":
        text = letter.own = f"{own}\n\n{_FORWARDED[of_head]}\n{head}\n{_prose(draw, language, 'forwarded')}"
    elif quote == "top":
        text = f"{signed}\n\n{wrote}\n{marked}"
    elif quote == "bottom":
        text = f"{wrote}\n{marked}\n\n{signed}"
    elif quote == "inline":
        first, _, second = marked.partition("\n")
        text = f"{wrote}\n{first}\n{second}\n\n{own}\n"
    elif quote == "outlook":
        text = f"{signed}\n\n________________________________\n{head}\n{quoted}"
    elif quote == "unmarked":
        text = f"{signed}\n\n{wrote}\n\n{quoted}"
    letter.text = text
    if "html" in quote:
        kind = "html"
        rows = "".join(f"<div>{html.escape(line) or '<br>'}</div>\n" for line in own.split("\n"))
        inner = "".join(f"<p>{html.escape(line)}</p>" for line in quoted.split("\n"))
        if quote == "html":
            inner = f"<div class=q><div>{html.escape(wrote)}<br></div><blockquote>{inner}</blockquote></div>"
            letter.text = f"{own}\n\n{wrote}\n{marked}"
        else:
            inner = f"<div style='border-top:solid'>{html.escape(head).replace(chr(10), '<br>')}</div>{inner}"
            letter.text = f"{own}\n\n{head}\n{quoted}"
        text = f"<html><head><style>p{{margin:0}}</style></head><body>{rows}{inner}</body></html>"
    charset, stated, transfer = ENCODINGS[letter.number % len(ENCODINGS)]
    try:
        text.encode(charset)
    except UnicodeEncodeError:
        charset, stated = "utf-8", "utf-8"
    headers = {
        "From": f"Someone <{letter.sender}>",
        "To": person if letter.sender == DESK else f"Desk <{DESK}>",
        "Subject": Header(("رد: " if language == "ar" else "Re: ") * bool(before) + subject, "utf-8").encode(),
        "Date": email.utils.format_datetime(letter.date),
        "Message-ID": f"<{letter.id}>",
        "MIME-Version": "1.0",
        "Content-Type": f"text/{kind}" + (f"; charset={stated}" if stated else ""),
        "Content-Transfer-Encoding": transfer,
    }
    if last and has_references:
        headers["In-Reply-To"] = f"<{last.id}>"
        headers["References"] = "\r\n ".join(f"<{each.id}>" for each in before)
    data = text.encode(charset)
    if transfer == "base64":
        data = base64.encodebytes(data)
    elif transfer == "quoted-printable":
        data = quopri.encodestring(data)
    letter.raw = "".join(f"{name}: {value}\n" for name, value in headers.items()).encode() + b"\n" + data


def _other(number: int, thread: int, kind: str) -> Letter:
    letter = Letter(number, thread, f"other{thread}@mail.example", _START, "")
    headers = f"From: {letter.sender}\nTo: {DESK}\nSubject: Notice {thread}\nMessage-ID: <{letter.id}>\n"
    letter.raw = f"{headers}Date: Mon, 1 Jan 2024 10:00:00 +0400\n{_OTHERS[kind]}\nA{letter.mark}\n".encode()
    letter.expected = kind if kind.startswith("quarantined") else f"left out: {kind}"
    return letter


def in_mbox(raw: bytes) -> bytes:
    """Return a message as it stands in an mbox."""
    body = b"\n".join(b">" + line if line.startswith(b"From ") else line for line in raw.split(b"\n"))
    return b"From someone@post.example Mon Feb  5 08:30:00 2024\n" + body + b"\n\n"


def write(box: Mailbox, folder: Path) -> dict[str, Letter]:
    """Write the messages as .eml, mbox and Maildir, a third each. Return each message by its name in the source."""
    for each in ("inbox", "maildir/cur", "maildir/new", "maildir/tmp"):
        (folder / each).mkdir(parents=True)
    paths, archived = dict[str, Letter](), 0
    with (folder / "archive.mbox").open("wb") as archive:
        for letter in box.letters:
            if letter.number % 3 == 0:
                path = folder / "inbox" / f"{letter.number:05d}.eml"
            elif letter.number % 3 == 1:
                path = folder / "maildir" / "cur" / f"{letter.number:05d}.M1.host:2,S"
            else:
                archive.write(in_mbox(letter.raw))
                archived += 1
                paths[f"archive.mbox#{archived}"] = letter
                continue
            path.write_bytes(letter.raw)
            paths[path.relative_to(folder).as_posix()] = letter
    for letter in box.letters[:12]:  # the same message in a second mailbox
        (folder / "maildir" / "new" / f"copy{letter.number}").write_bytes(b"X-Seen: 1\n" + letter.raw)
        box.copies += 1
    return paths
