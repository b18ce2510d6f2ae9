"""The package indexes from which pip downloads, asked for the provenance that they give of a file (PEP 740).

What belongs here: which indexes, and asking them. What does not: verifying what they give (`attestations.py`).
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from requests import Response, Session

SIMPLE_JSON = "application/vnd.pypi.simple.v1+json"
PYPI = "https://pypi.org/simple"
LARGEST_PAGE, LARGEST_PROVENANCE = 64 << 20, 1 << 20
SECONDS = 60
BLOCK = 1 << 16
NO_NAME = "The package index"


def configured_indexes() -> list[str]:
    """Addresses of the indexes of this environment's pip. They may hold a password: no message has one of them."""
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotFoundError(f"pip config list failed (status {done.returncode}).", "Check pip's configuration.")
    settings = dict(_settings(done.stdout))
    if _setting(settings, "no-index").lower() not in ("", "0", "false", "no", "off"):
        return []
    addresses = f"{_setting(settings, 'index-url') or PYPI} {_setting(settings, 'extra-index-url')}".split()
    return list(dict.fromkeys(addresses))


def provenance_of(
    session: "Session", indexes: Sequence[str], distribution: str, file: str, sha256: str
) -> bytes | None:
    """What the first index that names a provenance for exactly this file gives; None where none names one."""
    for index in indexes:
        page_url = f"{index.rstrip('/')}/{distribution}/"
        page = _get(session, page_url, SIMPLE_JSON, LARGEST_PAGE)
        url = None if page is None else _provenance_url(page, page_url, file, sha256)
        if url is None:
            continue
        given = _get(session, url, "application/json", LARGEST_PROVENANCE)
        if given is None:
            raise NotFoundError(f"{file}: {_host(index)} names a provenance and does not give it.", "Try again later.")
        return given
    return None


def _provenance_url(page: bytes, page_url: str, file: str, sha256: str) -> str | None:
    """Where the provenance of a file is. An index that gives no JSON names none, nor does what is no address."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        files = json.loads(page)["files"]
        found = next(each for each in files if each["filename"] == file and each["hashes"]["sha256"] == sha256)
        named = found.get("provenance")
        return urljoin(page_url, named) if isinstance(named, str) else None
    return None


def _get(session: "Session", url: str, accept: str, most: int) -> bytes | None:
    """What lies at an address; None: nothing does."""
    import requests

    headers, hooks = {"Accept": accept}, {"response": _leave_body_of_redirect}
    try:
        with session.get(url, headers=headers, hooks=hooks, timeout=SECONDS, stream=True) as answer:
            if answer.status_code == 404:
                return None
            if answer.status_code != 200:
                raise NotFoundError(f"{_host(url)} answered {answer.status_code}.", "Check the package index.")
            content = bytearray()
            for block in answer.iter_content(BLOCK):
                content += block
                if len(content) > most:
                    raise IntegrityError(f"{_host(url)} answered with more than {most:,} bytes.", "Check the index.")
            return bytes(content)
    except (requests.RequestException, ValueError) as error:  # ValueError: an index names or redirects to no address
        raise NotFoundError(
            f"{_host(url)} cannot be asked ({type(error).__name__}).", "Check the package index that pip uses."
        ) from None


def _leave_body_of_redirect(answer: "Response", **_: object) -> None:
    """Else requests reads it into memory, however large it is."""
    if answer.is_redirect:
        answer.close()


def _host(url: str) -> str:
    with suppress(ValueError):  # which quotes the address, password and all
        return urlsplit(url).hostname or NO_NAME
    return NO_NAME


def _settings(listed: str) -> Iterator[tuple[str, str]]:
    """The lines of `pip config list`, such as `global.index-url='https://…'`."""
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        with suppress(ValueError, SyntaxError):
            yield key, str(ast.literal_eval(value))


def _setting(settings: Mapping[str, str], key: str) -> str:
    """As pip takes it for downloads: variables first, then the command's own section, then that of all commands."""
    return next((value for each in (":env:", "download", "global") if (value := settings.get(f"{each}.{key}"))), "")
