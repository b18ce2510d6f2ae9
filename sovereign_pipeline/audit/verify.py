"""Verifies the evidence package in which it lies. Needs Python 3.11 and `cryptography`, and no other program.

    python verify.py ROOT_SHA256 [--on 2027-03-14] [--seen ENTRIES] [--folder PACKAGE]

ROOT_SHA256 is the SHA-256 of the institution's first trust root. You have it on paper; everything is followed from it:

    first root -> later roots -> targets.json: whose key has which role
    -> checkpoint of the log, by the log's key and its witnesses -> single entries, by inclusion proofs
    -> statements (requests, approvals, waivers, ...), each by a key whose role counted at its entry's place in the log
    -> manifests of artifacts, each naming its inputs by digest, down to the source files

Ends 0 where everything holds, 1 at the first thing that does not, 2 for a wrong call. Read it from the end: `check_all`
has the order, and each function before it checks one thing. This file stands alone on purpose: it shares no code with
the program that writes packages. What it prints comes from the package's verified content.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # this folder: else a `json.py` that somebody put into the package would run as Python's own

import argparse
import base64
import binascii
import datetime
import hashlib
import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

OURS = "https://sovereign-pipeline.example/"
ROLES = {"pipeline": "p256", "log": "ed25519", "witness": "ed25519", "officer": "p256", "bundle": "p256"}
BESIDES = ("index.json", "index.json.sigstore.json", "README.md", "verify.py")
"""Files that nothing else in the package refers to. The index lists the last two, and is itself signed."""
TRUST_ENTRIES = ("trust root named", "trust changed", "trust root replaced")
DECIDED = {"approve": "release approved", "reject": "release rejected", "withdraw": "release decision withdrawn"}
ACTS = {
    "known issue added": ("known-issue/v1", "issue"),
    "adapter reviewed": ("review/v1", "review"),
    "recall opened": ("recall/v1", "recall"),
    "recall waived": ("recall-waiver/v1", "waive"),
}
"""Action of an entry -> the kind of statement behind it, and what the trust root must let its officer do."""
WEIGHTS_IN = {"sft_adapter": {"adapter", "model"}, "aligned_adapter": {"adapter", "model"}, "reward_model": {"reward"}}
"""Kind of artifact -> the directories in it that others load as they are, each with a signature of its own."""
SHOWN = {
    "raw_corpus": {"sources.json"},
    "leakage_safe_split": {"proof.json"},
    "training_dataset": {"card.json"},
    "preference_dataset": {"card.json"},
    "base_model": {"base_model.json"},
    "evaluation_report": {"report.json"},
    "gate_record": {"verdict.json"},
    "gate_acceptance": {"acceptance.json", "acceptance.sigstore.json"},
    "registered_adapter": {"record.json", "bill_of_materials.json"},
    "review_plan": {"plan.json"},
    "blind_review": {"review.json", "ballots.jsonl", "guesses.jsonl"},
}
"""Kind of artifact -> the files of it that a package holds: those without text of a document."""
UNDECIDED = {"registered", "in review"}
USABLE = {"approved", "staged", "production", "superseded"}
ARROWS: dict[str, tuple[set[str], str]] = {
    "approve": (UNDECIDED, "approved"),
    "stage": ({"approved", "superseded"}, "staged"),
    "unstage": ({"staged"}, "approved"),
    "promote": ({"staged"}, "production"),
    "roll_back": ({"superseded"}, "production"),
    "reject": (UNDECIDED, "rejected"),
    "recall": (UNDECIDED | USABLE, "recalled"),
    "retire": (UNDECIDED | USABLE | {"rejected", "recalled"}, "retired"),
}
"""Transition, which an officer's key may be for -> the states in which it begins, and the one in which it ends."""
WEIGHTS = r"(?:adapter|model)/[^/]+\.safetensors"
SIGNED_FILES = ("verdict.json", "report.json", "record.json", "bill_of_materials.json")
"""Files with a signature of their own beside them."""
NAMED_IN_ENTRIES = {"statement", "rows", "trust_root", "trust_root_version", "trust_targets_version"}
"""What an entry says of an act besides what was signed."""


class Refused(Exception):
    """Something does not hold."""


# --- Bytes, JSON, keys -----------------------------------------------------------------------------------------------


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def canonical(value: Any) -> bytes:
    """JSON in UTF-8 with sorted keys and no spaces: what the program hashes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def tuf_canonical(value: Any) -> str:
    """JSON as TUF signs it (OLPC): as above, but a text escapes quotation marks and backslashes alone."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{tuf_canonical(key)}:{tuf_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(tuf_canonical, value)) + "]"
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    raise Refused("a trust file holds a number that is no integer")


def parsed(content: bytes, where: str) -> Any:
    """JSON in which no key stands twice: of two, one reader takes the first and another the last."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise Refused(f"{where}: a key stands twice in it")
        return dict(pairs)

    try:
        return json.loads(content.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Refused(f"{where}: this is no JSON") from None


def unbase64(text: str, where: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (ValueError, TypeError, binascii.Error):
        raise Refused(f"{where}: this is no base64") from None
    if base64.b64encode(content).decode() != text:
        raise Refused(f"{where}: its base64 has bits that nobody reads")
    return content


def moment(text: str) -> datetime.datetime:
    """In UTC, also where no zone is named."""
    at = datetime.datetime.fromisoformat(text)
    return at.replace(tzinfo=datetime.UTC) if at.tzinfo is None else at.astimezone(datetime.UTC)


def on_one_line(text: str) -> str:
    """As it is printed: what a package says begins no line of its own, and moves no cursor."""
    return "".join(
        each if each.isprintable() or (each == "\n" and not place) else "?" for place, each in enumerate(text)
    )


Public = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


def signed_with(key: Public, signature: bytes, content: bytes) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, content)
        else:
            key.verify(signature, content, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def keyid_of(key: Public) -> str:
    """A key's one id: the SHA-256 of its SubjectPublicKeyInfo."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return sha256(key.public_bytes(serialization.Encoding.DER, form))


# --- The files, and the index that lists them ------------------------------------------------------------------------


@dataclass
class Package:
    """Every file by its path. What a check has looked at is noted, so that nothing is left that nobody checked."""

    index: dict[str, Any]
    files: dict[str, bytes]
    looked_at: set[str] = field(default_factory=set)

    def take(self, path: str) -> bytes:
        if path not in self.files:
            raise Refused(f"{path}: the package lacks it")
        self.looked_at.add(path)
        return self.files[path]

    def below(self, directory: str) -> list[str]:
        return sorted(path for path in self.files if path.startswith(f"{directory}/"))


def read_folder(folder: Path) -> dict[str, bytes]:
    """Every file by its path. No links, which lead elsewhere, and no empty directories."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISREG(mode):
            found[name] = path.read_bytes()
        elif not stat.S_ISDIR(mode) or not any(path.iterdir()):
            raise Refused(f"{name}: a package holds files, no links and no empty directories")
    return found


def read_package(files: dict[str, bytes]) -> Package:
    """The files are exactly those of `index.json`, none missing, extra or changed."""
    if "index.json" not in files:
        raise Refused("index.json: the package lacks it")
    index = parsed(files["index.json"], "index.json")
    if json.dumps(index, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n" != files["index.json"]:
        raise Refused("index.json: its bytes are not as they were written")
    listed, present = {*index["files"]}, {*files} - set(BESIDES[:2])
    differing = [f"{name}: the index lists it, and it is not there" for name in sorted(listed - present)]
    differing += [f"{name}: the index does not list it" for name in sorted(present - listed)]
    differing += [
        f"{name}: its SHA-256 is not the one of the index"
        for name in sorted(listed & present)
        if {"sha256": sha256(files[name]), "size": len(files[name])} != index["files"][name]
    ]
    if differing:
        raise Refused("; ".join(differing))
    return Package(index, files, set(BESIDES))


# --- The trust root --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A key in its role."""

    public: Public
    person: str | None
    may: tuple[str, ...]
    levels: tuple[str, ...]
    revoked_from: int | None
    """Index of the log from which on nothing counts that it signs."""

    def allows(self, act: str, level: str) -> bool:
        return bool({act, "*"} & {*self.may}) and bool({level, "*"} & {*self.levels})


