"""Read the word lists of names and of other words from `word_lists/*.txt`. Each `[section]` of a file is one list.

Words of Latin lists are in lower case and without accents.
"""

from pathlib import Path

_DIRECTORY = Path(__file__).with_name("word_lists")


def _read(file: str) -> dict[str, frozenset[str]]:
    """Return section -> words of a file. Lines that begin with `#` are comments."""
    sections: dict[str, set[str]] = {}
    words: set[str] = set()
    for line in (_DIRECTORY / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            words = sections.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            words.update(line.split())
    return {section: frozenset(words) for section, words in sections.items()}


_ARABIC = _read("arabic.txt")
KINSHIP_AR = _ARABIC["kinship"]
TITLES_AR = _ARABIC["titles"]
ROLES_AR = _ARABIC["roles"]
OFFICES_AR = _ARABIC["offices"]
GIVEN_GULF_AR = _ARABIC["given_gulf"]
GIVEN_AR = GIVEN_GULF_AR | _ARABIC["given_arab"] | _ARABIC["more_given"] | _ARABIC["foreign_given"]
EVERYDAY_GIVEN_AR = _ARABIC["everyday_given"]
SURELY_GIVEN_AR = _ARABIC["surely_given"]
TRIBES_AR = _ARABIC["tribes"]
EVERYDAY_TRIBES_AR = _ARABIC["everyday_tribes"]
STOP_WORDS_AR = _ARABIC["stop_words"]
KEEP_AR = _ARABIC["keep"]
NOUNS_AR = _ARABIC["nouns"]
CUES_AR = _ARABIC["cues"]
REPORTING_AR = _ARABIC["reporting"]
MEETING_AR = _ARABIC["meeting"]
PLACE_HEADS_AR = _ARABIC["place_heads"]

_GULF = _read("gulf.txt")
GIVEN = _GULF["given"]
TRIBES = _GULF["tribes"]
HONORIFICS = _GULF["honorifics"]
ROLES = _GULF["roles"]
KINSHIP = _GULF["kinship"]
PARTICLES = _GULF["particles"]
PLACES = _GULF["places"]
AL_PLACES = _GULF["al_places"]
PLACE_HEADS = _GULF["place_heads"]
VESSELS = _GULF["vessels"]
ORGANISATIONS = _GULF["organisations"]
STOP_WORDS = _GULF["stop_words"]

_WORLD_NAMES = _read("world_names.txt")
GIVEN_WORLD = _WORLD_NAMES["given_world"]
SURNAMES_WORLD = _WORLD_NAMES["surnames_world"]
EVERYDAY = _WORLD_NAMES["everyday"]

_WORLD_PLACES = _read("world_places.txt")
PLACES_WORLD = _WORLD_PLACES["places_world"]
PEOPLES = _WORLD_PLACES["peoples"]
PLACES_OF_TWO_WORDS = frozenset(place.replace("_", " ") for place in _WORLD_PLACES["places_of_two_words"])

_NOT_NAMES = _read("not_names.txt")
BODIES = _NOT_NAMES["bodies"]
ADDRESSED_OFFICES = _NOT_NAMES["addressed_offices"]
GREETINGS = _NOT_NAMES["greetings"]
OFFICES = _NOT_NAMES["offices"]
LAW_AND_POLICY = _NOT_NAMES["law_and_policy"]
EVERYDAY_NOUNS = _NOT_NAMES["everyday_nouns"]
SITES = _NOT_NAMES["sites"]
LETTERS_BEHIND_NAMES = _NOT_NAMES["letters_behind_names"]
FAMILIES_TOO = _NOT_NAMES["surnames_too"] | _NOT_NAMES["many_families"]
BEHIND_NAMES_OF_THINGS = _NOT_NAMES["behind_names_of_things"]

BESIDE = _read("beside_names.txt")
"""Feature -> the words beside a candidate that give it."""
