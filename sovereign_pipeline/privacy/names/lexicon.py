"""Read the word lists of names and of other words from `word_lists/*.txt`. Each `[section]` of a file is one list.

Words of Latin lists are in lower case and without accents. The words of a pair are joined by an underscore.
"""

from pathlib import Path


def _read(file: str) -> dict[str, frozenset[str]]:
    """Return a dict from each section of a file to its words. Lines that begin with `#` are comments."""
    sections: dict[str, set[str]] = {}
    words: set[str] = set()
    for line in Path(__file__).with_name("word_lists").joinpath(file).read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            words = sections.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            words.update(word.replace("_", " ") for word in line.split())
    return {section: frozenset(words) for section, words in sections.items()}


ARABIC = _read("arabic.txt")
ARABIC["given"] |= ARABIC["given_gulf"]
LATIN = _read("gulf.txt") | _read("world_names.txt") | _read("world_places.txt") | _read("not_names.txt")
BESIDE = _read("beside_names.txt")
"""Feature -> words that give this feature to a candidate next to them."""
