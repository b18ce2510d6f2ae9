"""Verify publishers' signatures when a bundle is packed, and record which carried files each covers.

The operator's folder of signatures mirrors the bundle. A signature covers a file
(`models/gemma/model.safetensors.sigstore.json`), a list of SHA-256 (`models/gemma/SHA256SUMS` with
`SHA256SUMS.sigstore.json` beside it), or is itself a list (`models/gemma/model.sig`, OpenSSF model signing).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline.bundle.sigstore_bundles import MODEL, SUFFIX, signed_model, sigstore_publisher
from sovereign_pipeline.bundle.trusted_publishers import load_publishers

LIST = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def with_publishers(contents: Sequence[Content], signatures: Path, publishers: Path) -> list[Content]:
    """The contents, each with the publishers whose signatures over it were verified, and the signatures themselves.

    Args:
        signatures: the folder of signatures. publishers: that of the publishers who count.

    Raises IntegrityError for a signature that does not hold, and for one over nothing that is carried; InputError.
    """
    trusted = load_publishers(publishers)
    paths = sorted(path for path in signatures.rglob("*") if path.is_symlink() or not path.is_dir())
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    found = [path for path in files if _is_bundle(path) or path.name == MODEL]
    if not found:
        raise InputError(
            f"{signatures}: there is no signature in it (*{SUFFIX}, {MODEL}).",
            "Name the folder that holds them.",
        )
    by_name = {each.name: each for each in contents}
    lists: dict[Path, Content] = {}
    for signature in found:
        name = signature.relative_to(signatures).as_posix()
        signed = signature.with_name(signature.name.removesuffix(SUFFIX))
        if not _is_bundle(signature):
            publisher, digests = signed_model(signature, trusted)
            covered = _agreeing(digests, signature, name, by_name)
        elif signed.name == LIST:
            if not signed.is_file():
                raise InputError(f"{signed}: the list that {signature.name} is over is missing.", "Put it there.")
            publisher = sigstore_publisher(signature, signed, trusted)
            covered = _agreeing(_listed(signed), signed, name, by_name)
            listed = Content(f"publishers/{name.removesuffix(SUFFIX)}", signed, "list of a publisher")
            lists[signed] = _also_signed(lists.get(signed, listed), publisher)
        else:
            covered = [name.removesuffix(SUFFIX)]
            if covered[0] not in by_name:
                raise IntegrityError(
                    f"{signature}: it signs nothing that is carried.", "Remove it, or correct its name."
                )
            publisher = sigstore_publisher(signature, _path(by_name[covered[0]]), trusted)
        by_name |= {each: _also_signed(by_name[each], publisher) for each in covered}
    if passed_over := [path for path in paths if path not in found and path not in lists]:
        raise InputError(
            f"{passed_over[0]}: it is no signature, and no list that one is over.",
            "Remove it, or correct its name; for a link put the file there.",
        )
    carried = (
        Content(f"publishers/{path.relative_to(signatures).as_posix()}", path, "signature of a publisher")
        for path in found
    )
    return [*(by_name[each.name] for each in contents), *lists.values(), *carried]


def _is_bundle(path: Path) -> bool:
    return path.name.endswith(SUFFIX) and path.name != SUFFIX


def _also_signed(content: Content, publisher: str) -> Content:
    already = content.publisher.split("; ") if content.publisher else []
    return replace(content, publisher="; ".join(sorted({*already, publisher})))


def _listed(sums: Path) -> dict[str, str]:
    """What a list of SHA-256 says: path beside it -> digest."""
    digests: dict[str, str] = {}
    for number, line in enumerate(sums.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        matched = LINE.fullmatch(line)
        if matched is None:
            raise IntegrityError(f"{sums}, line {number}: this is no SHA-256 and name.", "Take the list again.")
        name = matched[2].removeprefix("./")
        if digests.setdefault(name, matched[1]) != matched[1]:
            raise IntegrityError(f"{sums}, line {number}: it names {name!a} by two digests.", "Take the list again.")
    return digests


def _agreeing(digests: Mapping[str, str], listing: Path, name: str, contents: Mapping[str, Content]) -> list[str]:
    """The carried files that a listing names. Each that it names must be as it says.

    Args:
        name: of the listing's signature in the bundle; the files lie beside it.
    """
    folder = name.rpartition("/")[0]
    paths = {f"{folder}/{path}".removeprefix("/"): digest for path, digest in digests.items()}
    names = [each for each in paths if each in contents]
    for each in names:
        if file_sha256(_path(contents[each])) != paths[each]:
            raise IntegrityError(f"{each}: it is not the file that the publisher's {listing} names.", "Get it again.")
    if not names:
        raise IntegrityError(f"{listing}: it names nothing that is carried.", "Remove it, or put it beside its files.")
    return names


def _path(content: Content) -> Path:
    """Where a file lies. Raises IntegrityError for what is made while packing: no publisher signed that."""
    if not isinstance(content.source, Path):
        raise IntegrityError(
            f"{content.name}: it is made here, so no publisher can have signed it.", "Remove the signature."
        )
    return content.source
