"""Join messages to conversations: threads, turns by side, classification, and what became of each message."""

import datetime
import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sovereign_pipeline.base.text import COMPARED
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.corpus.mail import Broken, Mail
from sovereign_pipeline.corpus.markings import Markings
from sovereign_pipeline.corpus.quotes import KnownMessages, own_text

DAYS_BY_SUBJECT = 30
"""Maximum number of days between two messages of one thread that no header connects."""
_SAME = 0.9
"""Minimum share of common lines of two copies of a message. A mail gateway adds lines to one of them."""


@dataclass(frozen=True)
class Outcome:
    """What became of a message."""

    path: str
    sha256: str
    outcome: str
    """`row ID`, `left out: REASON`, `quarantined: REASON` or `duplicate of PATH`."""


def rows_of(
    found: Iterable[Mail | Broken],
    ours: Collection[str],
    markings: Markings,
    floor: str,
    days: int = DAYS_BY_SUBJECT,
) -> Iterator[tuple[dict[str, Any] | None, list[Outcome]]]:
    """Yield the row of each conversation, and the outcomes of its messages; None with the messages that have no row.
    Every message has one outcome.

    A thread is divided by correspondents: messages between the institution and one person, or people who see each
    other's addresses, are a conversation. The first turn is the other side's, and earlier messages of ours are left
    out. The last turn is ours, and later ones of the other side are left out.

    Args:
        ours: the institution's addresses and domains. A domain includes its subdomains.
        markings: words of the classification levels.
        floor: lowest level of a row.
    """
    mails, outcomes = list[Mail](), list[Outcome]()
    copies: dict[str, list[Mail]] = defaultdict(list)
    seen: dict[object, Mail] = {}
    for each in found:
        if isinstance(each, Broken):
            outcomes.append(Outcome(each.path, each.sha256, f"quarantined: {each.reason}"))
            continue
        first = next((seen[key] for key in _keys(each) if key in seen and _is_copy(each, seen[key])), None)
        if first is not None:
            copies[first.path].append(each)
            continue
        if each.id in seen:  # another message with a used id
            each = replace(each, id=each.sha256)
        seen |= {key: each for key in _keys(each)}
        mails.append(each)
    yield None, outcomes
    is_ours = _Ours(ours)
    for thread in _threads(mails, is_ours, datetime.timedelta(days=days)):
        yield from _conversations(thread, copies, is_ours, markings, floor)


def _keys(mail: Mail) -> list[object]:
    return [mail.id, (mail.sender, mail.date.astimezone(datetime.UTC).replace(second=0, microsecond=0), mail.subject)]