@dataclass(frozen=True)
class Trust:
    """Whose key counts for what."""

    root_version: int
    targets_version: int
    expires: datetime.datetime
    is_demonstration: bool
    roles: Mapping[str, Mapping[str, Key]]
    witnesses_needed: int

    def key(self, role: str, keyid: str, index: int) -> Key:
        key = self.roles[role].get(keyid)
        if key is None:
            raise Refused(f"the key {keyid} has not the role {role}")
        if key.revoked_from is not None and index >= key.revoked_from:
            raise Refused(f"the key {keyid} is revoked from index {key.revoked_from} of the log, and signed at {index}")
        return key


def public_key(keyid: str, described: Mapping[str, Any], where: str) -> Public:
    """A key of a trust file, under its own id: one key under two ids would be counted as two people."""
    value, kind = described["keyval"]["public"], (described["keytype"], described["scheme"])
    key: object = None
    if kind == ("ed25519", "ed25519"):
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(value))
    elif kind == ("ecdsa", "ecdsa-sha2-nistp256"):
        key = serialization.load_pem_public_key(value.encode())
    is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise Refused(f"{where}: the key {keyid} is neither P-256 nor Ed25519")
    if not (is_p256 or isinstance(key, ed25519.Ed25519PublicKey)) or keyid_of(key) != keyid:
        raise Refused(f"{where}: the key {keyid} stands under an id that is not its own")
    return key


def assert_threshold(file: Mapping[str, Any], keys: Mapping[str, Any], role: Mapping[str, Any], where: str) -> None:
    """As many distinct keys of a role signed a trust file as it needs."""
    content = tuf_canonical(file["signed"]).encode()
    good = {
        each["keyid"]
        for each in file["signatures"]
        if each["keyid"] in role["keyids"]
        and signed_with(public_key(each["keyid"], keys[each["keyid"]], where), bytes.fromhex(each["sig"]), content)
    }
    if len(good) < role["threshold"] or role["threshold"] < 1:
        raise Refused(f"{where}: {len(good)} of the {role['threshold']} keys that are needed signed it")


def read_trust(package: Package, root_sha256: str) -> Trust:
    """From the first root on: each root by its own keys and those of the one before, the targets by the newest root."""
    first = package.take("trust/1.root.json")
    if sha256(first) != root_sha256.lower():
        raise Refused(f"trust/1.root.json: its SHA-256 is {sha256(first)}, not the one that you were given")
    count = sum(bool(re.fullmatch(r"trust/[0-9]+\.root\.json", name)) for name in package.files)
    before: dict[str, Any] | None = None
    is_demonstration = False
    for version in range(1, count + 1):
        where = f"trust/{version}.root.json"
        file = parsed(package.take(where), where)
        root = file["signed"]
        if (root["_type"], root["version"]) != ("root", version):
            raise Refused(f"{where}: it is not version {version} of the root")
        assert_threshold(file, root["keys"], root["roles"]["root"], where)
        if before is not None:
            assert_threshold(file, before["keys"], before["roles"]["root"], where)
        before, is_demonstration = root, is_demonstration or root.get("demonstration") is True
    assert before is not None
    if package.take("trust/root.json") != package.take(f"trust/{count}.root.json"):
        raise Refused("trust/root.json: it is not the newest root")
    where = "trust/targets.json"
    file = parsed(package.take(where), where)
    targets = file["signed"]
    assert_threshold(file, before["keys"], before["roles"]["targets"], where)
    if targets["_type"] != "targets" or not 1 <= targets["root_version"] <= count:
        raise Refused(f"{where}: it was made under root {targets['root_version']}, and the newest here is {count}")
    delegations = targets["delegations"]
    held = set(before["keys"])
    roles: dict[str, dict[str, Key]] = {}
    expiries, needed = [before["expires"], targets["expires"]], 1
    for role in delegations["roles"]:
        name = role["name"]
        if name not in ROLES or name in roles:
            raise Refused(f"{where}: the role {name} is unknown, or stands twice in it")
        roles[name] = {}
        expiries.append(role["expires"])
        needed = role["threshold"] if name == "witness" else needed
        for keyid in role["keyids"]:
            if keyid in held:
                raise Refused(f"{where}: the key {keyid} stands twice in it")
            held.add(keyid)
            described = delegations["keys"][keyid]
            key = public_key(keyid, described, where)
            if isinstance(key, ed25519.Ed25519PublicKey) != (ROLES[name] == "ed25519"):
                raise Refused(f"{where}: the key {keyid} is not of the kind that the role {name} signs with")
            may, levels = tuple(described.get("may", ())), tuple(described.get("levels", ()))
            if name == "officer" and not described.get("person"):
                raise Refused(f"{where}: the officer's key {keyid} is nobody's")
            roles[name][keyid] = Key(key, described.get("person"), may, levels, described.get("revoked_from"))
    if {*roles} != {*ROLES}:
        raise Refused(f"{where}: it lacks a role")
    expires, made_at = min(map(moment, expiries)), moment(package.index["made_at"])
    if made_at >= expires:
        raise Refused(f"{where}: the trust root expired on {expires:%Y-%m-%d}, and the package was made after that")
    for path in package.below("trust"):
        if path not in package.looked_at:
            raise Refused(f"{path}: it is no file of a trust root")
    return Trust(count, targets["version"], expires, is_demonstration, roles, needed)


# --- The log ---------------------------------------------------------------------------------------------------------


@dataclass
class Log:
    """Entries that were proven to be in the log, by their numbers from 1."""

    origin: str
    size: int
    cosigned: Mapping[str, datetime.datetime]
    """Witness -> when it cosigned the checkpoint."""
    entries: dict[int, dict[str, Any]]
    looked_at: set[int] = field(default_factory=set)

    def of(self, action: str, **subjects: object) -> Iterator[dict[str, Any]]:
        """The entries of an act about something, the oldest first; each counts as looked at."""
        for number, entry in sorted(self.entries.items()):
            said = entry["subjects"]
            if entry["action"] == action and all(said.get(name) == value for name, value in subjects.items()):
                self.looked_at.add(number)
                yield entry

    def one(self, action: str, what: str, **subjects: object) -> dict[str, Any]:
        found = next(self.of(action, **subjects), None)
        if found is None:
            raise Refused(f"{what}: no entry of the log ('{action}') names it")
        return found


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def is_included(index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes) -> bool:
    """RFC 9162, 2.1.3.2."""
    if not 0 <= index < size or any(len(each) != 32 for each in (leaf, root, *proof)):
        return False
    left, last, found = index, size - 1, leaf
    for each in proof:
        if last == 0:
            return False
        if left & 1 or left == last:
            found = node(each, found)
            while not left & 1 and left:
                left, last = left >> 1, last >> 1
        else:
            found = node(found, each)
        left, last = left >> 1, last >> 1
    return last == 0 and found == root


