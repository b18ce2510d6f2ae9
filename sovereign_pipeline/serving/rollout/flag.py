"""Define a line's flag, render it in flagd's format, and store its signed changes."""

import datetime
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, model_validator

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, NotFoundError, SovereignError
from sovereign_pipeline.base.files import Frozen, held_within, read_bounded, sync_directory, write_new
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.officers import PIPELINE
from sovereign_pipeline.record.statements import (
    FLAG,
    LARGEST_BUNDLE,
    SUFFIX,
    Statement,
    Subject,
    sign_statement,
    verify_statement,
)
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.serving.high_water_marks import Digest

if TYPE_CHECKING:
    from openfeature.contrib.tools.flagd.core import FlagdCore

Arm = Literal["production", "staged"]
Cause = Literal["transition", "policy", "rollback", "regression", "signed anew"]

WEIGHTS = 10_000
"""Sum of the weights of both arms. It must never change, because a different sum would reassign users."""
TRIED_USERS = 64
EVALUATOR = "openfeature-flagd-core"


class FlagAdapter(Frozen):
    digest: Digest
    """Digest of the artifact that contains the adapter's weights."""
    record_manifest: Digest
    """SHA-256 of the manifest of the adapter's record. An officer's signed request has this digest as its subject."""
    classification: str


class WayBack(Frozen):
    """A prepared rollback request that an officer can sign while the registry is down."""

    adapter: str
    request: dict[str, Any]
    """Predicate of the prepared request, without a reason and an expiry."""


class Flag(Frozen):
    """A line's flag, which assigns the line's users to adapters."""

    line: str
    sequence: int = Field(ge=1)
    """Number of this change within the line."""
    production: str | None
    """Adapter of all users who do not get the staged adapter; None if no adapter answers these users."""
    staged: str | None
    share: float = Field(ge=0, le=1)
    """Share of users who get the staged adapter."""
    groups: tuple[str, ...]
    """Groups whose members get the staged adapter."""
    stopped: str | None
    """Reason why the rollout was stopped, so that nobody gets the staged adapter; None if it was not stopped."""
    began: int = Field(ge=1)
    """Number of the change that introduced the present share, groups and adapters. The comparison counts answers since
    that change."""
    began_at: datetime.datetime
    salt: Digest
    """Salt of user hashes. All flags of a line have the same salt, so that users keep their arm."""
    evaluator: str
    """Name and version of the evaluator. A different version may assign users differently."""
    staged_by: int | None
    """Number of the line's transition that staged the adapter."""
    cause: Cause
    reason: str
    at: datetime.datetime
    adapters: dict[str, FlagAdapter]
    request: Digest | None = None
    """SHA-256 of the officer's signed request, if an officer rolled back."""
    back: tuple[WayBack, ...]
    """Prepared rollbacks: unstage the staged adapter, or return to the previous adapter in production."""

    @model_validator(mode="after")
    def _adapters_are_described(self) -> "Flag":
        named = {self.production, self.staged, *(way.adapter for way in self.back)} - {None}
        if not named <= {*self.adapters}:
            raise ValueError("an adapter is missing in `adapters`")
        if self.production is not None and self.production == self.staged:
            raise ValueError("one adapter is both staged and in production")
        return self

    @property
    def is_rolling_out(self) -> bool:
        """True if the staged adapter answers some users."""
        return self.staged is not None and self.stopped is None and (self.share > 0 or bool(self.groups))

    @property
    def decided(self) -> tuple[object, ...]:
        """Return what officers decide: production and staged adapter, staging transition and prepared rollbacks."""
        return (self.production, self.staged, self.staged_by, [way.adapter for way in self.back])

    def in_words(self) -> str:
        if not self.is_rolling_out:
            stopped = f"; {self.staged} stopped: {self.stopped}" if self.staged is not None and self.stopped else ""
            return f"{self.production or 'nothing'} for everybody{stopped}"
        parts = [f"{self.share * 100:g} % of the users"] if self.share else []
        parts += [f"group {each}" for each in self.groups]
        return f"{self.staged} for {' and '.join(parts)}, {self.production or 'nothing'} for everybody else"

    def says_the_same(self, other: "Flag") -> bool:
        """Return True if the flags are equal except for number, cause, reason, times, start of the comparison and
        request."""
        told = {"sequence", "cause", "reason", "at", "began", "began_at", "request"}
        return self.model_dump(exclude=told) == other.model_dump(exclude=told)

    def compares_the_same(self, other: "Flag") -> bool:
        """Return True if both flags compare the same adapters on the same users, so that counts can be added."""
        compared = {"production", "staged", "share", "groups", "salt", "evaluator"}
        return self.model_dump(include=compared) == other.model_dump(include=compared)


