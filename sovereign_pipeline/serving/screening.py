"""Report, replace or stop personal data in one request and its streamed answer.

If the rule for answers is to replace or stop, the last 120 characters of an answer are buffered. After every 60 new
characters, the buffer and up to 600 characters before it are searched, so an identifier that is split across pieces is
found.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from sovereign_pipeline.base.errors import ScannerLost, TextTooLong
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.document import Document, Message, ToolCall
from sovereign_pipeline.dataset.jsonl import message_of, turn_of
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.policy.serving import Reaction, Screened
from sovereign_pipeline.privacy.corrections import folded_words, load_word_lists
from sovereign_pipeline.privacy.json_texts import is_json, names_in_tools
from sovereign_pipeline.serving.engines.text import StopTexts
from sovereign_pipeline.serving.scanning import MOST_CHARACTERS, Detection, LineDetectors, Scanner

SHORTEST_NUMBER = 6
"""Minimum length of values that are compared without separators. Shorter ones occur by chance in long numbers."""


class OwnText:
    """The texts that the caller sent. An answer that repeats a value from these texts discloses nothing to the
    caller."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def holds(self, value: str) -> bool:
        words = folded_words(value)
        if not words:
            return True
        plain = _plain(words)
        in_words = any(f" {_between_words(words)} " in text for text in self._words)
        return in_words or (len(plain) >= SHORTEST_NUMBER and any(plain in text for text in self._plain))

    @cached_property
    def _words(self) -> list[str]:
        return [f" {_between_words(folded_words(text))} " for text in self._texts]

    @cached_property
    def _plain(self) -> list[str]:
        return [_plain(folded_words(text)) for text in self._texts]


def _between_words(folded: str) -> str:
    """Return the words and numbers of a text, separated by single spaces."""
    return " ".join("".join(each if each.isalnum() else " " for each in folded).split())


def _plain(folded: str) -> str:
    return "".join(each for each in folded if each.isalnum())


_WRITTEN = re.compile(rf"(?<![A-Z_])({'|'.join(KINDS)})_(\d{{1,3}})(?!\d)")
_MAY_GO_ON = re.compile(r"(?<![A-Z_])[A-Z_]+\d*\Z")


class Placeholders:
    """The placeholders of one request and its answer."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Collect the placeholders in `texts`, the texts of the request, so that their numbers are not used again."""
        self._last: dict[str, int] = {}
        self._given: dict[tuple[Kind, str], str] = {}
        self.originals: dict[str, str] = {}
        """Maps each placeholder to the first text of the caller that it replaced."""
        for text in texts:
            for kind, number in _WRITTEN.findall(text) if "_" in text else ():
                self._last[kind] = max(self._last.get(kind, 0), int(number))

    def of(self, kind: Kind, value: str) -> str:
        """Return the placeholder of a value. Equal values get the same placeholder."""
        if (kind, value) not in self._given:
            self._last[kind] = self._last.get(kind, 0) + 1
            self._given[kind, value] = f"{kind}_{self._last[kind]}"
        return self._given[kind, value]

    def in_place(self, text: str, found: Sequence[Detection], *, may_be_put_back: bool) -> str:
        """Replace findings with placeholders. may_be_put_back: True if the caller wrote the text. Placeholders in the
        answer are then replaced with the original values."""
        pieces, position = [], 0
        for each in found:
            placeholder = self.of(each.kind, each.value)
            if may_be_put_back:
                self.originals.setdefault(placeholder, _unescaped(text[each.start : each.end], text))
            pieces += [text[position : each.start], f"{each.quote}{placeholder}{each.quote}"]
            position = each.end
        return "".join([*pieces, text[position:]])


def _unescaped(value: str, text: str) -> str:
    """Return `value`, without its JSON escapes if `text`, which contains it, is JSON."""
    return str(json.loads(f'"{value}"')) if "\\" in value and is_json(text) else value