def read_note(text: str, trust: Trust, where: str) -> tuple[str, int, bytes, dict[str, datetime.datetime]]:
    """A checkpoint (C2SP signed note): its origin, size and root, and which witnesses cosigned it when."""
    body, separator, lines = text.rpartition("\n\n")
    parts = body.split("\n")
    if not separator or not lines.endswith("\n") or len(parts) != 3 or not re.fullmatch(r"[0-9]{1,18}", parts[1]):
        raise Refused(f"{where}: this is no checkpoint")
    message, size, is_signed = body + "\n", int(parts[1]), False
    cosigned: dict[bytes, tuple[str, datetime.datetime]] = {}
    for line in lines.splitlines():
        match = re.fullmatch(r"— ([^\s+]+) ([A-Za-z0-9+/]+=*)", line)
        content = unbase64(match[2], where) if match is not None else b""
        of, signature, is_good = match[1] if match is not None else "", content[4:], False
        for role, kind in (("log", b"\x01"), ("witness", b"\x04")):
            for key in trust.roles[role].values():
                assert isinstance(key.public, ed25519.Ed25519PublicKey)
                raw = key.public.public_bytes_raw()
                if hashlib.sha256(of.encode() + b"\n" + kind + raw).digest()[:4] != content[:4]:
                    continue
                in_force = key.revoked_from is None or size <= key.revoked_from
                if role == "log":
                    holds = of == parts[0] and signed_with(key.public, signature, message.encode())
                    is_signed = is_signed or (holds and in_force)
                else:
                    at = int.from_bytes(signature[:8], "big")
                    stated = f"cosignature/v1\ntime {at}\n{message}".encode()
                    holds = signed_with(key.public, signature[8:], stated)
                    if holds and in_force:  # four bytes name a key, so another one may be named by the same
                        name = f"{of}, key {keyid_of(key.public)},"  # whoever hands on a signature may change `of`
                        cosigned.setdefault(raw, (name, datetime.datetime.fromtimestamp(at, datetime.UTC)))
                is_good = is_good or holds
        if not is_good:
            raise Refused(f"{where}: the signature of {of or 'somebody'} is not one of the log or of a witness")
    if not is_signed:
        raise Refused(f"{where}: no key of the role log signed it that was in force")
    return parts[0], size, unbase64(parts[2], where), dict(cosigned.values())


def read_log(package: Package, trust: Trust) -> Log:
    """The checkpoint by its signatures, and each entry by its proof."""
    note = package.take("log/checkpoint").decode()
    origin, size, root, cosigned = read_note(note, trust, "log/checkpoint")
    if trust.roles["witness"] and len(cosigned) < trust.witnesses_needed:
        raise Refused(f"log/checkpoint: {len(cosigned)} of {trust.witnesses_needed} witnesses cosigned it")
    entries: dict[int, dict[str, Any]] = {}
    for path in package.below("log/entries"):
        header, _, of_note = package.take(path).decode().partition("\n\n")
        kind, extra, index, *proof = [*header.split("\n"), "", ""][: max(3, header.count("\n") + 1)]
        data = unbase64(extra.removeprefix("extra "), path)
        entry = parsed(data, path)
        number, leaf = entry["sequence"], hashlib.sha256(b"\0" + data).digest()
        if (kind, index, path) != ("c2sp.org/tlog-proof@v1", f"index {number - 1}", f"log/entries/{number}.tlog-proof"):
            raise Refused(f"{path}: this is not the proof of entry {number}")
        if of_note != note or not is_included(number - 1, size, leaf, [unbase64(each, path) for each in proof], root):
            raise Refused(f"{path}: it does not show that entry {number} is in the log")
        content = {name: value for name, value in entry.items() if name != "hash"}
        if canonical(entry) != data or sha256(canonical(content)) != entry["hash"]:
            raise Refused(f"{path}: the entry's bytes are not as they were written")
        entries[number] = entry
    return Log(origin, size, cosigned, entries)


def check_trust_on_record(package: Package, trust: Trust, log: Log) -> None:
    """The trust files are those that the log's newest entry about them names, so that none is an older one."""
    of_trust = sorted((each for action in TRUST_ENTRIES for each in log.of(action)), key=lambda each: each["sequence"])
    if not of_trust:
        raise Refused("the log names no trust root")
    files = {path.removeprefix("trust/"): sha256(package.take(path)) for path in package.below("trust")}
    if of_trust[-1]["subjects"]["files"] != files:
        raise Refused(f"trust/: the files are not those of entry {of_trust[-1]['sequence']}: older ones, or others")
    for number, entry in log.entries.items():
        named = (entry["subjects"].get("trust_root_version", 0), entry["subjects"].get("trust_targets_version", 0))
        if named[0] > trust.root_version or named[1] > trust.targets_version:
            raise Refused(f"trust/: entry {number} was made under root {named[0]} and targets {named[1]}: newer ones")
        if moment(entry["at"]) > moment(package.index["made_at"]):
            raise Refused(f"index.json: entry {number} is younger than the package")


# --- Signed statements -----------------------------------------------------------------------------------------------


def opened(bundle: bytes, trust: Trust, role: str, index: int, where: str) -> tuple[dict[str, Any], str, Key]:
    """The payload of a sigstore bundle, if a key signed it that has the role at this index of the log."""
    content = parsed(bundle, where)
    try:
        hint, envelope = content["verificationMaterial"]["publicKey"]["hint"], content["dsseEnvelope"]
        (signature,) = envelope["signatures"]
        payload, kind = unbase64(envelope["payload"], where), envelope["payloadType"]
        sig = unbase64(signature["sig"], where)
    except (KeyError, TypeError, ValueError):
        raise Refused(f"{where}: this is no bundle with one signature") from None
    if canonical(content) + b"\n" != bundle or kind != "application/vnd.in-toto+json":
        raise Refused(f"{where}: its bytes are not as they were written")
    keyids = {hint, *(keyid for keyid, key in trust.roles[role].items() if pem_digest(key.public) == hint)}
    keyid = next((each for each in keyids if each in trust.roles[role]), hint)  # the OpenSSF's form names the PEM
    try:
        key = trust.key(role, keyid, index)
    except Refused as refused:
        raise Refused(f"{where}: {refused}") from None
    if not signed_with(key.public, sig, f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload):
        raise Refused(f"{where}: the signature by {keyid} is not over this statement")
    said = parsed(payload, where)
    if said.get("_type") != "https://in-toto.io/Statement/v1" or canonical(said) != payload:
        raise Refused(f"{where}: this is no in-toto statement")
    return said, keyid, key


def pem_digest(key: Public) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return sha256(key.public_bytes(serialization.Encoding.PEM, form))


@dataclass(frozen=True)
class Said:
    """A statement that counts."""

    predicate: dict[str, Any]
    keyid: str
    key: Key
    sha256: str
    """Of the bundle."""


def statement(bundle: bytes, trust: Trust, role: str, kind: str, about: str, index: int, where: str) -> Said:
    """What is said about the file with this SHA-256, in a statement of this kind."""
    said, keyid, key = opened(bundle, trust, role, index, where)
    if said["predicateType"] != kind:
        raise Refused(f"{where}: it is a statement of the kind {said['predicateType']}, not {kind}")
    if about not in {subject["digest"]["sha256"] for subject in said["subject"]}:
        raise Refused(f"{where}: it is about another file than {about}")
    return Said(said["predicate"], keyid, key, sha256(bundle))