def _is_copy(mail: Mail, other: Mail) -> bool:
    mine, theirs = ({line.strip() for line in each.text.split("\n") if line.strip()} for each in (mail, other))
    common = len(mine & theirs)
    return mail.sender == other.sender and common >= _SAME * min(len(mine), len(theirs))


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
    """Union-find."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def of(self, name: str) -> str:
        root = name
        while (parent := self._parents.get(root, root)) != root:
            root = parent
        while name != root:
            self._parents[name], name = root, self._parents.get(name, root)
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
    """Return a subject without `Re:`, `Fwd:`, `رد:` and the like before it."""
    while match := _ANSWERS.match(subject):
        subject = subject[match.end() :]
    return subject.strip()


def _threads(mails: Sequence[Mail], is_ours: _Ours, within: datetime.timedelta) -> Iterator[list[Mail]]:
    """Yield the threads by references, joined by subject and correspondents where a reply has no known reference. Each
    thread is in order: by date, and each message after the one that it answers."""
    known = {mail.id for mail in mails}
    groups = _Groups()
    for mail in mails:
        groups.join((mail.id, *mail.references))
    newest: dict[tuple[str, str], Mail] = {}
    """Subject and correspondent -> newest message so far."""
    for mail in sorted(mails, key=lambda mail: mail.date):
        subject = " ".join(_base(mail.subject).translate(COMPARED).casefold().split())
        others = is_ours.others(mail)
        if not known.intersection(mail.references) and _ANSWERS.match(mail.subject):
            earlier = [newest[subject, other] for other in sorted(others) if (subject, other) in newest]
            latest = max(earlier, key=lambda each: each.date, default=mail)
            groups.join((mail.id, latest.id) if mail.date - latest.date <= within else ())
        newest |= {(subject, other): mail for other in others if subject}
    threads: dict[str, list[Mail]] = defaultdict(list)
    for mail in mails:
        threads[groups.of(mail.id)].append(mail)
    yield from map(_ordered, threads.values())


def _ordered(mails: Sequence[Mail]) -> list[Mail]:
    by_id = {mail.id: mail for mail in mails}
    at: dict[str, datetime.datetime] = {}
    for mail in sorted(mails, key=lambda mail: (mail.date, mail.path)):
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
    return sorted(mails, key=lambda mail: (at[mail.id], mail.path))


def _answered(mail: Mail, by_id: Mapping[str, Mail]) -> Mail | None:
    return next((by_id[each] for each in reversed(mail.references) if each in by_id), None)


@dataclass
class _Conversation:
    known: KnownMessages = field(default_factory=KnownMessages)
    turns: list[tuple[Mail, str]] = field(default_factory=list)
    """Messages with their own text."""


def _conversations(
    thread: Sequence[Mail], copies: Mapping[str, Sequence[Mail]], is_ours: _Ours, markings: Markings, floor: str
) -> Iterator[tuple[dict[str, Any] | None, list[Outcome]]]:
    rest: dict[str, str] = {}
    """Path of each message without a row -> its outcome."""
    conversations = defaultdict[str, _Conversation](_Conversation)
    for mail, person in _correspondents(thread, is_ours):
        conversation = conversations[person]
        sent = is_ours(mail.sender)
        if mail.left_out is not None:
            rest[mail.path] = f"left out: {mail.left_out}"
        elif not person:
            rest[mail.path] = "left out: an internal message"
        elif sent and not conversation.turns:
            rest[mail.path] = "left out: ours, before the other side wrote"
        elif not (text := own_text(mail.text, conversation.known, is_ours=sent)):
            rest[mail.path] = "left out: without text of its own"
        else:
            conversation.turns.append((mail, text))
            conversation.known.add(mail.text, is_ours=sent)
    try:
        level = markings.highest(
            floor, *(_level_of(each, markings) for mail in thread for each in (mail, *copies[mail.path]))
        )
    except RowRejected as error:
        for mail in thread:
            rest.setdefault(mail.path, f"quarantined: {error}")
        conversations.clear()
    for conversation in conversations.values():
        turns = conversation.turns
        while turns and not is_ours(turns[-1][0].sender):
            rest[turns.pop()[0].path] = "left out: not answered"
        if turns:
            row = _row(turns, thread[0].id, level, copies, is_ours)
            yield row, [outcome for mail, _ in turns for outcome in _outcomes(mail, f"row {row['id']}", copies)]
    yield (
        None,
        [outcome for mail in thread if mail.path in rest for outcome in _outcomes(mail, rest[mail.path], copies)],
    )


def _correspondents(thread: Sequence[Mail], is_ours: _Ours) -> Iterator[tuple[Mail, str]]:
    """Yield each message with the name of its conversation; "" for an internal message.

    Messages that the institution sent to several people before any of them wrote do not join these people: each answers
    in a conversation of his own.
    """
    people = _Groups()
    has_begun = False
    for mail in thread:
        has_begun = has_begun or not is_ours(mail.sender)
        if has_begun and mail.left_out is None:
            people.join(sorted(is_ours.others(mail)))
    by_id, found = {mail.id: mail for mail in thread}, dict[str, str]()
    for mail in thread:
        others = sorted(is_ours.others(mail))
        parent = _answered(mail, by_id)
        if not others and not mail.recipients and parent is not None:  # to undisclosed recipients
            found[mail.id] = found.get(parent.id, "")
        else:
            found[mail.id] = people.of(others[0]) if others else ""
        yield mail, found[mail.id]


def _level_of(mail: Mail, markings: Markings) -> str | None:
    return markings.highest(
        *map(markings.in_header, mail.markings),
        markings.in_title(mail.subject),
        markings.in_lines(mail.text),
        markings.in_path(mail.path),
    )


def _row(
    turns: Sequence[tuple[Mail, str]],
    first_id: str,
    level: str | None,
    copies: Mapping[str, Sequence[Mail]],
    is_ours: _Ours,
) -> dict[str, Any]:
    messages = list[dict[str, str]]()
    for mail, text in turns:
        role = "assistant" if is_ours(mail.sender) else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += f"\n\n{text}"
        else:
            messages.append({"role": role, "content": text})
    first, last = turns[0][0], turns[-1][0]
    return {
        "id": f"mail-{_short(first.id)}",
        "case": f"thread-{_short(first_id)}",
        "date": last.date.date().isoformat(),
        "author": last.sender,
        "department": next((each for each in first.recipients if is_ours(each)), ""),
        "subject": _base(first.subject),
        "classification": level,
        "messages": messages,
        "files": [
            {"path": each.path, "sha256": each.sha256} for mail, _ in turns for each in (mail, *copies[mail.path])
        ],
    }


def _short(id: str) -> str:
    return hashlib.sha256(id.encode(errors="surrogatepass")).hexdigest()[:16]


def _outcomes(mail: Mail, outcome: str, copies: Mapping[str, Sequence[Mail]]) -> list[Outcome]:
    others = [Outcome(each.path, each.sha256, f"duplicate of {mail.path}") for each in copies[mail.path]]
    return [Outcome(mail.path, mail.sha256, outcome), *others]
