"""Which documents must stay together: connected components over case, links, author and near-duplicates.

What belongs here: the ties. What does not: which side a component goes to (`hold_out.py`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sovereign_pipeline.corpus.document import Document


@dataclass(frozen=True, slots=True)
class Member:
    """What the split needs to know of a document; no text. author: empty when unknown or not asked for."""

    id: str
    case: str
    author: str
    links: tuple[str, ...]
    is_preference: bool


def member_of(document: Document, author: str) -> Member:
    """author: as it can be compared across cases; a scrubbed document's own field cannot be."""
    return Member(document.id, document.case, author, document.links, document.is_preference)


def ties_of(member: Member, by_author: bool) -> Iterator[tuple[str, str]]:
    """(kind, value): two documents that share one of these are tied. An empty case or author ties nobody.

    A document carries its own id and the ids it links to, so two documents that link to the same third one are tied
    even where that third one was quarantined.
    """
    if member.case:
        yield "case", member.case
    if by_author and member.author:
        yield "author", member.author
    for matter in (member.id, *member.links):
        yield "link", matter


def components(members: Sequence[Member], similar: Iterable[tuple[int, int]], by_author: bool) -> list[int]:
    """The component of each document: the number of the first document in it.

    similar: pairs of document numbers that are near-duplicates. Union by lowest number with path halving (Tarjan and
    van Leeuwen 1984).
    """
    parent = list(range(len(members)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def unite(one: int, other: int) -> None:
        low, high = sorted((root(one), root(other)))
        parent[high] = low

    first_with: dict[tuple[str, str], int] = {}
    for number, member in enumerate(members):
        for tie in ties_of(member, by_author):
            unite(first_with.setdefault(tie, number), number)
    for one, other in similar:
        unite(one, other)
    return [root(number) for number in range(len(members))]
