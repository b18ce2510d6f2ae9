"""Decide whether a stage would now build an artifact that differs from its current one, and explain why.

Compares the identity in the current artifact's manifest with the identity from today's recipe, sources and inputs.
Builds nothing, and hashes no files of artifacts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from sovereign_pipeline.base.errors import GateRefused, IntegrityError, StaleInput
from sovereign_pipeline.base.files import canonical_json, short
from sovereign_pipeline.record.gates import GATE_RECORD, Usable, gate_identity, recorded_verdict
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.stage import Gate, Identity, Stage, Workplace, identity_of, stated_identity

LONGEST_VALUE = 60
"""Maximum number of characters of a displayed value. Longer values are truncated."""

Field = Literal["code version", "classification ladder", "input", "recipe", "library", "outside file"]

Cause = Literal[
    "never made",
    "upstream stale",
    "passthrough changed",
    "gate without record",
    "gate not passed",
    "identity changed",
    "not in the index",
    "not usable",
    "not recorded",
]


@dataclass(frozen=True)
class Change:
    """A field of an identity whose value changed."""

    field: Field
    name: str
    """The value of the field that changed: an input's kind, a recipe key's dotted path, a distribution or a file.
    Empty if the field has only one value."""
    before: str | None
    """The old value, shortened, or None if the field was absent."""
    now: str | None
    """The new value, shortened, or None if the field is absent."""

    def __str__(self) -> str:
        subject = f"{self.field} {self.name}" if self.name else self.field
        if self.before is None:
            return f"{subject}: added, {self.now}"
        if self.now is None:
            return f"{subject}: removed, was {self.before}"
        return f"{subject}: {self.before} → {self.now}"


@dataclass(frozen=True)
class Reason:
    cause: Cause
    subject: str = ""
    """Name of the gate, or kind of the upstream stage, that is the reason. Empty for other causes."""
    changes: tuple[Change, ...] = ()
    """Changes since the artifact was built or, for a gate without a record, since the gate's last evaluation."""

    def __str__(self) -> str:
        changes = "; ".join(map(str, self.changes))
        since = f" since a change: {changes}" if changes else ""
        return _SENTENCES[self.cause].format(subject=self.subject, changes=changes, since=since)


_SENTENCES: Mapping[Cause, str] = {
    "never made": "nothing was built yet",
    "upstream stale": "{subject} is stale",
    "passthrough changed": "the recipe changed whether this stage builds an artifact or passes its input through",
    "gate without record": "gate {subject} was not evaluated{since}",
    "gate not passed": "gate {subject} did not pass",
    "identity changed": "{changes}",
    "not in the index": "its inputs are unchanged, but the store's index has no artifact or a different one for them",
    "not usable": "downstream stages would reject its artifact, because an artifact upstream is not current",
    "not recorded": "its artifact is not in the registry",
}


@dataclass(frozen=True)
class StageExplanation:
    """The reasons why a stage is stale. A stage without reasons is current."""

    kind: str
    reasons: tuple[Reason, ...]

    @property
    def is_stale(self) -> bool:
        return bool(self.reasons)


def stale_kinds(stages: Sequence[Stage], workplace: Workplace) -> list[str]:
    """Return the kinds of the stale stages, in the given order.

    A stage is stale if materializing it now could give a different artifact. Every stage downstream of a stale stage
    counts as stale. If a downstream stage then runs with unchanged inputs, it reuses its stored artifact. Raises
    RecipeError, SourceError, NotFoundError or IntegrityError if staleness cannot be decided.
    """
    examination = _Examination(stages, workplace, in_detail=False)
    return [stage.kind for stage in stages if examination.reasons(stage)]


def explain(stages: Sequence[Stage], workplace: Workplace) -> list[StageExplanation]:
    """Return one explanation for each stage, in the order of `stages`, with all reasons why the stage is stale. Raises
    the errors of `stale_kinds`."""
    examination = _Examination(stages, workplace, in_detail=True)
    return [StageExplanation(stage.kind, examination.reasons(stage)) for stage in stages]


def compare(before: Identity, now: Identity) -> tuple[Change, ...]:
    """Return every field in which two identities differ. Both identities must have the same kind and the same line."""
    return (
        *_changes("code version", {"": before.code_version}, {"": now.code_version}),
        *_changes("classification ladder", {"": before.ladder}, {"": now.ladder}),
        *_changes("input", _digests(before), _digests(now), short),
        *_changes("recipe", dict(_leaves(before.config)), dict(_leaves(now.config))),
        *_changes("library", before.libraries, now.libraries),
        *_changes("outside file", before.external_inputs, now.external_inputs, short),
    )