@cache
def installed_evaluator() -> str:
    """Return name and version of the installed evaluator."""
    return f"{EVALUATOR} {version(EVALUATOR)}"


def document(flag: Flag) -> bytes:
    """Render the flag in flagd's format. The targeting key is the hashed user; `groups` lists the user's groups."""
    variants = {"production": flag.production, "staged": flag.staged}
    rule: dict[str, Any] = {
        "state": "ENABLED",
        "variants": {arm: adapter for arm, adapter in variants.items() if adapter is not None} or {"nothing": ""},
        "defaultVariant": "production" if flag.production is not None else None,
    }
    if flag.is_rolling_out:
        rule["targeting"] = _targeting(flag)
    content = {
        "$schema": "https://flagd.dev/schema/v0/flags.json",
        "metadata": {"evaluator": flag.evaluator, "sequence": flag.sequence},
        "flags": {flag.line: rule},
    }
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


def _targeting(flag: Flag) -> dict[str, Any]:
    """Build the targeting rule: group members get the staged adapter, and a hash assigns all other users. The staged
    adapter is last in the list, so that no user loses it when its share is raised. The hash includes the staged
    adapter's id, so that the next staged adapter gets different users."""
    others = "production" if flag.production is not None else None
    drawn: Any = others
    if flag.share:
        staged = max(1, round(flag.share * WEIGHTS))
        by = {"cat": [f"{flag.staged}/", {"var": "targetingKey"}]}
        drawn = {"fractional": [by, [others, WEIGHTS - staged], ["staged", staged]]}
    if not flag.groups:
        return dict(drawn)
    return {"if": [{"or": [{"in": [each, {"var": "groups"}]} for each in flag.groups]}, "staged", drawn]}


def evaluator_of(flag: Flag) -> "FlagdCore":
    """Build a flag's evaluator, and try it with sample users and, during a rollout, with a member of each group. Raises
    IntegrityError if the evaluator cannot read the flag or gives a user the wrong adapter."""
    from openfeature.contrib.tools.flagd.core import FlagdCore
    from openfeature.exception import OpenFeatureError

    core = FlagdCore()
    try:
        core.set_flags(document(flag).decode())
        given = {evaluated(core, flag, f"{number:064x}", ()) for number in range(TRIED_USERS)}
        of_groups = [evaluated(core, flag, "0" * 64, (group,)) for group in flag.groups if flag.is_rolling_out]
    except (OpenFeatureError, ValueError, KeyError, TypeError) as error:
        raise _unusable(flag, type(error).__name__) from None
    allowed = {None, flag.production, flag.staged if flag.is_rolling_out else None}
    if not given <= allowed or (flag.production is not None and None in given):
        raise _unusable(flag, "a user gets an adapter that the flag does not name")
    if any(each != flag.staged for each in of_groups):
        raise _unusable(flag, "a member of a group does not get the staged adapter")
    return core


def evaluated(core: "FlagdCore", flag: Flag, hashed: str, groups: tuple[str, ...]) -> str | None:
    """Return the id of the adapter that the flag gives to a hashed user; None if no adapter answers."""
    from openfeature.evaluation_context import EvaluationContext

    context = EvaluationContext(hashed, {"groups": list(groups)})
    return core.resolve_string_value(flag.line, flag.production or "", context).value or None


def _unusable(flag: Flag, problem: str) -> IntegrityError:
    return IntegrityError(
        f"The flag of line {flag.line}, change {flag.sequence}, cannot be evaluated: {problem}.",
        "Have the flag written again. Until then, the previous change stays in force.",
    )


FLAGS_FILE = "flags.json"
SIGNATURE_FILE = FLAGS_FILE + SUFFIX
REQUEST_FILE = "request" + SUFFIX
LOCK_SECONDS = 10
LARGEST_FILE = LARGEST_BUNDLE
_NUMBER = re.compile(r"[0-9]{8}")
SIGN_ANEW = "Materialize `staged_adapter` or `production_adapter` of the line, to write and sign the line's flag again."


@dataclass(frozen=True)
class Change:
    sequence: int
    flags: bytes
    signature: bytes
    request: bytes | None
    """Officer's request, if an officer rolled back."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the file with the pipeline's signature. The signature covers the other files of the change."""
        return hashlib.sha256(self.signature).hexdigest()


def root_of(settings: Settings) -> Path:
    return settings.home / "serving" / "flags"


def lines_with_flags(settings: Settings) -> list[str]:
    root = root_of(settings)
    return sorted(each.name for each in root.iterdir() if each.is_dir()) if root.is_dir() else []


def sequences(settings: Settings, line: str) -> list[int]:
    """Return the numbers of a line's changes, ascending."""
    if line not in _names(root_of(settings)):
        return []
    return sorted(int(name) for name in _names(root_of(settings) / line) if _NUMBER.fullmatch(name))