def statement_of(package: Package, trust: Trust, role: str, kind: str, about: str, entry: dict[str, Any]) -> Said:
    """The statement that an entry names by its SHA-256."""
    path = f"statements/{entry['subjects'].get('statement') or entry['subjects'].get('request')}.sigstore.json"
    bundle = package.take(path)
    if path != f"statements/{sha256(bundle)}.sigstore.json":
        raise Refused(f"{path}: it is not the statement that entry {entry['sequence']} names")
    said = statement(bundle, trust, role, OURS + kind, about, entry["sequence"] - 1, path)
    if entry["actor"] != f"{role}:{said.keyid}":
        raise Refused(f"{path}: entry {entry['sequence']} is of {entry['actor']}, and another key signed")
    return said


def check_index_signed(package: Package, trust: Trust, log: Log) -> None:
    where = "index.json.sigstore.json"
    if where not in package.files:
        raise Refused(f"{where}: the package lacks it")
    said = statement(
        package.files[where],
        trust,
        "pipeline",
        OURS + "evidence/v1",
        sha256(package.files["index.json"]),
        log.size,
        where,
    )
    if said.predicate != {name: value for name, value in package.index.items() if name != "files"}:
        raise Refused(f"{where}: it says something else than the index")
    if package.index["entries"] != log.size:
        raise Refused("index.json: it was made with another checkpoint")


# --- Artifacts: what was made of what --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Artifact:
    """A manifest, verified, and those files of the artifact that the package holds."""

    digest: str
    manifest: dict[str, Any]
    manifest_sha256: str
    sealed_at: int
    """Index in the log."""

    @property
    def inputs(self) -> dict[str, str]:
        """Kind -> digest; artifacts of which a base model was made here are among them."""
        made_here = {
            name: name.removeprefix("made_here:")
            for name in self.manifest["external_inputs"]
            if name.startswith("made_here:")
        }
        return {**self.manifest["inputs"], **made_here}


Artifacts = Mapping[str, Artifact]


def check_attested(package: Package, trust: Trust, artifact: Artifact, name: str) -> None:
    """A signature beside an artifact's file says of it what the file and the manifest say."""
    folder, manifest = f"artifacts/{artifact.digest}", artifact.manifest
    path = f"{folder}/{name}"
    bundle, of = package.take(path), name.removesuffix(".sigstore.json")
    if of in WEIGHTS_IN.get(manifest["kind"], ()):
        said, _, _ = opened(bundle, trust, "pipeline", artifact.sealed_at, path)
        listed = {each["path"]: each["sha256"] for each in manifest["files"] if each["path"].startswith(f"{of}/")}
        signed = {f"{of}/{each['name']}": each["digest"] for each in said["predicate"]["resources"]}
        if listed != signed or said["subject"][0]["name"] != artifact.digest:
            raise Refused(f"{path}: it lists other files than the manifest")
        return
    if of == "manifest.json":
        kind, about = "https://slsa.dev/provenance/v1", artifact.manifest_sha256
    else:
        kinds = {"verdict.json": "gate/v1", "report.json": "evaluation/v1", "record.json": "record/v1"}
        kind = OURS + kinds[of] if of in kinds else "https://cyclonedx.org/bom"
        about = sha256(package.take(f"{folder}/{of}"))
    said = statement(bundle, trust, "pipeline", kind, about, artifact.sealed_at, path).predicate
    content = parsed(package.files[f"{folder}/{of}"], path)
    if of == "manifest.json":
        inputs = {**manifest["inputs"], **manifest["external_inputs"]}
        built = said["buildDefinition"]
        stated = {each["name"]: each["digest"]["sha256"] for each in built["resolvedDependencies"]}
        of_stage = {"stage": manifest["kind"], "config": manifest["producer"]["config"]}
        same = (built["externalParameters"], stated) == (of_stage, inputs)
    elif of == "verdict.json":
        (evaluated,) = manifest["inputs"].values()
        gate = manifest["producer"]["config"]["gate"]
        same = said == {"gate": gate, "artifact": evaluated, "outcome": content["outcome"]}
    elif of == "report.json":
        outcome = manifest["summary"]["outcome"]
        same = said == {"line": manifest["line"], "artifact": artifact.digest, "outcome": outcome}
    elif of == "record.json":
        same = said == {"line": manifest["line"], "adapter": manifest["inputs"]["aligned_adapter"]}
    else:
        same = said == content
    if not same:
        raise Refused(f"{path}: it says something else than {of} and the manifest")


def read_artifacts(package: Package, trust: Trust, log: Log) -> dict[str, Artifact]:
    """Every manifest by its own digest, its signature and its entry; every file beside it by the manifest."""
    found: dict[str, Artifact] = {}
    for digest in sorted({path.split("/")[1] for path in package.below("artifacts")}):
        folder = f"artifacts/{digest}"
        content = package.take(f"{folder}/manifest.json")
        manifest = parsed(content, f"{folder}/manifest.json")
        identity = {name: value for name, value in manifest.items() if name != "circumstances"}
        if canonical(manifest) + b"\n" != content or sha256(canonical(identity)) != digest:
            raise Refused(f"{folder}/manifest.json: the folder's name is not its digest")
        entry = log.one("artifact sealed", folder, manifest_sha256=sha256(content))
        if (entry["subjects"]["digest"], entry["subjects"]["kind"]) != (digest, manifest["kind"]):
            raise Refused(f"{folder}: entry {entry['sequence']} names another artifact")
        artifact = Artifact(digest, manifest, sha256(content), entry["sequence"] - 1)
        files = {each["path"]: each for each in manifest["files"]}
        shown = {*files} & SHOWN.get(manifest["kind"], set())
        of_weights = {name.split("/")[0] for name in files} & WEIGHTS_IN.get(manifest["kind"], set())
        signed = {"manifest.json"} | {*SIGNED_FILES} & shown | of_weights
        bundles = {f"{name}.sigstore.json" for name in signed}
        present = {path.removeprefix(f"{folder}/") for path in package.below(folder)}
        if present != {"manifest.json"} | shown | bundles:
            raise Refused(f"{folder}: it lacks a file, or has one that is none of its own")
        for name in sorted(shown):
            if sha256(package.take(f"{folder}/{name}")) != files[name]["sha256"]:
                raise Refused(f"{folder}/{name}: its SHA-256 is not the one of the manifest")
        for name in sorted(bundles):
            check_attested(package, trust, artifact, name)
        found[digest] = artifact
    return found


def check_lineage(artifacts: Artifacts, roots: set[str]) -> None:
    """From the roots on, each manifest names its inputs, and each input is here, as it was read then.

    A level is never below that of an input. What no root leads to is refused.
    """
    reached: set[str] = set()
    waiting = sorted(roots)
    while waiting:
        digest = waiting.pop()
        if digest in reached:
            continue
        if digest not in artifacts:
            raise Refused(f"artifacts/{digest}: the package lacks it")
        reached.add(digest)
        manifest = artifacts[digest].manifest
        ladder = manifest["ladder"]
        read = {**manifest["circumstances"]["input_manifests"], **manifest["external_inputs"]}
        for kind, needed in artifacts[digest].inputs.items():
            if needed not in artifacts or artifacts[needed].manifest_sha256 != read.get(kind):
                raise Refused(f"artifacts/{digest}: its input {kind} ({needed[:12]}) is not the one that was read")
            own, level = manifest["classification"], artifacts[needed].manifest["classification"]
            ladders = [ladder, *(each for each in [artifacts[needed].manifest["ladder"]] if own in each)]
            if any(each.index(own) < each.index(level) for each in ladders):
                raise Refused(f"artifacts/{digest}: it is {own}, and its input {kind} {level}")
            waiting.append(needed)
    if lost := sorted({*artifacts} - reached):
        raise Refused(f"artifacts/{lost[0]}: nothing that the package is about was made of it")


