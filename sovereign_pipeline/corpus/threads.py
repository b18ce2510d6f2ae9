"""Assemble conversations from mail: find threads, remove quotations of known messages, form turns, set levels, and
yield each message's outcome."""

import datetime
import hashlib
import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from sovereign_pipeline.base.text import COMPARED
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.corpus.languages import is_in_other_script, language_in, other_language
from sovereign_pipeline.corpus.letters import is_copy
from sovereign_pipeline.corpus.mail import WITHOUT_TEXT, Mail
from sovereign_pipeline.corpus.markings import Markings
from sovereign_pipeline.corpus.office_files import DOCUMENTS
from sovereign_pipeline.corpus.parsing import Outcome, Unit, Units
from sovereign_pipeline.policy.corpus import Source
from sovereign_pipeline.policy.institution import ClassificationLadder

_WORD = re.compile(r"\w+")
_RUN = 5
"""Number of consecutive words by which a known text is recognised."""
_LEAST_UNMARKED = 12
"""Minimum number of words for treating a paragraph without `>` as a quotation."""
_MOSTLY = 0.8
"""Minimum share of a quotation's words that must come from known messages. The share is below 1, because a mail gateway
may have added banners and links."""
_SIGNATURE = re.compile(
    r"^[ \t]*(?:--[ \t]*|(?:sent from (?:my|outlook|yahoo|mail)|get outlook for|أُ?رسلت من|تم الإرسال من)[^\n]{0,60})$",
    re.IGNORECASE,
)
"""Pattern of the line that precedes a signature (RFC 3676, section 4.3), and of lines that phones add."""


class KnownMessages:
    """Remembers the words of a conversation's earlier messages."""

    def __init__(self) -> None:
        self._runs: dict[bool, set[int]] = {True: set(), False: set()}
        self._lines = set[str]()

    def add(self, text: str, *, is_ours: bool) -> None:
        words = _words(text)
        self._runs[is_ours].update(map(hash, _runs(words)))
        self._lines.update(" ".join(_words(line)) for line in text.split("\n"))

    def coverage(self, lines: list[str], sides: Iterable[bool] = (True, False)) -> list[tuple[int, int]]:
        """Return two numbers for each line: the number of known words, and the number of all words. A word is known if
        it is in a run of `_RUN` words that a known message contains; a run may span lines. If the lines together have
        fewer than `_RUN` words, these words are known if together they equal a known line. `sides`: whose messages
        count (True: ours; False: the correspondent's)."""
        counts = [_words(line) for line in lines]
        words = [word for line in counts for word in line]
        known = [len(words) < _RUN and " ".join(words) in self._lines] * len(words)
        for start, run in enumerate(map(hash, _runs(words))):
            if any(run in self._runs[side] for side in sides):
                known[start : start + _RUN] = [True] * _RUN
        place, found = 0, list[tuple[int, int]]()
        for line in counts:
            found.append((sum(known[place : place + len(line)]), len(line)))
            place += len(line)
        return found


def own_text(text: str, known: KnownMessages, *, is_ours: bool) -> str:
    """Return a message's text without its signature and without quotations of known messages. Quotations of unknown
    messages stay in the text, with their header lines.

    After a header line such as `On 4 May 2024, A wrote:`, the quotation may be with or without `>`, and an answer may
    follow it. A paragraph that repeats the other side's words also counts as a quotation.
    """
    parts = [*_parts(text)]
    is_on_top = any(kind == "own" and any(line.strip() for line in lines) for kind, lines in parts)
    kept, is_removed = list[str](), True  # the last line first
    for kind, lines in reversed(parts):
        rest = lines
        if kind == "head":
            rest = ["\n"] if is_removed else lines
        elif any(line.strip() for line in lines):
            if kind == "own":
                rest = _without_unmarked(_without_signature(lines), known, is_ours)
            else:
                rest = _without_quotation(lines, known, is_whole=kind == "marked" or (kind == "behind" and is_on_top))
                rest = _without_signature(rest) if kind == "below" or rest != lines else rest
            is_removed = kind != "own" and rest != lines
        kept += reversed(rest)
    return re.sub(r"\n{3,}", "\n\n", "".join(reversed(kept))).strip()