def read_change(settings: Settings, line: str, sequence: int) -> Change:
    """Read a change. Raises IntegrityError if a file is missing, unreadable or too large."""
    directory = root_of(settings) / line / f"{sequence:08d}"
    request = directory / REQUEST_FILE
    return Change(
        sequence,
        read_bounded(directory / FLAGS_FILE, LARGEST_FILE, SIGN_ANEW),
        read_bounded(directory / SIGNATURE_FILE, LARGEST_FILE, SIGN_ANEW),
        read_bounded(request, LARGEST_FILE, SIGN_ANEW) if request.exists() else None,
    )


def verified_flag(change: Change, line: str, trust: Trust, at_index: int | None = None) -> Flag:
    """Verify that the pipeline signed exactly this change, and return its flag. Raises IntegrityError if it did not.
    at_index: ledger index of the change's entry; None in a gateway, or if the change has no entry yet."""
    where = f"The flag of line {line}, change {change.sequence}"
    sha256 = hashlib.sha256(change.flags).hexdigest()
    statement = verify_statement(
        change.signature, trust, PIPELINE, predicate_type=FLAG, sha256=sha256, at_index=at_index
    ).statement
    try:
        flag = Flag.model_validate_json(json.dumps(dict(statement.predicate)))
    except ValidationError:
        raise IntegrityError(f"{where}: this release cannot read the change's signed content.", SIGN_ANEW) from None
    if (flag.line, flag.sequence) != (line, change.sequence):
        raise IntegrityError(f"{where}, was signed as change {flag.sequence} of line {flag.line}.", SIGN_ANEW)
    if flag.request != (hashlib.sha256(change.request).hexdigest() if change.request is not None else None):
        raise IntegrityError(f"{where}: its request.sigstore.json is missing or has the wrong SHA-256.", SIGN_ANEW)
    if document(flag) != change.flags:
        raise IntegrityError(f"{where}: its file flags.json differs from the signed content.", SIGN_ANEW)
    return flag


def newest_verified(settings: Settings, line: str, trust: Trust) -> tuple[Flag | None, int]:
    """Return a line's newest flag that passes verification (or None), and the number of the line's newest change (0 if
    the line has no change)."""
    numbers = sequences(settings, line)
    for number in reversed(numbers):
        try:
            return verified_flag(read_change(settings, line, number), line, trust), numbers[-1]
        except SovereignError:
            continue
    return None, numbers[-1] if numbers else 0


def current_flag(settings: Settings, line: str, trust: Trust) -> Flag:
    """Return a line's newest flag. Raises NotFoundError if the line has no flag, and IntegrityError if the newest flag
    fails verification."""
    flag, newest = newest_verified(settings, line, trust)
    if newest == 0:
        raise NotFoundError(f"Line {line} has no flag.", "Stage or promote an adapter of the line.")
    if flag is None or flag.sequence != newest:
        raise IntegrityError(f"The flag of line {line}, change {newest}, fails verification.", SIGN_ANEW)
    return flag


@contextmanager
def changing(settings: Settings, line: str) -> Iterator[None]:
    with held_within(root_of(settings) / f".{line}.lock", LOCK_SECONDS):
        yield


def write_change(settings: Settings, signer: Signer, flag: Flag, request: bytes | None = None) -> Change:
    """Test a flag's new version, sign it and publish it. The caller must hold the lock of `changing`.

    Raises IntegrityError if the flag cannot be evaluated, and ConflictError if the line already has a change with the
    flag's number or a higher one.
    """
    evaluator_of(flag)
    there = sequences(settings, flag.line)
    if there and flag.sequence <= there[-1]:
        raise ConflictError(f"The flag of line {flag.line} already has a change {there[-1]}.", "Try again.")
    flags = document(flag)
    statement = Statement((Subject(FLAGS_FILE, hashlib.sha256(flags).hexdigest()),), FLAG, flag.model_dump(mode="json"))
    change = Change(flag.sequence, flags, sign_statement(signer, statement), request)
    directory = root_of(settings) / flag.line
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(".*.new"):  # left by a killed process
        shutil.rmtree(left)
    aside = directory / f".{flag.sequence:08d}.new"
    aside.mkdir()
    write_new(aside / FLAGS_FILE, change.flags)
    write_new(aside / SIGNATURE_FILE, change.signature)
    if request is not None:
        write_new(aside / REQUEST_FILE, request)
    sync_directory(aside)
    aside.rename(directory / f"{flag.sequence:08d}")
    sync_directory(directory)
    return change


def _names(directory: Path) -> list[str]:
    try:
        return [each.name for each in os.scandir(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []
