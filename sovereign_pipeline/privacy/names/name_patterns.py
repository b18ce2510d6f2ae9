"""Names of people by honorifics, kinship words, signatures and word lists, in English and Arabic.

What belongs here: where a name begins and ends in a text, and what is no name although a model says so. Word lists are
`gazetteer.py`; which names are one person is `persons.py`.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from sovereign_pipeline.privacy.identifiers.recognizers import Span, without_overlaps
from sovereign_pipeline.privacy.names import gazetteer, world_names
from sovereign_pipeline.privacy.names.name_models import Entity
from sovereign_pipeline.privacy.names.persons import folded_word, looks_like_nisba

# Latin letters with their accents, by case: the regular expressions of the standard library know no such class.
_LATIN = [chr(code) for code in (*range(0x41, 0x250), *range(0x1E00, 0x1F00)) if chr(code).isalpha()]
_UPPER = "[" + "".join(letter for letter in _LATIN if letter.isupper()) + "]"
_LOWER = "[" + "".join(letter for letter in _LATIN if letter.islower()) + "]"
_ARTICLE = rf"(?:Al|al|El|el)[ -](?:(?:Bu|Bani)[ -])?[A-Z]{_LOWER}+"
_CAPITALISED = rf"{_UPPER}{_LOWER}+(?:['’-](?!s\b){_UPPER}?{_LOWER}+|{_UPPER}{_LOWER}+)?"
_TITLE_WITH_DOT = r"(?:Mr|Mrs|Ms|Dr|Eng|Capt|Prof)\."
_SMALL = r"(?:bin|bint|ibn|van|von|de|der|den|da|dos|di)(?= )"
_INITIAL = rf"{_UPPER}(?:\.|(?= {_UPPER}))"
_SHOUTED = rf"{_UPPER}{{2,}}(?!\w)"
_TOKEN = rf"(?:{_ARTICLE}|{_TITLE_WITH_DOT}|{_SMALL}|Bin(?= )|Bint(?= )|{_CAPITALISED}|{_SHOUTED}|{_INITIAL})"
_RUN = re.compile(rf"(?<![\w@./-])(?:{_TOKEN})(?: (?:{_TOKEN}))*(?![\w@])")
_EACH_TOKEN = re.compile(_TOKEN)
_LOWER_WORD = re.compile(rf"(?<![\w@./-])[{''.join(letter for letter in _LATIN if letter.islower())}]+\.?(?![\w@-])")
_UPPER_LETTER = re.compile(_UPPER)
_CUE = (
    r"(?:my name is|name is|name's|(?:(?:first|last|maiden|full|family|given) )?name ?[:?]|surname ?[:?]|called|"
    r"call me|calls me|i am|i'm|this is|signed(?: by)?:?|attn\.?:?|hi|hello|hey|dear)"
)
_CUED = re.compile(rf"(?<!\w)(?i:{_CUE})[ \t]+(?P<name>(?:{_TOKEN})(?: (?:{_TOKEN}))*)(?![\w@])")
_CUE_BEFORE = re.compile(rf"(?<!\w)(?i:{_CUE}) \Z")
_WORD_BEFORE = re.compile(r"([A-Za-z]+)\.?[ ]\Z")
_SIGNATURE_BEFORE = re.compile(r"(?:\A|[.!?)][ \n]|\n|(?i:regards|sincerely|faithfully|respectfully|signed)[,:]? )\Z")
_VESSEL_BEFORE = re.compile(rf"\b(?:{gazetteer.VESSELS}) (?:named |called )?['\"]?\Z", re.IGNORECASE)
_SIGNATURE_REACH = 110  # characters from the start of a signature to the end of a letter, contact details included
_ARABIC_PHRASE = re.compile("[ء-ي]+(?: [ء-ي]+)*")
_ARABIC = re.compile("[ء-ي]")
_ARABIC_WORD = re.compile("[ء-ي]+")
_PHRASE_BEFORE_IDENTITY_AR = re.compile(
    r"(?P<phrase>[ء-ي]+(?: [ء-ي]+)+)(?=، (?:و?جواز(?:ه|ها)?|الرقم المدني|رقم(?:ه|ها) المدني|بطاقة مقيم))"
)
_JOINED_AR = frozenset({"أبو", "ابو", "عبد", "آل"})  # they make one name with the next word
_PREFIXES_AR = "وفبلك"
_FEMININE_ENDING = re.compile("ية$")


class NamePatterns:
    """Names by honorific, kinship, signature and word lists. keep_words: words of the recipe that are never names."""

    def __init__(self, keep_words: Iterable[str] = ()) -> None:
        keep = [word for phrase in keep_words for word in phrase.casefold().split()]
        self._kept_words = frozenset(keep)
        self._never = gazetteer.STOP_WORDS | gazetteer.PLACES | gazetteer.ORGANISATIONS | frozenset(keep)
        self._never_ar = gazetteer.STOP_WORDS_AR | gazetteer.KEEP_AR | frozenset(keep)

    def spans(self, text: str, entities: Sequence[Entity] = (), *, signed: bool = False) -> list[Span]:
        """Names by pattern and, of what a model found, those that the word lists do not deny; no two overlap.

        entities: of this text. signed: the text is a letter, so a name may stand at its end with nothing before it.
        """
        shown = recased(text)
        found = [
            (start, end)
            for run in _RUN.finditer(shown)
            for start, end in self._names_in_run(shown, run, signed and shown is text)
        ]
        found += self._after_cues(shown)
        found = [span for span in found if not _is_part_of_organisation(shown, span, entities)]
        found += [span for entity in entities for span in self._in_entity(shown, entity)]
        spans = [_name_span(text, start, end) for start, end in found]
        if _ARABIC.search(text):
            spans += self._arabic(text)
        return without_overlaps(spans)

    def _in_entity(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """What is left of a person that a model found once places, offices and everyday words are taken off; and names
        that everybody knows where the model took them for something else."""
        if entity.label == "DATE":
            return
        tokens = list(_EACH_TOKEN.finditer(text, *self._whole_name(text, entity)))
        if entity.label != "PERSON":
            yield from self._mistaken(text, tokens)
            return
        kept = self._segments(tokens, trusted=True)
        if not kept:
            start, end = entity.start, entity.end
            if _ARABIC.search(text, start, end) and not self._all_never_ar(text[start:end]):
                yield start, end
            return
        for line in _by_line(text, tokens):
            if any(token.group().casefold().strip(".") in gazetteer.ORGANISATIONS for token in line):
                continue
            for segment in self._segments(line, trusted=True):
                if self._is_person(text, segment):
                    yield segment[0].start(), segment[-1].end()

    def _is_person(self, text: str, segment: Sequence[re.Match[str]]) -> bool:
        first, last = segment[0], segment[-1]
        if _is_vessel(text, first.start(), last.end()):
            return False
        known = _is_known(first) or _looks_like_surname(first)
        if first is last and not known and _is_unsure_alone(text, first):
            return False
        return not all(
            len(token.group()) < 3 or (token.group().isupper() and len(token.group()) < 5) for token in segment
        )

    def _whole_name(self, text: str, entity: Entity) -> tuple[int, int]:
        """The entity with the given name before its first initial, or the known family name behind a given name."""
        start, end = entity.start, entity.end
        if entity.label != "PERSON":
            return start, end
        before = list(_EACH_TOKEN.finditer(text, max(0, start - 30), max(0, start - 1)))
        own = _EACH_TOKEN.match(text, start)
        beside = before and before[-1].end() == start - 1 and text[start - 1] == " "
        if beside and own and before[-1].group().casefold() not in self._never:
            family = own.end() == end or "\n" in text[start:end]
            if _is_initial(own) or (family and (_is_surname(own) or _looks_like_surname(own))):
                start = before[-1].start()
        after = _EACH_TOKEN.match(text, end + 1)
        alone = own is not None and own.end() == end and _is_given(own)
        if alone and after and text[end] == " " and after.group().casefold() not in self._never:
            end = after.end()
        return start, end

    def _mistaken(self, text: str, tokens: Sequence[re.Match[str]]) -> Iterator[tuple[int, int]]:
        """One to three words that begin with a known given name or end with a family name."""
        for line in _by_line(text, tokens):
            if any(token.group().casefold().strip(".") in gazetteer.ORGANISATIONS for token in line):
                continue
            for segment in self._segments(line):
                family = _is_surname(segment[-1]) or _looks_like_surname(segment[-1], certainly=len(segment) == 1)
                if len(segment) < 4 and (family or _begins_name(segment, 0)):
                    yield segment[0].start(), segment[-1].end()

    def _after_cues(self, text: str) -> Iterator[tuple[int, int]]:
        """ "My name is …", "Hi …,", "Name: …": one to four words that are no office and no greeting."""
        for match in _CUED.finditer(text):
            tokens = list(_EACH_TOKEN.finditer(text, *match.span("name")))
            if any(token.group().casefold().strip(".") in gazetteer.ORGANISATIONS for token in tokens):
                continue
            segments = self._segments(tokens)
            if segments and segments[0][0].start() == match.start("name") and len(segments[0]) <= 4:
                long = any(len(token.group()) > 2 and not token.group().isupper() for token in segments[0])
                if long and not _is_vessel(text, segments[0][0].start(), segments[0][-1].end()):
                    yield segments[0][0].start(), segments[0][-1].end()

    def mentions(self, text: str, parts: frozenset[str]) -> list[Span]:
        """Further mentions, in one case, of people who are known there by these folded parts of their names."""
        found: list[tuple[int, int]] = []
        for token in _EACH_TOKEN.finditer(text):
            folded = folded_word(token.group())
            known = (
                folded in parts and folded not in self._never and not text[token.start() - 1 : token.start()].isalpha()
            )
            if known and not _is_vessel(text, token.start(), token.end()):
                found.append((token.start(), token.end()))
        if _ARABIC.search(text):
            for word in _ARABIC_WORD.finditer(text):
                skip = self._start_of_known(word.group(), parts)
                if skip is not None:
                    found.append((word.start() + skip, word.end()))
        merged: list[tuple[int, int]] = []
        for start, end in found:
            if merged and text[merged[-1][1] : start] == " ":
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        return [_name_span(text, start, end) for start, end in merged]

    def _start_of_known(self, word: str, parts: frozenset[str]) -> int | None:
        for skip, bare in _bare_forms(word):
            if bare in gazetteer.EVERYDAY_GIVEN_AR or bare in self._never_ar or len(bare) < 3:
                continue
            if folded_word(bare) in parts:
                return skip
        return None

    # Latin script

    def _names_in_run(self, text: str, run: re.Match[str], signed: bool) -> Iterator[tuple[int, int]]:
        tokens = list(_EACH_TOKEN.finditer(text, run.start(), run.end()))
        words = [token.group().casefold().strip(".") for token in tokens]
        organisation = any(word in gazetteer.ORGANISATIONS for word in words)
        for segment in self._segments(tokens):
            first, last = segment[0], segment[-1]
            position = tokens.index(first)
            titled = position > 0 and words[position - 1] in gazetteer.HONORIFICS
            before = _WORD_BEFORE.search(text, max(0, first.start() - 24), first.start())
            role = before is not None and before.group(1).casefold() in gazetteer.ROLES | gazetteer.HONORIFICS
            kin = [i for i, token in enumerate(segment) if token.group().casefold() in gazetteer.KINSHIP]
            articled = [i for i, token in enumerate(segment) if _is_articled(token)]
            tribe = [i for i in articled if _folded(segment[i].group()).endswith(("i", "y"))]
            start = next((i for i, token in enumerate(segment) if _begins_name(segment, i)), None)
            if kin and 0 < kin[0] < len(segment) - 1:
                end = articled[0] if articled and articled[0] > kin[-1] else kin[-1] + 2
                begin = start if start is not None and start < kin[0] else max(0, kin[0] - 1)
                yield segment[begin].start(), segment[min(end, len(segment) - 1)].end()
            elif (organisation and not titled) or _is_vessel(text, first.start(), last.end()):
                continue
            elif tribe or (articled and start is not None and start < articled[0]):
                end = (tribe or articled)[0]
                begin = start if start is not None and start < end else max(0, end - 2)
                yield segment[begin].start(), segment[end].end()
            elif titled:
                yield first.start(), segment[min(len(segment), 4) - 1].end()
            elif role:
                yield first.start(), segment[min(len(segment), 3) - 1].end()
            elif any(_is_initial(token) and token.group().endswith(".") for token in segment[1:-1]):
                yield first.start(), last.end()
            elif start is not None:
                yield segment[start].start(), segment[min(len(segment), start + 3) - 1].end()
            elif any(_is_surname(token) for token in segment):
                surname = next(i for i, token in enumerate(segment) if _is_surname(token))
                yield segment[max(0, surname - 2)].start(), segment[surname].end()
            elif signed and len(segment) == len(tokens) <= 3 and _is_signature(text, first, last):
                yield first.start(), last.end()

    def _segments(self, tokens: Sequence[re.Match[str]], trusted: bool = False) -> list[list[re.Match[str]]]:
        """Cut a run of capitalised words at titles, places, offices and everyday words.

        trusted: a model took it for a person, so an everyday word that is a given name too ("Jan", "Will") is one.
        """
        segments: list[list[re.Match[str]]] = [[]]
        skip_next = False
        for token in tokens:
            if _folded(token.group()) == "al-bahr":  # "Noor al Bahr" and the like are vessels
                segments[-1] = []
                continue
            word = token.group().casefold().strip(".")
            folded = _folded(token.group())
            place = folded in gazetteer.PLACES or (
                folded.startswith("al-") and (folded[3:] in gazetteer.AL_PLACES or folded[3:] in self._kept_words)
            )
            surname = len(segments[-1]) == 1 and _is_given(segments[-1][0])  # "Lubna Sayyid"
            title = word in gazetteer.HONORIFICS and not surname
            initial = _is_initial(token) and (token.group().endswith(".") or bool(segments[-1]))
            given = trusted and word in world_names.GIVEN_WORLD and not segments[-1]
            ends = (word in self._never and not initial and not given) or title or place or skip_next
            skip_next = word in gazetteer.PLACE_HEADS
            if ends or skip_next:
                segments.append([])
            else:
                segments[-1].append(token)
        trimmed = [_without_small_ends(segment) for segment in segments]
        return [segment for segment in trimmed if segment]

    # Arabic script

    def _arabic(self, text: str) -> list[Span]:
        found = []
        for phrase in _ARABIC_PHRASE.finditer(text):
            words = list(_ARABIC_WORD.finditer(text, phrase.start(), phrase.end()))
            position = 0
            while position < len(words):
                outcome = self._arabic_name_at(words, position)
                if outcome is None:
                    position += 1
                    continue
                start, last = outcome
                found.append(_name_span(text, start, words[last].end()))
                position = last + 1
        found += [_name_span(text, *span) for span in self._before_identity_ar(text)]
        return found

    def _before_identity_ar(self, text: str) -> Iterator[tuple[int, int]]:
        """ "… توماس إيكلوند، جواز السفر رقم": two words, or three when a title or role stands before them."""
        for phrase in _PHRASE_BEFORE_IDENTITY_AR.finditer(text):
            words = list(_ARABIC_WORD.finditer(text, phrase.start(), phrase.end()))
            roles = [i for i, word in enumerate(words[-4:-1]) if _is_role_ar(word.group())]
            name = words[-4:][roles[-1] + 1 :] if roles else words[-2:]
            plain = all(word.group() not in self._never_ar and not _is_role_ar(word.group()) for word in name)
            if plain and not name[0].group().startswith("ال"):
                yield name[0].start(), name[-1].end()

    def _arabic_name_at(self, words: Sequence[re.Match[str]], position: int) -> tuple[int, int] | None:
        """(start character, index of the last word) of a name that begins with this word or after it as its title."""
        word = words[position].group()
        for _, bare in _bare_forms(word):
            if bare in gazetteer.TITLES_AR:
                return self._arabic_name_after_title(words, position + 1, certain=True)
            if bare in gazetteer.ROLES_AR:
                return self._arabic_name_after_title(words, position + 1, certain=False)
        skip, given = _given_ar(word)
        last = self._end_of_kinship(words, position)
        if last is not None:
            return words[position].start() + skip, last
        if given:
            end = self._end_of_given_names(words, position)
            if end > position:
                return words[position].start() + skip, end
        for skip, bare in _bare_forms(word):
            if _is_tribe_ar(bare) and not _is_everyday_tribe_ar(bare) and bare not in self._never_ar:
                return words[position].start() + skip, position
        return None

    def _end_of_given_names(self, words: Sequence[re.Match[str]], position: int) -> int:
        """Index of the last word of a name that begins with a given name here: further given names, "أبو …", "عبد ال…",
        and at its end a family name. The index itself when no such word follows."""
        end = position
        everyday = words[position].group() in gazetteer.EVERYDAY_GIVEN_AR
        while end + 1 < len(words) and end < position + 4:
            following = words[end + 1].group()
            behind = words[end + 2].group() if end + 2 < len(words) else ""
            if following in _JOINED_AR and behind and behind not in self._never_ar:
                everyday, end = False, end + 2
                continue
            if following not in gazetteer.GIVEN_AR:
                break
            everyday = everyday and following in gazetteer.EVERYDAY_GIVEN_AR
            end += 1
        following = words[end + 1].group() if end + 1 < len(words) else ""
        family = looks_like_nisba(following) and following not in self._never_ar and not everyday
        if _is_tribe_ar(following) or family:
            return end + 1
        return position if everyday else end

    def _end_of_kinship(self, words: Sequence[re.Match[str]], position: int) -> int | None:
        """Index of the last word of "… بن … بن … ال…ي" that begins here, or None."""
        begin = position + 1 if words[position].group().endswith("عبد") else position  # عبد الله بن …
        if begin + 2 >= len(words) or words[begin + 1].group() not in gazetteer.KINSHIP_AR:
            return None
        certain = words[begin + 1].group() == "بن" or _given_ar(words[begin].group())[1]
        if not certain and words[begin + 2].group() not in gazetteer.GIVEN_AR:
            return None
        last = begin + 2
        while last + 2 < len(words) and words[last + 1].group() in gazetteer.KINSHIP_AR:
            last += 2
        if words[last].group() == "عبد" and last + 1 < len(words):
            last += 1
        following = words[last + 1].group() if last + 1 < len(words) else ""
        if looks_like_nisba(following) and following not in self._never_ar:
            last += 1
        return last

    def _arabic_name_after_title(
        self, words: Sequence[re.Match[str]], position: int, certain: bool
    ) -> tuple[int, int] | None:
        if position >= len(words):
            return None
        word = words[position].group()
        last = self._end_of_kinship(words, position)
        if last is not None:
            return words[position].start(), last
        tribe = _is_tribe_ar(word) or (certain and looks_like_nisba(word))
        if word in self._never_ar or _is_role_ar(word):
            return None
        if tribe:
            return words[position].start(), position
        if word not in gazetteer.GIVEN_AR and (not certain or word.startswith("ال")):
            return None
        last = position
        while last + 1 < len(words) and words[last + 1].group() in gazetteer.GIVEN_AR:
            last += 1
        following = words[last + 1].group() if last + 1 < len(words) else ""
        if following not in self._never_ar and (_is_tribe_ar(following) or looks_like_nisba(following)):
            last += 1
        return words[position].start(), last

    def _all_never_ar(self, text: str) -> bool:
        return all(word in self._never_ar for word in _ARABIC_WORD.findall(text))


def _name_span(text: str, start: int, end: int) -> Span:
    value = text[start:end]
    if text[start - 1 : start + 1] == "لل":  # the article after the preposition "ل" has lost its first letter
        value = "ا" + value
    return Span(start, end, "NAME", value)


def _folded(token: str) -> str:
    return re.sub(r"^(?:al|el)[ -]", "al-", token.casefold())


def _is_articled(token: re.Match[str]) -> bool:
    return re.match(r"(?:Al|al|El|el)[ -]", token.group()) is not None


def recased(text: str) -> str:
    """A text without any capital with capitals on the names that everybody knows, on the word after a given name and on
    what follows a cue such as "my name is"; of the same length. Any other text as it is."""
    if _UPPER_LETTER.search(text) or _ARABIC.search(text):
        return text
    letters = list(text)
    given_ends = -1
    for word in _LOWER_WORD.finditer(text):
        if len(word.group().rstrip(".")) == 1:
            if word.start() == given_ends + 1 and text[given_ends] == " ":  # an initial
                letters[word.start()] = _capital(letters[word.start()])
                given_ends = word.end()
            continue
        plain = _plain(word.group().rstrip("."))
        after_name = word.start() == given_ends + 1 and text[given_ends] == " "
        cued = _CUE_BEFORE.search(text, max(0, word.start() - 24), word.start()) is not None
        common = plain in gazetteer.STOP_WORDS or plain in gazetteer.HONORIFICS
        known = plain in _KNOWN and plain not in world_names.EVERYDAY
        if not common and (known or after_name or cued):
            letters[word.start()] = _capital(letters[word.start()])
        given_ends = word.end() if not common and (known or cued) else -1
    return "".join(letters)


def _capital(letter: str) -> str:
    """The capital, or the letter itself where its capital is two ("ß")."""
    return letter.upper() if len(letter.upper()) == 1 else letter


@lru_cache(maxsize=1 << 16)
def _plain(word: str) -> str:
    """In small letters, without accents."""
    folded = unicodedata.normalize("NFKD", word.casefold().replace("ø", "o").replace("ł", "l").replace("ß", "ss"))
    return "".join(letter for letter in folded if not unicodedata.combining(letter))


# Nordic, Slavic, Greek, German, Romanian, Finnish, Caucasian, Romance.
_CERTAIN = "sson|dottir|ovic|evic|vich|vych|skaya|czyk|wicz|enko|chuk|opoulos|akis|idis|shvili|oglu"
_CERTAIN_SURNAME_ENDING = re.compile(f"(?:{_CERTAIN}|[^n]ova)$")
_SURNAME_ENDING = re.compile(
    f"(?:{_CERTAIN}|sen|ova|eva|ski|ska|sky|escu|nen|mann|berg|quist|qvist|strom|gaard|dze|yan|ez|inho|etti|ini|ucci|ov|ev)$"
)
_KNOWN = gazetteer.GIVEN | world_names.GIVEN_WORLD | world_names.SURNAMES_WORLD


def _is_given(token: re.Match[str]) -> bool:
    """Also a word that may be something else."""
    return token.group().casefold() in gazetteer.GIVEN or _plain(token.group()) in world_names.GIVEN_WORLD


def _is_surname(token: re.Match[str]) -> bool:
    """A family name that is nothing else."""
    plain = _plain(token.group())
    return plain in world_names.SURNAMES_WORLD and plain not in world_names.EVERYDAY and not token.group().isupper()


def _is_known(token: re.Match[str]) -> bool:
    return token.group().casefold() in gazetteer.GIVEN or _plain(token.group()) in _KNOWN


def _looks_like_surname(token: re.Match[str], certainly: bool = False) -> bool:
    """By its ending. certainly: only endings that no other word has."""
    endings = _CERTAIN_SURNAME_ENDING if certainly else _SURNAME_ENDING
    return len(token.group()) > 5 and endings.search(_plain(token.group())) is not None


def _begins_name(segment: Sequence[re.Match[str]], position: int) -> bool:
    """A given name that is nothing else; or one that may be, with a family name or an initial behind it."""
    token = segment[position]
    if token.group().casefold() in gazetteer.GIVEN:
        return True
    plain = _plain(token.group())
    if plain not in world_names.GIVEN_WORLD or token.group().isupper():
        return False
    following = segment[position + 1] if position + 1 < len(segment) else None
    if plain not in world_names.EVERYDAY:
        return True
    return following is not None and (_is_initial(following) or _plain(following.group()) in _KNOWN)


def _is_initial(token: re.Match[str]) -> bool:
    return len(token.group().strip(".")) == 1


def _by_line(text: str, tokens: Sequence[re.Match[str]]) -> Iterator[list[re.Match[str]]]:
    """Tokens that stand side by side, with nothing but spaces between them."""
    line: list[re.Match[str]] = []
    for token in tokens:
        if line and text[line[-1].end() : token.start()].strip(" "):
            yield line
            line = []
        line.append(token)
    if line:
        yield line


def _is_part_of_organisation(text: str, span: tuple[int, int], entities: Sequence[Entity]) -> bool:
    """A single word inside a longer name that a model took for an organisation: "Davis, Reynolds and Williams"."""
    start, end = span
    if " " in text[start:end]:
        return False
    return any(
        entity.label == "ORGANISATION"
        and entity.start <= start
        and end <= entity.end
        and " " in text[entity.start : entity.end].strip()
        for entity in entities
    )


def _is_signature(text: str, first: re.Match[str], last: re.Match[str]) -> bool:
    """One to three words at the end of a letter, alone in their sentence, perhaps with what the person is or has."""
    if len(text) - first.start() > _SIGNATURE_REACH or _SIGNATURE_BEFORE.search(text[: first.start()]) is None:
        return False
    after = text[last.end() :]
    if first is last:  # a single word could begin any sentence
        return re.fullmatch(r"\.?\s*|, [^.!?]{2,60}\.?", after) is not None
    return after[:1] in ("", ",", "\n") or after == "."


def _is_unsure_alone(text: str, token: re.Match[str]) -> bool:
    """A single capitalised word that a model took for a person, where every word has a capital or more words follow."""
    if token.group().isupper() or re.match(r" [A-Z]", text[token.end() :]):
        return True
    if _CUE_BEFORE.search(text, max(0, token.start() - 24), token.start()):
        return False
    before = re.search(r"([A-Z][\w.]*) \Z", text[max(0, token.start() - 30) : token.start()])
    return before is not None and before.group(1).casefold().strip(".") not in gazetteer.HONORIFICS


def _is_vessel(text: str, start: int, end: int) -> bool:
    return (
        _VESSEL_BEFORE.search(text[max(0, start - 20) : start]) is not None or re.match(r" \d", text[end:]) is not None
    )


def _without_small_ends(segment: list[re.Match[str]]) -> list[re.Match[str]]:
    def is_small(token: re.Match[str]) -> bool:
        return token.group().casefold() in gazetteer.KINSHIP | gazetteer.PARTICLES

    while segment and is_small(segment[0]):
        segment = segment[1:]
    while segment and is_small(segment[-1]):
        segment = segment[:-1]
    return segment


def _bare_forms(word: str) -> Iterator[tuple[int, str]]:
    """The word, and the word without a preposition or conjunction written onto it: (characters to skip, word)."""
    yield 0, word
    if word.startswith("لل") and len(word) > 4:
        yield 1, "ا" + word[1:]
    if len(word) > 3 and word[0] in _PREFIXES_AR:
        yield 1, word[1:]
        if word[0] in "وف" and word.startswith("لل", 1):
            yield 2, "ا" + word[2:]


def _given_ar(word: str) -> tuple[int, bool]:
    """How many characters stand before a given name in this word, and whether it is one."""
    for skip, bare in _bare_forms(word):
        if bare in gazetteer.GIVEN_AR:
            return skip, True
    return 0, False


def _is_everyday_tribe_ar(word: str) -> bool:
    everyday = gazetteer.EVERYDAY_TRIBES_AR
    return word in everyday or _FEMININE_ENDING.sub("ي", word) in everyday


def _is_tribe_ar(word: str) -> bool:
    return word in gazetteer.TRIBES_AR or _FEMININE_ENDING.sub("ي", word) in gazetteer.TRIBES_AR


def _is_role_ar(word: str) -> bool:
    return any(bare in gazetteer.ROLES_AR or bare in gazetteer.TITLES_AR for _, bare in _bare_forms(word))