# --- Adapters: the registry's rows, the records, gates and waivers ---------------------------------------------------


def read_rows(package: Package, log: Log) -> dict[str, dict[str, Any]]:
    """The registry's row of each adapter, as the entry of its registration has it, by the digest of its columns."""
    rows: dict[str, dict[str, Any]] = {}
    for path in package.below("registry"):
        row = parsed(package.take(path), path)
        digest = sha256(canonical({name: value for name, value in row.items() if value is not None}))
        taken = log.of("rows of an earlier release taken over")
        entries = [*log.of("adapter registered", adapter=row["id"]), *taken]
        named = [each["subjects"]["rows"].get("adapter", {}).get(row["id"]) for each in entries]
        if path != f"registry/{row['id']}.json" or digest not in named:
            raise Refused(f"{path}: no entry of the log registered this row")
        rows[row["id"]] = row
    return rows


def lineage_of(artifacts: Artifacts, digest: str) -> dict[str, str]:
    """Kind -> digest of everything that an artifact was made of."""
    found: dict[str, str] = {}
    waiting = list(artifacts[digest].manifest["inputs"].values())
    while waiting:
        each = waiting.pop()
        kind = artifacts[each].manifest["kind"]
        if found.setdefault(kind, each) != each:
            raise Refused(f"artifacts/{digest}: its lineage holds two of the kind {kind}")
        waiting.extend(artifacts[each].manifest["inputs"].values())
    return found


def weights_of(adapter: Artifact) -> str:
    """SHA-256 of the one file with weights, or over the names and digests of all."""
    paths = {each["path"]: each["sha256"] for each in adapter.manifest["files"]}
    found = {path.split("/")[1]: paths[path] for path in paths if re.fullmatch(WEIGHTS, path)}
    return next(iter(found.values())) if len(found) == 1 else sha256(canonical(found))


def check_adapter(package: Package, trust: Trust, log: Log, artifacts: Artifacts, row: dict[str, Any]) -> list[str]:
    """Row, record, manifests and verdicts say the same. Returns what was waived, in words."""
    record_artifact = artifacts.get(row["record_digest"])
    if record_artifact is None or record_artifact.manifest_sha256 != row["record_manifest_sha256"]:
        raise Refused(f"{row['id']}: the package lacks its record")
    where = f"artifacts/{row['record_digest']}/record.json"
    record, manifest = parsed(package.take(where), where), record_artifact.manifest
    base, training, preference = record["base_model"], record["training_dataset"], record["preference_dataset"]
    same = {
        "line": (record["line"], row["line"], manifest["line"]),
        "classification": (record["classification"], row["classification"], manifest["classification"]),
        "adapter": (record["adapter_digest"], row["adapter_digest"], manifest["inputs"]["aligned_adapter"]),
        "weights": (record["adapter_sha256"], row["adapter_sha256"], weights_of(artifacts[row["adapter_digest"]])),
        "report": (record["evaluation_report_digest"], row["evaluation_report_digest"]),
        "report's manifest": (record["evaluation_report_digest"], manifest["inputs"]["evaluation_report"]),
        "training dataset": (training["digest"], row["dataset_digest"], manifest["inputs"]["training_dataset"]),
        "preference dataset": (preference["digest"] if preference else None, row["preference_dataset_digest"]),
        "base model": (base["digest"], row["base_model_digest"]),
        "manifest": (artifacts[row["adapter_digest"]].manifest_sha256, row["manifest_sha256"]),
        "lineage": (record["lineage"], lineage_of(artifacts, row["record_digest"])),
    }
    for name, values in same.items():
        if any(each != values[0] for each in values):
            raise Refused(f"{row['id']}: record, row and manifests differ in: {name}")
    registered = {each["digest"]: each for each in row["gate_records"]}
    if not {each["record"] for each in record["gates"]} <= {*registered}:
        raise Refused(f"{row['id']}: the row lacks a gate of the record")
    evaluated = {*record["lineage"].values(), row["record_digest"]}
    waived = []
    for digest, stated in registered.items():
        gate_record = artifacts.get(digest)
        if gate_record is None or gate_record.manifest_sha256 != stated["manifest_sha256"]:
            raise Refused(f"{row['id']}: the package lacks the verdict of gate {stated['gate']}")
        if not {*gate_record.manifest["inputs"].values()} <= evaluated:
            raise Refused(f"{row['id']}: gate {stated['gate']} judged what the adapter was not made of")
        if gate_record.manifest["producer"]["config"]["gate"] != stated["gate"]:
            raise Refused(f"{row['id']}: the verdict of gate {stated['gate']} is another gate's")
        waiver = stated.get("acceptance")
        said = check_verdict(package, trust, log, artifacts, gate_record, waiver["digest"] if waiver else None)
        waived += [said] if said else []
    return waived


def check_verdict(
    package: Package, trust: Trust, log: Log, artifacts: Artifacts, gate_record: Artifact, waiver: str | None
) -> str | None:
    """A gate passed, or an officer who may do so waived exactly this verdict. Returns the waiver in words."""
    where = f"artifacts/{gate_record.digest}/verdict.json"
    outcome = parsed(package.take(where), where)["outcome"]
    gate = gate_record.manifest["producer"]["config"]["gate"]
    if outcome == "pass" and waiver is None:
        return None
    if outcome == "pass" or waiver is None or waiver not in artifacts:
        raise Refused(f"{where}: gate {gate} is '{outcome}', and {'no' if waiver is None else 'a'} waiver is named")
    manifest = artifacts[waiver].manifest
    folder = f"artifacts/{waiver}"
    content, bundle = package.take(f"{folder}/acceptance.json"), package.take(f"{folder}/acceptance.sigstore.json")
    entry = log.one("gate waived", folder, statement=sha256(bundle))
    said = statement(
        bundle,
        trust,
        "officer",
        OURS + "waiver/v1",
        sha256(content),
        entry["sequence"] - 1,
        f"{folder}/acceptance.sigstore.json",
    )
    accepted = parsed(content, folder)
    expected = {
        "line": manifest["line"],
        "gate": gate,
        "artifact": next(iter(gate_record.manifest["inputs"].values())),
        "record": gate_record.digest,
        "kind": {"inconclusive": "accept", "fail": "override"}[outcome],
        "reason": accepted["reason"],
    }
    if said.predicate != expected or accepted["officer"] != said.keyid:
        raise Refused(f"{folder}: what the officer signed is another waiver")
    if manifest["inputs"] != {"gate_record": gate_record.digest}:
        raise Refused(f"{folder}: it waives another verdict")
    may = gate_record.manifest["producer"]["config"].get("officer_may", "nothing")
    enough = {"override": ("override",), "accept": ("override", "accept_inconclusive")}[expected["kind"]]
    if may not in enough or not said.key.allows("waive", manifest["classification"]):
        raise Refused(f"{folder}: {said.key.person} could not waive this")
    return f"gate {gate} ({outcome}), by {said.key.person}: {accepted['reason']}"


# --- What officers asked and decided, and what changed by it ---------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A change of an adapter's state."""

    sequence: int
    """Of its entry in the log."""
    at: datetime.datetime
    adapter: str
    transition: str
    after: str
    words: str


