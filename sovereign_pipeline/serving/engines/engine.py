"""The Protocol of engines, and what goes in and comes out.

What belongs here: types that gateway, deployment and every engine share. What does not: how an engine computes.
"""

import datetime
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from sovereign_pipeline.serving.fingerprints import Fingerprint


@dataclass(frozen=True)
class Deployable:
    """An adapter whose state, signatures, approvals and bytes were verified: the only thing that is loaded."""

    adapter: str
    """Its id, such as `permits-desk-1.0.0`; the engine knows it by its digest alone."""
    line: str
    digest: str
    """Of the artifact with its weights, 64 hex digits."""
    directory: Path
    """An ordinary PEFT directory in the artifact store."""
    classification: str
    template_sha256: str
    """Of the chat template that it was trained with."""
    instruction: str | None
    """The line's instruction; None where the line says none. Whoever asks puts it before the first user's turn of a
    conversation that has no system message of its own, as in training: `dataset.formats.user_message(instruction,
    content)`. As a system message it would be another prompt than the one that was trained."""
    base_model_digest: str = ""
    """Over the files of the base model that it was trained on; an engine with another one refuses it. Empty: not
    compared."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File of the directory -> SHA-256, as the artifact's manifest has them: what is loaded has exactly these bytes.
    Empty: those that are there when it is loaded first."""
    pinned: bool = False
    """Whether its weights stay in memory, whatever else is loaded: of one in production."""
    in_reserve: bool = False
    """Whether it is loaded only so that an officer can go back to it at once; nobody may name it."""
    registered_at: datetime.datetime | None = None
    fingerprint: Fingerprint | None = None
    """What the training side computes with it, which the engine must reproduce at each load; None compares nothing."""

    @property
    def is_in_production(self) -> bool:
        return self.pinned and not self.in_reserve


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    max_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts at which an answer ends; not part of it."""


@dataclass(frozen=True)
class Piece:
    """A part of an answer, as it is computed."""

    text: str
    tokens: int
    """How many new tokens it stands for."""
    finish: Literal["stop", "length"] | None = None
    """Of the last piece alone."""


@dataclass(frozen=True)
class Answer:
    """An answer that has begun: its prompt's length, and its pieces as they come."""

    prompt_tokens: int
    pieces: AsyncIterator[Piece]
    """Ends after the piece with `finish`. Closing it (`aclose`) gives the request up. Raises EngineLost when the engine
    is gone before that."""


class Engine(Protocol):
    """One base model in memory, and adapters beside it. Safe to be asked by many at once."""

    async def load(self, adapter: Deployable) -> None:
        """Take an adapter into memory beside those that are there.

        Raises EngineRefused for one that does not fit, whose files are others, or whose fingerprint the engine does not
        reproduce; and EngineLost.
        """

    async def unload(self, digest: str) -> None:
        """Give an adapter up; requests that began with it end with it. Unknown digests are no error."""

    def loaded(self) -> Mapping[str, str]:
        """Digest -> adapter's id, of everything that can be asked now."""

    async def answer(
        self, digest: str, messages: Sequence[Mapping[str, str]], sampling: Sampling, cache_group: str = ""
    ) -> Answer:
        """Begin an answer to a conversation of `role` and `content`, rendered with the base model's chat template.

        cache_group: what an engine keeps of prompts speeds up only answers of the same group. Whoever may time
        answers could else find out what others asked.

        Raises EngineRefused for an adapter that is not loaded and for a prompt that is too long, and EngineLost.
        """

    async def is_well(self) -> bool:
        """Whether the engine computes; a hung one is not well. Answers within two seconds."""

    async def close(self) -> None:
        """Stop computing, and give the memory back. Requests that run raise EngineLost."""
