"""Opening the transcripts of a line with the private key, on the machine that has it.

Whoever has the public key can seal records of their own invention. The gateway's journal says which are true: it holds
the digest of each, and the ledger that of each hour. What belongs here: opening and comparing. What does not: what is
made of transcripts (`prompts.py`, `preferences.py`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.base.errors import InputError, IntegrityError, PrivacyError
from sovereign_pipeline.policy.line import LINE_NAME
from sovereign_pipeline.serving.rollout.feedback import Feedback
from sovereign_pipeline.serving.transcripts.keeping import SUFFIX
from sovereign_pipeline.serving.transcripts.records import Transcript, sealed_in, unseal


@dataclass(frozen=True)
class Opened:
    """The transcripts of a line."""

    transcripts: tuple[Transcript, ...]
    """In the order in which they were kept."""
    said: dict[str, Feedback]
    """`given` of a transcript -> what its caller said of it last."""
    spoilt: int
    """Lines of the files that are no record: cut short by a crash."""
    foreign: int
    """Records of which the journal does not know."""


def open_transcripts(directory: Path, line: str, private_key: str, known: frozenset[str] | None) -> Opened:
    """Open every file of a line.

    known: digests of the records that the journal names; None: all count.

    Raises PrivacyError for a key that is none, or that opens no record of a file, naming the file.
    """
    import pyrage

    try:
        identity = pyrage.x25519.Identity.from_str(private_key.strip())
    except pyrage.IdentityError:
        raise PrivacyError(
            "The key file holds no age private key (AGE-SECRET-KEY-1…).", "Give the private key."
        ) from None
    if LINE_NAME.fullmatch(line) is None:
        raise InputError(
            f"'{line[:60]}' cannot be the name of a line.", "Give the name of a folder of the transcripts."
        )
    files = sorted((directory / line).glob(f"*{SUFFIX}"))
    if not files:
        raise InputError(
            f"{directory}: there are no transcripts of line {line}.", "Name the directory that was copied."
        )
    transcripts: list[Transcript] = []
    said: dict[str, Feedback] = {}
    spoilt = foreign = 0
    for file in files:
        sealed, cut = sealed_in(file.read_bytes())
        spoilt += cut
        opened = [(each, unseal(each, identity)) for each in sealed]
        if opened and all(record is None for _, record in opened):
            raise PrivacyError(
                f"{file}: this key opens nothing in it.",
                "Give the key whose public half was in use when the file was written, or restore the file.",
            )
        for each, record in opened:
            if record is None:
                spoilt += 1
            elif isinstance(record, Transcript) and record.line == line:
                is_known = known is None or each.sha256 in known
                foreign += not is_known
                transcripts += [record] if is_known else []
            elif not isinstance(record, Transcript):
                said[record.given] = record.feedback
    return Opened(tuple(transcripts), said, spoilt, foreign)


def digests_in_journal(directory: Path) -> frozenset[str]:
    """The digests of transcripts that the hours of a gateway's journal name. Raises IntegrityError where it names
    none: then it is another directory."""
    lines = (line for path in sorted(directory.glob("*.jsonl*")) for line in path.read_bytes().split(b"\n") if line)
    known = frozenset(digest for line in lines if (digest := _digest_in(line)) is not None)
    if not known:
        raise IntegrityError(
            f"{directory}: no answer there has a transcript.", "Name the copy of `answers` in SOVEREIGN_SERVING."
        )
    return known


def _digest_in(line: bytes) -> str | None:
    """Of one answer's transcript; None for an answer without one, and for a line that was cut short."""
    try:
        noted = json.loads(line)
    except ValueError:
        return None
    digest = noted.get("transcript") if isinstance(noted, dict) else None
    return digest if isinstance(digest, str) else None