_Kind = Literal["own", "marked", "behind", "below", "head"]


def _parts(text: str) -> Iterator[tuple[_Kind, list[str]]]:
    """Yield each part of a text with its kind.

    `head`: header line of a quotation. `marked`: lines that begin with `>`. `behind`: lines without `>` directly after
    a header line. `below`: lines without `>` that follow `marked` lines after a header line; they are an answer or the
    rest of a nested quotation. `own`: all other lines.
    """
    place = 0
    unmarked: _Kind = "own"
    for head in (*QUOTE_HEAD.finditer(text), None):
        piece = text[place : head.start() if head else len(text)]
        kinds = list[bool]()
        for line in (lines := piece.splitlines(keepends=True)):
            is_blank = not line.strip() and bool(kinds)
            kinds.append(kinds[-1] if is_blank else QUOTE_MARK.match(line) is not None)
        for is_marked, run in groupby(zip(kinds, lines, strict=True), lambda each: each[0]):
            yield "marked" if is_marked else unmarked, [line for _, line in run]
            if is_marked and unmarked == "behind":
                unmarked = "below"
        if head:
            yield "head", [head.group()]
            place, unmarked = head.end(), "behind"


def _without_quotation(lines: list[str], known: KnownMessages, *, is_whole: bool) -> list[str]:
    """Return the lines without quotations of known messages. If `is_whole` is true, the lines are one quotation: either
    all or none are removed. Otherwise known lines are removed up to the answer. Short known lines stay, because an
    answer may begin with a known greeting."""
    counts = known.coverage(lines)
    if is_whole:
        found, of = (sum(column) for column in zip(*counts, strict=True))
        return ["\n"] if found and found >= _MOSTLY * of else lines
    end = next((number for number, (found, of) in enumerate(counts) if found < of), len(lines))
    return ["\n", *lines[end:]] if sum(of for _, of in counts[:end]) >= _LEAST_UNMARKED else lines


def _without_unmarked(lines: list[str], known: KnownMessages, is_ours: bool) -> list[str]:
    kept = list[str]()
    for _, paragraph in groupby(lines, lambda line: bool(line.strip())):
        every = list(paragraph)
        counts = known.coverage(every, (not is_ours,))
        if not sum(of for _, of in counts) >= _LEAST_UNMARKED or any(found < of for found, of in counts):
            kept += every
    return kept


def _without_signature(lines: list[str]) -> list[str]:
    end = next((number for number, line in enumerate(lines) if _SIGNATURE.match(line.rstrip("\n"))), len(lines))
    return lines[:end]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.translate(COMPARED).casefold())


def _runs(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(_RUN)), strict=False)


def _spaced(phrases: str) -> str:
    """Return the phrases with escaped spaces, because a verbose regular expression ignores plain spaces."""
    return phrases.replace(" ", r"[ ]")


