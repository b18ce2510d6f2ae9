"""Request, create and verify witnesses' cosignatures of checkpoints, and verify the ledger's key against the trust
root."""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.base.files import held_within, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import notes, tree
from sovereign_pipeline.record.checkpoints import read_note
from sovereign_pipeline.record.merkle import is_consistent
from sovereign_pipeline.record.notes import COSIGNS, SIGNS, Note, Signer, Verifier, parse_verifier
from sovereign_pipeline.record.trust_root import Trust, TrustedKey

NONE = "none"
MOST_PROOF_LINES = 63
WAIT_SECONDS = 30
SEPARATOR = re.compile("[ \t]+")


@dataclass(frozen=True)
class Policy:
    """The accepted logs and witnesses, and the rule for how many witnesses must cosign."""

    logs: tuple[Verifier, ...]
    witnesses: Mapping[str, Verifier]
    groups: Mapping[str, tuple[int, tuple[str, ...]]]
    """Mapping of a group's name to two values: the number of members that must cosign, and the names of all members."""
    quorum: str

    def is_met(self, cosigned: Collection[str]) -> bool:
        """Return True if cosignatures by these witnesses meet the policy."""
        return self.quorum == NONE or self._has(self.quorum, cosigned)

    def _has(self, name: str, cosigned: Collection[str]) -> bool:
        if name in self.witnesses:
            return name in cosigned
        needed, members = self.groups[name]
        return sum(self._has(member, cosigned) for member in members) >= needed

    def cosigned(self, note: Note) -> dict[str, int]:
        """Return a mapping of witness to the time of its cosignature on a note, in seconds since 1970. Raises
        IntegrityError for an invalid cosignature."""
        found = {name: notes.cosigned_at(note, verifier) for name, verifier in self.witnesses.items()}
        return {name: at for name, at in found.items() if at is not None}


