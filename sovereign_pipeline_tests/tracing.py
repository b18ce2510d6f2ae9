"""Tracing every process of a command, so that a connection which nobody notices is found: a library that asks its maker
for news and ignores that nobody answers.

strace records which address a process connects or sends to. Only loopback, Unix sockets and the kernel's own (netlink)
are allowed. Where strace is not installed, or this account may trace nothing, tests are skipped and say so.
"""

import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import pytest

CALLS = "connect,sendto,sendmsg,sendmmsg,clone,clone3,fork,vfork"
FAMILY = re.compile(r"sa_family=(AF_\w+)")
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
MADE = re.compile(r"(?:clone|clone3|fork|vfork)\b.* = ([0-9]+)|<\.\.\. (?:clone3?|v?fork) resumed>.* = ([0-9]+)")
LOCAL = {"AF_UNIX", "AF_NETLINK", "AF_UNSPEC"}


@dataclass(frozen=True)
class Trace:
    """The record of one command."""

    file: Path

    @classmethod
    def where_possible(cls, file: Path) -> "Trace | None":
        return cls(file) if why_not() is None else None

    @property
    def before(self) -> tuple[str, ...]:
        """What stands before the command. The command keeps its process id, so that signals reach it."""
        strace = shutil.which("strace")
        assert strace is not None
        options = ("-D", "-f", "-qq", "-s", "0", "--seccomp-bpf", "-e", f"trace={CALLS}", "-e", "signal=none")
        return (strace, *options, "-o", str(self.file), "--")

    @property
    def processes(self) -> int:
        """How many were traced, with the first."""
        made = 1
        for line in self._lines():
            is_thread = "CLONE_THREAD" in line
            made += not is_thread and any(MADE.findall(line))
        return made

    @property
    def local(self) -> Counter[str]:
        """Family of an address -> how often it was connected or sent to."""
        return Counter(family for line in self._lines() for family in FAMILY.findall(line))

    @property
    def elsewhere(self) -> list[str]:
        """Each line with an address that is neither loopback nor on this machine's kernel."""
        return [line for line in self._lines() if any(not _is_here(*each) for each in _addresses(line))]

    def _lines(self) -> list[str]:
        return self.file.read_text(errors="replace").splitlines()


def _addresses(line: str) -> list[tuple[str, str]]:
    """Family and address of each socket address in a line; an address that is not told is empty."""
    families = FAMILY.findall(line)
    told = ["".join(each) for each in ADDRESS.findall(line)]
    numbered = [family for family in families if family not in LOCAL]
    return [(family, told[place] if place < len(told) else "") for place, family in enumerate(numbered)]


def _is_here(family: str, address: str) -> bool:
    if family not in ("AF_INET", "AF_INET6") or not address:
        return False
    found = ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


@cache
def why_not() -> str | None:
    """Why nothing can be traced here; None where it can."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    done = subprocess.run((strace, "-f", "-qq", "--seccomp-bpf", "-o", os.devnull, "true"), capture_output=True)
    return None if done.returncode == 0 else "this account may trace no process"


def needs_strace() -> None:
    """Skip the test that calls it where nothing can be traced."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
