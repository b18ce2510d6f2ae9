"""The signed judgement of a hold, and an officer's acceptance of one that was inconclusive: files of the home.

`serving/holds/LINE/ADAPTER-00000007/0001.sigstore.json` is what the pipeline signed about the comparison that began
with change 7 of the line's flag, and `0001.accepted.sigstore.json` what an officer signed about it. The newest number
counts. What belongs here: their form, writing and reading one. What does not: what is on record, and what a promotion
rests on (`holds.py`), and judging (`serving/rollout/`).
"""

import datetime
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import read_bounded, write_atomically
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.signing.bundles import LARGEST_BUNDLE, SUFFIX
from sovereign_pipeline.signing.keys import Signer
from sovereign_pipeline.signing.officers import PIPELINE
from sovereign_pipeline.signing.predicates import HOLD
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement, verify_statement
from sovereign_pipeline.signing.trust import Trust

ACCEPTED_SUFFIX = f".accepted{SUFFIX}"
LOOK = "`sovereign adapters hold LINE` shows how the hold stands; stage the adapter anew for another one."


class Bound(Frozen):
    """One measure, as it was judged."""

    measure: str
    estimate: float | None
    """Staged minus production: of shares as they are, of the others as a logarithm of the ratio. None: few users."""
    at_most: float | None
    """Its upper limit, by one look."""
    margin: float


class Judgement(Frozen):
    """What a hold came to, and by what."""

    line: str
    adapter: str
    incumbent: str | None
    """What it was compared with."""
    staged_by: int | None
    """Number of the line's transition that staged it."""
    began: int = Field(ge=1)
    """Number of the flag's change since which it was compared."""
    number: int = Field(ge=1)
    """Of this judgement about the comparison: what is reported later makes another one."""
    outcome: Literal["promote", "inconclusive"]
    because: str
    expected: str
    """When more could be known, where it was inconclusive; empty else."""
    days: float
    users: tuple[int, int]
    """Staged, production."""
    answers: tuple[int, int]
    rated: tuple[int, int]
    severe: int
    bounds: tuple[Bound, ...]
    observations: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of what was counted, as it lies beside the gateways' counts."""
    at: datetime.datetime


@dataclass(frozen=True)
class Signed:
    """A judgement, and the bytes that were signed."""

    judgement: Judgement
    bundle: bytes
    path: Path

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.bundle).hexdigest()

    @property
    def acceptance(self) -> Path:
        """Where an officer's acceptance of it lies."""
        return self.path.with_name(self.path.name.removesuffix(SUFFIX) + ACCEPTED_SUFFIX)


def judgement_files(settings: Settings, line: str, adapter: str | None = None, began: int | None = None) -> list[Path]:
    """Those of a line, or of one comparison, the oldest first."""
    root = settings.home / "serving" / "holds" / line
    name = "*" if adapter is None or began is None else f"{adapter}-{began:08d}"
    found = (path for path in root.glob(f"{name}/*{SUFFIX}") if not path.name.endswith(ACCEPTED_SUFFIX))
    return sorted(found, key=lambda path: (path.parent.name[-8:], path.name))


def write_judgement(settings: Settings, signer: Signer, judgement: Judgement, record_manifest: str) -> Signed:
    """Sign a judgement and keep it. record_manifest: SHA-256 of the manifest of the adapter's record. The caller holds
    the line's flag."""
    subject = Subject("registered_adapter/manifest.json", record_manifest)
    bundle = sign_statement(signer, Statement((subject,), HOLD, judgement.model_dump(mode="json")))
    directory = settings.home / "serving" / "holds" / judgement.line / f"{judgement.adapter}-{judgement.began:08d}"
    path = directory / f"{judgement.number:04d}{SUFFIX}"
    write_atomically(path, bundle)
    path.chmod(0o644)  # officers read it, under accounts of their own
    return Signed(judgement, bundle, path)


def read_judgement(path: Path, trust: Trust, record_manifest: str, at_index: int | None = None) -> Signed:
    """A judgement, if the pipeline signed it. at_index: where its entry stands in the log; None: it has none yet.

    Raises IntegrityError that says what is not so.
    """
    bundle = read_bounded(path, LARGEST_BUNDLE, LOOK)
    verified = verify_statement(bundle, trust, PIPELINE, predicate_type=HOLD, sha256=record_manifest, at_index=at_index)
    try:
        judgement = Judgement.model_validate_json(json.dumps(dict(verified.statement.predicate)))
    except ValidationError:
        raise IntegrityError(f"{path}: the judgement of a hold says nothing that this release knows.", LOOK) from None
    said = (judgement.line, f"{judgement.adapter}-{judgement.began:08d}", f"{judgement.number:04d}{SUFFIX}")
    if said != (path.parent.parent.name, path.parent.name, path.name):
        raise IntegrityError(f"{path}: it was signed as the judgement of another hold.", "Find out who put it there.")
    return Signed(judgement, bundle, path)