def read_policy(path: Path) -> Policy:
    """Read a policy file (c2sp.org/tlog-policy). Raises InputError if the file cannot be read, if a line is invalid
    (the error names the line), or if the quorum is missing."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        raise InputError(f"{path}: this file cannot be read.", "Give the file with the witness policy.") from None
    logs: list[Verifier] = []
    witnesses: dict[str, Verifier] = {}
    groups: dict[str, tuple[int, tuple[str, ...]]] = {}
    quorum, members_so_far = None, set[str]()
    for number, line in enumerate(lines, 1):
        try:
            match SEPARATOR.split(line.strip(" \t")):
                case [""]:
                    pass
                case [word, *_] if word.startswith("#"):
                    pass
                case ["log", key] | ["log", key, _]:
                    logs.append(_key(key, SIGNS, logs))
                case ["witness", name, key] | ["witness", name, key, _]:
                    _assert_new(name, witnesses, groups)
                    witnesses[name] = _key(key, COSIGNS, list(witnesses.values()))
                case ["group", name, needed, *members] if members:
                    _assert_new(name, witnesses, groups)
                    for member in members:
                        if member not in witnesses.keys() | groups.keys() or member in members_so_far:
                            raise InputError(f"{member} is not defined above, or is already a member of a group")
                        members_so_far.add(member)
                    groups[name] = (_needed(needed, len(members)), tuple(members))
                case ["quorum", name] if quorum is None and name in {NONE, *witnesses, *groups}:
                    quorum = name
                case _:
                    raise InputError("this line is invalid, or uses a name that is not defined above it")
        except InputError as error:
            raise InputError(
                f"{path}: line {number}: {error.message}.",
                "Begin each line with log, witness, group or quorum (c2sp.org/tlog-policy).",
            ) from None
    if quorum is None:
        raise InputError(f"{path}: the quorum is missing.", "Add a line such as: quorum none")
    return Policy(tuple(logs), witnesses, groups, quorum)


def request(session: Session, note: Note, old: int) -> str:
    """Return a request that asks a witness to cosign a checkpoint, with the proof of consistency since the size `old`.
    Raises InputError if the checkpoint is smaller than `old`.

    Args:
        old: size of the checkpoint that the witness cosigned last; 0 if none.
    """
    head = notes.parse_tree_head(note.text)
    if not 0 <= old <= head.size:
        raise InputError(
            f"The size that the witness cosigned last must be from 0 to the checkpoint's size, {head.size}, but is "
            f"{old}."
        )
    proof = tree.consistency_proof(session, old, head.size)
    return f"old {old}\n" + "".join(f"{notes.encoded(hash)}\n" for hash in proof) + f"\n{note}"


def answer(request: str, signer: Signer, logs: Sequence[Verifier], state: Path, at: int) -> str:
    """Cosign the checkpoint of a request, as a witness. Returns the signature line for the log.

    Args:
        logs: public keys of the logs whose checkpoints the witness may cosign.
        state: directory that contains, for each log, the last checkpoint that the witness cosigned.
        at: time of the cosignature, in seconds since 1970.

    Raises InputError for a malformed request or an unknown log, and IntegrityError if the log did not sign the
    checkpoint or was forked. Raises ConflictError, which names the expected size, if the request does not begin at the
    size that the witness cosigned last.
    """
    old, proof, note = _parse_request(request)
    head = notes.parse_tree_head(note.text)
    log = next((each for each in logs if each.name == head.origin), None)
    if log is None:
        raise InputError(
            f"The witness is not configured for the log {head.origin}.", "Give the public key of that log."
        )
    if not notes.is_signed(note, log):
        raise IntegrityError(
            f"The checkpoint is not signed by the log {head.origin}.", "Get the checkpoint from the log again."
        )
    if old > head.size:
        raise InputError(
            f"The request's old size, {old} entries, is larger than its checkpoint's size, {head.size}.",
            "Ask the log's operator for a new request.",
        )
    file = state / f"{hashlib.sha256(head.origin.encode()).hexdigest()}.checkpoint"
    with held_within(state / "lock", WAIT_SECONDS):
        last = notes.parse_tree_head(read_note(file).text) if file.exists() else None
        size = last.size if last is not None else 0
        if old != size:
            raise ConflictError(
                f"The last checkpoint that this witness cosigned covers {size} entries, but the request "
                f"begins at {old}.",
                f"Ask the log's operator for a request that begins at {size}.",
            )
        if last is not None and last.size and not is_consistent(last.size, head.size, last.root, head.root, proof):
            raise IntegrityError(
                f"The log {head.origin} was forked: its {head.size} entries do not begin with the {last.size} entries "
                f"that this witness cosigned.",
                "Keep the request as proof, and warn everyone who relies on the log.",
            )
        if old == 0 and proof:
            raise InputError(
                "The request contains a consistency proof, but its old size is 0, so there is nothing to prove.",
                "Ask the log's operator for a new request.",
            )
        cosignature = notes.cosigned(note.text, signer, at)
        write_atomically(file, str(note.also([cosignature])))
    return str(cosignature)


def asked(settings: Settings) -> list[Note]:
    """Return the checkpoints for which cosignatures were requested, each with the cosignatures received so far. The
    newest checkpoint comes first."""
    found = [read_note(path) for path in _directory(settings).glob("*.note")]
    return sorted(found, key=lambda note: notes.parse_tree_head(note.text).size, reverse=True)


def note_asked(settings: Settings, note: Note) -> None:
    """Store a checkpoint for which cosignatures are requested."""
    path = _path(settings, note)
    if not path.exists():
        write_atomically(path, str(note))


def add_cosignatures(settings: Settings, policy: Policy, lines: str) -> tuple[Note, list[str]]:
    """Add a witness's cosignature to the stored checkpoint that the cosignature signs. Returns the checkpoint, and the
    names of all witnesses that cosigned it. Raises IntegrityError if no cosignature of this checkpoint was requested,
    or if the witness is not in the policy.

    Args:
        lines: the witness's answer.
    """
    given = notes.parse_signatures(lines)
    for note in asked(settings):
        valid = [each for each in given if any(_is_of(verifier, note, each) for verifier in policy.witnesses.values())]
        if valid:
            extended = note.also(valid)
            write_atomically(_path(settings, note), str(extended))
            return extended, sorted(policy.cosigned(extended))
    raise IntegrityError(
        "The answer is not a cosignature of a requested checkpoint by a witness in the policy.",
        "Check that the policy has the witness's key, and request the cosignature again.",
    )


def newest_witnessed(settings: Settings, policy: Policy, covering: int = 0) -> Note | None:
    """Return the newest checkpoint that enough witnesses cosigned, or None.

    Args:
        covering: minimum number of entries that the checkpoint must cover.
    """
    for note in asked(settings):
        if notes.parse_tree_head(note.text).size >= covering and policy.is_met(policy.cosigned(note)):
            return note
    return None


def newest_cosigned_size(settings: Settings) -> int:
    """Return the number of entries covered by the newest checkpoint with at least one cosignature, or 0."""
    sizes = (notes.parse_tree_head(note.text).size for note in asked(settings) if len(note.signatures) > 1)
    return next(sizes, 0)


def _directory(settings: Settings) -> Path:
    return settings.ledger / "witnessed"


def _path(settings: Settings, note: Note) -> Path:
    return _directory(settings) / f"{notes.parse_tree_head(note.text).size}.note"


def _is_of(verifier: Verifier, note: Note, signature: notes.Signature) -> bool:
    try:
        return notes.cosigned_at(Note(note.text, (signature,)), verifier) is not None
    except IntegrityError:
        return False


def _parse_request(text: str) -> tuple[int, list[bytes], Note]:
    header, separator, note = text.partition("\n\n")
    first, *proof = header.split("\n")
    old = re.fullmatch(r"old (0|[1-9][0-9]{0,18})", first)
    if not separator or old is None or len(proof) > MOST_PROOF_LINES:
        raise InputError("This is not a witness request.", "Use the request file from the log's operator.")
    return int(old[1]), notes.decoded_hashes(proof), notes.parse_note(note)


def _key(text: str, kind: int, known: Sequence[Verifier]) -> Verifier:
    verifier = parse_verifier(text)
    if verifier.kind != kind:
        raise InputError("the key has the wrong type for this kind of line")
    if verifier.key in {each.key for each in known}:
        raise InputError("the key is already listed, under this or another name")
    return verifier


def _assert_new(name: str, *defined: Collection[str]) -> None:
    if name == NONE or any(name in each for each in defined):
        raise InputError(f"the name {name} is already in use")


def _needed(text: str, members: int) -> int:
    if text in ("all", "any"):
        return members if text == "all" else 1
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text) or int(text) > members:
        raise InputError(f"{text} of {members} members is not a valid threshold")
    return int(text)


LOG, WITNESS = "log", "witness"


@dataclass(frozen=True)
class Witnessed:
    """The state of the ledger that the trust root's witnesses cosigned."""

    entries: int
    """Number of entries covered by the newest checkpoint that enough witnesses cosigned."""
    at: Mapping[str, int]
    """Mapping of witness to the time of its cosignature on the checkpoint that `entries` is about, in seconds since
    1970."""