class PuttingBack:
    """A filter for a streamed answer. It replaces each placeholder with the caller's original text."""

    def __init__(self, originals: dict[str, str]) -> None:
        self._originals = originals
        self._held = ""

    def feed(self, text: str) -> str:
        """Add text, and return all text that can be sent. A tail that may be the start of a placeholder is held
        back."""
        if not self._originals:
            return text
        text = self._held + text
        found = _MAY_GO_ON.search(text)
        end = found.start() if found is not None else len(text)
        self._held = text[end:]
        return self._put_back(text[:end])

    def end(self) -> str:
        rest, self._held = self._held, ""
        return self._put_back(rest)

    def _put_back(self, text: str) -> str:
        return _WRITTEN.sub(lambda found: self._originals.get(found.group(), found.group()), text)


def with_originals(text: str, originals: Mapping[str, str]) -> str:
    """In a complete text, replace each placeholder with its original in `originals`."""
    putting = PuttingBack(dict(originals))
    return putting.feed(text) + putting.end()


def _with_placeholders(text: str, originals: dict[str, str]) -> str:
    """In a complete text, replace each original value of the request with its placeholder."""
    by_text = {original: placeholder for placeholder, original in reversed(originals.items())}
    if not by_text:
        return text
    longest_first = "|".join(map(re.escape, sorted(by_text, key=len, reverse=True)))
    return re.sub(rf"(?<!\w)(?:{longest_first})(?!\w)", lambda found: by_text[found.group()], text)


def _with_arguments(call: ToolCall, change: Callable[[str], str]) -> ToolCall:
    return call.model_copy(update={"arguments": in_texts(call.arguments, change)})


_LOG = logging.getLogger(__name__)
HELD_BACK = 120
"""Number of buffered characters of an answer. The beginning of a longer identifier may be sent before it is found."""
BETWEEN_SEARCHES = 60
READ_BEFORE = 600
"""Number of characters before the new text that are searched together with the new text, as context."""
_WORD = re.compile(r"\S+")
_OF_AN_IDENTIFIER = re.compile(r"[\d@]|\w[._]\w")

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SentTexts:
    """The messages and tools that a caller sent, and the JSON schema for the answer."""

    messages: Messages
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Mapping[str, Any] | None = None

    @cached_property
    def document(self) -> Document:
        """Return the sent texts as a document, in which each text has a name. The document's last message is empty."""
        as_tool = {"type": "function", "function": {"name": "response", "parameters": self.schema}}
        tools = [*self.tools, *([as_tool] if self.schema is not None else ())]
        return document_with([*map(message_of, self.messages), Message(role="assistant")], tools)

    @cached_property
    def names(self) -> str:
        """Return, as one text, the names that no placeholder can replace: names of tools, parameters, message authors
        and called functions, and schema keywords."""
        found = [*names_in_tools(self.document.tools)]
        for message in self.document.messages:
            found += [message.name or "", *(call.name for call in message.tool_calls)]
        return "\n\n".join(dict.fromkeys(re.sub("[_-]+", " ", each) for each in found if each))

    def with_texts(self, texts: Mapping[str, str]) -> "SentTexts":
        """Return a copy with replaced texts. texts: mapping of a name in `document.texts` to the new text."""
        document = self.document.with_texts(texts)
        tools, schema = [*document.tools], self.schema
        if schema is not None:
            schema = tools.pop()["function"]["parameters"]
        return SentTexts([*map(turn_of, document.messages[:-1])], tools, schema)


@dataclass(frozen=True)
class Screens:
    """The screening rules of each line, and the scanner."""

    scanner: Scanner | None = None
    """Scanner; None if no line is searched."""
    lines: Mapping[str, Screened] | None = None

    def of(self, line: str, sent: SentTexts, stops: Sequence[str] = ()) -> "Screen":
        """Return the screen for one request and its answer. stops: the caller's stop texts."""
        return Screen(line, (self.lines or {}).get(line, Screened()), sent, self.scanner, stops)

    def close(self) -> None:
        if self.scanner is not None:
            self.scanner.close()


NOTHING_SEARCHED = Screens()


