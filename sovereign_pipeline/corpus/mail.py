"""Read the messages of .eml, mbox, Maildir and Outlook .msg files."""

import base64
import codecs
import datetime
import email
import email.errors
import email.utils
import hashlib
import html
import importlib
import io
import itertools
import json
import os
import re
import select
import signal
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from email.header import decode_header
from email.message import Message
from email.policy import compat32
from pathlib import PurePosixPath
from typing import IO, Any

from sovereign_pipeline.corpus.office_files import DOCUMENTS, parse_document
from sovereign_pipeline.corpus.parsing import SECONDS, Parser, Unreadable, parsed, restart_by, restart_limits

LARGEST_MESSAGE = 64 << 20
LARGEST_HEADERS = 256 << 10
LONGEST_TEXT = 500_000
DEEPEST = 50
MOST_ATTACHMENTS = 500
DEEPEST_MESSAGE = 2
"""Maximum nesting depth of attached messages: attachments of a more deeply nested message are not read."""
_LONGEST_SUBJECT = 4_000
_MOST_REFERENCES = 200
_OUTLOOK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OTHER_FORMATS = {
    b"!BDN": "an Outlook archive: export its messages as .msg or mbox",
    b"\x1f\x8b": "compressed: unpack it",
    b"PK\x03\x04": "compressed: unpack it",
}


@dataclass(frozen=True)
class Mail:
    """A message, in plain text."""

    id: str
    """Message-ID without brackets, or the digest of the message's bytes."""
    references: tuple[str, ...]
    """Ids of earlier messages. The last one is the message that this message answers."""
    date: datetime.datetime
    sender: str
    """Address in lower case."""
    recipients: tuple[str, ...]
    subject: str
    text: str
    markings: tuple[str, ...] = ()
    """Values of the headers that state a classification."""
    aside: tuple[str, ...] = ()
    """Texts that may state a classification: the names of attachments, and short lines of alternatives (such as HTML)
    that are not used as the message's text."""
    is_doubted: bool = False
    """True if a mail server found that the message does not come from the sender's domain (DMARC, RFC 7489)."""
    left_out: str | None = None
    """Kind of a message that is no correspondence, such as `a bounce`; None for correspondence."""
    name: str = ""
    """Path of the message's file within the source. For an mbox, the message's number follows: `archive.mbox#17`."""

    @staticmethod
    def of_item(name: str, item: Mapping[str, Any]) -> "Mail":
        """Build a message from an object that `parse_mail` yielded."""
        lists = {key: tuple(value) for key, value in item.items() if isinstance(value, list)}
        return Mail(**{**item, **lists, "date": datetime.datetime.fromisoformat(item["date"]), "name": name})


def parse_mail(
    stream: IO[bytes],
    suffix: str,
    skip: int = 0,
    attachments: str = "leave_out",
    unread: str | None = None,
    **of_documents: Any,
) -> Iterator[dict[str, Any]]:
    """Yield every message of a file as a JSON object, or `{"broken": reason}` for a message that cannot be read. If the
    message has attachments, the object lists them under the key `attachments`.

    Args:
        skip: number of messages to skip at the beginning of the file.
        attachments: `read` or `leave_out`.
        unread: reason for which every message is reported as broken without being read; None to read the messages.
        of_documents: options of `parse_document`, which reads the attachments.
    """
    begin = stream.read(len(_OUTLOOK))
    stream.seek(0)
    is_mbox = begin.startswith(b"From ")
    every = _messages_in_mbox(stream) if is_mbox else iter([stream.read(LARGEST_MESSAGE + 1)])
    for data in itertools.islice(every, skip, None):
        if unread is not None:
            yield {"broken": unread}
            continue
        message, parts = _item(data)
        is_read = attachments == "read" and message.get("left_out") in (None, WITHOUT_TEXT)
        reason = "an attachment" if attachments != "read" else "its message is left out"
        found = _attached(parts, of_documents) if is_read else (_left_out(part, reason) for part in parts)
        yield {**message, **({"attachments": [*found]} if parts else {})}


# Python's mailbox.mbox is not used: it splits at every line that begins with "From ", even at an unescaped one in a
# text, and loads a message whole, regardless of its size.
_ENVELOPE = re.compile(rb"From \S+ .*\d\d:\d\d.*\d{4}")
_USUAL_ENVELOPE = re.compile(
    rb"From \S+ +(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? .*(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec).*\d\d:\d\d"
)
_FIELD = re.compile(rb">?[!-9;-~]+[ \t]*:")