def check_request(package: Package, trust: Trust, log: Log, row: dict[str, Any], entry: dict[str, Any]) -> Said:
    """A request, signed by an officer about exactly this adapter's record, under the rules that were on record."""
    asked = statement_of(package, trust, "officer", "request/v1", row["record_manifest_sha256"], entry)
    predicate, where = asked.predicate, f"request {asked.sha256[:12]}"
    if asked.sha256 != entry["subjects"]["request"] or predicate["adapter"] != entry["subjects"]["adapter"]:
        raise Refused(f"{where}: entry {entry['sequence']} names another one")
    waivers = sorted(each["acceptance"]["digest"] for each in row["gate_records"] if each.get("acceptance"))
    of_row = [row[name] for name in ("record_digest", "adapter_digest", "evaluation_report_digest")]
    begins, ends = ARROWS.get(predicate["transition"], (set[str](), ""))
    if predicate["from"] not in begins or predicate["to"] != ends:
        raise Refused(f"{where}: no '{predicate['transition']}' leads from {predicate['from']} to {predicate['to']}")
    if type(predicate["approvals"]) is not int or predicate["approvals"] < 0 or not predicate["policy"]:
        raise Refused(f"{where}: it names no number of approvals, or no rules")
    evidence = predicate["evidence"]
    if [evidence[name] for name in ("record", "adapter", "evaluation_report", "waivers")] != [*of_row, waivers]:
        raise Refused(f"{where}: it rests on another adapter's evidence")
    for file, digest in predicate["policy"].items():
        rules = [each for each in log.of("policy changed", file=file) if each["sequence"] < entry["sequence"]]
        if (
            not rules
            or rules[-1]["subjects"]["now"] != digest
            or sha256(package.take(f"policy/{digest}.yaml")) != digest
        ):
            raise Refused(f"{where}: {file} was not {digest[:12]} by record")
    return asked


def counted_approvals(
    package: Package, trust: Trust, log: Log, row: dict[str, Any], asked: Said, until: int
) -> dict[str, tuple[str, str]]:
    """Person -> the key and the statement of their approval: of those who may decide, and who neither asked nor
    withdrew. Of decisions that were on record before an entry."""
    levels = {asked.predicate["classification"], row["classification"]}
    found: dict[str, tuple[str, str]] = {}
    for decision, action in DECIDED.items():
        for entry in log.of(action, request=asked.sha256):
            given = statement_of(package, trust, "officer", "approval/v1", asked.sha256, entry)
            person, may = str(given.key.person), asked.predicate["transition"]
            if given.predicate["decision"] != decision or given.predicate["request"] != asked.sha256:
                raise Refused(f"request {asked.sha256[:12]}: a decision of {person} is not what its entry says")
            is_counted = decision == "withdraw" or all(given.key.allows(may, level) for level in levels)
            if entry["sequence"] >= until or not is_counted:
                continue
            if decision == "reject" or (decision == "withdraw" and person == asked.key.person):
                did = "rejected" if decision == "reject" else "withdrew"
                raise Refused(f"request {asked.sha256[:12]}: {person} {did} it before it took effect")
            if decision == "withdraw":
                found.pop(person, None)
            elif person != asked.key.person:
                found.setdefault(person, (given.keyid, given.sha256))
    return found


def read_changes(package: Package, trust: Trust, log: Log, rows: Mapping[str, Any], line: str) -> list[Change]:
    """Every transition of a line, from the first, each as it was asked for and approved."""
    requests = {}
    for entry in log.of("release requested", line=line):
        row = rows[entry["subjects"]["adapter"]]
        requests[entry["subjects"]["request"]] = (check_request(package, trust, log, row, entry), row, entry)
    for asked, row, _ in requests.values():
        counted_approvals(package, trust, log, row, asked, 0)  # those that decided nothing are verified too
    changes: list[Change] = []
    state: dict[str, str] = {}
    made_of = set[tuple[str, str]]()
    for number, entry in enumerate(log.of("state changed", line=line), start=1):
        said = entry["subjects"]
        about, where = rows[said["adapter"]], f"transition {said['sequence']} of line {line}"
        made = statement_of(package, trust, "pipeline", "transition/v1", about["record_manifest_sha256"], entry)
        facts = ("line", "sequence", "adapter", "transition", "from", "to", "request", "at")
        if said["sequence"] != number or any(made.predicate[name] != said[name] for name in facts):
            raise Refused(f"{where}: one is missing before it, or its entry differs from what was signed")
        if said["request"] not in requests:
            raise Refused(f"{where}: nobody asked for it")
        asked, row, asked_at = requests[said["request"]]
        wanted, needed = asked.predicate, asked.predicate["approvals"]
        of_incumbent = (said["transition"], said["adapter"], said["from"], said["to"], wanted["to"])
        supersedes = of_incumbent == ("supersede", wanted["incumbent"], "production", "superseded", "production")
        if not supersedes and any(wanted[name] != said[name] for name in ("adapter", "transition", "from", "to")):
            raise Refused(f"{where}: it is not what request {asked.sha256[:12]} asks for")
        approvals = counted_approvals(package, trust, log, row, asked, entry["sequence"])
        statements = {each for _, each in approvals.values()}
        if not {*made.predicate["approvals"]} <= statements or len(made.predicate["approvals"]) < needed:
            raise Refused(f"{where}: it names approvals that do not count, or fewer than {needed}")
        if needed == 0 and not asked.key.allows(wanted["transition"], row["classification"]):
            raise Refused(f"{where}: {asked.key.person} could not decide this alone")
        if asked_at["sequence"] >= entry["sequence"] or moment(said["at"]) >= moment(wanted["expires"]):
            raise Refused(f"{where}: its request had expired, or came later")
        if (said["request"], said["transition"]) in made_of:
            raise Refused(f"{where}: its request had taken effect before")
        made_of.add((said["request"], said["transition"]))
        before = state.get(said["adapter"])
        if said["from"] != before and not (before is None and said["from"] in UNDECIDED):
            raise Refused(f"{where}: {said['adapter']} was not {said['from']}")
        state[said["adapter"]] = said["to"]
        if [*state.values()].count("production") > 1:
            raise Refused(f"{where}: it leaves two adapters in production")
        by = ", ".join(sorted(approvals)) or "nobody besides"
        words = f"asked by {asked.key.person}, approved by {by}: {wanted['reason']}"
        changes.append(
            Change(entry["sequence"], moment(said["at"]), said["adapter"], said["transition"], said["to"], words)
        )
    return changes


def read_flags(package: Package, trust: Trust, log: Log, line: str, changes: list[Change]) -> list[dict[str, Any]]:
    """Every change of the line's flag, from the first: who gets which adapter from when on.

    It names adapters alone that a transition had put there before, so that the pipeline's key alone lets none answer.
    """
    flags = []
    for number, entry in enumerate(log.of("flag changed", line=line), start=1):
        said, path = entry["subjects"], f"flags/{line}/{entry['subjects']['change']}.json"
        flag = statement_of(package, trust, "pipeline", "flag/v1", sha256(package.take(path)), entry).predicate
        same = all(flag[name] == said[name] for name in ("line", "production", "staged", "stopped", "cause", "request"))
        if not same or (flag["sequence"], said["change"]) != (number, number):
            raise Refused(f"{path}: a change is missing before it, or its entry differs from what was signed")
        for arm in ("production", "staged"):
            put = (change for change in changes if (change.adapter, change.after) == (flag[arm], arm))
            if flag[arm] is not None and not any(change.sequence < entry["sequence"] for change in put):
                raise Refused(f"{path}: nobody let {flag[arm]} be {arm}")
        flags.append(flag)
    return flags