def assert_log_of(trust: Trust, log: Verifier, entries: int) -> None:
    """Raise IntegrityError if the log's key lacks the role `log`, or is revoked at the ledger index of the newest
    entry."""
    key = next((each for each in trust.keys(LOG) if _raw(each) == log.key), None)
    if key is None:
        raise IntegrityError(
            f"The trust root does not give the ledger's key, {log}, the role `log`.",
            "Have the root keys' holders give the key this role, after checking that the key belongs to this log.",
        )
    if entries and not trust.counts(LOG, key.keyid, entries - 1):
        raise IntegrityError(
            f"The key of the ledger is revoked from index {key.revoked_from} on, but it signed {entries} entries.",
            "Find out who used the key.",
        )


def witnessed_by(trust: Trust, log: Verifier, settings: Settings) -> Witnessed | None:
    """Return the state that enough witnesses of the trust root cosigned, or None if the trust root names no witnesses.
    Raises IntegrityError for a signature by an unknown witness, or if no checkpoint has enough cosignatures."""
    role = trust.role(WITNESS)
    for note in asked(settings):  # newest first
        at = _cosigned(trust, log, note)
        if role.keys and len(at) >= role.threshold:
            return Witnessed(notes.parse_tree_head(note.text).size, at)
    if role.keys:
        raise IntegrityError(
            f"No checkpoint has cosignatures by at least {role.threshold} of the trust root's witnesses.",
            "Write a request for the witnesses, and import their answers.",
        )
    return None


def _cosigned(trust: Trust, log: Verifier, note: Note) -> dict[str, int]:
    size = notes.parse_tree_head(note.text).size
    found: dict[str, int] = {}
    keys: set[bytes] = set()
    for signature in note.signatures:
        if (signature.name, signature.id) == (log.name, log.id):
            continue
        possible = ((each, Verifier(signature.name, _raw(each), COSIGNS)) for each in trust.keys(WITNESS))
        key, witness = next(((key, each) for key, each in possible if each.id == signature.id), (None, None))
        at = notes.cosigned_at(note, witness) if witness is not None else None
        if key is None or witness is None or at is None:
            raise IntegrityError(
                f"The checkpoint of {size} entries that was sent to witnesses: the signature of "
                f"{signature.name} is not by a witness in the trust root.",
                "List every witness in the trust root, or copy the file again from its source.",
            )
        # One key under two names counts as one witness. A revoked key does not count.
        if witness.key not in keys and (not size or trust.counts(WITNESS, key.keyid, size - 1)):
            keys.add(witness.key)
            found[witness.name] = at
    return found


def _raw(key: TrustedKey) -> bytes:
    public = load_pem_public_key(key.public_pem.encode())
    return public.public_bytes_raw()  # type: ignore[union-attr]  # Ed25519, as verified when the trust root was read