QUOTE_MARK = re.compile(r"^[ \t]*((?:>[ \t]?)+)", re.MULTILINE)
_FORWARDED = _spaced(
    r"original message|forwarded message|begin forwarded message|forwarded by|"
    r"الرسالة الأصلية|رسالة أصلية|النص الأصلي|الرسالة المعاد توجيهها|رسالة معاد توجيهها|رسالة مُعاد توجيهها|"
    r"رسالة محولة|رسالة مُحوّلة|الرسالة المحولة|بدء الرسالة"
)
_LABEL = _spaced(
    r"(?:from|sent|date|to|cc|subject|"
    r"من|المرسل|أرسلت|أُرسلت|أرسل|تاريخ الإرسال|تم الإرسال|التاريخ|إلى|الى|المرسل إليه|نسخة|نسخة إلى|الموضوع)"
)
QUOTE_HEAD = re.compile(
    rf"""
      (?<![-_=*]) [-_=*]{{3,}} [ \t]* (?:{_FORWARDED}) [^\n]*        # -----Original Message-----
    | ^ [ \t]* (?:{_FORWARDED}) [^\n]{{0,80}} : [ \t]* $              # Begin forwarded message:
    | ^ [ \t]* [_-]{{10,}} [ \t]* $                                   # the line that Outlook draws
    | (?: ^ [ \t*>]* {_LABEL} [ \t*]* : [^\n]* \n? ){{2,}}             # From: … / Sent: … / Subject: …
    | \b (?:from|من|المرسل) [ \t]* : [^\n]{{1,120}}?
      \b (?:sent|date|to|أرسلت|أرسل|التاريخ|تاريخ[ ]الإرسال|إلى|الى) [ \t]* : [^\n]{{1,120}}?
      \b (?:subject|الموضوع) [ \t]* :                                 # the same in one line
    | ^ [ \t]* on \b [^\n]{{1,200}} (?: \n [^\n]{{0,200}} )?? \b wrote [ \t]* :   # On 4 May 2024, A wrote:
    | ^ [ \t]* (?:في|بتاريخ|يوم) \b [^\n]{{1,200}} (?: \n [^\n]{{0,200}} )??
      \b كتبت? \b [^\n]{{0,120}} (?: \n [^\n]{{0,80}} )?? :
    | ^ [ \t]* (?:و|وقد[ ]|وكان[ ]قد[ ])? كتبت? \b [^\n]{{1,160}} : [ \t]* $
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


DAYS_BY_SUBJECT = 30
"""Maximum number of days between two messages that no header connects for them to be in one thread."""
ONE_ID = "two messages of its thread have one id"
ONE_SUBJECT = "several threads have its subject and correspondent, and no header names one"
_MOST_OF_SUBJECT = 20
"""Maximum number of threads with the same subject and correspondent with which a message is compared."""
LARGEST_THREAD = 20_000_000
"""Maximum number of characters in the messages and attachments of a thread, which are in memory together."""
_SAME = 0.9
"""Minimum share of common lines for two messages with one id to count as copies. A mail gateway may add lines to a
copy."""


_OTHER_FILES = re.compile(
    r"(?:^|/)(?:\.|dovecot|maildirfolder$|subscriptions$|thumbs\.db$|desktop\.ini$)|\.msf$", re.IGNORECASE
)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UNFINISHED = re.compile(r"(?:^|/)tmp/[^/]+$")
_FLAGS = re.compile(r":2,[A-Z]*[DT][A-Z]*$")
"""Pattern of file names with Maildir's flags for drafts and deleted messages."""


def assemble(source: Source, ladder: ClassificationLadder, units: Units, folder: Path) -> Iterator[Any]:
    """Yield a row for each conversation, and an Outcome for each message that is in no conversation.

    A thread is divided by correspondents. A conversation consists of the messages between the institution and one
    person, or several people who see each other's addresses. It begins with a correspondent's turn: earlier messages of
    the institution are left out. It ends with a turn of the institution: later messages of correspondents are left out.

    The text of an attachment follows the text of its message after a blank line. No announcement precedes it, because a
    model would learn to write the announcement. If an attachment of a turn cannot be read, the conversation is
    quarantined: a model must not learn from a turn whose letter is missing.
    """
    mailbox, is_ours, markings = _Mailbox(units), _Ours(source.ours), Markings(ladder, source.levels)
    for unit, attachments in _with_attachments(units):
        read = [each for each in attachments if "left_out" not in each.item]
        yield from (
            Outcome(each.name, "left out", each.item["left_out"]) for each in attachments if "left_out" in each.item
        )
        if _OTHER_FILES.search(unit.name):
            yield from _for_both(Outcome(unit.name, "left out", "a file of the system"), read)
        elif _UNFINISHED.search(unit.name):
            yield from _for_both(Outcome(unit.name, "left out", "a message that was not delivered"), read)
        elif "broken" in unit.item:
            yield from _for_both(Outcome(unit.name, "quarantined", unit.item["broken"]), read)
        else:
            mail = Mail.of_item(unit.name, unit.item)
            if mail.is_doubted and is_ours(mail.sender):
                yield from _for_both(
                    Outcome(unit.name, "quarantined", "its sender claims to be ours, but DMARC fails"), read
                )
                continue
            first = mailbox.add(mail)
            if first is not None:
                yield Outcome(unit.name, "duplicate", first)
            yield from mailbox.attach(first or unit.name, read)
    for heads in mailbox.threads(is_ours, datetime.timedelta(days=DAYS_BY_SUBJECT)):
        reason, others = mailbox.unclear(heads)
        if not reason and sum(map(mailbox.size_of, heads)) > LARGEST_THREAD:
            reason = f"its thread has more than {LARGEST_THREAD:,} characters"
        if not reason:
            yield from _conversations([*map(mailbox.whole, heads)], mailbox, is_ours, markings)
        for mail in heads if reason else ():
            yield from _for_both(Outcome(mail.name, "quarantined", reason, others), mailbox.attachments_of(mail))


def _with_attachments(units: Iterable[Unit]) -> Iterator[tuple[Unit, list[Unit]]]:
    message, attachments = None, list[Unit]()
    for unit in units:
        if "attachment" in unit.item:
            attachments.append(unit)
            continue
        if message is not None:
            yield message, attachments
        message, attachments = unit, []
    if message is not None:
        yield message, attachments


def _for_both(outcome: Outcome, attachments: Iterable[Unit]) -> Iterator[Outcome]:
    """Yield the outcome of a message that is in no row, and the outcomes of its attachments."""
    yield outcome
    yield from (Outcome(each.name, outcome.kind, f"its message is {outcome.kind}") for each in attachments)


_LIKELY = 0.6
_PROVIDERS = re.compile(r"(?:gmail|googlemail|hotmail|outlook|live|yahoo|icloud|omantel)\.")


def likely_ours(items: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the institution's likely domain: the domain that takes part in most messages, as sender of some and
    recipient of others. If it is a mail provider's domain, return the address instead. Return None if no domain
    qualifies.

    Args:
        items: messages that `parse_mail` yields.
    """
    messages, sent = Counter[str](), Counter[str]()
    total = 0
    for item in items:
        if item["left_out"] is None:
            total += 1
            sent.update(_names_of(item["sender"]))
            messages.update({name for each in (item["sender"], *item["recipients"]) for name in _names_of(each)})
    likely = [name for name, times in messages.items() if times >= _LIKELY * total and 0 < sent[name] < total]
    return min(likely, key=lambda name: (-messages[name], "@" in name, name), default=None)


def _names_of(address: str) -> tuple[str, ...]:
    domain = address.rpartition("@")[2]
    return (address,) if _PROVIDERS.match(domain) else (domain, address)


def _is_copy(mail: Mail, other: Mail) -> bool:
    """Return True if two messages are copies of one message. Copies may have different attachments. Messages with
    different ids to different people are not copies, even with equal texts: permits may have the same covering text."""
    mine, theirs = ({line.strip() for line in each.text.split("\n") if line.strip()} for each in (mail, other))
    if mail.sender != other.sender or bool(mine) != bool(theirs):
        return False
    if mail.id == other.id:
        return len(mine & theirs) >= _SAME * min(len(mine), len(theirs))
    return {*mail.recipients} == {*other.recipients} and mine == theirs  # form letters may differ in one line


class _Ours:
    def __init__(self, ours: Collection[str]) -> None:
        self._known = {each.lower().lstrip("@*.") for each in ours}

    def __call__(self, address: str) -> bool:
        domain = address.rpartition("@")[2]
        parts = domain.split(".")
        return address in self._known or any(".".join(parts[start:]) in self._known for start in range(len(parts)))

    def others(self, mail: Mail) -> set[str]:
        """Return the addresses of a message that are not the institution's."""
        return {each for each in (mail.sender, *mail.recipients) if not self(each)}


class _Groups:
    """Disjoint sets of names (union-find)."""

    def __init__(self, parents: MutableMapping[Any, Any]) -> None:
        self._parents = parents

    def of(self, name: str) -> str:
        root = name
        while (parent := self._parents.get(root, root)) != root:
            root = parent
        while (parent := self._parents.get(name, root)) != root:
            self._parents[name], name = root, parent
        return root

    def join(self, names: Iterable[str]) -> None:
        roots = list(dict.fromkeys(map(self.of, names)))
        for root in roots[1:]:
            self._parents[root] = roots[0]


_ANSWERS = re.compile(
    r"\s*(?:\[[^\]]{1,40}\]\s*)?(?:re|aw|sv|antw|ref|fwd?|wg|tr|رد|الرد|[إا]عادة توجيه|تحويل)\s*(?:\[\d+\])?\s*:\s*",
    re.IGNORECASE,
)


def _base(subject: str) -> str:
    """Return a subject without prefixes such as `Re:`, `Fwd:` and `رد:`."""
    while match := _ANSWERS.match(subject):
        subject = subject[match.end() :]
    return subject.strip()


class _Mailbox:
    """The messages of a source, without copies. A source may have millions of messages, so their texts are read again
    when needed, and all other data is on disk."""

    def __init__(self, units: Units) -> None:
        self._units = units
        self._dates = array("q")
        """Microseconds since 1970 of each message."""
        self._heads = units.notes("heads")
        """Number of a message -> the message without its text."""
        self._known = units.notes("known")
        """Id of a message -> its number; also sender, minute and subject of a message -> its number."""
        self._copies = units.notes("copies")
        """Linked list of copies: name of a message -> name of its newest copy; name of a copy -> name of the copy
        before it."""
        self._unclear = units.notes("unclear")
        """Id of a message whose thread is unclear -> reason, and name of the other message that makes it unclear."""
        self._sizes = units.notes("sizes")
        """Name of a message -> number of characters in the message and its attachments."""
        self._attached = units.notes("attached")
        """Name of a message -> names of the attachments of the message and its copies."""

    def add(self, mail: Mail) -> str | None:
        """Add a message and return None. If the message is a copy of one that was added before, add nothing and return
        the earlier message's name."""
        minute = mail.date.astimezone(datetime.UTC).replace(second=0, microsecond=0)
        looks = json.dumps([mail.sender, minute.isoformat(), mail.subject])
        for key in (f"id {mail.id}", looks):
            if (number := self._known.get(key)) is not None and _is_copy(mail, other := self.whole(self._head(number))):
                self._copies[mail.name], self._copies[other.name] = self._copies.get(other.name), mail.name
                return other.name
        if (number := self._known.get(f"id {mail.id}")) is not None:  # another message with a used id
            used, other = mail.id, self._head(number)
            mail = replace(mail, id=f"{mail.id} {mail.name}")
            if mail.sender == other.sender:  # a reply may answer either of them
                self._unclear.update({used: (ONE_ID, mail.name), mail.id: (ONE_ID, other.name)})
        if mail.left_out in (None, WITHOUT_TEXT) and _FLAGS.search(mail.name):
            mail = replace(mail, left_out="a draft, or deleted")
        number = len(self._dates)
        self._known[f"id {mail.id}"] = self._known[looks] = number
        self._heads[number] = {**asdict(replace(mail, text="")), "date": mail.date.isoformat()}
        self._sizes[mail.name] = len(mail.text)
        self._dates.append((mail.date - _EPOCH) // datetime.timedelta(microseconds=1))
        return None

    def attach(self, name: str, attachments: Iterable[Unit]) -> Iterator[Outcome]:
        """Add the attachments of a message, or of a copy of the message, to the message. Yield an Outcome for each
        attachment that the message already has."""
        names = self._attached.get(name, [])
        known = {self._units.digests[each]: each for each in names}
        for each in attachments:
            if each.sha256 in known:
                yield Outcome(each.name, "duplicate", known[each.sha256])
            else:
                names.append(each.name)
                self._sizes[name] += len(each.item.get("text", ""))
        if names:
            self._attached[name] = names

    def attachments_of(self, mail: Mail) -> list[Unit]:
        return [*map(self._units.again, self._attached.get(mail.name, ()))]

    def copies_of(self, mail: Mail) -> list[Mail]:
        """Return the copies of a message, in the order in which they were found."""
        found, name = list[Mail](), self._copies.get(mail.name)
        while name is not None:
            found.append(Mail.of_item(name, self._units.again(name).item))
            name = self._copies.get(name)
        return found[::-1]

    def threads(self, is_ours: _Ours, within: datetime.timedelta) -> Iterator[list[Mail]]:
        """Yield each thread as a list of messages without texts, sorted by date, but with each message after the
        message that it answers. References connect the messages of a thread. A reply without a known reference joins a
        thread with the same subject and correspondent."""
        groups, firsts = _Groups(self._units.notes("parents")), self._units.notes("firsts")
        every = range(len(self._dates))
        for mail in map(self._head, every):
            groups.join((mail.id, *mail.references))
        recent = self._units.notes("recent")
        """Subject and correspondent -> id, date and side of the newest message of each thread."""
        for number in sorted(every, key=self._dates.__getitem__):
            mail, date = self._head(number), self._dates[number]
            subject = " ".join(_base(mail.subject).translate(COMPARED).casefold().split())
            keys = [json.dumps([subject, other]) for other in sorted(is_ours.others(mail))] if subject else []
            threads_of = {key: self._threads_in(recent.get(key, ()), groups, date, within) for key in keys}
            if _ANSWERS.match(mail.subject) and not any(f"id {each}" in self._known for each in mail.references):
                found = {root: last for each in threads_of.values() for root, last in each.items()}
                waiting = [root for root, (*_, sent) in found.items() if sent != is_ours(mail.sender)] or [*found]
                if len(waiting) == 1:
                    groups.join((mail.id, waiting[0]))
                elif waiting:
                    other = self._head(self._known[f"id {found[waiting[0]][0]}"])
                    self._unclear[mail.id] = ONE_SUBJECT, other.name
            root = groups.of(mail.id)
            for key, found in threads_of.items():
                others = [each for other, each in found.items() if groups.of(other) != root]
                recent[key] = [*others, (mail.id, date, is_ours(mail.sender))][-_MOST_OF_SUBJECT:]
        threads = array("q", (firsts.setdefault(groups.of(self._head(number).id), number) for number in every))
        for _, numbers in groupby(sorted(every, key=threads.__getitem__), threads.__getitem__):
            yield _ordered([*map(self._head, numbers)])

    def _threads_in(
        self, newest: Iterable[tuple[str, int, bool]], groups: _Groups, date: int, within: datetime.timedelta
    ) -> dict[str, tuple[str, int, bool]]:
        limit = date - within // datetime.timedelta(microseconds=1)
        return {groups.of(each[0]): each for each in newest if each[1] >= limit}

    def _head(self, number: int) -> Mail:
        head = self._heads[number]
        if head["left_out"] == WITHOUT_TEXT and head["name"] in self._attached:
            head["left_out"] = None
        return Mail.of_item(head["name"], head)

    def unclear(self, thread: Iterable[Mail]) -> tuple[str, tuple[str, ...]]:
        """Return the reason why it is unclear which thread some messages belong to, and the names of the messages in
        other threads to which they may belong. The reason is "" if the thread is clear."""
        ids = (id for mail in thread for id in (mail.id, *mail.references))
        found = [self._unclear[id] for id in ids if id in self._unclear]
        return found[0][0] if found else "", tuple(dict.fromkeys(name for _, name in found))

    def size_of(self, mail: Mail) -> int:
        return int(self._sizes[mail.name])

    def whole(self, head: Mail) -> Mail:
        """Return a message with its text."""
        return replace(head, text=self._units.again(head.name).item["text"])


def _ordered(mails: Sequence[Mail]) -> list[Mail]:
    by_id = {mail.id: mail for mail in mails}
    at: dict[str, datetime.datetime] = {}
    for mail in sorted(mails, key=lambda mail: (mail.date, mail.name)):
        chain, current = dict[str, Mail](), by_id.get(mail.id)
        while current is not None and current.id not in at and current.id not in chain:
            chain[current.id] = current
            current = _answered(current, by_id)
        if current is not None and current.id in chain:  # the references are a cycle
            at[current.id] = current.date
        for each in reversed(chain.values()):
            parent = _answered(each, by_id)
            after = at.get(parent.id) if parent is not None and each.id not in at else None
            at[each.id] = each.date if after is None else max(each.date, after + datetime.timedelta(microseconds=1))
    return sorted(mails, key=lambda mail: (at[mail.id], mail.name))


def _answered(mail: Mail, by_id: Mapping[str, Mail]) -> Mail | None:
    return next((by_id[each] for each in reversed(mail.references) if each in by_id), None)


@dataclass
class _Turn:
    mail: Mail
    text: str
    attachments: Sequence[Unit]
    used: Sequence[Unit]
    """Attachments whose text is part of the turn."""
    copies: Sequence[Outcome]
    """Outcomes of the attachments whose text is already in the conversation."""

    @property
    def broken(self) -> list[Unit]:
        return [each for each in self.attachments if "broken" in each.item]

    def left_out(self, reason: str) -> Iterator[Outcome]:
        return _for_both(Outcome(self.mail.name, "left out", reason), self.attachments)


@dataclass
class _Conversation:
    known: KnownMessages = field(default_factory=KnownMessages)
    turns: list[_Turn] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=dict)
    """Id of a message, or digest of an attachment -> name of the first unit with this id or digest."""

    def add(self, mail: Mail, attachments: Sequence[Unit], *, is_ours: bool) -> bool:
        """Add a message as a turn, and return True. If the message has no text besides quotations and known
        attachments, add nothing and return False."""
        own = own_text(mail.text, self.known, is_ours=is_ours)
        used, copies = list[Unit](), list[Outcome]()
        for each in sorted(attachments, key=_preference):
            if "broken" in each.item:
                continue
            same = next((other.name for other in used if _is_same_document(each, other)), None)
            same = self.documents.get(each.sha256) or self.documents.get(each.item.get("id", "")) or same
            if same is None:
                used.append(each)
            else:
                copies.append(Outcome(each.name, "duplicate", same))
        used.sort(key=attachments.index)
        texts = (each.item["text"] for each in used)
        turn = _Turn(mail, "\n\n".join(filter(None, (own, *texts))), attachments, used, copies)
        if not turn.text and not turn.broken:
            return False
        self.turns.append(turn)
        self.known.add(mail.text, is_ours=is_ours)
        self.documents |= {mail.id: mail.name, **{each.sha256: each.name for each in used}}
        return True


def _preference(attachment: Unit) -> int:
    suffix = attachment.item["attachment"]
    return DOCUMENTS.index(suffix) if suffix in DOCUMENTS else len(DOCUMENTS)


def _is_same_document(one: Unit, other: Unit) -> bool:
    """Return True if two attachments of a message contain the same letter: if they have the same words, or the same
    name in two formats and nearly the same words."""
    texts = one.item["text"], other.item["text"]
    are_formats = one.item["stem"] == other.item["stem"] and one.item["attachment"] != other.item["attachment"]
    return sorted(texts[0].split()) == sorted(texts[1].split()) or (are_formats and is_copy(*texts))


def _conversations(
    thread: Sequence[Mail], mailbox: _Mailbox, is_ours: _Ours, markings: Markings
) -> Iterator[dict[str, Any] | Outcome]:
    conversations = defaultdict[str, _Conversation](_Conversation)
    attached = {mail.name: mailbox.attachments_of(mail) for mail in thread}
    try:
        every = (each for mail in thread for each in (mail, *mailbox.copies_of(mail)))
        documents = (each for attachments in attached.values() for each in attachments if "text" in each.item)
        of_documents = (_level_of_attachment(each, markings) for each in documents)
        level = markings.highest(*(_level_of(each, markings) for each in every), *of_documents)
    except RowRejected as error:
        for mail in thread:
            yield from _for_both(Outcome(mail.name, "quarantined", str(error)), attached[mail.name])
        return
    for mail, person in _correspondents(thread, is_ours):
        conversation, sent = conversations[person], is_ours(mail.sender)
        if mail.left_out is not None:
            reason = mail.left_out
        elif not person:
            reason = "an internal message"
        elif sent and not conversation.turns:
            reason = "ours, before the other side wrote"
        elif not conversation.add(mail, attached[mail.name], is_ours=sent):
            reason = "without text of its own"
        else:
            continue
        yield from _for_both(Outcome(mail.name, "left out", reason), attached[mail.name])
    for conversation in conversations.values():
        turns = conversation.turns
        while turns and not is_ours(turns[-1].mail.sender):
            yield from turns.pop().left_out("not answered")
        if not turns:
            continue
        if any(turn.broken for turn in turns):
            yield from _quarantined(turns)
            continue
        row = _row(turns, thread[0].id, level, is_ours)
        texts = [message["content"] for message in row["messages"]]
        language = language_in(texts) or ""
        # Name detection searches a script in only one language.
        if any(other_language(text, language) and not is_in_other_script(text, language) for text in texts):
            for turn in turns:
                yield from turn.left_out("turns in two languages of one script")
        else:
            yield row
            yield from (each for turn in turns for each in turn.copies)


def _quarantined(turns: Sequence[_Turn]) -> Iterator[Outcome]:
    reason, broken = (
        "an attachment of its conversation cannot be read",
        [each for turn in turns for each in turn.broken],
    )
    names = tuple(each.name for each in broken)
    for turn in turns:
        whole = [each for each in turn.attachments if each not in broken]
        yield from _for_both(Outcome(turn.mail.name, "quarantined", reason, names), whole)
    yield from (Outcome(each.name, "quarantined", each.item["broken"]) for each in broken)


def _correspondents(thread: Sequence[Mail], is_ours: _Ours) -> Iterator[tuple[Mail, str]]:
    """Yield each message with the name of its conversation. An internal message has the name "".

    A message of the institution joins all its recipients into one conversation. A message of another person joins the
    sender only with recipients who have not taken part before. Nobody, therefore, can enter a conversation by writing
    to its members. A message that the institution sends before anybody else has written joins nobody: each recipient
    answers in a separate conversation.
    """
    people, known = _Groups({}), set[str]()
    has_begun = False
    for mail in thread:
        others, sent = is_ours.others(mail), is_ours(mail.sender)
        has_begun = has_begun or not sent
        if has_begun and mail.left_out is None:
            people.join(sorted(others if sent else {mail.sender, *(others - known)}))
            known |= others
    by_id, found = {mail.id: mail for mail in thread}, dict[str, str]()
    for mail in thread:
        addresses, parent = sorted(is_ours.others(mail)), _answered(mail, by_id)
        if not addresses and not mail.recipients and parent is not None:  # to undisclosed recipients
            found[mail.id] = found.get(parent.id, "")
        else:
            person = addresses[0] if is_ours(mail.sender) and addresses else mail.sender
            found[mail.id] = people.of(person) if addresses else ""
        yield mail, found[mail.id]


def _level_of(mail: Mail, markings: Markings) -> str | None:
    return markings.highest(
        *map(markings.in_header, mail.markings),
        markings.in_title(mail.subject),
        markings.in_lines(mail.text),
        markings.in_lines("\n".join(mail.aside)),
        *map(markings.in_path, (mail.name, *mail.aside)),
    )


def _level_of_attachment(unit: Unit, markings: Markings) -> str | None:
    level, _ = markings.in_document(unit.name, unit.item)
    aside = unit.item.get("aside", ())
    return markings.highest(
        level,
        *map(markings.in_header, unit.item.get("markings", ())),
        markings.in_lines("\n".join(aside)),
        *map(markings.in_path, (unit.item.get("stem", ""), *aside)),
    )


def _row(turns: Sequence[_Turn], first_id: str, level: str | None, is_ours: _Ours) -> dict[str, Any]:
    messages = list[dict[str, str]]()
    for turn in turns:
        role = "assistant" if is_ours(turn.mail.sender) else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{turn.text}"
        else:
            messages.append({"role": role, "content": turn.text})
    first, last = turns[0].mail, turns[-1].mail
    return {
        "id": f"mail-{_short(first.id)}",
        "case": f"thread-{_short(first_id)}",
        "date": last.date.date().isoformat(),
        "author": last.sender,
        "department": next((each for each in first.recipients if is_ours(each)), ""),
        "subject": _base(first.subject),
        "classification": level or "",
        "messages": messages,
        "files": [name for turn in turns for name in (turn.mail.name, *(each.name for each in turn.used))],
        "rule": "a turn of a thread",
    }


def _short(id: str) -> str:
    return hashlib.sha256(id.encode(errors="surrogatepass")).hexdigest()[:16]