class Screen:
    def __init__(
        self, line: str, rules: Screened, sent: SentTexts, scanner: Scanner | None, stops: Sequence[str] = ()
    ) -> None:
        self.rules = rules
        self._changes_answers = rules.answers in ("replace", "stop")
        applies_stops = self._changes_answers or bool(sent.tools)  # a stop text must not end a tool call
        self.stops: tuple[str, ...] = () if applies_stops else tuple(stops)
        """Stop texts that the engine applies: all of them, or none. In the second case, this class applies them."""
        self._stopping = StopTexts(stops if applies_stops else ())
        self.sent = sent
        """Texts for the engine, with placeholders once `take_request` has replaced findings."""
        self.in_request: Counter[Kind] = Counter()
        self.in_answer: Counter[Kind] = Counter()
        self.is_answer_searched = False
        """True if all text that was sent to the caller was searched."""
        self.is_stopped = False
        """True if the answer was stopped because of a finding."""
        self.is_at_stop_text = False
        """True if the answer ended at a stop text."""
        self.with_placeholders: list[str] = []
        """Pieces of the text sent so far, with placeholders."""
        self.calls_with_placeholders: tuple[ToolCall, ...] = ()
        """Tool calls that were sent, with placeholders."""
        self.failures = 0
        """Number of failed searches under the rule `report`. Under other rules, a failed search raises an error."""
        self._line, self._scanner = line, scanner
        self._of_caller = sent
        self._raw = ""
        self._passed = 0
        """Number of characters of `_raw` that were sent."""
        self._searched = 0
        self._counted: set[tuple[Kind, str]] = set()

    @property
    def changes_text(self) -> bool:
        """Return True if the text that the caller gets can differ from the engine's text."""
        return self._changes_answers or self.rules.requests == "replace"

    async def take_request(self) -> bool:
        """Search the request, replace findings if the rule is `replace`, and return whether the request may be
        answered. Unless the rule is `report`, raises ScannerLost if the search fails and TextTooLong if the text is too
        long."""
        if self.rules.requests is None:
            return True
        texts, names = self._of_caller.document.texts, self._of_caller.names
        all_found = await self._found([*texts.values(), names], self.rules.requests, texts.get("tools", ""))
        if all_found is None:
            return True
        *found, in_names = all_found
        values = {(each.kind, each.value) for of in (*found, in_names) for each in of}
        self.in_request = Counter(kind for kind, _ in values)
        if self.rules.requests == "stop":
            return not self.in_request
        if self.rules.requests == "replace":
            if in_names:
                return False
            replaced = {
                name: self._placeholders.in_place(text, of, may_be_put_back=True)
                for (name, text), of in zip(texts.items(), found, strict=True)
                if of
            }
            try:
                self.sent = self._of_caller.with_texts(replaced) if replaced else self.sent
            except ValueError:  # two keys of an object became the same placeholder
                return False
        return True

    async def take_calls(self, calls: Sequence[ToolCall]) -> list[ToolCall]:
        """Search the answer's tool calls, and return those that may be sent: all, or none if the answer is stopped.
        Unless the rule is `report`, raises ScannerLost if the search fails and TextTooLong if the text is too long."""
        if not calls or self.is_over:
            return []
        answer = document_with([Message(role="assistant", tool_calls=tuple(calls))])
        if self.rules.answers is not None:
            texts = answer.texts
            of_texts = await self._found([*texts.values()], self.rules.answers)
            if of_texts is not None:
                others = {
                    name: [self._at(0, each, text) for each in found if not self._is_own(each, text)]
                    for (name, text), found in zip(texts.items(), of_texts, strict=True)
                }
                self._count([each for found in others.values() for each in found])
                if any(others.values()) and self.rules.answers == "stop":
                    self.is_stopped = True
                    return []
                if self.rules.answers == "replace":
                    replaced = {
                        name: self._placeholders.in_place(texts[name], found, may_be_put_back=False)
                        for name, found in others.items()
                    }
                    answer = answer.with_texts(replaced)
        originals, taken = self._placeholders.originals, answer.messages[0].tool_calls
        put_back, hide = (partial(change, originals=originals) for change in (with_originals, _with_placeholders))
        self.calls_with_placeholders = tuple(_with_arguments(each, hide) for each in taken)
        return [_with_arguments(each, put_back) for each in taken]

    async def take(self, text: str) -> str:
        """Add a piece of the answer, and return the text that may be sent now (possibly ""). Unless the rule is
        `report`, raises ScannerLost if a search fails. The unsearched text is then never returned."""
        self._raw += text
        if not self._changes_answers:
            passed = self._pass(text)
            return passed + await self.end() if self.is_over else passed
        if len(self._raw) - self._searched < BETWEEN_SEARCHES or len(self._raw) - self._passed <= HELD_BACK:
            return ""
        passed = self._pass(await self._search(is_end=False))
        return passed + self._rest() if self.is_over else passed

    async def end(self, *, is_cut: bool = False) -> str:
        """Return the rest of the answer that may be sent. is_cut: True if the answer ended at its length limit. Unless
        the rule is `report`, raises ScannerLost if the search fails."""
        if self._changes_answers:
            rest = self._pass(await self._search(is_end=True, is_cut=is_cut))
            self.is_answer_searched = True
            return rest + self._rest()
        if self.rules.answers == "report" and (found := await self._found([self._raw], "report")) is not None:
            self._count([self._at(0, each, self._raw) for each in found[0] if not self._is_own(each, self._raw)])
            self.is_answer_searched = True
        return self._rest()

    @property
    def is_over(self) -> bool:
        """Return True if the caller gets no more text, even if the engine still generates."""
        return self.is_stopped or self.is_at_stop_text

    @property
    def originals(self) -> dict[str, str]:
        """Return a mapping of each placeholder in the request to the caller's text that it replaced."""
        return dict(self._placeholders.originals)

    def _pass(self, text: str) -> str:
        text = self._stopping.feed(text)
        if self._stopping.is_found:  # findings after the stop text do not count
            self.is_at_stop_text, self.is_stopped, self.is_answer_searched = True, False, self._changes_answers
        self.with_placeholders.append(text)
        return self._putting_back.feed(text)

    def _rest(self) -> str:
        rest = self._stopping.end()
        self.with_placeholders.append(rest)
        return self._putting_back.feed(rest) + self._putting_back.end()

    @cached_property
    def _own(self) -> OwnText:
        texts = self._of_caller.document.texts.values()
        return OwnText([json.dumps(json.loads(each), ensure_ascii=False) if is_json(each) else each for each in texts])

    @cached_property
    def _placeholders(self) -> Placeholders:
        return Placeholders(self._of_caller.document.texts.values())

    @cached_property
    def _putting_back(self) -> PuttingBack:
        if self.sent.schema is None:
            return PuttingBack(self._placeholders.originals)
        originals = self._placeholders.originals.items()
        return PuttingBack({name: json.dumps(text, ensure_ascii=False)[1:-1] for name, text in originals})

    async def _search(self, *, is_end: bool, is_cut: bool = False) -> str:
        """Search the text added since the last search, and return the text that may be sent now."""
        raw = self._raw if self.sent.schema is None else _ESCAPE.sub("  ", self._raw)
        begin = _word_begins(raw, self._passed - READ_BEFORE)
        text = raw[begin:]
        searched = await self._found([text], self.rules.answers)
        assert searched is not None  # a failure is raised, because the rule is to replace or to stop
        (found,) = searched
        self._searched = len(self._raw)
        of_others = [self._at(begin, each, text) for each in found if not self._is_own(each, text)]
        if self.sent.schema is not None:
            # A finding outside the JSON's strings is a number, so its placeholder needs quotation marks.
            of_others = [
                replace(each, quote='"' if raw.count('"', 0, each.start) % 2 == 0 else each.quote) for each in of_others
            ]
        upto = len(self._raw) if is_end else _word_begins(raw, len(self._raw) - HELD_BACK)
        if is_cut and not any(begin + each.end == len(self._raw) for each in found):
            upto = _identifier_begins(raw)
        for each in of_others:
            if each.start < upto < each.end:
                upto = each.start
        upto = max(upto, self._passed)
        new = [each for each in of_others if self._passed < each.end <= upto]
        # Later text may reveal a finding in text that was already sent. If the context was cut, a finding near its
        # beginning may lack its label, so such findings are ignored.
        late = [
            each for each in of_others if each.end <= self._passed and (not begin or each.start >= begin + HELD_BACK)
        ]
        self._count([*late, *new])
        if (late or new) and self.rules.answers == "stop":
            self.is_stopped = self.is_answer_searched = True
            upto = self._passed if late else max(self._passed, new[0].start)
            new = []
        begun, self._passed = self._passed, upto
        return self._placeholders.in_place(self._raw[begun:upto], _within(new, begun), may_be_put_back=False)

    def _is_own(self, found: Detection, text: str) -> bool:
        return self._own.holds(text[found.start : found.end])

    def _at(self, begin: int, found: Detection, text: str) -> Detection:
        """Return a finding with its position in the whole answer. Its `value` is set to the text as written, which does
        not change between searches."""
        written = text[found.start : found.end]
        return Detection(begin + found.start, begin + found.end, found.kind, written, found.quote)

    def _count(self, found: Sequence[Detection]) -> None:
        """Count the findings by kind. Each value is counted once per answer."""
        for each in found:
            if (each.kind, each.value) not in self._counted:
                self._counted.add((each.kind, each.value))
                self.in_answer[each.kind] += 1

    async def _found(
        self, texts: Sequence[str], reaction: Reaction | None, tools: str = ""
    ) -> list[list[Detection]] | None:
        """Search texts. If the search fails, return None under the rule `report`. Under other rules, raise ScannerLost
        or TextTooLong."""
        try:
            if self._scanner is None:
                raise ScannerLost("The search for personal data is not running.")
            if sum(map(len, texts)) > MOST_CHARACTERS:
                raise TextTooLong(f"The text is longer than {MOST_CHARACTERS:,} characters, so it cannot be searched.")
            return await self._scanner.find(self._line, texts, tools)
        except (ScannerLost, TextTooLong) as error:
            if reaction != "report":
                raise
            self.failures += 1
            _LOG.warning(error.message)
            return None


