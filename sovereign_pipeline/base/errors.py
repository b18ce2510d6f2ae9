"""The one taxonomy of errors that people are meant to read.

A message says what happened and where (file, row id; never document text); a hint says what to do. Neither names a
command: an act that would put the error right is a `Remedy`, which each interface phrases in its own way. A class
belongs here when a caller or the command line must tell it apart. Bugs are not in here: they stay ordinary exceptions
with a traceback.
"""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

Act = Literal[
    "check_recipe",
    "close_review",
    "close_review_early",
    "fetch_model",
    "list_suites",
    "look_at_source",
    "make_trust_root",
    "make_vault_key",
    "open_review",
    "open_review_with_prompts",
    "rebuild_index",
    "review_status",
    "run_line",
    "show_mask",
    "size_training",
    "waive_gate",
]


@dataclass(frozen=True)
class Remedy:
    """An act that would put an error right, for an interface to phrase."""

    act: Act
    about: Mapping[str, str]
    """What it is done to, such as `{"line": "permits-desk"}`."""


class SovereignError(Exception):
    """Base of every error with a message for people."""

    exit_status: ClassVar[int] = 1
    """What the command line ends with."""

    def __init__(self, message: str, hint: str = "", *, act: Act | None = None, **about: str) -> None:
        """
        Args:
            message: what happened and where, in sentences.
            hint: what to do, in sentences; shown on a line of its own.
            act: the act that would put it right, where an interface has one; `about` says to what.
        """
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.remedy = Remedy(act, about) if act is not None else None

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message


class InputError(SovereignError):
    """The caller gave something wrong: a recipe, a file, an unknown line or identifier."""

    exit_status = 2


class RecipeError(InputError):
    """A recipe or institution file does not say something valid."""


class SourceError(InputError):
    """A source file is missing or cannot be read as its descriptor says."""


class NotFoundError(InputError):
    """A line, artifact, adapter or model that was named does not exist here."""


class CorpusWithheld(InputError):
    """Unscrubbed text is needed, and this process is not given it."""


class IntegrityError(SovereignError):
    """Bytes are missing or are not the ones that were recorded. The message names the file."""


class CeilingExceeded(SovereignError):
    """A document's classification is above the ceiling of the line it was given to."""


class QuarantineExceeded(SovereignError):
    """More rows of a source are broken than the recipe tolerates."""


class PrivacyError(SovereignError):
    """A detector failed, missed its canary, or left an identifier behind."""


class GateRefused(SovereignError):
    """A gate said no, or has no passing record for exactly the artifact that is to be used."""


class StaleInput(SovereignError):
    """An input was made from something that is no longer the line's current artifact."""


class TrainingFailed(SovereignError):
    """The trainer stopped: a guard fired, or the child process ended without a result."""


class WorkerKilled(SovereignError):
    """One of the processes that share the work of this machine was killed."""


class SandboxUnavailable(SovereignError):
    """This machine does not let the limits be set behind which a model's code is run."""


class ConflictError(SovereignError):
    """What was to be recorded is on record already, or what it belongs to is closed."""


class SignInError(SovereignError):
    """Somebody is not who may do this here: no session, or a link that is unknown, used or too old."""


class EngineRefused(SovereignError):
    """An engine does not load this adapter, or does not answer this request."""


class EngineLost(SovereignError):
    """An engine is gone, or was stopped, before an answer was complete."""


class ScannerLost(SovereignError):
    """A text could not be searched for personal data."""


class TextTooLong(SovereignError):
    """A text is longer than what is searched for personal data."""


class RunStopped(SovereignError):
    """A run of the chain ended without success; the message is the first reason that was given."""

    def __init__(
        self, message: str, hint: str = "", *, exit_status: int = 1, act: Act | None = None, **about: str
    ) -> None:
        super().__init__(message, hint, act=act, **about)
        self.exit_status = exit_status  # type: ignore[misc]


class ServiceEnded(SovereignError):
    """One of the processes of interactive use ended by itself."""


def place_of(error: Exception) -> str:
    """The kind of an unexpected error and where it arose. Its message is left out: it may quote a document."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"