def read_holds(package: Package, trust: Trust, log: Log, rows: Mapping[str, Any], line: str) -> list[str]:
    """What the holds of staged adapters came to, and who accepted one that was inconclusive."""
    words = []
    for entry in log.of("hold judged", line=line):
        about = rows[entry["subjects"]["adapter"]]["record_manifest_sha256"]
        judged = statement_of(package, trust, "pipeline", "hold/v1", about, entry)
        if any(judged.predicate[name] != entry["subjects"][name] for name in ("adapter", "outcome", "observations")):
            raise Refused(f"entry {entry['sequence']}: the hold that was signed is another one")
        words.append(f"hold of {judged.predicate['adapter']}: {judged.predicate['outcome']}")
    for entry in log.of("hold accepted", line=line):
        said = entry["subjects"]
        accepted = statement_of(package, trust, "officer", "hold-acceptance/v1", said["judgement"], entry)
        if not accepted.key.allows("promote", rows[said["adapter"]]["classification"]):
            raise Refused(f"entry {entry['sequence']}: {accepted.key.person} could not accept this")
        words.append(f"inconclusive hold of {said['adapter']} accepted by {accepted.key.person}: {said['reason']}")
    return words


def read_acts(package: Package, trust: Trust, log: Log, rows: Mapping[str, Any]) -> list[str]:
    """Recalls and their waivers, known issues, reviews and purges, each by an officer who may do so, in words."""
    words = []
    for action, (kind, may) in ACTS.items():
        for entry in log.of(action):
            said = {name: value for name, value in entry["subjects"].items() if name not in NAMED_IN_ENTRIES}
            about = [rows[each] for each in said.get("adapters", [said.get("adapter")]) if each in rows]
            if not about:
                raise Refused(f"entry {entry['sequence']} is about no adapter of the package")
            act = statement_of(package, trust, "officer", kind, about[0]["record_manifest_sha256"], entry)
            if act.predicate != said or not all(act.key.allows(may, row["classification"]) for row in about):
                raise Refused(f"entry {entry['sequence']}: what was signed is another act, or {act.key.person} may not")
            text = said.get("text") or said.get("reason")
            words.append(f"{action} by {act.key.person}, {', '.join(row['id'] for row in about)}: {text}")
    for entry in log.of("release weights purged"):
        row, bundle = rows[entry["subjects"]["adapter"]], entry["subjects"]["bundle"].encode()
        where = f"entry {entry['sequence']}"
        act = statement(
            bundle, trust, "officer", f"{OURS}purge/v1", row["record_manifest_sha256"], entry["sequence"] - 1, where
        )
        if not act.key.allows("retire", row["classification"]) or act.predicate["adapter"] != row["id"]:
            raise Refused(f"{where}: {act.key.person} could not purge this")
        words.append(f"weights of {row['id']} purged by {act.key.person}: {act.predicate['reason']}")
    return words


# --- The blind review ------------------------------------------------------------------------------------------------


def check_reviews(package: Package, log: Log, artifacts: Artifacts) -> tuple[list[str], set[str]]:
    """Each closed review: its acts in one chain, signed with the key that the plan names, and its seed as committed.

    Returns them in words, and the digests of their plans and results.
    """
    words, roots = [], set[str]()
    for opening in log.of("review opened"):
        review, plan_digest = opening["subjects"]["review"], opening["subjects"]["plan"]
        where = f"artifacts/{plan_digest}/plan.json"
        plan, before, ballots, seed = parsed(package.take(where), where), "0" * 64, 0, ""
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(plan["act_key"]))
        of_review = [each for _, each in sorted(log.entries.items()) if each["subjects"].get("review") == review]
        for number, entry in enumerate(of_review, start=1):
            log.looked_at.add(entry["sequence"])
            said = {name: value for name, value in entry["subjects"].items() if name != "signature"}
            act = {name: entry[name] for name in ("action", "actor", "at")} | {"subjects": said}
            content = b"sovereign audit entry 1\n" + canonical(act)
            signature = bytes.fromhex(entry["subjects"].get("signature", ""))
            if (said.get("act"), said.get("act_before")) != (number, before) or not signed_with(
                key, signature, content
            ):
                raise Refused(f"review {review}: entry {entry['sequence']} is not its act {number}")
            before, ballots = sha256(content), ballots + (entry["action"] == "ballot given")
            seed = said["seed"] if entry["action"].startswith("review closed") else seed
        closing = of_review[-1]["subjects"]
        if not seed or sha256(bytes.fromhex(seed)) != plan["seed_sha256"] or closing["ballots"] != ballots:
            raise Refused(f"review {review}: its seed or its ballots are not those that were sealed and given")
        roots.add(plan_digest)
        for digest, artifact in artifacts.items():
            inputs, result = artifact.manifest["external_inputs"], f"artifacts/{digest}/review.json"
            if artifact.manifest["kind"] != "blind_review" or inputs.get("review_plan") != plan_digest:
                continue
            found = parsed(package.take(result), result)
            if inputs["ballots"] != closing["ballots_sha256"] or found["seed"] != seed:
                raise Refused(f"{result}: it was not computed from the ballots that were given")
            roots.add(digest)
            score = f"{found['wins']} won, {found['losses']} lost, {found['ties']} tied"
            words.append(f"{found['adapter']} against {found['opponent']}: {score}; {ballots} ballots")
    return words, roots


# --- Everything, in order --------------------------------------------------------------------------------------------


def answering(changes: list[Change], flags: list[dict[str, Any]], day: str) -> list[str]:
    """What answered a line at a moment, or in the course of a day."""
    since = moment(day if len(day) > 10 else f"{day}T00:00:00+00:00")
    until = since if len(day) > 10 else since + datetime.timedelta(days=1, microseconds=-1)
    steps: list[tuple[datetime.datetime, str]] = []
    for flag in flags:
        who = flag["production"] or "nothing"
        if flag["staged"] and not flag["stopped"]:
            groups = "".join(f", group {each}" for each in flag["groups"])
            who += f", and {flag['staged']} for {flag['share'] * 100:g} % of the users{groups}"
        steps.append((moment(flag["at"]), who))
    if not flags:
        state: dict[str, str] = {}
        for change in changes:
            state[change.adapter] = change.after
            steps.append((change.at, next((each for each, at in state.items() if at == "production"), "nothing")))
    before = [who for at, who in steps if at <= since][-1:] or ["nothing"]
    during = [f"from {at:%Y-%m-%d %H:%M:%S}: {who}" for at, who in steps if since < at <= until]
    return [f"at {since:%Y-%m-%d %H:%M}: {before[0]}", *during]


def verify(files: dict[str, bytes], root_sha256: str, on: str | None, seen: int, say: Callable[[str], None]) -> None:
    """Check everything, and say what holds. Raises Refused at the first thing that does not, whatever it is."""
    try:
        check_all(files, root_sha256, on, seen, say)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"the package is malformed ({type(error).__name__}: {error})") from None