def document_with(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Document:
    """Return a document that has only messages and tools. In a document, each text has a name."""
    columns = ("id", "source", "case", "department", "author", "date", "classification", "language", "subject")
    return Document.model_validate({**dict.fromkeys(columns, ""), "messages": [*messages], "tools": [*tools]})


def in_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with the function `change` applied to all its strings, including keys."""
    if isinstance(value, Mapping):
        return {change(key): in_texts(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [in_texts(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


_ESCAPE = re.compile(r'\\["\\/bfnrt]')
"""A JSON escape of two characters. It is replaced with two spaces before a search."""


def _within(found: Sequence[Detection], begin: int) -> list[Detection]:
    return [replace(each, start=max(0, each.start - begin), end=each.end - begin) for each in found]


def _word_begins(text: str, position: int) -> int:
    """Return the start of the word at a position. Within a very long word, return the position itself."""
    if position <= 0:
        return 0
    place = max(text.rfind(mark, max(0, position - HELD_BACK), position + 1) for mark in (" ", "\n"))
    return place + 1 if place >= 0 else position


def _identifier_begins(text: str) -> int:
    """Return the position at which a number or an address at the end of the text may begin. Returns the text's length
    if the last word cannot belong to a number or an address."""
    words, place = list(_WORD.finditer(text, max(0, len(text) - READ_BEFORE))), len(text)
    while words and _OF_AN_IDENTIFIER.search(words[-1].group()):
        place = words.pop().start()
    return place


def start_screens(settings: Settings, institution: Institution, report: Callable[[str], None]) -> Screens:
    """Load the detectors of all lines whose requests or answers are searched. Returns the scanner and the screening
    rules of each line.

    Raises RecipeError for an invalid recipe, PrivacyError if a detector cannot be loaded, and ScannerLost if the
    processes end or loading takes too long.
    """
    screened = {line: served.privacy for line, served in institution.serving.lines.items()}
    searched = [line for line, rules in screened.items() if rules.requests is not None or rules.answers is not None]
    if not searched:
        return Screens(None, screened)
    report(f"loading the detectors of personal data for the lines {', '.join(searched)}")
    scanner = Scanner(
        {line: _detectors(settings, institution, line) for line in searched}, institution.serving.scanners
    )
    try:
        scanner.start()
    except BaseException:
        scanner.close()
        raise
    return Screens(scanner, screened)


def _detectors(settings: Settings, institution: Institution, line: str) -> LineDetectors:
    privacy = load_line(settings.data, line, institution).privacy
    return LineDetectors(line, privacy, institution.treatments(line), load_word_lists(settings.data, line))
