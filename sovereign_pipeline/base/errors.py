"""The errors that people read: what happened and where, and what to do.

A message names the file or row id, and never quotes a document. A hint says what to do, without a command: an act that
corrects the error is a `Remedy`, which each interface phrases. A class exists where a caller tells it apart, and
carries the hint that is usual for it. Bugs stay ordinary exceptions with a traceback.
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
    """The exit status of the command line."""
    usual_hint: ClassVar[str] = ""
    """The hint of an error that is raised without one."""

    def __init__(self, message: str, hint: str | None = None, *, act: Act | None = None, **about: str) -> None:
        """
        Args:
            message: what happened and where, in sentences.
            hint: what to do, in sentences; None takes the class's usual hint, and "" gives none.
            act: the act that would correct it, where an interface has one; `about` says on what.
        """
        super().__init__(message)
        self.message = message
        self.hint = self.usual_hint if hint is None else hint
        self.remedy = Remedy(act, about) if act is not None else None

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message


class InputError(SovereignError):
    """The input is wrong: a recipe, a file, an unknown line or identifier."""

    exit_status = 2


class RecipeError(InputError):
    """A recipe or institution file does not say something valid."""

    usual_hint = "Correct the file."


class SourceError(InputError):
    """A source file is missing or cannot be read as its descriptor says."""

    usual_hint = "Correct the source file, or its descriptor in the recipe."


class NotFoundError(InputError):
    """A line, artifact, adapter or model that was named does not exist here."""


class CorpusWithheld(InputError):
    """This process has no access to the unscrubbed text that it needs."""

    usual_hint = "Run it under the account that reads the corpus (SOVEREIGN_CORPUS)."


class IntegrityError(SovereignError):
    """Bytes are missing or are not the ones that were recorded. The message names the file."""

    usual_hint = "Restore it from a copy, and find out what changed it."


class CeilingExceeded(SovereignError):
    """A document's classification is above the ceiling of the line it was given to."""

    usual_hint = "Leave the document out, or have the ceiling of the line raised."


class QuarantineExceeded(SovereignError):
    """More rows of a source are broken than the recipe tolerates."""


class PrivacyError(SovereignError):
    """A detector failed, missed its canary, or left an identifier behind."""


class GateRefused(SovereignError):
    """A gate failed, or has no passing record for exactly this artifact."""


class StaleInput(SovereignError):
    """An input was made from something that is no longer the line's current artifact."""

    usual_hint = "Run the line again."


class TrainingFailed(SovereignError):
    """The trainer stopped: a guard fired, or the child process ended without a result."""

    usual_hint = "Correct the recipe, and run the line again."


class WorkerKilled(SovereignError):
    """One of the processes that share the work of this machine was killed."""

    usual_hint = "Free memory on this machine, and run the line again."


class SandboxUnavailable(SovereignError):
    """This machine does not let the limits be set behind which a model's code is run."""


class ConflictError(SovereignError):
    """The act is logged already, or what it belongs to is closed."""


class SignInError(SovereignError):
    """The person may not do this: no session, or a link that is unknown, used or expired."""


class EngineRefused(SovereignError):
    """An engine does not load this adapter, or does not answer this request."""


class EngineLost(SovereignError):
    """An engine ended or was stopped before an answer was complete."""

    usual_hint = "Ask again in a moment."


class ScannerLost(SovereignError):
    """A text could not be searched for personal data."""

    usual_hint = "Send it again later."


class TextTooLong(SovereignError):
    """A text is longer than what is searched for personal data."""


class RunStopped(SovereignError):
    """A run of the chain ended without success; the message is the first reason that was given."""

    def __init__(
        self, message: str, hint: str | None = None, *, exit_status: int = 1, act: Act | None = None, **about: str
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