class _Examination:
    """Finds the reasons why stages are stale. Examines each stage once, and stops at its first reason unless
    `in_detail` is True."""

    def __init__(self, stages: Sequence[Stage], workplace: Workplace, in_detail: bool) -> None:
        self._stages = {stage.kind: stage for stage in stages}
        self._workplace = workplace
        self._usable = Usable(workplace)
        self._in_detail = in_detail
        self._known: dict[str, tuple[Reason, ...]] = {}

    def reasons(self, stage: Stage) -> tuple[Reason, ...]:
        if stage.kind not in self._known:
            self._known[stage.kind] = tuple(islice(self._reasons(stage), None if self._in_detail else 1))
        return self._known[stage.kind]

    def _reasons(self, stage: Stage) -> Iterator[Reason]:
        found = False
        for reason in self._reasons_that_are_named(stage):
            found = True
            yield reason
        current = self._current(stage)
        # Consumers verify every manifest upstream of the artifact, so this function verifies them too.
        if not found and current is not None and not self._is_usable(stage, current):
            yield Reason("not usable")

    def _reasons_that_are_named(self, stage: Stage) -> Iterator[Reason]:
        current = self._current(stage)
        for upstream in stage.inputs_of(self._workplace.line):
            if self.reasons(self._stages.get(upstream.kind, upstream)):
                yield Reason("upstream stale", upstream.kind)
        if current is None:
            yield Reason("never made")
            return
        passthrough = stage.passthrough_input(self._workplace.line)
        if passthrough is not None:
            yield from self._reasons_of_passthrough(stage, current, passthrough)
        elif current.kind != stage.kind:
            yield Reason("passthrough changed")
        else:
            yield from self._reasons_of_gates(stage, current)
            yield from self._reasons_of_identity(stage, current)

    def _reasons_of_passthrough(self, stage: Stage, current: ArtifactRef, passthrough: Stage) -> Iterator[Reason]:
        given = self._current(passthrough)
        if given is None or given.digest == current.digest:
            return
        if current.kind == stage.kind:
            yield Reason("passthrough changed")
        else:
            change = Change("input", passthrough.kind, short(current.digest), short(given.digest))
            yield Reason("identity changed", changes=(change,))

    def _reasons_of_gates(self, stage: Stage, current: ArtifactRef) -> Iterator[Reason]:
        for gate in stage.gates:
            recorded = recorded_verdict(gate, self._workplace, current)
            if recorded is None:
                changes = self._since_evaluated(gate, current) if self._in_detail else ()
                yield Reason("gate without record", gate.name, changes)
            elif not recorded.passes:
                yield Reason("gate not passed", gate.name)

    def _reasons_of_identity(self, stage: Stage, current: ArtifactRef) -> Iterator[Reason]:
        store = self._workplace.store
        inputs = {upstream.kind: self._current(upstream) for upstream in stage.inputs_of(self._workplace.line)}
        now = identity_of(stage, self._workplace, {kind: ref for kind, ref in inputs.items() if ref is not None})
        # The index is not trusted: the manifest must have today's identity.
        changes = compare(stated_identity(store.read_manifest(current)), now)
        stored = store.find(now.fingerprint)
        if changes:
            yield Reason("identity changed", changes=changes)
        elif stored is None or stored.digest != current.digest:
            yield Reason("not in the index")
        elif not stage.is_recorded(self._workplace, current):
            yield Reason("not recorded")

    def _is_usable(self, stage: Stage, current: ArtifactRef) -> bool:
        """Return True if a downstream stage could use the artifact. Verifies every manifest upstream of the artifact.
        Raises IntegrityError if a manifest or a record was changed."""
        try:
            self._usable.check(stage, current, with_outside_files=False)
        except (GateRefused, StaleInput):
            return False
        return True

    def _current(self, stage: Stage) -> ArtifactRef | None:
        return self._workplace.store.current(self._workplace.line.line, stage.kind)

    def _since_evaluated(self, gate: Gate, current: ArtifactRef) -> tuple[Change, ...]:
        """Return the changes since the gate was last evaluated for the artifact, or an empty tuple if it never was."""
        earlier = [
            manifest
            for manifest in self._gate_records()
            if manifest.producer.config.get("gate") == gate.name and current.digest in manifest.inputs.values()
        ]
        if not earlier:
            return ()
        last = max(earlier, key=lambda manifest: manifest.circumstances.created_at)
        return compare(stated_identity(last), gate_identity(gate, self._workplace, current))

    def _gate_records(self) -> Iterator[Manifest]:
        """Yield the manifests of this line's gate records. Skips damaged ones, which raise an error when used."""
        for ref in self._workplace.store.indexed(GATE_RECORD):
            if ref.line == self._workplace.line.line:
                with suppress(IntegrityError):
                    yield self._workplace.store.read_manifest(ref)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value).decode()
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _changes(
    field: Field, before: Mapping[str, Any], now: Mapping[str, Any], shown: Callable[[Any], str] = _shown
) -> Iterator[Change]:
    for name in sorted(before.keys() | now.keys()):
        # 1 and 1.0 are equal in Python but differ in an identity
        old, new = (canonical_json(side[name]) if name in side else None for side in (before, now))
        if old != new:
            yield Change(
                field, name, shown(before[name]) if name in before else None, shown(now[name]) if name in now else None
            )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of nested JSON with its dotted path. A list of plain values counts as one value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(each, dict | list | tuple) for each in value):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}.{number}")
    else:
        yield path, value


def _digests(identity: Identity) -> dict[str, str]:
    return {kind: ref.digest for kind, ref in identity.inputs.items()}
