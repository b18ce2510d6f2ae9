"""Define the errors that are shown to users, each with a message and a hint.

The message says what happened and names the file or row id, and never quotes a document. The hint says what to do. A
`Remedy` names an act that corrects the error; each interface shows it in its own form, for example as a command. Add a
class only for errors that a caller handles differently.
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
    "review_status",
    "run_experiment",
    "run_line",
    "run_line_until",
    "show_mask",
    "size_training",
    "waive_gate",
]


@dataclass(frozen=True)
class Remedy:
    """An act that corrects an error. Each interface shows the act in its own form, for example as a command."""

    act: Act
    about: Mapping[str, str]
    """Parameters of the act, such as `{"line": "permits-desk"}`."""


class SovereignError(Exception):
    """The base class of every error that is shown to users."""

    exit_status: ClassVar[int] = 1
    """Exit status of the command line after an error of this class."""
    usual_hint: ClassVar[str] = ""
    """Hint for errors of this class that are raised without a hint."""

    def __init__(self, message: str, hint: str | None = None, *, act: Act | None = None, **about: str) -> None:
        """Args:
        message: what happened and where, in sentences.
        hint: what to do, in sentences. None selects the class's usual hint, and "" means no hint.
        act: name of the act that corrects the error, if an interface offers one.
        about: parameters of `act`.
        """
        super().__init__(message)
        self.message = message
        self.hint = self.usual_hint if hint is None else hint
        self.remedy = Remedy(act, about) if act is not None else None

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message


class InputError(SovereignError):
    """Raised for wrong input: a recipe, a file, an unknown line of adapters or an unknown identifier."""

    exit_status = 2


class RecipeError(InputError):
    usual_hint = "Correct the file."


class SourceError(InputError):
    """Raised when a source file is missing or cannot be read as its descriptor says."""

    usual_hint = "Correct the source file, or its descriptor in the recipe."


class NotFoundError(InputError):
    """Raised when this installation has no line, artifact, adapter or model with the given name."""


class CorpusWithheld(InputError):
    """Raised when this process needs the unscrubbed text but has no access to it."""

    usual_hint = "Run the command under the account that can read the corpus (SOVEREIGN_CORPUS)."


class IntegrityError(SovereignError):
    """Raised when bytes are missing or differ from the recorded bytes. The message names the file."""

    usual_hint = "Restore the file from a copy, and find out what changed it."


class CeilingExceeded(SovereignError):
    """Raised when a document's classification is above the ceiling of its line of adapters."""

    usual_hint = "Leave the document out, or have the ceiling of the line raised."


class QuarantineExceeded(SovereignError):
    """Raised when a source has more broken rows than the recipe tolerates."""


class PrivacyError(SovereignError):
    """Raised when personal data cannot be found, replaced or stored in the vault safely."""


class GateRefused(SovereignError):
    """Raised when a gate did not pass or has no record for exactly this artifact, or when another required check,
    review or trial is missing, is open or did not pass."""


class StaleInput(SovereignError):
    """Raised when an input was built from an artifact that is no longer current in its line of adapters."""

    usual_hint = "Run the line again."


class TrainingFailed(SovereignError):
    """Raised when the trainer stopped: one of its checks failed, or its process ended without a result."""

    usual_hint = "Correct the recipe, and run the line again."


class TrainingStopped(TrainingFailed):
    """Raised when the trainer stopped before its last step. The next run resumes from the last checkpoint."""

    usual_hint = "Run again; the training resumes from the last checkpoint."


class TrainingDiverged(TrainingFailed):
    """Raised when a training run diverged or learned nothing. Its settings are the cause, so another run would fail in
    the same way."""


class WorkerKilled(SovereignError):
    usual_hint = "Free memory on this machine, and run the line again."


class SandboxUnavailable(SovereignError):
    """Raised when this machine cannot enforce the limits for running code that a model wrote."""


class ConflictError(SovereignError):
    """Raised when an act does not fit the current state: it is already logged, a review is closed, a file is locked."""


class SignInError(SovereignError):
    """Raised when a person or key lacks permission: there is no session, a link has expired, a key is revoked."""


class EngineRefused(SovereignError):
    """Raised when an engine fails to load an adapter or to answer a request."""


class PromptTooLong(EngineRefused):
    """Raised when a conversation leaves no tokens for an answer in the model's context window."""

    usual_hint = "Shorten the conversation."


class EngineLost(SovereignError):
    """Raised when an engine ended or was stopped before it had completed an answer."""

    usual_hint = "Try again in a moment."


class ScannerLost(SovereignError):
    """Raised when a text could not be searched for personal data."""

    usual_hint = "Send the text again later."


class TextTooLong(SovereignError):
    """Raised when a text is too long to be searched for personal data."""


class RunStopped(SovereignError):
    """Raised when a run of the stages ended without success. The message is the first failure that was reported."""

    def __init__(
        self, message: str, hint: str | None = None, *, exit_status: int = 1, act: Act | None = None, **about: str
    ) -> None:
        super().__init__(message, hint, act=act, **about)
        self.exit_status = exit_status  # type: ignore[misc]


class ServiceEnded(SovereignError):
    """Raised when a service of the web UI, such as Dagster's web server, ended by itself or failed to load."""


def place_of(error: Exception) -> str:
    """Return the class of an unexpected error and its innermost six stack frames. The error's message is left out,
    since it may quote a document."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__} at {places}"
