"""Verify the evidence package that contains this file. Needs only Python 3.11 and `cryptography`.

    python verify.py ROOT_SHA256 [--on 2027-03-14] [--seen ENTRIES] [--folder PACKAGE]

ROOT_SHA256 is the SHA-256 of trust/1.root.json, the first root. You have it on paper; every check starts from it.
The exit status is 0 if every check passes, 1 at the first check that fails, and 2 for wrong usage.

**How to read it.** 1,562 lines, for readers who know SHA-256 and signatures. Read from here to the end: each section
uses only the sections above it. `check_all` in the last section shows the order of the checks.

 1. Bytes        JSON formats, times, keys
 2. Files        exactly the files of index.json; each check records the files that it uses, and none may stay unused
 3. Trust root   first root -> later roots -> targets.json: the keys, with their roles, permissions and revocations
 4. Log          the checkpoint, signed by the log's key and its witnesses -> single entries, by inclusion proofs
 5. Statements   signed by a key that had its role at the index of the statement's entry in the log
 6. Artifacts    each manifest by its digest, its signature and its entry; its inputs by digest, down to source files
 7. Adapters     the registry's row, the record, the manifests and the gates' verdicts agree; waivers are authorised
 8. Acts         each is signed with the key that its entry names; an officer also needs the permission
 9. Transitions  each was requested and approved by authorised officers, and made once; none is missing
10. Flags        which users got which adapter when: a file, a statement and an entry agree
11. Reviews      a blind review's acts are one signed chain; its seed is the committed one; early closings are permitted
12. Everything   the order of the checks, the output, and what no package can show (`cannot_know`)

**Terms.** A *statement* is an in-toto statement in a sigstore bundle: a key states a predicate about a file (by its
SHA-256). An *entry* of the log names an act and its subjects. Entries are counted from 1, their leaves in the tree
(*index*) from 0. An *artifact* is the output of a stage: its manifest lists its files and inputs, and its digest is the
SHA-256 of the manifest without `circumstances`. An *adapter* is a trained model. Successive adapters for one purpose
form a *line*. An adapter has a *row* in the registry and a *record*, the artifact that lists its lineage and gates.

This file shares no code with the program that writes packages, so that one mistake is not made in both. It prints only
content that it has verified.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # this folder: otherwise Python would import a `json.py` from the package instead of its own

import argparse
import base64
import datetime
import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519


class Refused(Exception):
    """Raised when a check fails."""


def require(holds: object, otherwise: str) -> None:
    """Raise Refused with the message `otherwise` unless `holds` is true. Almost every check calls this function."""
    if not holds:
        raise Refused(otherwise)


# --- 1. Bytes --------------------------------------------------------------------------------------------------------


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def canonical(value: Any) -> bytes:
    """Return canonical JSON (UTF-8, sorted keys, no spaces), which the program hashes and signs."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def tuf_canonical(value: Any) -> str:
    """Return canonical JSON as TUF signs it (OLPC). Strings escape only quotation marks and backslashes."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{tuf_canonical(key)}:{tuf_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(tuf_canonical, value)) + "]"
    require(value is None or isinstance(value, bool | int), "a trust file contains a number that is not an integer")
    return json.dumps(value)


def parsed(content: bytes, where: str) -> Any:
    """Parse JSON, and reject a repeated key: parsers disagree about which of its values counts."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(dict(pairs)) == len(pairs), f"{where}: an object has the same key twice")
        return dict(pairs)

    try:
        return json.loads(content.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Refused(f"{where}: this is not JSON") from None


def unbase64(text: str, where: str) -> bytes:
    content = base64.b64decode(text, validate=True)
    require(base64.b64encode(content).decode() == text, f"{where}: its base64 is not canonical")
    return content


def moment(text: str) -> datetime.datetime:
    """Parse a time and convert it to UTC. A time without a zone counts as UTC."""
    at = datetime.datetime.fromisoformat(text)
    return at.replace(tzinfo=datetime.UTC) if at.tzinfo is None else at.astimezone(datetime.UTC)


CLOCKS = datetime.timedelta(minutes=5)
"""Tolerated clock difference. A time that contradicts the log's order by more than this is rejected."""


AN_HOUR = datetime.timedelta(hours=1)


def period(text: str) -> tuple[datetime.datetime, datetime.datetime]:
    """Return the start and end of the day in `text`. If `text` has a time of day, start and end are that time."""
    since = moment(text)
    return since, since if len(text) > 10 else since + datetime.timedelta(days=1, microseconds=-1)


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


def place(entry: Mapping[str, Any]) -> str:
    """Format an entry's number and time."""
    return f"entry {entry['sequence']}, {moment(entry['at']):%Y-%m-%d %H:%M:%S}"


def quoted(text: str) -> str:
    """Quote a person's text as a JSON string, so that it cannot be mistaken for output of this program."""
    return json.dumps(text, ensure_ascii=False)


def keyid_of(key: Public, form: serialization.Encoding = serialization.Encoding.DER) -> str:
    """Return a key's id: the SHA-256 of its SubjectPublicKeyInfo in DER. OpenSSF bundles use the PEM form instead."""
    return sha256(key.public_bytes(form, serialization.PublicFormat.SubjectPublicKeyInfo))


# --- 2. Files --------------------------------------------------------------------------------------------------------

BESIDES = ("index.json", "index.json.sigstore.json", "README.md", "verify.py")
"""Files that need no reference: the index, its signature, and two files that are only listed in the index."""
DOCUMENTS = (
    "bill-of-materials.cdx.json",
    "lineage.openlineage.jsonl",
    "model-card.md",
    "technical-file.md",
)
"""Documents about each adapter in external formats. Only the index covers them."""
LARGEST = 1 << 30
"""Maximum size of a package, in bytes. A larger package could fill this machine's memory."""
TITLES = ("Waived", "Blind reviews", "Holds", "Officers' acts")
"""Headings of the notes that the checks collect and that are printed at the end."""


class Package:
    """The files of a package by path, and the results of the checks so far. A check can use only earlier results."""

    index: dict[str, Any]
    trust: "Trust"
    checkpoint: "Checkpoint"
    log: dict[int, dict[str, Any]]  # entries that were proven to be in the log, by number
    artifacts: dict[str, "Artifact"]  # by digest
    rows: dict[str, dict[str, Any]]  # registry rows, by adapter id
    acts: dict[int, "Said"]  # verified statements, by the number of their entry

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files, self.used, self.at = files, {*BESIDES}, ""
        self.roots = set[str]()  # artifacts that the package is about; all others must be in their lineage
        self.words: dict[str, list[str]] = {title: [] for title in TITLES}

    def take(self, path: str) -> bytes:
        self.at = path
        require(path in self.files, f"{path}: the package lacks it")
        self.used.add(path)
        return self.files[path]

    def json(self, path: str) -> Any:
        return parsed(self.take(path), path)

    def below(self, folder: str) -> list[str]:
        return sorted(path for path in self.files if path.startswith(f"{folder}/"))

    def entries(self, *actions: str, **subjects: object) -> Iterator[dict[str, Any]]:
        """Yield entries with one of these actions (default: any) and these subjects, by number. Record them as used."""
        for number, entry in sorted(self.log.items()):
            said = entry["subjects"]
            is_such = not actions or entry["action"] in actions
            if is_such and all(said.get(name) == value for name, value in subjects.items()):
                self.used.add(f"log/entries/{number}.tlog-proof")
                yield entry

    def entry(self, action: str, what: str, **subjects: object) -> dict[str, Any]:
        """Return the first entry with this action and these subjects. Raises Refused if there is none."""
        for entry in self.entries(action, **subjects):
            return entry
        raise Refused(f"{what}: no entry of the log ('{action}') names it")

    def acts_of(self, *actions: str, **subjects: object) -> Iterator[tuple[dict[str, Any], "Said"]]:
        """Yield the result of `entries`, each with its verified statement. Omits acts whose key was revoked before."""
        entries = (entry for entry in self.entries(*actions, **subjects) if entry["sequence"] in self.acts)
        return ((entry, self.acts[entry["sequence"]]) for entry in entries)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder by its path. Reject symbolic links and empty directories."""
    found: dict[str, bytes] = {}
    try:
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
        kinds = {name: path.lstat() for name, path in paths.items()}
        whole = sum(each.st_size for each in kinds.values() if stat.S_ISREG(each.st_mode))
        require(whole <= LARGEST, f"the package has {whole:,} bytes, more than the limit: it was not read")
        for name, path in paths.items():
            mode = kinds[name].st_mode
            if stat.S_ISREG(mode):
                found[name] = path.read_bytes()
            elif not stat.S_ISDIR(mode) or not any(path.iterdir()):
                raise Refused(f"{name}: a package has regular files, no links and no empty directories")
    except OSError as error:
        raise Refused(f"{error.filename}: it cannot be read ({error.strerror})") from None
    except (MemoryError, RecursionError):
        raise Refused("the package has too many bytes, or too many nested folders, to be read here") from None
    return found


def read_index(package: Package) -> dict[str, Any]:
    """Check that the files are exactly those of `index.json`: none is missing, extra or changed."""
    index: dict[str, Any] = package.json("index.json")
    listed, files = index["files"], package.files
    there = {name: {"sha256": sha256(files[name]), "size": len(files[name])} for name in {*files} - {*BESIDES[:2]}}
    wrong = [f"{name}: the index lists it, but it is missing" for name in sorted({*listed} - {*there})]
    wrong += [f"{name}: not listed in the index" for name in sorted({*there} - {*listed})]
    differing = [name for name in sorted({*there} & {*listed}) if there[name] != listed[name]]
    wrong += [f"{name}: its SHA-256 or size differs from the index" for name in differing]
    require(not wrong, "; ".join(wrong))
    adapters = index["adapters"]
    is_such = type(index["entries"]) is int and adapters and len(adapters) == len({*adapters})
    require(is_such, "index.json: it names an adapter twice, no adapter, or no number of entries")
    return index


# --- 3. Trust root ---------------------------------------------------------------------------------------------------

P256, ED25519 = ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey
ROLES = {"pipeline": P256, "officer": P256, "bundle": P256, "log": ED25519, "witness": ED25519}
"""Role -> type of its keys."""


@dataclass(frozen=True)
class Key:
    """A key with its person, permissions and revocation, all from the trust root."""

    public: Public
    person: str | None
    may: tuple[str, ...]
    levels: tuple[str, ...]
    revoked_from: int | None  # log index from which its signatures are invalid

    def counts_at(self, index: int) -> bool:
        return self.revoked_from is None or index < self.revoked_from

    def allows(self, act: str, *levels: str) -> bool:
        return bool({act, "*"} & {*self.may}) and all({level, "*"} & {*self.levels} for level in levels)


@dataclass(frozen=True)
class Trust:
    """The trusted keys by role."""

    root_version: int
    targets_version: int
    is_demonstration: bool
    roles: Mapping[str, Mapping[str, Key]]  # by the key's id
    witnesses_needed: int


def public_key(keyid: str, described: Mapping[str, Any], where: str) -> Public:
    """Return a key of a trust file. Its id must be derived from the key: a key with two ids would count twice."""
    value, kind = described["keyval"]["public"], (described["keytype"], described["scheme"])
    key: object = None
    if kind == ("ed25519", "ed25519"):
        key = ED25519.from_public_bytes(bytes.fromhex(value))
    elif kind == ("ecdsa", "ecdsa-sha2-nistp256"):
        key = serialization.load_pem_public_key(value.encode())
    if not isinstance(key, P256 | ED25519) or (isinstance(key, P256) and not isinstance(key.curve, ec.SECP256R1)):
        raise Refused(f"{where}: the key {keyid} is neither P-256 nor Ed25519")
    require(keyid_of(key) == keyid, f"{where}: the key {keyid} has an id that is not its own")
    return key


def read_signed(package: Package, where: str, kind: str, roots: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a trust file's content, signed by enough keys of each of the `roots`. A root also needs its own keys."""
    file = package.json(where)
    said: dict[str, Any] = file["signed"]
    require(said["_type"] == kind, f"{where}: this is not a file of the kind {kind}")
    for root in [*roots, said] if kind == "root" else roots:
        role, good = root["roles"][kind], set[str]()
        for each in file["signatures"]:
            if each["keyid"] in role["keyids"]:
                key = public_key(each["keyid"], root["keys"][each["keyid"]], where)
                if signed_with(key, bytes.fromhex(each["sig"]), tuf_canonical(said).encode()):
                    good.add(each["keyid"])
        enough = len(good) >= role["threshold"] >= 1
        require(enough, f"{where}: {len(good)} of the {role['threshold']} required keys signed it")
    return said


def read_trust(package: Package, root_sha256: str) -> Trust:
    """Verify each root with its own and its predecessor's keys, from the first root on. Then verify the targets."""
    first = sha256(package.take("trust/1.root.json"))
    require(first == root_sha256.lower(), f"trust/1.root.json: its SHA-256 is {first}, not the one that you gave")
    roots: list[dict[str, Any]] = []
    while (where := f"trust/{len(roots) + 1}.root.json") in package.files:
        roots.append(read_signed(package, where, "root", roots[-1:]))
        require(roots[-1]["version"] == len(roots), f"{where}: it is not version {len(roots)} of the root")
    newest, where = roots[-1], "trust/targets.json"
    is_newest = package.take("trust/root.json") == package.files[f"trust/{len(roots)}.root.json"]
    require(is_newest, "trust/root.json: it is not the newest root")
    targets = read_signed(package, where, "targets", [newest])
    require(1 <= targets["root_version"] <= len(roots), f"{where}: it was signed under a root that is missing")
    delegated, known, roles = targets["delegations"], {*newest["keys"]}, dict[str, dict[str, Key]]()
    for role in delegated["roles"]:
        name = role["name"]
        require(name in ROLES and name not in roles, f"{where}: the role {name} is unknown, or is listed twice")
        roles[name] = {}
        for keyid in role["keyids"]:
            require(keyid not in known, f"{where}: the key {keyid} is listed twice")
            known.add(keyid)
            said = delegated["keys"][keyid]
            allowed = (said.get("person"), tuple(said.get("may", ())), tuple(said.get("levels", ())))
            key = roles[name][keyid] = Key(public_key(keyid, said, where), *allowed, said.get("revoked_from"))
            require(isinstance(key.public, ROLES[name]), f"{where}: {keyid} has the wrong type for the role {name}")
            require(key.person or name != "officer", f"{where}: the officer's key {keyid} has no person")
    require({*roles} == {*ROLES}, f"{where}: it lacks a role")
    expires = min(moment(each["expires"]) for each in (newest, targets, *delegated["roles"]))
    in_time = moment(package.index["made_at"]) < expires
    require(in_time, f"{where}: the trust root expired on {expires:%Y-%m-%d}, before the package was made")
    needed = next(role["threshold"] for role in delegated["roles"] if role["name"] == "witness")
    is_demonstration = any(root.get("demonstration") is True for root in roots)
    return Trust(len(roots), targets["version"], is_demonstration, roles, needed if roles["witness"] else 0)


# --- 4. Log ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """The signed head of the log's tree."""

    origin: str
    size: int
    root: bytes
    cosigned: Mapping[str, datetime.datetime]  # witness -> time of its cosignature


def is_included(index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes) -> bool:
    """Verify an inclusion proof (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size or any(len(each) != 32 for each in (leaf, root, *proof)):
        return False
    left, last, found = index, size - 1, leaf
    for each in proof:
        if last == 0:
            return False
        if left & 1 or left == last:
            found = hashlib.sha256(b"\1" + each + found).digest()
            while not left & 1 and left:
                left, last = left >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\1" + found + each).digest()
        left, last = left >> 1, last >> 1
    return last == 0 and found == root


def read_checkpoint(note: str, trust: Trust) -> Checkpoint:
    """Verify a checkpoint (C2SP signed note). The log's key signed it; every other signer is a trusted witness."""
    where = "log/checkpoint"
    parts = re.fullmatch(r"(([^\n]+)\n([0-9]{1,18})\n([^\n]+)\n)\n((?:— [^\s+]+ [A-Za-z0-9+/]+=*\n)+)", note)
    if parts is None:
        raise Refused(f"{where}: this is not a checkpoint")
    message, origin, size, is_signed = parts[1], parts[2], int(parts[3]), False
    cosigned: dict[str, tuple[str, datetime.datetime]] = {}
    for _, name, text in (line.split(" ") for line in parts[5].splitlines()):
        signature, is_good = unbase64(text, where), False
        for role, keyid, key in ((of, *each) for of in ("log", "witness") for each in trust.roles[of].items()):
            assert isinstance(key.public, ED25519)
            named = name.encode() + (b"\n\x01" if role == "log" else b"\n\x04") + key.public.public_bytes_raw()
            if hashlib.sha256(named).digest()[:4] != signature[:4]:
                continue  # the id has only four bytes, so two keys can have the same one
            in_force, at = key.counts_at(size - 1), int.from_bytes(signature[4:12], "big")
            if role == "log":
                holds = name == origin and signed_with(key.public, signature[4:], message.encode())
                is_signed = is_signed or (holds and in_force)
            else:
                stated = f"cosignature/v1\ntime {at}\n{message}".encode()
                holds = signed_with(key.public, signature[12:], stated)
                if holds and in_force:  # once for each key: a copied signature can have another `name`
                    seen = datetime.datetime.fromtimestamp(at, datetime.UTC)
                    cosigned.setdefault(keyid, (f"{name}, key {keyid_of(key.public)},", seen))
            is_good = is_good or holds
        require(is_good, f"{where}: the signature of {name} is not by the log or a trusted witness")
    require(is_signed, f"{where}: no key of the role log that was in force signed it")
    return Checkpoint(origin, size, unbase64(parts[4], where), dict(cosigned.values()))


def read_log(package: Package) -> dict[int, dict[str, Any]]:
    """Verify each entry's proof (C2SP tlog-proof) against the one checkpoint. Returns the entries by number."""
    note = package.take("log/checkpoint").decode()
    checkpoint = package.checkpoint = read_checkpoint(note, package.trust)
    seen, needed = len(checkpoint.cosigned), package.trust.witnesses_needed
    require(seen >= needed, f"log/checkpoint: {seen} of {needed} witnesses cosigned it")
    entries: dict[int, dict[str, Any]] = {}
    for path in package.below("log/entries"):
        package.at = path
        header, _, of_note = package.files[path].decode().partition("\n\n")
        form, extra, index, *proof = header.split("\n")
        data = unbase64(extra.removeprefix("extra "), path)
        entry = parsed(data, path)
        number, leaf = entry["sequence"], hashlib.sha256(b"\0" + data).digest()
        written = ("c2sp.org/tlog-proof@v1", f"index {number - 1}", f"log/entries/{number}.tlog-proof")
        require((form, index, path) == written, f"{path}: this is not the proof of entry {number}")
        hashed = [unbase64(each, path) for each in proof]
        holds = of_note == note and is_included(number - 1, checkpoint.size, leaf, hashed, checkpoint.root)
        require(holds, f"{path}: it does not prove that entry {number} is in the log")
        own = sha256(canonical({name: value for name, value in entry.items() if name != "hash"}))
        require((canonical(entry), entry["hash"]) == (data, own), f"{path}: its bytes or its hash are not canonical")
        in_time = moment(entry["at"]) <= moment(package.index["made_at"])
        require(in_time, f"index.json: entry {number} is younger than the package")
        entries[number] = entry
    check_order(entries)
    return entries


def check_order(entries: Mapping[int, dict[str, Any]]) -> None:
    """Check that consecutive entries are linked by their hashes, and that times follow the order of the log."""
    latest = moment("0002-01-01")
    for number, entry in sorted(entries.items()):
        if number - 1 in entries:
            follows = entry["previous"] == entries[number - 1]["hash"]
            require(follows, f"entry {number}: it does not follow entry {number - 1}")
        in_order = moment(entry["at"]) >= latest - CLOCKS
        require(in_order, f"entry {number}: it is dated {entry['at']}, before an entry that precedes it in the log")
        latest = max(latest, moment(entry["at"]))


def check_trust_on_record(package: Package) -> None:
    """Check that the trust files match the log's newest entry about them."""
    of_trust = list(package.entries("trust root named", "trust changed", "trust root replaced"))
    require(of_trust, "the log names no trust root")
    files = {path.removeprefix("trust/"): sha256(package.files[path]) for path in package.below("trust")}
    on_record, number = of_trust[-1]["subjects"]["files"] == files, of_trust[-1]["sequence"]
    require(on_record, f"trust/: the files differ from those that entry {number} lists")
    for number, entry in package.log.items():
        root, targets = (entry["subjects"].get(f"trust_{of}_version", 0) for of in ("root", "targets"))
        is_here = root <= package.trust.root_version and targets <= package.trust.targets_version
        require(is_here, f"trust/: entry {number} was made under newer files: root {root}, targets {targets}")


# --- 5. Statements ---------------------------------------------------------------------------------------------------

OURS = "https://sovereign-pipeline.example/"
"""Prefix of our own predicate types. It is an identifier and is never fetched."""


@dataclass(frozen=True)
class Said:
    """A statement with a valid signature."""

    subject: list[dict[str, Any]]  # the files that it is about
    predicate: dict[str, Any]
    keyid: str
    key: Key
    sha256: str  # of the bundle
    where: str

    def require_same(self, predicate: Mapping[str, Any]) -> None:
        require(self.predicate == predicate, f"{self.where}: the statement differs from the recorded facts")

    def require_may(self, act: str, *levels: str) -> None:
        require(self.key.allows(act, *levels), f"{self.where}: {self.key.person} may not {act} this")


def statement(
    package: Package, bundle: bytes, role: str, kind: str, about: str, index: int, where: str, name: str = "its file"
) -> Said:
    """Verify a statement about the file with the SHA-256 `about`. The statement's key must have this role at this index
    of the log, and its predicate type must be `kind`."""
    package.at = where
    content, keys = parsed(bundle, where), package.trust.roles[role]
    hint, envelope = content["verificationMaterial"]["publicKey"]["hint"], content["dsseEnvelope"]
    (signature,), form, payload = envelope["signatures"], envelope["payloadType"], unbase64(envelope["payload"], where)
    as_written = canonical(content) + b"\n" == bundle and form == "application/vnd.in-toto+json"
    require(as_written, f"{where}: its bytes are not canonical")
    of_pem = {keyid_of(key.public, serialization.Encoding.PEM): keyid for keyid, key in keys.items()}
    keyid = of_pem.get(hint, hint)
    require(keyid in keys, f"{where}: the key {keyid} lacks the role {role}")
    key = keys[keyid]
    late = f"the key {keyid} is revoked from index {key.revoked_from} of the log, but signed at {index}"
    require(key.counts_at(index), f"{where}: {late}")
    signed = f"DSSEv1 {len(form)} {form} {len(payload)} ".encode() + payload
    holds = signed_with(key.public, unbase64(signature["sig"], where), signed)
    require(holds, f"{where}: the signature by {keyid} does not match this statement")
    said = parsed(payload, where)
    is_statement = said["_type"] == "https://in-toto.io/Statement/v1" and canonical(said) == payload
    require(is_statement, f"{where}: this is not an in-toto statement")
    is_such, is_about_it = (
        said["predicateType"] == kind,
        about in {each["digest"]["sha256"] for each in said["subject"]},
    )
    require(is_such, f"{where}: it is a statement of the kind {said['predicateType']}, not {kind}")
    changed = f"{name}, with the SHA-256 {about}, is not the file that was signed"
    require(is_about_it, f"{where}: {changed}")
    return Said(said["subject"], said["predicate"], keyid, key, sha256(bundle), where)


def check_index_signed(package: Package) -> None:
    where, about, size = BESIDES[1], sha256(package.files[BESIDES[0]]), package.checkpoint.size
    said = statement(package, package.take(where), "pipeline", f"{OURS}evidence/v1", about, size, where, "index.json")
    said.require_same({name: value for name, value in package.index.items() if name != "files"})
    require(package.index["entries"] == size, "index.json: its number of entries is not the checkpoint's")


# --- 6. Artifacts ----------------------------------------------------------------------------------------------------

SHOWN = {
    "raw_corpus": {"sources.json"},
    "leakage_safe_split": {"proof.json"},
    "training_dataset": {"card.json"},
    "preference_dataset": {"card.json"},
    "base_model": {"base_model.json"},
    "evaluation_report": {"report.json"},
    "gate_record": {"verdict.json"},
    "gate_waiver": {"waiver.json", "waiver.sigstore.json"},
    "registered_adapter": {"record.json", "bill_of_materials.json"},
    "review_plan": {"plan.json"},
    "blind_review": {"review.json", "ballots.jsonl", "guesses.jsonl"},
}
"""Kind of artifact -> its files in a package: the files that contain no text of a document."""
WEIGHTS_IN = {"sft_adapter": {"adapter", "model"}, "aligned_adapter": {"adapter", "model"}, "reward_model": {"reward"}}
"""Kind of artifact -> its directories of weights, each with its own signature (OpenSSF Model Signing)."""
ATTESTED = {
    "manifest.json": "https://slsa.dev/provenance/v1",
    "verdict.json": f"{OURS}gate/v1",
    "report.json": f"{OURS}evaluation/v1",
    "record.json": f"{OURS}record/v1",
    "bill_of_materials.json": "https://cyclonedx.org/bom",
}
"""File with its own signature beside it -> predicate type of that signature."""
OPENSSF = "https://model_signing/signature/v1.0"


@dataclass(frozen=True)
class Artifact:
    """An artifact, described by its verified manifest. The package contains only its `SHOWN` files."""

    digest: str
    manifest: dict[str, Any]
    manifest_sha256: str
    sealed_at: int  # index in the log

    @property
    def folder(self) -> str:
        return f"artifacts/{self.digest}"

    @property
    def files(self) -> dict[str, str]:
        """Path -> SHA-256 of every file of the artifact, including files that are not in the package."""
        return {each["path"]: each["sha256"] for each in self.manifest["files"]}

    @property
    def config(self) -> Any:
        """Settings from the recipe and rules that the producing stage read."""
        return self.manifest["producer"]["config"]

    def inputs(self) -> dict[str, str]:
        """Kind -> digest of each input."""
        return dict(self.manifest["inputs"])

    def all_inputs(self) -> dict[str, str]:
        """Return the inputs, and the artifacts from which a base model was made here."""
        here = (name for name in self.manifest["external_inputs"] if name.startswith("made_here:"))
        return self.inputs() | {name: name.removeprefix("made_here:") for name in here}


def check_attested(package: Package, artifact: Artifact, name: str) -> None:
    """Check that the signature beside a file or directory agrees with the file and the manifest."""
    manifest, where = artifact.manifest, f"{artifact.folder}/{name}.sigstore.json"
    bundle, inside = package.take(where), f"{name}/"
    if name not in ATTESTED:
        listed = {path.removeprefix(inside): each for path, each in artifact.files.items() if path.startswith(inside)}
        whole = bytes.fromhex("".join(listed[each] for each in sorted(listed, key=lambda path: path.split("/"))))
        said = statement(package, bundle, "pipeline", OPENSSF, sha256(whole), artifact.sealed_at, where)
        is_own = listed == {each["name"]: each["digest"] for each in said.predicate["resources"]}
        is_named = said.subject[0]["name"] == artifact.digest
        require(is_own and is_named, f"{where}: its list of files differs from the manifest")
        return
    content = package.take(f"{artifact.folder}/{name}")
    said = statement(package, bundle, "pipeline", ATTESTED[name], sha256(content), artifact.sealed_at, where)
    found, inputs, line = parsed(content, where), artifact.inputs(), manifest["line"]
    if name == "manifest.json":
        built = said.predicate["buildDefinition"]
        read = {each["name"]: each["digest"]["sha256"] for each in built["resolvedDependencies"]}
        stage = {"stage": manifest["kind"], "config": artifact.config}
        same = built["externalParameters"] == stage and read == inputs | manifest["external_inputs"]
        require(same, f"{where}: the statement differs from the manifest")
    elif name == "verdict.json":
        (judged,) = inputs.values()
        said.require_same({"gate": artifact.config["gate"], "artifact": judged, "outcome": found["outcome"]})
    elif name == "report.json":
        said.require_same({"line": line, "artifact": artifact.digest, "outcome": manifest["summary"]["outcome"]})
    elif name == "record.json":
        said.require_same({"line": line, "adapter": inputs["aligned_adapter"]})
    else:
        said.require_same(found)


def read_artifacts(package: Package) -> dict[str, Artifact]:
    """Verify every manifest (digest, signature, log entry), and every file beside it against its manifest."""
    found: dict[str, Artifact] = {}
    for digest in sorted({path.split("/")[1] for path in package.below("artifacts")}):
        folder = f"artifacts/{digest}"
        content = package.take(f"{folder}/manifest.json")
        manifest = parsed(content, f"{folder}/manifest.json")
        identity = {name: value for name, value in manifest.items() if name != "circumstances"}
        is_own = canonical(manifest) + b"\n" == content and sha256(canonical(identity)) == digest
        require(is_own, f"{folder}/manifest.json: the folder's name is not its digest")
        entry = package.entry("artifact sealed", folder, manifest_sha256=sha256(content))
        named = (entry["subjects"]["digest"], entry["subjects"]["kind"])
        require(named == (digest, manifest["kind"]), f"{folder}: entry {entry['sequence']} names another artifact")
        artifact = found[digest] = Artifact(digest, manifest, sha256(content), entry["sequence"] - 1)
        files = artifact.files
        shown = {*files} & SHOWN.get(manifest["kind"], set())
        of_weights = {name.split("/")[0] for name in files} & WEIGHTS_IN.get(manifest["kind"], set())
        attested = {"manifest.json"} | {*ATTESTED} & shown | of_weights
        needed = {"manifest.json"} | shown | {f"{name}.sigstore.json" for name in attested}
        present = {path.removeprefix(f"{folder}/") for path in package.below(folder)}
        require(present == needed, f"{folder}: it lacks a file, or has one that does not belong there")
        for name in sorted(shown):
            same = sha256(package.take(f"{folder}/{name}")) == files[name]
            require(same, f"{folder}/{name}: its SHA-256 differs from the manifest")
        for name in sorted(attested):
            check_attested(package, artifact, name)
    return found


def beneath(
    package: Package, digests: Iterable[str], inputs: Callable[[Artifact], dict[str, str]]
) -> Iterator[Artifact]:
    """Yield the artifacts with these digests and everything in their lineage, each once."""
    waiting, seen = sorted(digests), set[str]()
    while waiting:
        digest = waiting.pop()
        if digest not in seen:
            seen.add(digest)
            require(digest in package.artifacts, f"artifacts/{digest}: the package lacks it")
            yield package.artifacts[digest]
            waiting += inputs(package.artifacts[digest]).values()


def lineage_of(package: Package, digest: str) -> dict[str, str]:
    """Return kind -> digest of everything in an artifact's lineage."""
    found: dict[str, str] = {}
    for each in beneath(package, package.artifacts[digest].inputs().values(), Artifact.inputs):
        kind = each.manifest["kind"]
        require(kind not in found, f"artifacts/{digest}: its lineage has two artifacts of the kind {kind}")
        found[kind] = each.digest
    return found


def check_lineage(package: Package) -> None:
    """Check the roots and their lineage: every input is in the package, is the artifact that was read, and has no
    higher level. Reject artifacts outside this lineage."""
    reached = set[str]()
    for made in beneath(package, package.roots, Artifact.all_inputs):
        reached.add(made.digest)
        read = {**made.manifest["circumstances"]["input_manifests"], **made.manifest["external_inputs"]}
        for kind, digest in made.all_inputs().items():
            needed = package.artifacts.get(digest)
            if needed is None or needed.manifest_sha256 != read.get(kind):
                raise Refused(f"{made.folder}: its input {kind} ({digest[:12]}) is not the one that was read")
            check_level_of_input(made, needed, kind)
    for digest in sorted({*package.artifacts} - reached):
        raise Refused(f"artifacts/{digest}: nothing that the package is about depends on it")


def check_level_of_input(made: Artifact, needed: Artifact, kind: str) -> None:
    """Check that an artifact's level is not below its input's, by the ladder of each that has both levels."""
    own, level = made.manifest["classification"], needed.manifest["classification"]
    other = needed.manifest["ladder"]
    ladders = [made.manifest["ladder"], *([other] if own in other else [])]  # a changed order cannot lower a level
    is_above = any(each.index(own) < each.index(level) for each in ladders)
    require(not is_above, f"{made.folder}: it is {own}, but its input {kind} is {level}")


def check_level(package: Package) -> None:
    """Check that the package has the highest classification level of its artifacts, by every ladder that has both."""
    level, manifests = package.index["classification"], [each.manifest for each in package.artifacts.values()]
    levels, ladders = {each["classification"] for each in manifests}, [each["ladder"] for each in manifests]
    for own in levels:
        both = [each for each in ladders if {level, own} <= {*each}]
        is_highest = level in levels and both and all(each.index(own) <= each.index(level) for each in both)
        require(is_highest, f"index.json: its level is {level}, and not the highest of its artifacts")


# --- 7. Adapters -----------------------------------------------------------------------------------------------------


def read_rows(package: Package) -> dict[str, dict[str, Any]]:
    """Return each adapter's registry row. The row's digest must be in the log entry of the adapter's registration."""
    rows: dict[str, dict[str, Any]] = {}
    for path in package.below("registry"):
        row = package.json(path)
        digest = sha256(canonical({name: value for name, value in row.items() if value is not None}))
        entries = package.entries("adapter registered", adapter=row["id"])
        named = [each["subjects"]["rows"].get("adapter", {}).get(row["id"]) for each in entries]
        is_own = path == f"registry/{row['id']}.json" and digest in named
        require(is_own, f"{path}: no entry of the log registered this row")
        rows[row["id"]] = row
    return rows


def weights_of(adapter: Artifact) -> str:
    """Return the SHA-256 of the weights file or, for several files, the SHA-256 over their names and digests."""
    weights = re.compile(r"(?:adapter|model)/([^/]+\.safetensors)").fullmatch
    found = {match[1]: each for path, each in adapter.files.items() if (match := weights(path))}
    return next(iter(found.values())) if len(found) == 1 else sha256(canonical(found))


def waivers_of(row: dict[str, Any]) -> list[str]:
    return sorted(each["waiver"]["digest"] for each in row["gate_records"] if each.get("waiver"))


def check_adapter(package: Package, row: dict[str, Any]) -> None:
    """Check that an adapter's row, record and manifests agree, and that each gate passed or was waived."""
    artifacts, own = package.artifacts, row["id"]
    sealed = artifacts.get(row["record_digest"])
    if sealed is None or sealed.manifest_sha256 != row["record_manifest_sha256"]:
        raise Refused(f"{own}: the package lacks its record")
    record, manifest, inputs = package.json(f"{sealed.folder}/record.json"), sealed.manifest, sealed.inputs()
    adapter, preference = artifacts[row["adapter_digest"]], record["preference_dataset"]
    base, described = record["base_model"], package.json(f"artifacts/{inputs['base_model']}/base_model.json")
    files = {each["name"]: each["sha256"] for each in base["files"]}
    same = {
        "line": (record["line"], row["line"], manifest["line"]),
        "classification": (record["classification"], row["classification"], manifest["classification"]),
        "adapter": (record["adapter_digest"], row["adapter_digest"], inputs["aligned_adapter"]),
        "weights": (record["adapter_sha256"], row["adapter_sha256"], weights_of(adapter)),
        "report": (record["evaluation_report_digest"], row["evaluation_report_digest"], inputs["evaluation_report"]),
        "training dataset": (record["training_dataset"]["digest"], row["dataset_digest"], inputs["training_dataset"]),
        "preference dataset": (preference["digest"] if preference else None, row["preference_dataset_digest"]),
        "base model": (record["base_model"]["digest"], row["base_model_digest"]),
        "base model's name": (base["name"], row["base_model"], described["name"]),
        "base model's files": (base["digest"], described["digest"], sha256(canonical(files))),
        "version": (own, f"{row['line']}-{row['version']}"),
        "source of the program": (adapter.manifest["circumstances"]["source_sha256"], row["source_sha256"]),
        **{name: (record[name], row[name]) for name in ("code_version", "evaluation", "framework_versions", "method")},
        "manifest": (adapter.manifest_sha256, row["manifest_sha256"]),
        "lineage": (record["lineage"], lineage_of(package, sealed.digest)),
    }
    differing = [name for name, values in same.items() if any(each != values[0] for each in values)]
    require(not differing, f"{own}: record, row and manifests differ in: {', '.join(differing)}")
    gates = {each["digest"]: each for each in row["gate_records"]}
    require({each["record"] for each in record["gates"]} <= {*gates}, f"{own}: the row lacks a gate of the record")
    for digest, stated in gates.items():
        verdict, gate = artifacts.get(digest), stated["gate"]
        if verdict is None or verdict.manifest_sha256 != stated["manifest_sha256"]:
            raise Refused(f"{own}: the package lacks the verdict of gate {gate}")
        is_of_it = {*verdict.inputs().values()} <= {*record["lineage"].values(), sealed.digest}
        require(is_of_it, f"{own}: gate {gate} evaluated an artifact outside the adapter's lineage")
        require(verdict.config["gate"] == gate, f"{own}: the verdict of gate {gate} belongs to another gate")
        check_verdict(package, verdict, (stated.get("waiver") or {}).get("digest"), f"{own}: ")
    package.roots |= {sealed.digest, *gates, *waivers_of(row)}


def check_verdict(package: Package, verdict: Artifact, waiver: str | None, of: str = "") -> None:
    """Check that a gate passed, or that an authorised officer waived exactly this verdict."""
    where, gate = f"{verdict.folder}/verdict.json", verdict.config["gate"]
    outcome = package.json(where)["outcome"]
    if outcome == "pass" and waiver is None:
        return
    if outcome == "pass" or waiver is None or waiver not in package.artifacts:
        raise Refused(f"{where}: gate {gate} is '{outcome}', but {'no' if waiver is None else 'a'} waiver is named")
    waived = package.artifacts[waiver]
    where, manifest = f"{waived.folder}/waiver.sigstore.json", waived.manifest
    bundle, content = package.take(where), package.take(f"{waived.folder}/waiver.json")
    index = package.entry("gate waived", waived.folder, statement=sha256(bundle))["sequence"] - 1
    said = statement(package, bundle, "officer", f"{OURS}waiver/v1", sha256(content), index, where)
    accepted, (judged,) = parsed(content, where), verdict.inputs().values()
    kind, enough = {
        "inconclusive": ("accept", ("accept_inconclusive", "override")),
        "fail": ("override", ("override",)),
    }[outcome]
    facts = {"line": manifest["line"], "gate": gate, "artifact": judged, "record": verdict.digest}
    said.require_same({**facts, "kind": kind, "reason": accepted["reason"]})
    is_own = accepted["officer"] == said.keyid and waived.inputs() == {"gate_record": verdict.digest}
    require(is_own, f"{where}: it waives another verdict, or names another officer")
    is_lawful = verdict.config.get("officer_may") in enough
    require(is_lawful, f"{where}: the recipe lets no officer {kind} this verdict")
    said.require_may("waive", manifest["classification"])
    package.words["Waived"].append(f"{of}gate {gate} ({outcome}), by {said.key.person}: {quoted(accepted['reason'])}")


# --- 8. Acts ---------------------------------------------------------------------------------------------------------

DECIDED = {"approve": "release approved", "reject": "release rejected", "withdraw": "release decision withdrawn"}
"""Decision about a request -> the action of its entry."""
MOVED = ("line", "sequence", "adapter", "transition", "from", "to", "request", "at")
SENT = (
    "line",
    "production",
    "staged",
    "staged_by",
    "began",
    "groups",
    "stopped",
    "cause",
    "reason",
    "evaluator",
    "request",
)
ACTS: dict[str, tuple[str, str, str, str, tuple[str, ...]]] = {
    "release requested": ("officer", "request/v1", "adapter", "", ("line", "adapter")),
    **dict.fromkeys(DECIDED.values(), ("officer", "approval/v1", "request", "", ("request",))),
    "state changed": ("pipeline", "transition/v1", "adapter", "", MOVED),
    "flag changed": ("pipeline", "flag/v1", "file", "", SENT),
    "hold judged": ("pipeline", "hold/v1", "adapter", "", ("line", "adapter", "outcome", "severe", "observations")),
    "hold accepted": ("officer", "hold-acceptance/v1", "judgement", "promote", ()),
    "known issue added": ("officer", "known-issue/v1", "adapter", "issue", ()),
    "adapter reviewed": ("officer", "review/v1", "adapter", "review", ()),
    "recall opened": ("officer", "recall/v1", "adapter", "recall", ()),
    "recall waived": ("officer", "recall-waiver/v1", "adapter", "waive", ()),
    "release weights purged": ("officer", "purge/v1", "adapter", "retire", ("line", "adapter")),
}
"""Action of an entry -> role of the signer; predicate type; the statement's subject; permission that an officer needs
at the adapters' levels; and the entry's subjects that the statement repeats (all, if none are listed)."""
BESIDES_SIGNED = {"statement", "rows", "trust_root", "trust_root_version", "trust_targets_version"}
"""Subjects of an entry that the entry's statement does not repeat."""
OFFICERS_ACTS = (
    "known issue added",
    "adapter reviewed",
    "recall opened",
    "recall waived",
    "release weights purged",
)


def check_dated(act: Said, entry: dict[str, Any], after: Iterable[dict[str, Any]] = ()) -> None:
    """Check that an act's own time is not later than its entry, and not earlier than the entries that it depends on."""
    if "at" not in act.predicate:
        return
    at, in_words = moment(act.predicate["at"]), f"{act.where}: it is dated {act.predicate['at']}"
    is_not_later = at <= moment(entry["at"]) + CLOCKS
    require(is_not_later, f"{in_words}, after entry {entry['sequence']}, which logs it")
    for each in after:
        is_not_before = at >= moment(each["at"]) - CLOCKS
        require(is_not_before, f"{in_words}, before entry {each['sequence']}, on which it depends")


def read_acts(package: Package) -> dict[int, Said]:
    """Verify the statement of each act with the key that its entry names. Returns the statements by entry number, but
    omits those whose key was revoked before."""
    acts: dict[int, Said] = {}
    registered = {each["subjects"]["adapter"]: each for each in package.entries("adapter registered")}
    for number, entry in package.log.items():
        if entry["action"] not in ACTS:
            continue
        role, kind, of, may, same = ACTS[entry["action"]]
        subjects = entry["subjects"]
        digest = subjects["request" if kind == "request/v1" else "statement"]
        where = f"statements/{digest}.sigstore.json"
        bundle = subjects["bundle"].encode() if "bundle" in subjects else package.take(where)
        require(sha256(bundle) == digest, f"{where}: it is not the statement that entry {number} names")
        signer = package.trust.roles[role].get(entry["actor"].removeprefix(f"{role}:"))
        may_not_count = role == "officer" or (of == "file" and "overtaken" in subjects)
        if signer is not None and may_not_count and not signer.counts_at(number - 1):
            by = signer.person or f"the {role}"
            revoked = f"{place(entry)}: {entry['action']} by {by} DOES NOT COUNT: this key is revoked from"
            package.words["Officers' acts"].append(f"{revoked} index {signer.revoked_from} of the log")
            if of == "file":
                package.take(f"flags/{subjects['line']}/{subjects['change']}.json")
            continue
        named = subjects.get("adapters", [subjects.get("adapter")])
        rows = [package.rows[each] for each in named if each in package.rows]
        require(rows or not (may or of == "adapter"), f"entry {number} is about no adapter of the package")
        if of == "adapter":
            about = rows[0]["record_manifest_sha256"]
        elif of == "file":
            about = sha256(package.take(f"flags/{subjects['line']}/{subjects['change']}.json"))
        else:
            about = subjects[of]
        act = acts[number] = statement(package, bundle, role, OURS + kind, about, number - 1, where)
        is_about = {each["digest"]["sha256"] for each in act.subject} >= {row["record_manifest_sha256"] for row in rows}
        require(is_about or of != "adapter", f"{where}: its adapters differ from those of entry {number}")
        check_dated(act, entry, after=[registered[row["id"]] for row in rows if row["id"] in registered])
        is_own = entry["actor"] == f"{role}:{act.keyid}"
        require(is_own, f"{where}: entry {number} names {entry['actor']}, but another key signed it")
        told = {name: subjects[name] for name in same or {*subjects} - BESIDES_SIGNED}
        signed = {name: act.predicate[name] for name in same} if same else act.predicate
        require(told == signed, f"{where}: entry {number} differs from the signed statement")
        if may:
            act.require_may(may, *(row["classification"] for row in rows))
    return acts


def tell_acts(package: Package, lines: list[str]) -> None:
    """Note the trials of staged adapters, and officers' acts other than decisions about requests."""
    judged: dict[str, Any] = {}
    for line in lines:
        for entry, act in package.acts_of("hold judged", "hold accepted", line=line):
            said, by = act.predicate, act.key.person
            if entry["action"] == "hold judged":
                judged[act.sha256] = said
                package.words["Holds"].append(f"hold of {said['adapter']}: {said['outcome']}")
                continue
            known = judged.get(said["judgement"], {})
            is_of_it = all(said[name] == known.get(name) for name in ("line", "adapter", "outcome"))
            require(is_of_it, f"{act.where}: it accepts a trial result that is not logged, or another adapter's")
            words = f"inconclusive hold of {said['adapter']} accepted by {by}: {quoted(said['reason'])}"
            package.words["Holds"].append(words)
    for entry, act in package.acts_of(*OFFICERS_ACTS):
        named, text = act.predicate.get("adapters", [act.predicate.get("adapter")]), act.predicate.get("text")
        adapters, what = ", ".join(each for each in named if each in package.rows), entry["action"]
        told = f"{place(entry)}: {what} by {act.key.person}, {adapters}: {quoted(text or act.predicate['reason'])}"
        package.words["Officers' acts"].append(told)


# --- 9. Transitions --------------------------------------------------------------------------------------------------

UNDECIDED = {"registered", "in review"}
USABLE = {"approved", "staged", "production", "superseded"}
ARROWS: dict[str, tuple[set[str], str]] = {
    "approve": (UNDECIDED, "approved"),
    "stage": ({"approved", "superseded"}, "staged"),
    "unstage": ({"staged"}, "approved"),
    "promote": ({"staged"}, "production"),
    "promote_urgently": ({"staged"}, "production"),
    "roll_back": ({"superseded"}, "production"),
    "reject": (UNDECIDED, "rejected"),
    "recall": (UNDECIDED | USABLE, "recalled"),
    "retire": (UNDECIDED | USABLE | {"rejected", "recalled"}, "retired"),
}
"""Transition -> its start states, and its end state. An officer's key may be limited to some transitions."""


def check_rules(package: Package) -> None:
    """Check that the package has exactly the rules and recipes that log entries name."""
    for path in package.below("policy"):
        digest = sha256(package.take(path))
        is_named = path == f"policy/{digest}.yaml" and any(package.entries("policy changed", now=digest))
        require(is_named, f"{path}: no entry of the log names these rules")
    for entry in package.entries("policy changed"):
        if now := entry["subjects"]["now"]:
            package.take(f"policy/{now}.yaml")


def check_request(package: Package, number: int, request: Said, late: datetime.datetime | None) -> None:
    """Check that a request asks for a possible transition, with its adapter's evidence and the rules then in force.

    `late`: time of a rollback that was made without the registry. The rules in force at that time are accepted, too.
    """
    asked, where = request.predicate, f"request {request.sha256[:12]}"
    begins, ends = ARROWS.get(asked["transition"], (set[str](), ""))
    is_arrow = asked["from"] in begins and asked["to"] == ends
    require(is_arrow, f"{where}: no '{asked['transition']}' leads from {asked['from']} to {asked['to']}")
    is_complete = type(asked["approvals"]) is int and asked["approvals"] >= 0 and asked["policy"]
    require(is_complete, f"{where}: it names no number of approvals, or no rules")
    row, evidence = package.rows[asked["adapter"]], asked["evidence"]
    same = all(evidence[name] == row[f"{name}_digest"] for name in ("record", "adapter", "evaluation_report"))
    is_own = same and (evidence["waivers"], evidence["gates"]) == (waivers_of(row), len(row["gate_records"]))
    require(is_own, f"{where}: it rests on another adapter's evidence")
    for file, digest in asked["policy"].items():
        rules = [each for each in package.entries("policy changed", file=file) if each["sequence"] < number]
        of_then = [each for each in rules if late is not None and moment(each["at"]) <= late]
        newest = {each["subjects"]["now"] for each in (*rules[-1:], *of_then[-1:])}
        in_force = digest in newest and f"policy/{digest}.yaml" in package.files
        require(in_force, f"{where}: by the log, {file} {digest[:12]} was not in force then")


def approvals_of(package: Package, request: Said, until: int) -> dict[str, dict[str, Any]]:
    """Return person -> entry of each approval before the entry `until`. An approval counts if its officer has the
    permission, did not withdraw, and is not the requester."""
    asked, requester, where = request.predicate, request.key.person, f"request {request.sha256[:12]}"
    levels, found = (asked["classification"], package.rows[asked["adapter"]]["classification"]), dict[str, Any]()
    for decision, action in DECIDED.items():
        for entry, given in package.acts_of(action, request=request.sha256):
            person = str(given.key.person)
            require(given.predicate["decision"] == decision, f"{where}: {person}'s decision differs from its entry")
            may = decision == "withdraw" or given.key.allows(asked["transition"], *levels)
            if entry["sequence"] >= until or not may:
                continue
            require(decision != "reject", f"{where}: {person} rejected it before it took effect")
            if decision == "approve" and person != requester:
                found.setdefault(person, entry)
            elif decision == "withdraw":
                require(person != requester, f"{where}: {person} withdrew it before it took effect")
                found.pop(person, None)
    return found


def read_changes(package: Package, line: str) -> list[dict[str, Any]]:
    """Verify every transition of a line of adapters, from the first on, with its request and approvals."""
    requests: dict[str, tuple[dict[str, Any], Said]] = {}
    flags = [act.predicate for _, act in package.acts_of("flag changed", line=line)]
    late = {each["request"]: moment(each["at"]) for each in flags if each["cause"] == "rollback"}
    for entry, said in package.acts_of("release requested", line=line):
        check_request(package, entry["sequence"], said, late.get(said.sha256))
        approvals_of(package, said, until=0)  # verifies decisions that came too late, too
        requests[said.sha256] = (entry, said)
    changes, state, took_effect = list[dict[str, Any]](), dict[str, str](), set[tuple[str, str]]()
    for number, (entry, act) in enumerate(package.acts_of("state changed", line=line), start=1):
        made, where = act.predicate, f"transition {act.predicate['sequence']} of line {line}"
        adapter, transition, of = made["adapter"], made["transition"], made["request"]
        require(made["sequence"] == number, f"{where}: the transition before it is missing")
        require(of in requests, f"{where}: its request is not in the package")
        asked_at, request = requests[of]
        asked, by = request.predicate, request.key
        is_it = all(asked[name] == made[name] for name in ("adapter", "transition", "from", "to"))
        of_incumbent = (transition, adapter, made["from"], made["to"], asked["to"])
        supersedes = of_incumbent == ("supersede", asked["incumbent"], "production", "superseded", "production")
        require(is_it or supersedes, f"{where}: it is not what request {of[:12]} asks for")
        approvals, needed = approvals_of(package, request, until=entry["sequence"]), asked["approvals"]
        named, known = {*made["approvals"]}, {each["subjects"]["statement"] for each in approvals.values()}
        is_approved = len(made["approvals"]) == len(named) >= needed and named <= known  # each by another person
        require(is_approved, f"{where}: it names approvals that do not count, or fewer than {needed}")
        level = package.rows[asked["adapter"]]["classification"]
        is_enough = needed > 0 or by.allows(asked["transition"], level)
        require(is_enough, f"{where}: {by.person} was not permitted to decide this alone")
        in_time = asked_at["sequence"] < entry["sequence"]
        in_time = in_time and late.get(of, moment(made["at"])) < moment(asked["expires"])
        require(in_time, f"{where}: its request had expired, or was made later")
        check_dated(act, entry, after=[asked_at, *approvals.values()])
        require((of, transition) not in took_effect, f"{where}: its request had taken effect before")
        took_effect.add((of, transition))
        before = state.get(adapter)
        is_there = made["from"] == before or (before is None and made["from"] in UNDECIDED)
        require(is_there, f"{where}: {adapter} was not {made['from']}")
        state[adapter] = made["to"]
        require([*state.values()].count("production") <= 1, f"{where}: it leaves two adapters in production")
        others = ", ".join(f"{each} ({place(approvals[each])})" for each in sorted(approvals)) or "nobody else"
        what = f"{place(entry)}: {adapter} {transition} -> {made['to']}, requested by {by.person} ({place(asked_at)})"
        words = f"{what}, approved by {others}: {quoted(asked['reason'])}"
        if transition == "promote_urgently":
            package.words["Holds"].append(f"! PROMOTED URGENTLY, without a passed hold: {words}")
        changes.append({**made, "entry": entry["sequence"], "entered": entry["at"], "words": words})
    return changes


# --- 10. Flags -------------------------------------------------------------------------------------------------------

PUT = ("production", "staged")
"""States in which an adapter answers users."""
STILL_ANSWERS = (*PUT, "superseded")
"""States in which a flag may give an adapter to users. In any other state, the flag has no effect for the adapter."""
WEIGHTS = 10_000
"""Sum of the weights in a flag's file, which stands for all users."""


def flag_file(flag: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flag's file (flagd's format), computed from the statement about the flag."""
    arms = {arm: flag[arm] for arm in PUT if flag[arm] is not None}
    others = "production" if flag["production"] is not None else None
    rule = {"state": "ENABLED", "variants": arms or {"nothing": ""}, "defaultVariant": others}
    drawn: Any = others
    if weight := weight_of(flag):
        by = {"cat": [f"{flag['staged']}/", {"var": "targetingKey"}]}
        drawn = {"fractional": [by, [others, WEIGHTS - weight], ["staged", weight]]}
    if is_rolling_out(flag):
        of_groups = [{"in": [each, {"var": "groups"}]} for each in flag["groups"]]
        rule["targeting"] = {"if": [{"or": of_groups}, "staged", drawn]} if of_groups else drawn
    form = {"$schema": "https://flagd.dev/schema/v0/flags.json"}
    about = {"evaluator": flag["evaluator"], "sequence": flag["sequence"]}
    return {**form, "metadata": about, "flags": {flag["line"]: rule}}


def is_rolling_out(flag: Mapping[str, Any]) -> bool:
    is_on = flag["staged"] is not None and flag["stopped"] is None
    return is_on and (flag["share"] > 0 or bool(flag["groups"]))


def weight_of(flag: Mapping[str, Any]) -> int:
    """Return how many of 10,000 users get the staged adapter."""
    return max(1, round(flag["share"] * WEIGHTS)) if is_rolling_out(flag) and flag["share"] else 0


def in_words(flag: Mapping[str, Any]) -> str:
    """Describe which users get which adapter, according to the file."""
    words = f"production: {flag['production'] or 'none'}"
    if not is_rolling_out(flag):
        return words
    users = [f"{weight_of(flag) / WEIGHTS * 100:g} % of the users"] if weight_of(flag) else []
    return f"{words}; staged: {flag['staged']} for {', '.join(users + [f'group {each}' for each in flag['groups']])}"


def check_flag(package: Package, entry: dict[str, Any], act: Said, where: str) -> None:
    """Check that a flag's statement, entry and file agree."""
    flag, told = act.predicate, entry["subjects"]
    share = flag["share"]
    is_share = type(share) in (int, float) and 0 <= share <= 1
    require(is_share, f"{where}: the share is not a number between 0 and 1")
    is_told = told["share"] == f"{share:g}" and moment(told["made_at"]) == moment(
        flag["at"]
    )  # the rest was compared as SENT
    require(is_told, f"{where}: entry {entry['sequence']} differs from the signed statement")
    require(package.json(where) == flag_file(flag), f"{where}: the file differs from the signed statement")


def read_flags(package: Package, line: str, changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Verify every change of a line's flag from the first. A change states which users get which adapter.

    A flag may serve only adapters that earlier transitions staged or put in production. So the pipeline's key alone
    cannot let an adapter answer. Two types of change may be made without the registry and logged later: a stop, and an
    officer's rollback. Both may keep the previous flag's adapters, and a rollback may serve the requested adapter. A
    change is skipped if it does not count, because a key was revoked or the rules changed before its entry.
    """
    flags: list[dict[str, Any]] = []
    for number, entry in enumerate(package.entries("flag changed", line=line), start=1):
        told, act, where = entry["subjects"], package.acts.get(entry["sequence"]), f"flags/{line}/{number}.json"
        is_next = number == told["change"] == (act.predicate["sequence"] if act else number)
        require(is_next, f"{where}: a change is missing before it")
        if act is None:
            continue
        flag = act.predicate
        check_flag(package, entry, act, where)
        made = [each for each in changes if each["entry"] < entry["sequence"]]
        state = {each["adapter"]: each["to"] for each in made}
        is_late, kept = flag["cause"] in ("rollback", "regression"), set[tuple[str, str]]()
        if is_late:
            kept = {(arm, flags[-1][arm]) for arm in PUT if flags}
            kept |= {("production", each) for each in rolled_back_to(package, flag)}
            require(flag["staged"] is None or flag["stopped"], f"{where}: it does not stop the staged adapter")
        else:
            puts = [each for each in made if each["adapter"] in (flag["production"], flag["staged"])]
            check_dated(act, entry, after=[package.log[each["entry"]] for each in puts[-1:]])
        puts_in = [(arm, flag[arm]) for arm in PUT if flag[arm] is not None and state.get(flag[arm]) != arm]
        if {*puts_in} - kept and flag["cause"] == "rollback" and "overtaken" in told:
            words = f"{place(entry)}: the rollback to {flag['production']} DOES NOT COUNT: {quoted(told['overtaken'])}"
            package.words["Officers' acts"].append(words)
            continue
        for arm, each in puts_in:
            is_kept = (arm, each) in kept
            require(is_kept, f"{where}: no transition before it made {each} {arm}, or a later one ended that")
        ended = [each for each in (flag["production"], flag["staged"]) if state.get(each) not in (None, *PUT)]
        against = "".join(f", although {each} was already {state[each]} by the transitions" for each in ended)
        flags.append({**flag, "entry": entry["sequence"], "entered": entry["at"], "against": against})
    return flags


def rolled_back_to(package: Package, flag: Mapping[str, Any]) -> Iterator[str]:
    """Yield the adapter of an officer's rollback request, if this officer was allowed to decide it alone."""
    for _, asked in package.acts_of("release requested", line=flag["line"], request=flag["request"]):
        said = asked.predicate
        level = package.rows[said["adapter"]]["classification"]
        if said["transition"] == "roll_back" and said["approvals"] == 0 and asked.key.allows("roll_back", level):
            yield said["adapter"]


def served(flag: Mapping[str, Any]) -> list[str]:
    """Return the adapters that a flag gives to users."""
    return [each for each in (flag["production"], flag["staged"] if is_rolling_out(flag) else None) if each is not None]


Step = tuple[int, str, str, list[str]]
"""An entry's number, its time, and the adapters that answered from then on: as text, and as a list of ids."""


def not_followed(changes: list[dict[str, Any]], flags: list[dict[str, Any]]) -> Iterator[Step]:
    """Yield a step for each transition that the flag did not follow soon. Either the flag went on serving the same
    adapters, or the flag's change is missing in the package."""
    for flag, following in zip(flags, [*flags[1:], None], strict=False):
        until = following["entry"] if following else sys.maxsize
        late = f"the next flag change is entry {until}" if following else "no flag change follows"
        for each in changes:
            concerns = each["to"] in PUT or each["adapter"] in served(flag)
            is_soon = following and moment(following["entered"]) - moment(each["entered"]) < CLOCKS
            if concerns and flag["entry"] < each["entry"] < until and not is_soon:
                against = f"although {each['adapter']} was {each['to']} from then on by the transitions; {late}"
                yield each["entry"], each["entered"], f"{in_words(flag)}, {against}", served(flag)


def read_recalls(package: Package) -> list[tuple[int, str, str, bool, list[str]]]:
    """Return recalls and waivers: entry number, time, recall id, True (recall) or False (waiver), and adapter ids."""
    acts = package.acts_of("recall opened", "recall waived")
    return [
        (entry["sequence"], entry["at"], said["recall"], "adapters" in said, said.get("adapters") or [said["adapter"]])
        for entry, said in ((entry, act.predicate) for entry, act in acts)
    ]


def answering(
    changes: list[dict[str, Any]],
    flags: list[dict[str, Any]],
    recalls: Iterable[tuple[int, str, str, bool, list[str]]] = (),
) -> list[tuple[datetime.datetime, str]]:
    """Return times in the log's order, each with the adapters that answered from then on by the flag or, without a
    flag, by the transitions. Whatever the flag states, an adapter under a recall or out of use answers nobody."""
    steps: list[Step] = [
        (each["entry"], each["entered"], in_words(each) + dated_earlier(each) + each["against"], served(each))
        for each in flags
    ]
    steps += not_followed(changes, flags)
    state: dict[str, str] = {}
    for change in changes if not flags else ():
        state[change["adapter"]] = change["to"]
        arms = {arm: [each for each, at in state.items() if at == arm] for arm in PUT}
        words = "; ".join(f"{arm}: {', '.join(found) or 'none'}" for arm, found in arms.items())
        no_flag = " by its transitions; no flag change is here, which would state who got which adapter"
        steps.append((change["entry"], change["entered"], words + no_flag, [*itertools.chain(*arms.values())]))
    found: list[tuple[datetime.datetime, str]] = []
    under: dict[str, set[str]] = {}
    by_flag, now = {each[0]: each for each in sorted(steps)}, "none, as far as the package shows"
    serving: list[str] = []
    events = {entry: (entered, recall, opens, named) for entry, entered, recall, opens, named in recalls}
    moves, reached = {each["entry"]: each for each in changes}, dict[str, str]()
    for entry in sorted({*by_flag, *events, *moves}):
        if entry in moves:
            reached[moves[entry]["adapter"]] = moves[entry]["to"]
        if entry not in by_flag and entry not in events:
            continue
        concerns = entry in by_flag
        if concerns:
            _, entered, now, serving = by_flag[entry]
        else:
            entered, recall, opens, named = events[entry]
            for each in named:
                (set.add if opens else set.discard)(under.setdefault(each, set()), recall)
            concerns = bool({*named} & {*serving})
        why = {each: f"as it was {state}" for each, state in reached.items() if state not in STILL_ANSWERS}
        why |= {each: f"under {', '.join(sorted(of))}" for each, of in under.items() if of}
        dark = [f"; {each} answered nobody, {why[each]}" for each in serving if each in why]
        if concerns:
            found.append((moment(entered), now + "".join(dark)))
    return found


def dated_earlier(flag: Mapping[str, Any]) -> str:
    """Format a flag change's own time, if the change was made without the registry and logged later."""
    at = moment(flag["at"])
    return f" (since {at:%Y-%m-%d %H:%M:%S}, by its statement)" if moment(flag["entered"]) - at > CLOCKS else ""


def answers(package: Package, steps: list[tuple[datetime.datetime, str]], on: str) -> Iterator[str]:
    """Yield the adapters that answered at a moment or during a day, as text, as far as the package shows. A change
    within a second counts for the whole second, unless `on` has a fraction."""
    since, until = period(on)
    first, made_at = package.log[min(package.log)], moment(package.index["made_at"])
    begins, known = moment(first["at"]), f"the package was made at {made_at:%Y-%m-%d %H:%M:%S}"
    steps = [(begins, "none, as far as the package shows"), *steps]
    if not since.microsecond:
        steps = [(at.replace(microsecond=0), words) for at, words in steps]
    before = f"not known: the log begins here with {place(first)}"
    before = [before, *(words for at, words in steps if at <= since)][-1]
    if since > made_at:
        before = f"not known, because {known}; then: {before}"
    yield f"at {since:%Y-%m-%d %H:%M:%S}: {before}"
    yield from (f"from {at:%Y-%m-%d %H:%M:%S}: {words}" for at, words in steps if since < at <= until)
    if since <= made_at < until:
        yield f"later changes are not known, because {known}"


def hours(package: Package, line: str, on: str) -> Iterator[str]:
    """Yield the gateway's hourly entries about a moment or a day, as text."""
    since, until = period(on)
    is_known = False
    for entry in package.entries("hour of answers", line=line):
        said, begins = entry["subjects"], moment(entry["subjects"]["hour"])
        if since - AN_HOUR < begins <= until:
            is_known, by = True, ", ".join(f"{adapter}: {count}" for adapter, count in said["by_adapter"].items())
            yield f"{said['answers']} answers in the hour from {begins:%Y-%m-%d %H:%M}, by {place(entry)}: {by}"
    if not is_known:
        yield "the gateway entered no answers at this time, as far as the package shows"


# --- 11. Reviews -----------------------------------------------------------------------------------------------------


def check_reviews(package: Package) -> None:
    """Check each closed review: its acts are one chain signed with the plan's key; its seed is the committed one."""
    for opening in package.entries("review opened"):
        check_review(package, opening["subjects"]["review"], opening["subjects"]["plan"])
    words, known = package.words["Blind reviews"], {*package.roots}
    for digest, verdict in package.artifacts.items():
        is_known = digest in known or not {*verdict.inputs().values()} & known
        if verdict.manifest["kind"] != "gate_record" or is_known:
            continue
        waivers = [each for each, other in package.artifacts.items() if digest in other.inputs().values()]
        outcome = package.json(f"{verdict.folder}/verdict.json")["outcome"]
        words.append(f"gate {verdict.config['gate']}: {outcome}{' and waived' if waivers else ''}")
        for each in waivers:
            check_verdict(package, verdict, each)
        package.roots |= {digest, *waivers}


def check_review(package: Package, review: str, digest: str) -> None:
    """Check one review. `digest` is the digest of its plan, which was sealed before the first ballot."""
    plan, before, ballots = package.json(f"artifacts/{digest}/plan.json"), "0" * 64, 0
    sealed = package.artifacts[digest]
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(plan["act_key"]))
    acts = list(package.entries(review=review))
    for number, entry in enumerate(acts, start=1):
        told = {name: value for name, value in entry["subjects"].items() if name != "signature"}
        act = {name: entry[name] for name in ("action", "actor", "at")} | {"subjects": told}
        content = b"sovereign audit entry 1\n" + canonical(act)
        signature = bytes.fromhex(entry["subjects"].get("signature", ""))
        is_next = (told.get("act"), told.get("act_before")) == (number, before) and signed_with(key, signature, content)
        require(is_next, f"review {review}: entry {entry['sequence']} is not its act {number}")
        before, ballots = sha256(content), ballots + (entry["action"] == "ballot given")
    closing, action = acts[-1]["subjects"], acts[-1]["action"]
    require(action in ("review closed", "review closed early"), f"review {review}: its last act does not close it")
    is_sealed = sha256(bytes.fromhex(closing["seed"])) == plan["seed_sha256"] and closing["ballots"] == ballots
    require(is_sealed, f"review {review}: its seed is not the committed one, or its number of ballots is wrong")
    given = f"{ballots} ballots"
    if action == "review closed early":
        where, bundle = f"review {review}, closed early", closing.get("statement", "").encode()
        require(bundle, f"{where}: no officer signed the closing")
        about, index = sealed.manifest_sha256, acts[-1]["sequence"] - 1
        said = statement(package, bundle, "officer", f"{OURS}early-closing/v1", about, index, where)
        facts = ("review", "ballots", "ballots_sha256", "reason")
        said.require_same({"line": plan["line"], **{name: closing[name] for name in facts}})
        require(said.keyid == closing["officer"], f"{where}: its entry names another officer")
        said.require_may("close", sealed.manifest["classification"])
        given = (
            f"{ballots} of {plan['ballots']} ballots, closed early by {said.key.person}: {quoted(closing['reason'])}"
        )
    else:
        all_given = ballots >= plan["ballots"]
        require(all_given, f"review {review}: it was closed with {ballots} of {plan['ballots']} ballots")
    package.roots.add(sealed.digest)
    for result in package.artifacts.values():
        inputs, where = result.manifest["external_inputs"], f"{result.folder}/review.json"
        if result.manifest["kind"] != "blind_review" or inputs.get("review_plan") != sealed.digest:
            continue
        found = package.json(where)
        is_of_it = inputs["ballots"] == closing["ballots_sha256"] and found["seed"] == closing["seed"]
        require(is_of_it, f"{where}: it was not computed from the cast ballots")
        package.roots.add(result.digest)
        score = f"{found['wins']} won, {found['losses']} lost, {found['ties']} tied"
        package.words["Blind reviews"].append(f"{found['adapter']} against {found['opponent']}: {score}; {given}")


# --- 12. Everything --------------------------------------------------------------------------------------------------


def check_adapters(package: Package) -> dict[str, list[str]]:
    """Check the package's adapters and their ancestors. Returns id -> lines that describe the adapter's lineage."""
    told: dict[str, list[str]] = {}
    waiting = list(package.index["adapters"])
    while waiting:
        row = package.rows[waiting.pop(0)]
        own = row["id"]
        if own in told:
            continue
        check_adapter(package, row)
        record = package.json(f"artifacts/{row['record_digest']}/record.json")
        gates = f"{len(record['gates'])} gates in the record"
        gates += f" and {len(row['gate_records']) - len(record['gates'])} of the record itself"
        words = told[own] = [f"{'record':<18} {row['record_digest']}  {row['classification']}; {gates}"]
        for kind, digest in sorted(lineage_of(package, row["record_digest"]).items()):
            manifest = package.artifacts[digest].manifest
            words.append(f"{kind:<18} {digest}  {manifest['classification']}")
            external = manifest["external_inputs"]
            for name in external:
                if name.startswith("start_from:"):
                    parent = package.rows.get(name.removeprefix("start_from:"))
                    if parent is None or parent["adapter_digest"] != external[name]:
                        raise Refused(f"{own}: the package lacks the parent adapter that its training started from")
                    require(external[name] in package.artifacts, f"artifacts/{external[name]}: the package lacks it")
                    check_level_of_input(package.artifacts[digest], package.artifacts[external[name]], name)
                    waiting.append(parent["id"])
                    words.append(f"continued from     {external[name]}  {parent['id']}")
                elif not name.startswith("source:"):
                    words.append(f"  it read          {external[name]}  {name}")
            if kind == "base_model":
                model = record["base_model"]
                words.append(f"  its model        {model['digest']}  {model['name']}: digest of its files, including")
                weights = [each for each in model["files"] if each["name"].endswith(".safetensors")]
                words += [f"  base weights     {each['sha256']}  {each['name']}" for each in weights]
            if kind == "raw_corpus":
                where = f"artifacts/{digest}/sources.json"
                for each in package.json(where):
                    is_read = each["sha256"] in external.values()
                    require(is_read, f"{where}: it names a file that the corpus was not read from")
                    words.append(f"source file        {each['sha256']}  {each['name']}: {each['path']}")
    return told


def ranges(numbers: Iterable[int]) -> str:
    """Format numbers as ranges: 1, 3 to 5."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first} to {last}" for first, last in found)


def cannot_know(package: Package) -> Iterator[str]:
    """Yield the facts that no package can prove, as text for the end of the report."""
    size, trust = package.checkpoint.size, package.trust
    yield f"acts after entry {size}: request a new package, and verify it with --seen {size}"
    if absent := ranges({*range(1, size + 1)} - {*package.log}):
        one = "one may be a rejection, a withdrawal, a recall or a known issue that was left out"
        ask = "request the whole log (sovereign audit export)"
        yield f"the content of entries {absent}, which the package lacks: most are on other subjects, but {one}; {ask}"
    last = "whether the newest transitions, flag changes or changes of the rules were left out"
    yield f"{last}: their entries are then among those above, or after entry {size}"
    if not package.checkpoint.cosigned:
        yield "whether the log was rewritten: no witness cosigned it, so anyone with its key and database could do it"
    yield "whether the rules ask for more approvals than a request names, or more gates than a record: read policy/"
    versions = f"root {trust.root_version} and targets {trust.targets_version}"
    yield f"whether a key was revoked since: the package has {versions}; ask the root keys' holders for the newest"
    minutes = CLOCKS // datetime.timedelta(minutes=1)
    clock = f"times are from the institution's machines, and follow the log's order within {minutes} minutes"
    yield f"whether a clock was right: {clock}"
    yield "whether registered_at and review_date of a row in registry/ are right: no other file states them"
    yield "which documents of a source file were used, and the level of each: manifests name such lists by SHA-256"
    yield "which rules were in force when an artifact was built, except by the times above: its manifest lists settings"
    yield "whether documents/ and README.md, which are written for readers, agree with the rest: they were not compared"
    yield "whether the served weights and the source files are these: compare their SHA-256 where they are stored"
    yield f"whether this verifier is the right one: its SHA-256 is {sha256(Path(__file__).read_bytes())}"


def check_all(package: Package, root_sha256: str, on: str | None, seen: int, say: Callable[[str], None]) -> None:
    """Run every check, each after the checks that it depends on. Call `say` only with verified facts."""
    index = package.index = read_index(package)
    say(f"✓ {len(package.files)} files, exactly those of the index")
    trust = package.trust = read_trust(package, root_sha256)
    say(f"✓ trust root: root {trust.root_version}, targets {trust.targets_version}, signed by as many keys as needed")
    if trust.is_demonstration:
        say("! these are demonstration keys: they lie on the machine that made the package, and prove nothing")
    package.log = read_log(package)
    log, size = package.checkpoint, package.checkpoint.size
    require(size >= seen, f"log/checkpoint: it covers {size} entries, but you have seen {seen}: it is older, or cut")
    say(f"✓ {len(package.log)} entries, each proven to be among the {size} of the log {log.origin}")
    say(f"  the newest of them is {place(package.log[max(package.log)])}; all times are UTC")
    for witness, at in sorted(log.cosigned.items()):
        say(f"✓ the witness {witness} cosigned these {size} entries on {at:%Y-%m-%d %H:%M} UTC")
    check_trust_on_record(package)
    check_index_signed(package)
    say(f"✓ the index is signed by the pipeline, made on {index['made_at']}")
    if moment(index["made_at"]) > datetime.datetime.now(datetime.UTC) + CLOCKS:
        say("! that is in the future by this machine's clock: one of the two clocks is wrong")
    package.artifacts = read_artifacts(package)
    package.rows = read_rows(package)
    say(f"✓ {len(package.artifacts)} artifacts, each with the right digest, signatures and log entry")
    adapters = check_adapters(package)
    check_reviews(package)
    check_lineage(package)
    say("✓ each manifest names its inputs, down to the source files; no level is below that of an input")
    check_level(package)
    check_rules(package)
    package.acts = read_acts(package)
    lines = sorted({package.rows[each]["line"] for each in index["adapters"]})
    tell_acts(package, lines)
    changes = {line: read_changes(package, line) for line in lines}
    flags = {line: read_flags(package, line, changes[line]) for line in lines}
    say(f"✓ {sum(map(len, changes.values()))} transitions, each requested and approved; none is missing between them")
    package.used |= {f"documents/{adapter}/{name}" for adapter in index["adapters"] for name in DOCUMENTS}
    for path in sorted({*package.files} - package.used):
        raise Refused(f"{path}: nothing in the package refers to it")

    def tell(title: str, words: Iterable[str]) -> None:
        say(title)
        for each in words:
            say(f"  {each}")

    for adapter, words in adapters.items():
        row = package.rows[adapter]
        tell(f"\n{adapter}, {row['classification']}, weights {row['adapter_sha256']}, was made of:", words)
    for line in lines:
        tell(f"\nState of line {line}, by its transitions:", (each["words"] for each in changes[line]))
        steps, asked = (
            answering(changes[line], flags[line], read_recalls(package)),
            on or index["on"] or index["made_at"],
        )
        tell(f"What answered line {line}:", [*answers(package, steps, asked), *hours(package, line, asked)])
    for title, words in package.words.items():
        tell(f"{title}:{'' if words else ' none'}", words)
    rules = ((f"{place(of)}, by {of['actor']}", of["subjects"]) for of in package.entries("policy changed"))
    tell("Rules on record (policy/):", (f"{by}: {said['file']} {said['now'] or 'removed'}" for by, said in rules))
    say("\nWhat this package cannot prove:")
    for each in cannot_know(package):
        say(f"- {each}")
    holds = "every file of the package except documents/ and README.md was checked, and holds"
    by = ", but only by demonstration keys, which prove nothing"
    say(f"\n! {holds}{by}" if trust.is_demonstration else f"\n✓ {holds}")


def verify(files: dict[str, bytes], root_sha256: str, on: str | None, seen: int, say: Callable[[str], None]) -> None:
    """Check everything, and pass the results to `say`. Raises Refused at the first failure, for any cause."""
    package = Package(files)
    try:
        check_all(package, root_sha256, on, seen, say)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"the package is malformed near {package.at} ({type(error).__name__}: {error})") from None


def on_one_line(text: str) -> str:
    """Replace unprintable characters, so that text from a package cannot begin a line or move the cursor."""
    return "".join(
        each if each.isprintable() or (each == "\n" and not number) else "?" for number, each in enumerate(text)
    )


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Verify the evidence package that contains this file.")
    parser.add_argument("root_sha256", help="SHA-256 of the first root (trust/1.root.json), from paper")
    parser.add_argument("--on", help="day or moment (UTC) to list adapters that answered; default: when it was made")
    parser.add_argument("--seen", type=int, default=0, help="reject a log with fewer entries: the number you have seen")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="folder of another package")
    given = parser.parse_args(arguments)
    try:
        is_such = re.fullmatch(r"[0-9a-fA-F]{64}", given.root_sha256) and given.seen >= 0 and given.folder.is_dir()
        if not is_such or (given.on is not None and not period(given.on)):
            raise ValueError
    except (ValueError, OverflowError, OSError):
        sys.stderr.write("Give a SHA-256 of 64 digits, a day or moment such as 2027-03-14, and a package's folder.\n")
        return 2
    said, code = list[str](), 0
    try:
        verify(read_folder(given.folder), given.root_sha256, given.on, given.seen, said.append)
    except Refused as refused:
        said += [f"✗ {refused}", "Checks that depend on it were not run. The package proves nothing."]
        code = 1
    if sys.stdout is None:  # it was closed before, so nothing can be printed
        return code
    text = "".join(f"{on_one_line(each)}\n" for each in said)
    coding = sys.stdout.encoding or "utf-8"  # characters that a terminal cannot encode are escaped
    try:
        sys.stdout.buffer.write(text.encode(coding, "backslashreplace"))
        sys.stdout.buffer.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # no error: the reader closed the pipe
            sys.stderr.write(f"What was found cannot be written ({error.strerror}).\n")
            return 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
