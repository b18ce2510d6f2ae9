"""Where names of people stand in Arabic text: by kinship words, titles, roles and word lists.

What belongs here: where a name begins and ends. What does not: what a single word is (`arabic_words.py`).
"""

import re
from collections.abc import Iterator, Sequence

from sovereign_pipeline.privacy.names.arabic_words import (
    ARABIC_WORD,
    bare_forms,
    given_name_in,
    is_everyday_tribe,
    is_role,
    is_tribe,
)
from sovereign_pipeline.privacy.names.persons import folded_word, looks_like_nisba
from sovereign_pipeline.privacy.names.words import arabic_lists

_PHRASE = re.compile("[ء-ي]+(?: [ء-ي]+)*")
_IDENTITY = re.compile("، (?:و?جواز(?:ه|ها)?|الرقم المدني|رقم(?:ه|ها) المدني|بطاقة مقيم)")
_LAST_WORDS = re.compile(r"(?:[ء-ي]+ ){1,3}[ء-ي]+\Z")
_LONGEST_OF_FOUR_WORDS = 160
"""Characters before an identity that are looked at: never a whole text once for each of its words."""
_JOINED_WITH_NEXT = frozenset({"أبو", "ابو", "عبد", "آل"})  # they make one name with the next word


class ArabicNames:
    """Names in Arabic letters, as half-open spans of normalised text."""

    def __init__(self, keep_words: frozenset[str]) -> None:
        self._never = arabic_lists.STOP_WORDS_AR | arabic_lists.KEEP_AR | keep_words

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Names by pattern. Two of them may overlap."""
        for phrase in _PHRASE.finditer(text):
            words = list(ARABIC_WORD.finditer(text, phrase.start(), phrase.end()))
            position = 0
            while position < len(words):
                name = self._name_at(words, position)
                if name is None:
                    position += 1
                    continue
                start, last = name
                yield start, words[last].end()
                position = last + 1
        yield from self._before_identity(text)

    def mentions(self, text: str, parts: frozenset[str]) -> Iterator[tuple[int, int]]:
        """Single words that are known parts of names, without the prefixes written onto them."""
        for word in ARABIC_WORD.finditer(text):
            skip = self._prefix_of_known(word.group(), parts)
            if skip is not None:
                yield word.start() + skip, word.end()

    def may_be_name(self, text: str) -> bool:
        """Whether some Arabic word of it may be part of a name."""
        return any(word not in self._never for word in ARABIC_WORD.findall(text))

    def _before_identity(self, text: str) -> Iterator[tuple[int, int]]:
        """ "… توماس إيكلوند، جواز السفر رقم": two words, or three when a title or role stands before them."""
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

    def _name_at(self, words: Sequence[re.Match[str]], position: int) -> tuple[int, int] | None:
        """(start character, index of the last word) of a name that begins with this word or after it as its title."""
        word = words[position].group()
        for _, bare in bare_forms(word):
            if bare in arabic_lists.TITLES_AR:
                return self._name_after_title(words, position + 1, certain=True)
            if bare in arabic_lists.ROLES_AR:
                return self._name_after_title(words, position + 1, certain=False)
        skip, given = given_name_in(word)
        last = self._end_of_kinship(words, position)
        if last is not None:
            return words[position].start() + skip, last
        if given:
            end = self._end_of_given_names(words, position)
            if end > position:
                return words[position].start() + skip, end
        for skip, bare in bare_forms(word):
            if is_tribe(bare) and not is_everyday_tribe(bare) and bare not in self._never:
                return words[position].start() + skip, position
        return None

    def _end_of_given_names(self, words: Sequence[re.Match[str]], position: int) -> int:
        """Index of the last word of a name that begins with a given name here: further given names, "أبو …", "عبد ال…",
        and at its end a family name. The index itself when no such word follows."""
        end = position
        everyday = words[position].group() in arabic_lists.EVERYDAY_GIVEN_AR
        while end + 1 < len(words) and end < position + 4:
            following = words[end + 1].group()
            behind = words[end + 2].group() if end + 2 < len(words) else ""
            if following in _JOINED_WITH_NEXT and behind and behind not in self._never:
                everyday, end = False, end + 2
                continue
            if following not in arabic_lists.GIVEN_AR:
                break
            everyday = everyday and following in arabic_lists.EVERYDAY_GIVEN_AR
            end += 1
        following = words[end + 1].group() if end + 1 < len(words) else ""
        family = looks_like_nisba(following) and following not in self._never and not everyday
        if is_tribe(following) or family:
            return end + 1
        return position if everyday else end

    def _end_of_kinship(self, words: Sequence[re.Match[str]], position: int) -> int | None:
        """Index of the last word of "… بن … بن … ال…ي" that begins here, or None."""
        begin = position + 1 if words[position].group().endswith("عبد") else position  # عبد الله بن …
        if begin + 2 >= len(words) or words[begin + 1].group() not in arabic_lists.KINSHIP_AR:
            return None
        certain = words[begin + 1].group() == "بن" or given_name_in(words[begin].group())[1]
        if not certain and words[begin + 2].group() not in arabic_lists.GIVEN_AR:
            return None
        last = begin + 2
        while last + 2 < len(words) and words[last + 1].group() in arabic_lists.KINSHIP_AR:
            last += 2
        if words[last].group() == "عبد" and last + 1 < len(words):
            last += 1
        following = words[last + 1].group() if last + 1 < len(words) else ""
        if looks_like_nisba(following) and following not in self._never:
            last += 1
        return last

    def _name_after_title(self, words: Sequence[re.Match[str]], position: int, certain: bool) -> tuple[int, int] | None:
        if position >= len(words):
            return None
        word = words[position].group()
        last = self._end_of_kinship(words, position)
        if last is not None:
            return words[position].start(), last
        tribe = is_tribe(word) or (certain and looks_like_nisba(word))
        if word in self._never or is_role(word):
            return None
        if tribe:
            return words[position].start(), position
        if word not in arabic_lists.GIVEN_AR and (not certain or word.startswith("ال")):
            return None
        last = position
        while last + 1 < len(words) and words[last + 1].group() in arabic_lists.GIVEN_AR:
            last += 1
        following = words[last + 1].group() if last + 1 < len(words) else ""
        if following not in self._never and (is_tribe(following) or looks_like_nisba(following)):
            last += 1
        return words[position].start(), last

    def _prefix_of_known(self, word: str, parts: frozenset[str]) -> int | None:
        """How many characters stand before a known part in this word; None when it holds none."""
        for skip, bare in bare_forms(word):
            if bare in arabic_lists.EVERYDAY_GIVEN_AR or bare in self._never or len(bare) < 3:
                continue
            if folded_word(bare) in parts:
                return skip
        return None
