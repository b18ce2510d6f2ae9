"""What publishers sign: detached PGP signatures, of files themselves or of lists of SHA-256, verified when packed.

An operator fetches the signatures into a folder that mirrors the bundle: `models/gemma/SHA256SUMS` with
`SHA256SUMS.asc` beside it, or `models/gemma/model.safetensors.asc`. The keys that count are the institution's choice,
`data/publishers/NAME.asc`, under version control. What belongs here: that. What does not: what no publisher signed,
which the bundle lists as such.
"""

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline.errors import InputError, IntegrityError, NotFoundError

LIST, SUFFIX = "SHA256SUMS", ".asc"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
GOOD = re.compile(r"^\[GNUPG:\] GOODSIG ", re.MULTILINE)
"""What GnuPG says of no key that is revoked or expired. It calls their signatures valid, and ends 0."""
VALID = re.compile(r"^\[GNUPG:\] VALIDSIG ([0-9A-F]{40,64}) .*$", re.MULTILINE)


def with_publishers(contents: Sequence[Content], signatures: Path, keys: Path) -> list[Content]:
    """The contents, each with the publisher whose signature over it was verified, and the signatures themselves.

    Args:
        signatures: the folder of signatures. keys: that of the publishers' public keys.

    Raises IntegrityError for a signature that does not hold, and for one over nothing that is carried; InputError.
    """
    found = sorted(path for path in signatures.rglob(f"*{SUFFIX}") if path.is_file())
    if not found:
        raise InputError(f"{signatures}: there is no signature in it (*{SUFFIX}).", "Name the folder that holds them.")
    by_name = {each.name: each for each in contents}
    carried: list[Content] = []
    for signature in found:
        signed = signature.with_suffix("")
        name = signed.relative_to(signatures).as_posix()
        if signed.name == LIST:
            publisher = _verified(signature, signed, keys)
            listed = _listed(signed, name.removesuffix(LIST), by_name)
            carried.append(Content(f"publishers/{name}", signed, "list of a publisher", publisher))
        else:
            listed = [name]
            if name not in by_name:
                raise IntegrityError(
                    f"{signature}: it signs nothing that is carried.", "Remove it, or correct its name."
                )
            publisher = _verified(signature, _path(by_name[name]), keys)
        by_name |= {each: replace(by_name[each], publisher=publisher) for each in listed}
        carried.append(Content(f"publishers/{name}{SUFFIX}", signature, "signature of a publisher"))
    return [*by_name.values(), *carried]


def _listed(sums: Path, folder: str, contents: dict[str, Content]) -> list[str]:
    """The carried files that a list of SHA-256 names. Each that it names must be as it says."""
    names = []
    for number, line in enumerate(sums.read_text(encoding="utf-8").splitlines(), start=1):
        matched = LINE.fullmatch(line)
        if matched is None:
            raise IntegrityError(f"{sums}, line {number}: this is no SHA-256 and name.", "Take the list again.")
        name = folder + matched[2].removeprefix("./")
        if name not in contents:
            continue
        if file_sha256(_path(contents[name])) != matched[1]:
            raise IntegrityError(f"{name}: it is not the file that the publisher's list {sums} names.", "Get it again.")
        names.append(name)
    if not names:
        raise IntegrityError(f"{sums}: it names nothing that is carried.", "Remove it, or put it beside its files.")
    return names


def _path(content: Content) -> Path:
    assert isinstance(content.source, Path)  # what publishers sign is a file
    return content.source


def _verified(signature: Path, signed: Path, keys: Path) -> str:
    """Whose signature it is: the name of the key's file, and its fingerprint. Raises IntegrityError."""
    rings = sorted(keys.glob(f"*{SUFFIX}")) if keys.is_dir() else []
    if not rings:
        raise NotFoundError(
            f"{keys}: there is no publisher's key.", "Put one there, from where you trust it to be theirs."
        )
    for ring in rings:
        with tempfile.TemporaryDirectory() as home:  # with one key alone, so that whose it is cannot be mistaken
            _gpg(home, "--import", str(ring))
            told = _gpg(home, "--verify", str(signature), str(signed))
        if told is not None and GOOD.search(told) and (fingerprint := VALID.search(told)):
            return f"PGP, {ring.stem} ({fingerprint[1]})"
    raise IntegrityError(
        f"{signature}: no key in {keys} that is in force signed {signed.name} so.",
        "Get file and signature again, and of a key that was extended the key.",
    )


def _gpg(home: str, *arguments: str) -> str | None:
    """The lines for programs that GnuPG prints; None where it says no."""
    command = ("gpg", "--homedir", home, "--batch", "--no-autostart", "--status-fd", "1", *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    except FileNotFoundError:
        raise NotFoundError(
            "gpg is not installed, so publishers' signatures cannot be verified.", "Install it."
        ) from None
    return done.stdout if done.returncode == 0 else None