def check_all(files: dict[str, bytes], root_sha256: str, on: str | None, seen: int, say: Callable[[str], None]) -> None:
    package = read_package(files)
    say(f"✓ {len(package.files)} files, exactly those of the index")
    trust = read_trust(package, root_sha256)
    say(f"✓ trust root: root {trust.root_version}, targets {trust.targets_version}, signed by as many keys as needed")
    if trust.is_demonstration:
        say("! these are demonstration keys: they lie on the machine that made the package, and prove nothing")
    log = read_log(package, trust)
    if log.size < seen:
        raise Refused(f"log/checkpoint: it covers {log.size} entries, and you have seen {seen}: it is older, or cut")
    say(f"✓ {len(log.entries)} entries, each proven to be among the {log.size} of the log {log.origin}")
    for witness, at in sorted(log.cosigned.items()):
        say(f"✓ the witness {witness} saw these {log.size} entries on {at:%Y-%m-%d %H:%M} UTC")
    check_trust_on_record(package, trust, log)
    check_index_signed(package, trust, log)
    say(f"✓ the index is signed by the pipeline, made on {package.index['made_at']}")
    artifacts = read_artifacts(package, trust, log)
    rows = read_rows(package, log)
    asked = [rows[each] for each in package.index["adapters"]]
    reviews, roots = check_reviews(package, log, artifacts)
    say(f"✓ {len(artifacts)} artifacts: digests, signatures, and an entry of the log before each")
    waived: list[str] = []
    told: dict[str, list[str]] = {row["id"]: [] for row in asked}
    with_parents = list(asked)
    for row in with_parents:  # grows while it is read
        waived += [f"{row['id']}: {each}" for each in check_adapter(package, trust, log, artifacts, row)]
        roots |= {row["record_digest"], *(each["digest"] for each in row["gate_records"])}
        roots |= {each["acceptance"]["digest"] for each in row["gate_records"] if each.get("acceptance")}
        for kind, digest in sorted(lineage_of(artifacts, row["record_digest"]).items()):
            manifest = artifacts[digest].manifest
            told.setdefault(row["id"], []).append(f"{kind:<18} {digest}  {manifest['classification']}")
            for name, parent in manifest["external_inputs"].items():
                if not name.startswith("start_from:"):
                    continue
                of_parent = rows.get(name.removeprefix("start_from:"))
                if of_parent is None or of_parent["adapter_digest"] != parent:
                    raise Refused(f"{row['id']}: the package lacks the adapter that it was continued from")
                with_parents += [of_parent] if of_parent not in with_parents else []
                told.setdefault(row["id"], []).append(f"continued from     {parent}  {of_parent['id']}")
            if manifest["kind"] == "raw_corpus":
                where = f"artifacts/{digest}/sources.json"
                sources = parsed(package.take(where), where)
                if {each["sha256"] for each in sources} - {*manifest["external_inputs"].values()}:
                    raise Refused(f"{where}: it names a file that the corpus was not read from")
                of_row = told.setdefault(row["id"], [])
                of_row += [f"source file        {each['sha256']}  {each['name']}: {each['path']}" for each in sources]
    results = {*roots}
    for digest, artifact in artifacts.items():
        judged = {*artifact.manifest["inputs"].values()} & results
        if artifact.manifest["kind"] == "gate_record" and judged and digest not in roots:  # of a blind review
            waivers = [each for each, other in artifacts.items() if digest in other.manifest["inputs"].values()]
            outcome = parsed(package.take(f"artifacts/{digest}/verdict.json"), digest)["outcome"]
            gate = artifact.manifest["producer"]["config"]["gate"]
            reviews.append(f"gate {gate}: {outcome}{' and waived' if waivers else ''}")
            waived += [str(check_verdict(package, trust, log, artifacts, artifact, each)) for each in waivers]
            roots |= {digest, *waivers}
    check_lineage(artifacts, roots)
    say("✓ each manifest names its inputs, down to the source files; no level is below that of an input")
    lines = sorted({row["line"] for row in asked})
    changes = {line: read_changes(package, trust, log, rows, line) for line in lines}
    flags = {line: read_flags(package, trust, log, line, changes[line]) for line in lines}
    holds = [each for line in lines for each in read_holds(package, trust, log, rows, line)]
    acts = read_acts(package, trust, log, rows)
    say(f"✓ {sum(map(len, changes.values()))} transitions, each asked for and approved; none is missing between")
    for path in package.below("policy"):
        digest = sha256(package.take(path))
        if path != f"policy/{digest}.yaml" or not any(log.of("policy changed", now=digest)):
            raise Refused(f"{path}: no entry of the log names these rules")
    package.looked_at.update(package.below("documents"))
    if lost := sorted({*package.files} - package.looked_at):
        raise Refused(f"{lost[0]}: nothing in the package refers to it")
    if extra := sorted({*log.entries} - log.looked_at):
        raise Refused(f"log/entries/{extra[0]}.tlog-proof: nothing in the package refers to it")
    for row in with_parents:
        say(f"\n{row['id']}, {row['classification']}, weights {row['adapter_sha256']}, was made of:")
        say(f"  {'record':<18} {row['record_digest']}  {row['classification']}; {len(row['gate_records'])} gates")
        for each in told[row["id"]]:
            say(f"  {each}")
    for line in lines:
        say(f"\nState of line {line}, by its transitions:")
        for change in changes[line]:
            say(f"  {change.at:%Y-%m-%d %H:%M} {change.adapter} {change.transition} -> {change.after}, {change.words}")
        if day := on or package.index["on"]:
            say(f"What answered line {line}:")
            for each in answering(changes[line], flags[line], day):
                say(f"  {each}")
    for title, words in (("Waived", waived), ("Blind reviews", reviews), ("Holds", holds), ("Officers' acts", acts)):
        say(f"{title}: {'none' if not words else ''}")
        for each in words:
            say(f"  {each}")
    say("Rules on record (policy/):")
    for entry in log.of("policy changed"):
        say(f"  from {entry['at'][:19]}: {entry['subjects']['file']} {entry['subjects']['now'] or 'removed'}")
    say("\nWhat this cannot know:")
    say(f"- what was done after entry {log.size}, or is kept out of the package: ask again, and give --seen {log.size}")
    if not log.cosigned:
        say("- whether the log was rewritten: no witness saw it, so who has its key and its database could")
    say("- whether the rules ask for more approvals than a request names, or more gates than a record: read policy/")
    versions = f"root {trust.root_version} and targets {trust.targets_version}"
    say(f"- whether a key was revoked since: here are {versions}, so ask the root's holders for the newest")
    say("- whether the weights that answer, and the source files, are these: compare their SHA-256 where they lie")
    say(f"- whether this verifier is the right one: its SHA-256 is {sha256(Path(__file__).read_bytes())}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Verify the evidence package in which this file lies.")
    parser.add_argument("root_sha256", help="SHA-256 of the first trust root, from paper")
    parser.add_argument("--on", help="a day or moment in UTC: what answered then")
    parser.add_argument("--seen", type=int, default=0, help="how many entries of the log you have seen before")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="another package than this one")
    given = parser.parse_args(arguments)
    try:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", given.root_sha256) or not given.folder.is_dir():
            raise ValueError
        moment(given.on or "2000-01-01")
    except ValueError:
        sys.stderr.write("Give a SHA-256 of 64 digits, a day or moment such as 2027-03-14, and a package's folder.\n")
        return 2

    def say(text: str) -> None:
        sys.stdout.write(f"{on_one_line(text)}\n")

    try:
        verify(read_folder(given.folder), given.root_sha256, given.on, given.seen, say)
    except Refused as refused:
        say(f"✗ {refused}")
        say("What rests on it was not checked. The package proves nothing.")
        return 1
    say("\n✓ everything that the package holds was checked, and holds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
