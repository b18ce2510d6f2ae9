"""Find names of people in Arabic text: by kinship words, titles, offices, cues and word lists."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from sovereign_pipeline.privacy.names.lexicon import ARABIC
from sovereign_pipeline.privacy.names.persons import folded_word, looks_like_nisba

LETTERS = "ء-يٮٯٱ-ۓەۮۯۺ-ۼݐ-ݿ"
"""Letters of Arabic, Persian, Urdu, Kurdish and other languages, for use inside a character class."""
ARABIC_LETTER = re.compile(f"[{LETTERS}]")
ARABIC_WORD = re.compile(f"[{LETTERS}]+")
_GIFT_OF_GOD = re.compile("(?:عبد|عبيد|عطا|عطاء|نصر|فضل|سعد|جار|ضيف|فرج|رزق|خلف|فتح|جاد)الله$")
_PREFIXES = "وفبلك"
_FEMININE_ENDING = re.compile("ية$")


# --- single words -----------------------------------------------------------------------------------------------------


def bare_forms(word: str) -> Iterator[tuple[int, str]]:
    """Yield a pair (number of prefix letters, rest of the word) for each way to split a word. Prefixes are prepositions
    and conjunctions, which Arabic attaches to the next word. The first pair is 0 and the whole word."""
    yield 0, word
    if word.startswith("لل") and len(word) > 4:
        yield 1, "ا" + word[1:]
    if len(word) > 3 and word[0] in _PREFIXES:
        yield 1, word[1:]
        if word[0] in "وف" and word.startswith("لل", 1):
            yield 2, "ا" + word[2:]


def given_name_in(word: str) -> tuple[int, bool]:
    """If a word is a given name with or without prefixes, return the number of prefix letters and True. Otherwise
    return 0 and False."""
    for skip, bare in bare_forms(word):
        if bare in ARABIC["given"]:
            return skip, True
    return 0, False


def is_gift_of_god(word: str) -> bool:
    """Return True if a word is a given name that ends with "الله" and is written as one word: "عبيدالله", "عطاالله"."""
    return _GIFT_OF_GOD.match(word) is not None


def is_everyday_tribe(word: str) -> bool:
    everyday = ARABIC["everyday_tribes"]
    return word in everyday or _FEMININE_ENDING.sub("ي", word) in everyday


def is_tribe(word: str) -> bool:
    return word in ARABIC["tribes"] or _FEMININE_ENDING.sub("ي", word) in ARABIC["tribes"]


def is_role(word: str) -> bool:
    return any(bare in ARABIC["roles"] or bare in ARABIC["titles"] for _, bare in bare_forms(word))


def is_title(word: str) -> bool:
    """Return True if a word is a title or an office. A name usually follows such a word."""
    return word in ARABIC["titles"] or word in ARABIC["offices"]


# --- names ------------------------------------------------------------------------------------------------------------

_PHRASE = re.compile(rf"[{LETTERS}]+(?: [{LETTERS}]+)*")
_IDENTITY = re.compile("، (?:و?جواز(?:ه|ها)?|الرقم المدني|رقم(?:ه|ها) المدني|بطاقة مقيم)")
_LAST_WORDS = re.compile(rf"(?:[{LETTERS}]+ ){{1,3}}[{LETTERS}]+\Z")
_LONGEST_OF_FOUR_WORDS = 160
"""Maximum number of characters before the mention of an identity document that are searched for a name. This limits the
time for each mention."""
_ABBREVIATED_TITLE = re.compile(rf"(?<![{LETTERS}])د ?[./] ?\Z")
_SPEECH_BEHIND = re.compile(r" ?[:،,]| ?[\"«“]")
_JOINED_WITH_NEXT = frozenset(
    {"أبو", "ابو", "أبي", "ابي", "أبا", "بو", "عبد", "آل"}
)  # each forms one name with the next word
_JOINED_WITH_LAST = frozenset({"الدين", "الله", "الإسلام", "الزهراء"})
_KUNYA = frozenset({"أبو", "ابو", "أم", "ام"})
_NO_PERSON_BEHIND_KUNYA = frozenset(
    ["ظبي", "كشك", "القرى", "القيوين", "غريب", "الهول", "الحمام", "درمان", "الخير", "الفحم", "الرشراش", "مصر", "الخصيب"]
)
_LABEL_BEFORE = re.compile(
    r"(?:الاسم|اسم (?:الأب|الأم|الجد|الزوج|الزوجة|المستخدم)|(?:ال)?توقيع|الموقع(?: أدناه)?|المرسل|المستلم|"
    r"مقدم الطلب|من|إلى|نسخة|الشاهد(?: الأول| الثاني)?|المستفيد|الكفيل) ?: ?\Z"
)
_LONGEST_LABEL = 24
_LONGEST = 6  # maximum number of words after the first one of a name
_TITLES_IN_A_ROW = 3

Words = Sequence[re.Match[str]]


class ArabicNames:
    """Finds names in Arabic letters. Its methods return half-open spans of normalised text."""

    def __init__(self, keep_words: frozenset[str]) -> None:
        self._never = ARABIC["stop_words"] | ARABIC["keep"] | ARABIC["nouns"] | keep_words

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the names that patterns find. Spans may overlap."""
        for phrase in _PHRASE.finditer(text):
            words = list(ARABIC_WORD.finditer(text, phrase.start(), phrase.end()))
            position = 0
            while position < len(words):
                name = self._name_at(text, words, position)
                if name is None:
                    position += 1
                    continue
                start, last = name
                yield start, words[last].end()
                position = last + 1
                while position < len(words) and self._is_one_more(words, position):
                    yield words[position].start() + 1, words[position].end()
                    position += 1
        yield from self._before_identity(text)

    def mentions(self, text: str, parts: frozenset[str]) -> Iterator[tuple[int, int]]:
        """Yield the spans of single words that are known parts of names, without the words' prefixes. "عبد" and the
        next word count as one word."""
        words = list(ARABIC_WORD.finditer(text))
        for place, word in enumerate(words):
            skip = self._prefix_of_known(word.group(), parts)
            if skip is not None:
                yield word.start() + skip, word.end()
            elif place + 1 < len(words) and text[word.end() : words[place + 1].start()] == " ":
                following = words[place + 1]
                for skip, bare in bare_forms(word.group()):
                    if bare in _JOINED_WITH_NEXT and folded_word(f"{bare} {following.group()}") in parts:
                        yield word.start() + skip, following.end()

    def may_be_name(self, text: str) -> bool:
        """Return True if any Arabic word in a text may be part of a name."""
        return any(word not in self._never for word in ARABIC_WORD.findall(text))

    def _before_identity(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the name before the mention of an identity document, as in "… توماس إيكلوند، جواز السفر رقم". The name
        is the last two words, or, after a title or role, up to three words."""
        for identity in _IDENTITY.finditer(text):
            before = _LAST_WORDS.search(text, max(0, identity.start() - _LONGEST_OF_FOUR_WORDS), identity.start())
            if before is None:
                continue
            words = list(ARABIC_WORD.finditer(text, *before.span()))
            roles = [i for i, word in enumerate(words[-4:-1]) if is_role(word.group())]
            name = words[-4:][roles[-1] + 1 :] if roles else words[-2:]
            plain = all(word.group() not in self._never and not is_role(word.group()) for word in name)
            if plain and not name[0].group().startswith("ال"):
                yield name[0].start(), name[-1].end()

    def _name_at(self, text: str, words: Words, position: int) -> tuple[int, int] | None:
        """Return (start offset, index of the last word) of a name that begins with this word, or with the next word if
        this word is a title. Otherwise return None."""
        word = words[position].group()
        for _, bare in bare_forms(word):
            if bare in ARABIC["titles"]:
                return self._name_after_title(words, position + 1, certain=True)
            if bare in ARABIC["roles"] or bare in ARABIC["offices"]:
                return self._name_after_title(words, position + 1, certain=False)
        if position == 0 and _ABBREVIATED_TITLE.search(text, max(0, words[0].start() - 5), words[0].start()):
            name = self._name_after_title(words, 0, certain=True)
            if name is not None:
                return name
        if word in ARABIC["reporting"] and (speaker := self._speaker(text, words, position + 1)) is not None:
            return speaker
        for skip, bare in bare_forms(word) if word not in self._never else ():
            if self._begins_name(bare, words, position):
                end = self._end_of_name(text, words, position)
                if end is not None:
                    return words[position].start() + skip, end
        last = self._end_of_kinship(words, position)
        if last is not None:
            return words[position].start() + given_name_in(word)[0], last
        for skip, bare in bare_forms(word):
            if is_tribe(bare) and not is_everyday_tribe(bare) and bare not in self._never:
                return words[position].start() + skip, position
        return None

    def _begins_name(self, bare: str, words: Words, position: int) -> bool:
        if bare in ARABIC["given"] or is_gift_of_god(bare):
            return True
        following = words[position + 1].group() if position + 1 < len(words) else ""
        if bare == "عبد":
            return following.startswith("ال") and following not in ARABIC["keep"]
        if bare in _KUNYA:
            known = following in ARABIC["given"]
            father = bare not in ("أم", "ام") and self._may_be_part(following)
            return (known or father) and following not in _NO_PERSON_BEHIND_KUNYA
        return False

    def _end_of_name(self, text: str, words: Words, position: int) -> int | None:
        """Return the index of the last word of a name that begins at `position` with a given name, a compound or a
        kunya. Return None if the evidence for a name is too weak."""
        before = words[position - 1].group() if position > 0 else ""
        if before in ARABIC["place_heads"]:
            return None
        end = self._end_of_unit(words, position)
        everyday = end == position and given_in(words[position].group()) in ARABIC["everyday_given"]
        kunya = any(bare in _KUNYA for _, bare in bare_forms(words[position].group()))
        while end + 1 < len(words) and end < position + _LONGEST:
            following = words[end + 1].group()
            if following in ARABIC["kinship"] and end + 2 < len(words):
                end, everyday = self._end_of_unit(words, end + 2), False
            elif following in ARABIC["given"] or following in _JOINED_WITH_NEXT:
                unit = self._end_of_unit(words, end + 1)
                everyday = everyday and unit == end + 1 and following in ARABIC["everyday_given"]
                if following in _JOINED_WITH_NEXT and unit == end + 1:
                    break
                end = unit
            else:
                break
        cued = before in ARABIC["cues"] or before in ARABIC["roles"]
        surname = self._surname_behind(words, end, everyday=everyday and not cued)
        if surname is not None:
            return surname
        if not everyday and (end > position or kunya):
            return end
        alone = given_in(words[position].group())
        if end == position:
            speaks = position == 0 and len(words) == 1 and _stands_as_speaker(text, words[0])
            reported = before in ARABIC["reporting"] and self._is_speech(text, words, position)
            met = before in ARABIC["meeting"] or self._is_labelled(text, words, position)
            surely = alone in ARABIC["surely_given"] or is_gift_of_god(alone)
            return end if surely or speaks or reported or met else None
        return end if cued else None

    def _is_one_more(self, words: Words, position: int) -> bool:
        """Return True if a word after a name, such as "وسالم" ("and Salim"), is one more given name that does not begin
        a longer name."""
        word = words[position].group()
        following = words[position + 1].group() if position + 1 < len(words) else ""
        longer = following in ARABIC["kinship"] or following in ARABIC["given"] or is_tribe(following)
        plain = not longer and not following.startswith("ال")
        return plain and word.startswith("و") and word[1:] in ARABIC["given"] and word not in self._never

    def _is_labelled(self, text: str, words: Words, position: int) -> bool:
        """Return True if a single word fills a labelled field: "الاسم: خالد"."""
        if position > 0 or len(words) > 1:
            return False
        start = words[0].start()
        return _LABEL_BEFORE.search(text, max(0, start - _LONGEST_LABEL), start) is not None

    def _end_of_unit(self, words: Words, position: int) -> int:
        """Return the index of the last word of a compound that begins at `position`: "عبد الرحيم", "صلاح الدين", "أبو
        بكر". If no compound begins at `position`, return `position`."""
        behind = words[position + 1].group() if position + 1 < len(words) else ""
        word = words[position].group()
        if not behind:
            return position
        compound = any(bare in _JOINED_WITH_NEXT or bare in _KUNYA for _, bare in bare_forms(word))
        if compound and (behind not in self._never or behind == "الله"):
            return position + 1
        mercy = any(bare == "رحمة" for _, bare in bare_forms(word))  # "السلام عليكم ورحمة الله"
        joined = behind in _JOINED_WITH_LAST and word not in self._never and not mercy
        return position + 1 if joined else position

    def _surname_behind(self, words: Words, end: int, *, everyday: bool) -> int | None:
        """Return the index of the family name that follows given names, or None. A family name is the name of a tribe,
        a word with the shape of such a name, or an unknown word at the end of a phrase."""
        if end + 1 >= len(words):
            return None
        following = words[end + 1].group()
        if is_tribe(following):
            return end + 1
        if following in self._never or is_role(following) or given_name_in(following)[1]:
            return None
        if looks_like_nisba(following):
            return None if everyday else end + 1
        behind = words[end + 2].group() if end + 2 < len(words) else ""
        breaks = not behind or behind in self._never or is_role(behind) or looks_like_nisba(behind)
        if everyday or len(following) < 3 or not (breaks or _foreign(following)):
            return None
        if behind and looks_like_nisba(behind) and behind not in self._never and not is_role(behind):
            return end + 2
        return end + 1

    def _speaker(self, text: str, words: Words, position: int) -> tuple[int, int] | None:
        """Return (start offset, index of the word) of a speaker who is named after a reporting verb, or None. The
        speaker is one word that is in no word list: "قال بوتين إن", "وأضاف خطاب: …"."""
        if position >= len(words):
            return None
        word = words[position].group()
        if not self._may_be_part(word) or word in ARABIC["given"] or is_role(word) or is_title(word):
            return None
        speaks = (looks_like_nisba(word) or not word.startswith("ال")) and self._is_speech(text, words, position)
        return (words[position].start(), position) if speaks else None

    def _is_speech(self, text: str, words: Words, position: int) -> bool:
        """Return whether reported speech follows a word."""
        if position + 1 < len(words):
            return words[position + 1].group() in ("إن", "ان", "أن", "إنه", "إنها", "بأن")
        return _SPEECH_BEHIND.match(text, words[position].end()) is not None

    def _may_be_part(self, word: str) -> bool:
        return len(word) > 2 and word not in self._never

    def _end_of_kinship(self, words: Words, position: int) -> int | None:
        """Return the index of the last word of a name with kinship words that begins at `position`, such as "… بن … بن
        … ال…ي". If no such name begins at `position`, return None."""
        begin = position + 1 if words[position].group().endswith("عبد") else position  # عبد الله بن …
        if begin + 2 >= len(words) or words[begin + 1].group() not in ARABIC["kinship"]:
            return None
        certain = words[begin + 1].group() == "بن" or given_name_in(words[begin].group())[1]
        if not certain and words[begin + 2].group() not in ARABIC["given"]:
            return None
        last = self._end_of_unit(words, begin + 2)
        while last + 2 < len(words) and words[last + 1].group() in ARABIC["kinship"]:
            last = self._end_of_unit(words, last + 2)
        following = words[last + 1].group() if last + 1 < len(words) else ""
        if is_tribe(following) or (looks_like_nisba(following) and following not in self._never):
            last += 1
        return last

    def _name_after_title(self, words: Words, position: int, certain: bool) -> tuple[int, int] | None:
        for _ in range(_TITLES_IN_A_ROW):  # "السيد المهندس …"
            if position < len(words) - 1 and is_title(words[position].group()):
                position += 1
        if position >= len(words):
            return None
        word = words[position].group()
        last = self._end_of_kinship(words, position)
        if last is not None:
            return words[position].start(), last
        if word in self._never or is_role(word):
            return None
        if is_tribe(word) or (certain and looks_like_nisba(word)):
            return words[position].start(), position
        begins = self._begins_name(word, words, position)
        if not begins and (not certain or word.startswith("ال") or len(word) < 3):
            return None
        last = self._end_of_unit(words, position)
        while last + 1 < len(words) and last < position + _LONGEST:
            following = words[last + 1].group()
            joins = following in _JOINED_WITH_NEXT or following in ARABIC["kinship"]
            if following not in ARABIC["given"] and not joins:
                break
            last = self._end_of_unit(words, last + 1 + (following in ARABIC["kinship"] and last + 2 < len(words)))
        surname = self._surname_behind(words, last, everyday=False) if begins or _foreign(word) else None
        last = surname if surname is not None else last
        while last + 1 < len(words) and _foreign(words[last + 1].group()):
            last += 1
        return words[position].start(), last

    def _prefix_of_known(self, word: str, parts: frozenset[str]) -> int | None:
        """Return the number of prefix letters before a known part of a name in this word. Return None if the word
        contains no known part."""
        for skip, bare in bare_forms(word):
            if bare in ARABIC["everyday_given"] or bare in self._never or len(bare) < 3:
                continue
            if folded_word(bare) in parts:
                return skip
        return None


def by_line(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the pieces of a name that was found across lines. If a line begins with a given name, a new piece begins
    with this line. If a line begins with a word that has the article and is not a family name, the name ends before
    this word. A name of one word then counts only if it is certainly a given name. Otherwise the name continues in the
    line."""
    words = list(ARABIC_WORD.finditer(text, start, end))
    begun = start
    for before, following in pairwise(words):
        if "\n" not in text[before.end() : following.start()]:
            continue
        linking = ARABIC["kinship"] | _JOINED_WITH_NEXT
        word = following.group()
        if before.group() in linking or word in ARABIC["kinship"]:
            continue
        if given_name_in(word)[1]:
            yield begun, before.end()
            begun = following.start()
        elif word.startswith("ال") and not looks_like_nisba(word) and not is_tribe(word):
            if " " in text[begun : before.end()] or given_in(text[begun : before.end()]) in ARABIC["surely_given"]:
                yield begun, before.end()
            return
    yield begun, end


def given_in(word: str) -> str:
    """Return the given name in a word, without prefixes. Return the word unchanged if it contains no given name."""
    return word[given_name_in(word)[0] :]


def _stands_as_speaker(text: str, word: re.Match[str]) -> bool:
    """Return True if a word at the start of a line labels a speaker, as in the script of a play: "عماد: …"."""
    before = text[max(0, word.start() - 2) : word.start()].rstrip(" ")
    return (not before or before.endswith("\n")) and text[word.end() : word.end() + 2].lstrip(" ").startswith(":")


def _foreign(word: str) -> bool:
    """Return True if a word contains letters that Arabic does not use."""
    return any(not "ء" <= letter <= "ي" for letter in word)