def _messages_in_mbox(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the bytes of each message, truncated after about LARGEST_MESSAGE bytes.

    A message begins at an envelope line (`From …`) that meets at least two of three conditions: the previous line is
    blank, the next line is a header field, and the envelope has the usual form with weekday and month. Not all three
    are required, because some programs write no blank line. One is not enough, because a line of text may meet it.
    """
    lines, size, is_blank, begun = list[bytes](), 0, True, False
    line = stream.readline(1 << 20)
    while line:
        following = stream.readline(1 << 20)
        is_above_field = _FIELD.match(following) is not None
        if _ENVELOPE.match(line) and (is_blank + is_above_field + (_USUAL_ENVELOPE.match(line) is not None)) > 1:
            if begun:
                yield b"".join(lines)
            lines, size, begun = [], 0, True
        else:
            kept = line[1:] if re.match(rb">+From ", line) else line
            size += len(kept)
            if size - len(kept) <= LARGEST_MESSAGE:
                lines.append(kept)
        is_blank = not line.strip()
        line = following
    yield b"".join(lines)


def _item(data: bytes) -> tuple[dict[str, Any], list["Message[str, str]"]]:
    """Return a message as JSON, and its attachments."""
    try:
        found, attachments = _mail(data)
        return {**asdict(found), "date": found.date.isoformat()}, attachments
    except Unreadable as error:
        reason = str(error)
    except RecursionError:
        reason = "parts nested too deep"
    except Exception as error:  # parsers raise errors of many classes, and their messages may quote the file
        reason = f"no readable message ({type(error).__name__})"
    return {"broken": reason}, []


WITHOUT_TEXT = "without text"


def _mail(data: bytes) -> tuple[Mail, list["Message[str, str]"]]:
    if len(data) > LARGEST_MESSAGE:
        raise Unreadable(f"larger than {LARGEST_MESSAGE >> 20} MiB")
    kind = None
    if data.startswith(_OUTLOOK):
        message, kind = _outlook(data)
    elif len(data) > LARGEST_HEADERS and not re.search(rb"\r?\n\r?\n", data[:LARGEST_HEADERS]):
        raise Unreadable(f"headers longer than {LARGEST_HEADERS >> 10} kB")
    elif (other := next((name for begin, name in _OTHER_FORMATS.items() if data.startswith(begin)), None)) is not None:
        raise Unreadable(other)
    else:
        message = email.message_from_bytes(data, policy=compat32)
    headers = _Headers(message)
    sender = headers.sender()
    body = _Body()
    kind = kind or _kind(headers, sender, message.get_content_type())
    try:
        body.read(message, is_chosen=kind is None)
    except Unreadable:
        if kind is None:
            raise
    text = _tidy("\n\n".join(body.texts))
    kind = kind or ("a calendar entry" if body.has_calendar else None if text else WITHOUT_TEXT)
    ids = headers.ids("message-id")
    answered = headers.ids("in-reply-to")
    earlier = [each for each in headers.ids("references") if each not in answered[:1]] + answered[:1]
    found = Mail(
        id=ids[0] if ids else hashlib.sha256(data).hexdigest(),
        references=tuple(dict.fromkeys(earlier[-_MOST_REFERENCES:])),
        date=headers.date(),
        sender=sender,
        recipients=tuple(dict.fromkeys(headers.addresses("to", "cc", "bcc"))),
        subject=headers.text("subject"),
        text=text,
        markings=headers.markings(),
        aside=(*map(_name_of, body.attachments), *_short_lines(body.alternatives, text)),
        is_doubted=re.search(r"\bdmarc\s*=\s*fail\b", headers.raw("authentication-results").lower()) is not None,
        left_out=kind,
    )
    return found, body.attachments


_DELETED_IN_MOZILLA = 0x0008
_ID = re.compile(r"<([^<>\s]{1,500})>")
_MARKING = re.compile(
    r"(?:x-(?!ms-exchange|microsoft|.*spam)(?:.*-)?)?(?:classification|(?:protective|security)-(?:marking|label))"
    r"|sio-label"  # RFC 7444
)
_LABEL_NAME = re.compile(r"_Name=([^;]+)")
_LAST_ADDRESS = re.compile(r"[^<>()]*<\s*([^<>\s,;:]+@[^<>\s,;:]+)\s*>")


class _Headers:
    """Decodes the headers of a message. The modern policy of the `email` package would take 30 times as long for a
    header with 800 addresses."""

    def __init__(self, message: "Message[str, str]") -> None:
        self._values: Mapping[str, list[str]] = defaultdict(list)
        for name, value in message.raw_items():
            self._values[name.lower()].append(str(value))
        self._charset = message.get_content_charset()

    def raw(self, *names: str) -> str:
        return ", ".join(value for name in names for value in self._values.get(name, ()))[:LARGEST_HEADERS]

    def text(self, name: str) -> str:
        """Return a header as text on one line, with encoded words (RFC 2047) and bytes above 127 decoded."""
        return _on_one_line(self.raw(name), self._charset)

    def ids(self, name: str) -> list[str]:
        value = self.raw(name)
        return _ID.findall(value) or ([value.strip()] if re.fullmatch(r"\s*[^\s<>]+@[^\s<>]+\s*", value) else [])

    def addresses(self, *names: str) -> list[str]:
        value = re.sub(r"\s+", " ", self.raw(*names))
        return [each.lower() for _, each in email.utils.getaddresses([value]) if "@" in each]

    def sender(self) -> str:
        """Return the address in the header From. Raises Unreadable if the header has no address, or several, because
        the first of several may be forged."""
        written = re.sub(r'"(?:[^"\\]|\\.)*"', "", self.raw("from"))
        found = {*self.addresses("from")}
        # The display name may be an address, too, without quotation marks.
        if len(found) > 1 and "," not in written and (only := _LAST_ADDRESS.fullmatch(written.strip())):
            return only[1].lower()
        if len(found) > 1:
            raise Unreadable("several addresses under From")
        if not found:
            raise Unreadable("no address under From")
        return found.pop()

    def date(self) -> datetime.datetime:
        """Return the date in the header Date. If this header has no valid date, return the date at which the first
        server received the message. A date without a time zone counts as UTC."""
        for value in (self.raw("date"), *(each.rpartition(";")[2] for each in reversed(self._values["received"]))):
            try:
                date = email.utils.parsedate_to_datetime(value.strip())
                date.astimezone(datetime.UTC)  # raises for the first and the last day of the calendar
            except (ValueError, TypeError, IndexError, OverflowError):
                continue
            return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
        raise Unreadable("no readable date")

    def markings(self) -> tuple[str, ...]:
        found = [self.text(name)[:400] for name in self._values if _MARKING.fullmatch(name)]
        found += _LABEL_NAME.findall(self.text("msip_labels"))
        found += [value for value in (self.text("sensitivity"),) if value.casefold() not in ("", "normal", *_PRIVATE)]
        return tuple(found)


def _on_one_line(header: str, charset: str | None) -> str:
    value = _decoded(header[:_LONGEST_SUBJECT].encode(errors="surrogateescape"), charset)
    try:
        pieces = decode_header(re.sub(r"\r?\n(?=[ \t])", "", value))
    except email.errors.HeaderParseError:
        pieces = [(value, None)]
    # The email package returns the text around encoded words as bytes, in Python's encoding raw-unicode-escape.
    text = "".join(
        piece if isinstance(piece, str) else _decoded(piece, charset) if charset else piece.decode("raw-unicode-escape")
        for piece, charset in pieces
    )
    return " ".join("".join(c if unicodedata.category(c) != "Cc" else " " for c in text).split())


_PRIVATE = ("personal", "private")
_AUTOMATIC_SUBJECT = re.compile(
    r"\s*(?:auto(?:matic)?[- ]?(?:reply|response)|out of (?:the )?office|رد تلقائي|الرد التلقائي|خارج المكتب)\b",
    re.IGNORECASE,
)


def _kind(headers: _Headers, sender: str, content_type: str) -> str | None:
    """Return the kind of a message, such as `a bounce`, if the headers show that the message is not correspondence.
    Otherwise return None."""
    state = headers.raw("x-mozilla-status").strip()
    if headers.raw("x-unsent").strip() == "1" or (
        re.fullmatch("[0-9a-fA-F]{4}", state) and int(state, 16) & _DELETED_IN_MOZILLA
    ):
        return "a draft, or deleted"
    precedence = headers.raw("precedence").strip().lower()
    submitted = headers.raw("auto-submitted").strip().lower()
    if content_type == "multipart/report" or sender.startswith(("mailer-daemon@", "postmaster@")):
        return "a bounce"
    if submitted not in ("", "no") or precedence in ("auto_reply", "auto-reply"):
        return "an automatic reply"
    if headers.raw("x-autoreply", "x-autorespond", "x-autoresponder") or _AUTOMATIC_SUBJECT.match(
        headers.text("subject")
    ):
        return "an automatic reply"
    if headers.raw("return-path").strip() == "<>":
        return "a bounce"
    if headers.raw("list-unsubscribe") and (precedence in ("bulk", "junk") or headers.raw("list-unsubscribe-post")):
        return "a newsletter"
    return "private" if headers.raw("sensitivity").strip().lower() in _PRIVATE else None


_DAMAGE: Mapping[type[email.errors.MessageDefect], str] = {
    email.errors.NoBoundaryInMultipartDefect: "a multipart without a boundary",
    email.errors.StartBoundaryNotFoundDefect: "a multipart whose parts are missing",
    email.errors.CloseBoundaryNotFoundDefect: "cut off: a multipart without its end",
    email.errors.InvalidBase64CharactersDefect: "base64 that cannot be decoded",
    email.errors.InvalidBase64LengthDefect: "base64 that cannot be decoded",
}
_ENCRYPTED = ("multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime")


@dataclass
class _Body:
    texts: list[str] = field(default_factory=list)
    alternatives: list[str] = field(default_factory=list)
    """Texts and HTML of alternatives that are not used as text."""
    attachments: list["Message[str, str]"] = field(default_factory=list)
    has_calendar: bool = False

    def read(self, part: "Message[str, str]", depth: int = 0, *, is_chosen: bool = True) -> None:
        """Read a part of the message. From alternative parts, only the first plain text that is not blank is used, or
        else the HTML. From any other multipart, all texts are used. `is_chosen`: False if this part is an alternative
        that is not used."""
        kind = part.get_content_type()
        if depth > DEEPEST:
            raise Unreadable("parts nested too deep")
        if kind in _ENCRYPTED:
            is_signed = str(part.get_param("smime-type", "")).lower() == "signed-data"
            raise Unreadable("signed as a whole: its text is in no part that is read" if is_signed else "encrypted")
        _refuse_damage(part)
        if kind.startswith("multipart/"):
            self._read_parts(kind, part, depth, is_chosen)
        elif part.get_content_disposition() == "attachment" or part.get_filename() or not kind.startswith("text/"):
            self.attachments.append(part)
            if len(self.attachments) > MOST_ATTACHMENTS:
                raise Unreadable(f"more than {MOST_ATTACHMENTS} attachments")
        elif kind == "text/calendar":
            self.has_calendar = True
        elif is_chosen:
            text = _text_of(part, kind)
            self.texts += [text] if text.strip() else []
        elif isinstance(data := part.get_payload(decode=True), bytes):
            self.alternatives.append(_decoded(data[:LONGEST_TEXT], part.get_content_charset()))

    def _read_parts(self, kind: str, part: "Message[str, str]", depth: int, is_chosen: bool) -> None:
        if not part.is_multipart():
            raise Unreadable("a multipart without parts")
        parts: list[Message[str, str]] = part.get_payload()  # type: ignore[assignment]
        is_alternative, before = kind == "multipart/alternative", len(self.texts)
        if is_alternative:
            parts = sorted(parts, key=lambda each: each.get_content_type() != "text/plain")
        for each in parts:
            self.read(each, depth + 1, is_chosen=is_chosen and not (is_alternative and len(self.texts) > before))


_BETWEEN_TEXTS = re.compile(r"<[^<>]*>|\n")
_LONGEST_ASIDE, _MOST_ASIDE = 80, 50


def _short_lines(alternatives: Iterable[str], text: str) -> Iterator[str]:
    """Yield the short pieces of text in the unused alternatives: lines, and texts between HTML tags. Omit a piece that
    is a line of the message's text."""
    pieces = (html.unescape(" ".join(each.split())) for whole in alternatives for each in _BETWEEN_TEXTS.split(whole))
    lines = {" ".join(line.split()) for line in text.split("\n")}
    found = (each for each in dict.fromkeys(pieces) if 0 < len(each) <= _LONGEST_ASIDE and each not in lines)
    yield from itertools.islice(found, _MOST_ASIDE)


def _refuse_damage(part: "Message[str, str]") -> None:
    for defect in part.defects:
        if (reason := _DAMAGE.get(type(defect))) is not None:
            raise Unreadable(reason)


def _text_of(part: "Message[str, str]", kind: str) -> str:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    _refuse_damage(part)
    text = _decoded(data, part.get_content_charset()).replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise Unreadable("a text with NUL characters")
    if "-----BEGIN PGP MESSAGE-----" in text:
        raise Unreadable("encrypted")
    if len(text) > LONGEST_TEXT:
        raise Unreadable(f"a text longer than {LONGEST_TEXT:,} characters")
    if kind == "text/html":
        return text_of_html(text)
    is_flowed = str(part.get_param("format", "")).lower() == "flowed"
    return _unflowed(text, str(part.get_param("delsp", "")).lower() == "yes") if is_flowed else text


_MESSAGES = (".eml", ".msg")
_TEXTS = (".txt", ".md", ".markdown", ".html", ".htm")
_SUFFIX_OF = {
    "application/pdf": ".pdf",
    "application/rtf": ".rtf",
    "application/vnd.oasis.opendocument.text": ".odt",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/vnd.ms-outlook": ".msg",
    "message/rfc822": ".eml",
    "text/rtf": ".rtf",
}
_SUFFIX_OF_TEXT = {"text/plain": ".txt", "text/html": ".html", "text/markdown": ".md"}
_SUFFIX = re.compile(r"\.(?=[0-9]*[a-z])[a-z0-9]{1,8}")


def _attached(
    parts: Iterable["Message[str, str]"], options: Mapping[str, Any], depth: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield an object for each attachment of a message, with `attachment` (the file's suffix), `sha256` and `stem` (the
    file's name without suffix). The object also has the fields of the parsed document, or `left_out`, or `broken`.

    The object of an attached message has `id` and `markings`, too, and the objects of its own attachments follow. Each
    document is parsed in a separate process: if it crashes the parser, the rest of the message is still read.
    """
    for library in _LIBRARIES:
        importlib.import_module(library)
    seconds = signal.getitimer(signal.ITIMER_PROF)[0] or float(SECONDS)
    for part in parts:
        item, content = _file_of(part)
        suffix = item["attachment"]
        if "broken" in item:
            yield item
        elif suffix in _TEXTS and not content.removeprefix(codecs.BOM_UTF8).strip():
            yield {**item, "left_out": WITHOUT_TEXT}
        elif suffix not in (*DOCUMENTS, *_MESSAGES):
            is_picture = part.get_content_maintype() == "image"
            yield {**item, "left_out": "a picture" if is_picture else "a kind of file that is not read"}
        elif suffix in _MESSAGES and depth == DEEPEST_MESSAGE:
            yield {**item, "broken": "messages nested too deep"}
        else:
            parse, own = (_parse_attached, {"depth": depth + 1}) if suffix in _MESSAGES else (parse_document, {})
            (first, *others), used = _apart(parse, content, suffix, {**options, **own}, seconds)
            seconds = max(0.0, seconds - used)
            if suffix in _TEXTS and first.get("broken") == "holds no text":
                first = {"left_out": WITHOUT_TEXT}
            elif len(first.get("text", "")) > LONGEST_TEXT:
                first = {"broken": f"a text longer than {LONGEST_TEXT:,} characters"}
            yield {**item, **first}
            yield from others


_LIBRARIES = (
    "bs4",
    "lxml.etree",
    "pdfminer.converter",
    "pdfminer.pdfdocument",
    "pdfminer.pdfpage",
    "striprtf.striprtf",
)
"""Modules that are imported before the process forks, so that each child process need not import them."""


def _left_out(part: "Message[str, str]", reason: str) -> dict[str, Any]:
    item = _file_of(part)[0]
    return {"attachment": item["attachment"], "sha256": item["sha256"], "left_out": reason}


def _file_of(part: "Message[str, str]") -> tuple[dict[str, Any], bytes]:
    """Return two values: a dict with the suffix, digest and stem of an attachment, and the attachment's content. The
    dict has the key `broken` if the content cannot be decoded."""
    name, content, reason = _name_of(part), b"", ""
    suffix = _suffix_of(name, part.get_content_type())
    digest = hashlib.sha256()
    try:
        content = _content_of(part)
        digest.update(content)
        _refuse_damage(part)
        charset, is_html = part.get_content_charset(), suffix.startswith(".htm")
        if suffix in _TEXTS and not is_html and not content.startswith(_BOMS):
            content = _decoded(content, charset).encode()
        elif is_html and charset and content.lstrip().startswith(b"<"):  # a byte order mark overrides the charset
            content = codecs.BOM_UTF8 + _decoded(content, charset).encode()
    except Unreadable as error:
        reason = str(error)
    except Exception as error:  # as in `_item`
        reason = f"damaged ({type(error).__name__})"
    item = {"attachment": suffix, "sha256": digest.hexdigest(), "stem": PurePosixPath(name).stem}
    return ({**item, "broken": reason} if reason else item), content


_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _name_of(part: "Message[str, str]") -> str:
    try:
        return _on_one_line((part.get_filename() or "")[-_LONGEST_SUBJECT:], None)  # the end has the suffix
    except Exception:  # raised by the `email` package for odd parameters; a name decides only the format
        return ""


def _content_of(part: "Message[str, str]") -> bytes:
    content = part.get_payload(decode=True)
    if isinstance(content, bytes):
        return content
    if not part.is_multipart():
        return b""
    parts: list[Message[str, str]] = part.get_payload()  # type: ignore[assignment]  # a message, or a report about one
    return b"\n".join(each.as_bytes(policy=compat32.clone(mangle_from_=False)) for each in parts)


def _suffix_of(name: str, kind: str) -> str:
    """Return the suffix of a file's name if a parser reads files with this suffix. Otherwise return the suffix for the
    media type `kind`, or the suffix of the name if the media type is unknown."""
    suffix = PurePosixPath(name).suffix.lower()
    suffix = suffix if _SUFFIX.fullmatch(suffix) else ""
    if suffix in (*DOCUMENTS, *_MESSAGES):
        return suffix
    by_kind = _SUFFIX_OF.get(kind) or (_SUFFIX_OF_TEXT.get(kind) if not suffix else None)
    subtype = f".{kind.partition('/')[2]}"
    return by_kind or suffix or (subtype if _SUFFIX.fullmatch(subtype) else "")


def _parse_attached(stream: IO[bytes], suffix: str, depth: int, **options: Any) -> Iterator[dict[str, Any]]:
    """Yield an attached message in the form of a document, and then the attachments of that message."""
    message, parts = _item(stream.read())
    if "broken" in message:
        yield message
        return
    is_read = message["left_out"] in (None, WITHOUT_TEXT)
    if message["left_out"] is not None:
        yield {"left_out": message["left_out"]}
    else:
        kept = {name: message[name] for name in ("id", "text", "markings", "aside")}
        yield {**kept, "margins": [message["subject"]], "properties": {}}
    reason = "its message is left out"
    yield from _attached(parts, options, depth) if is_read else (_left_out(part, reason) for part in parts)


_LARGEST_RESULT = 64 << 20
_ENDED = "ended its parser: damaged, or too much time or memory"


def _apart(
    parse: Parser, content: bytes, suffix: str, options: dict[str, Any], seconds: float
) -> tuple[list[dict[str, Any]], float]:
    """Parse a file in a separate process. Return the objects that the parser yields, and the CPU seconds that the
    process used. The seconds are 0 if the parser restarted its time limit, because each page then has its own limit."""
    if seconds <= 0:
        return [{"broken": f"the attachments of its message take longer than {SECONDS} seconds"}], 0.0
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.close(ours)
            signal.setitimer(signal.ITIMER_PROF, seconds)  # the timer's signal ends the process
            with os.fdopen(theirs, "wb") as stream:

                def restart() -> None:
                    stream.write(b"\n")
                    stream.flush()
                    signal.setitimer(signal.ITIMER_PROF, seconds)

                restart_by(restart)
                stream.write(json.dumps([*parsed(parse, io.BytesIO(content), suffix, options)]).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    pieces, size, until, is_restarted = list[bytes](), 0, time.monotonic() + 2 * SECONDS, False
    with os.fdopen(ours, "rb", buffering=0) as result:
        while size <= _LARGEST_RESULT and select.select([result], [], [], max(0.0, until - time.monotonic()))[0]:
            if not (piece := result.read(1 << 20)):
                break
            pieces.append(piece)
            size += len(piece)
            if piece.isspace():
                restart_limits()
                until, is_restarted = time.monotonic() + 2 * SECONDS, True
    os.kill(child, signal.SIGKILL)
    usage = os.wait4(child, 0)[2]
    try:
        items = json.loads(b"".join(pieces))
    except ValueError:
        items = []
    is_whole = isinstance(items, list) and items and all(isinstance(each, dict) for each in items)
    used = 0.0 if is_restarted else usage.ru_utime + usage.ru_stime
    return items if is_whole else [{"broken": _ENDED}], used


_LATIN = ("iso8859-1", "cp1252")
_NO_LATIN_WORD = re.compile("[\u00c0-\u00ff]{4}")
_NO_CHARSETS = ("idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7")


def _decoded(data: bytes, charset: str | None) -> str:
    """Decode bytes of a message. Many messages state no charset or a wrong one. UTF-8 is tried first, because text in a
    different charset is hardly ever valid UTF-8. Four accented Western letters in a row mean windows-1256."""
    try:
        stated = codecs.lookup(charset or "ascii").name
    except (LookupError, ValueError):
        stated = "ascii"
    if stated.replace("_", "-") in _NO_CHARSETS:
        stated = "ascii"
    # UTF-16 and ISO-2022 texts can be valid UTF-8.
    first = ("utf-8", stated) if stated.startswith(("iso8859", "cp", "ascii", "koi8", "mac")) else (stated, "utf-8")
    for each in (*first, "cp1256"):
        try:
            text = data.decode(each)
        except (LookupError, ValueError):
            continue
        if each not in _LATIN or not _NO_LATIN_WORD.search(text):
            return text
    raise Unreadable("a text that is not valid in any of the tried charsets")


def _unflowed(text: str, is_delsp: bool) -> str:
    """Join the lines of format=flowed (RFC 3676): a line that ends in a space continues in the next line if both have
    the same quote depth."""
    lines, open_depth = list[str](), -1
    for line in text.split("\n"):
        content = line.lstrip(">")
        depth = len(line) - len(content)
        content = content.removeprefix(" ")
        if depth == open_depth:
            lines[-1] += content
        else:
            lines.append(f"{'>' * depth} {content}" if depth else content)
        is_open = content.endswith(" ") and content != "-- "
        if is_open and is_delsp:
            lines[-1] = lines[-1][:-1]
        open_depth = depth if is_open else -1
    return "\n".join(lines)


_BLOCKS = ("div", "li", "tr", "dt", "dd", "address", "article", "section", "header", "footer", "pre")
_PARAGRAPHS = ("p", "blockquote", "table", "ul", "ol", "dl", "hr", "h1", "h2", "h3", "h4", "h5", "h6")
_BLOCK, _PARAGRAPH = "\x1e", "\x1d"
"""Characters that mark the edges of an HTML block: the first for a block without a margin, the second with a margin."""
_EDGES = re.compile(rf"[ \n]*[{_BLOCK}{_PARAGRAPH}][ \n{_BLOCK}{_PARAGRAPH}]*")
_UNSEEN = ("head", "style", "script", "title", "template")
_MOST_QUOTATIONS = 200


def text_of_html(written: str) -> str:
    """Return the visible text of HTML, with `> ` before each line of a quotation."""
    from bs4 import BeautifulSoup
    from bs4.element import NavigableString

    soup = BeautifulSoup(written, "html.parser")
    for unseen in soup.find_all(_UNSEEN):
        unseen.decompose()
    has_lines = soup.find("pre") is not None
    for string in soup.find_all(string=True):
        if type(string) is not NavigableString:  # a comment or a declaration
            string.extract()
        elif not has_lines or string.find_parent("pre") is None:
            string.replace_with(re.sub(r"[ \t\r\n\f\x1d\x1e]+", " ", string))
    for line_break in soup.find_all("br"):
        line_break.replace_with("\n")
    for names, edge in ((_BLOCKS, _BLOCK), (_PARAGRAPHS, _PARAGRAPH)):
        for block in soup.find_all(names):
            block.insert(0, edge)
            block.append(edge)
    # The list has outer quotations before inner ones. Inner ones must be marked first.
    for quoted in reversed(soup.find_all("blockquote")[:_MOST_QUOTATIONS]):
        lines = _laid_out(quoted.get_text()).split("\n")
        quoted.replace_with(
            _PARAGRAPH + "\n".join(f">{line}" if line[:1] == ">" else f"> {line}" for line in lines) + _PARAGRAPH
        )
    return _laid_out(soup.get_text())


def _laid_out(text: str) -> str:
    return "\n".join(line.strip() for line in _EDGES.sub(_line_ends, text).split("\n")).strip()


def _line_ends(edges: re.Match[str]) -> str:
    run = edges.group().replace(" ", "")
    # A line break at the end of a block adds no line.
    breaks = run.count("\n") - run.startswith("\n")
    return "\n" * max(1 + breaks, 2 if _PARAGRAPH in run else 1)


def _tidy(text: str) -> str:
    lines = (line.rstrip() for line in text.replace("\u00a0", " ").replace("\ufeff", "").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


_OUTLOOK_KINDS = {"IPM.Schedule": "a calendar entry", "REPORT.": "a bounce", "IPM.Note.Rules.": "an automatic reply"}
_IDS_IN_OUTLOOK = {"message-id": 0x1035, "in-reply-to": 0x1042, "references": 0x1039}
_SENDER_IN_OUTLOOK = (0x5D01, 0x0C1F, 0x5D02, 0x0065)
_PRIVATE_IN_OUTLOOK = {1: "Personal", 2: "Private", 3: "Company-Confidential"}


def _outlook(data: bytes) -> tuple["Message[str, str]", str | None]:
    """Convert an Outlook message to a message of the `email` package. The second value is the kind of a message that is
    not correspondence, else None. A message received by SMTP has headers; a sent message has Outlook properties
    instead."""
    from oxmsg import Message as OutlookMessage

    return _from_outlook(OutlookMessage.load(data))


def _from_outlook(found: Any) -> tuple["Message[str, str]", str | None]:
    properties, kind = found.properties, found.message_class
    if kind.startswith("IPM.Note.SMIME"):
        raise Unreadable("encrypted")
    message = email.message_from_string(properties.str_prop_value(0x007D) or "", policy=compat32)
    for name in ("content-type", "content-transfer-encoding", "content-disposition"):
        del message[name]
    values = {name: properties.str_prop_value(number) for name, number in _IDS_IN_OUTLOOK.items()}
    values["subject"] = found.subject
    values["from"] = next(
        (each for each in map(properties.str_prop_value, _SENDER_IN_OUTLOOK) if each and "@" in each), ""
    )
    values["to"] = ", ".join(each.email_address for each in found.recipients)
    values["date"] = email.utils.format_datetime(found.sent_date) if found.sent_date else ""
    values["sensitivity"] = _PRIVATE_IN_OUTLOOK.get(properties.int_prop_value(0x0036) or 0, "")
    for name, value in values.items():
        if value and name not in message:
            message[name] = value
    message["content-type"] = "multipart/mixed"
    body = Message(policy=compat32)
    is_html = not (found.body or "").strip()
    body["content-type"] = f"text/{'html' if is_html else 'plain'}; charset=utf-8"
    body.set_payload(((found.html_body if is_html else found.body) or "").encode().decode("ascii", "surrogateescape"))
    message.set_payload([body])
    for attachment in found.attachments:
        part = Message(policy=compat32)
        message.attach(part)
        if (inner := _message_in(attachment)) is not None:
            part["content-type"] = "message/rfc822"
            part.set_payload([_from_outlook(inner)[0]])
            continue
        part["content-type"] = attachment.mime_type or "application/octet-stream"
        name = attachment.file_name or attachment.properties.str_prop_value(0x3704) or ""
        part.add_header("content-disposition", "attachment", filename=name)
        part["content-transfer-encoding"] = "base64"
        part.set_payload(base64.b64encode(attachment.file_bytes or b"").decode())
    return message, next((each for begin, each in _OUTLOOK_KINDS.items() if kind.startswith(begin)), None)


def _message_in(attachment: Any) -> Any:
    """Open an attachment as an Outlook message. Return None if the attachment is not a message. python-oxmsg reads only
    messages in files, whose properties begin at byte 32. The properties of an attached message begin at byte 24
    (MS-OXMSG, section 2.4.1), so this function inserts 8 bytes."""
    from oxmsg import Message as OutlookMessage

    storage = next((each for each in attachment._storage.storages if each.name == "__substg1.0_3701000D"), None)
    if storage is None:
        return None
    streams = (
        replace(each, bytes_=each.bytes_[:24] + bytes(8) + each.bytes_[24:])
        if each.name == "__properties_version1.0"
        else each
        for each in storage.streams
    )
    return OutlookMessage(replace(storage, streams=tuple(streams)))
