"""This machine: Python, disk, permissions, device, and the hosts that are asked.

What belongs here: what another machine could have otherwise. What does not: what is recorded (`records.py`).
"""

import importlib.util
import os
import shlex
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.commands.examination.findings import Finding, wrong
from sovereign_pipeline.policy.institution import Institution

NEEDED_BYTES = 6 << 30
"""Free disk that a run needs: base model, two lines of artifacts, MLflow and Dagster, with room to spare."""
PATIENCE = 3.0
"""Seconds that a host has to answer."""


def python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", sys.version_info[:2] == (3, 11), version)


def disk(settings: Settings) -> Finding:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    return Finding("disk", free >= NEEDED_BYTES, f"{free / (1 << 30):.1f} GiB free at {place}")


def private(settings: Settings) -> Finding:
    """Whether another account of this machine reaches anything. New files are private."""
    roots = [root for root in (settings.home, *settings.secret_directories.values()) if root.exists()]
    found = [path for root in roots for path in reachable_by_others(root)]
    if not found:
        return Finding("permissions", True, "no other account can read or write what lies here")
    return Finding(
        "permissions",
        False,
        f"other accounts reach {counted(len(found), 'file')}: {and_more([str(path) for path in found])}",
        {"Command": f"chmod -R go= {shlex.join(map(str, roots))}"},
    )


def reachable_by_others(root: Path) -> Iterator[Path]:
    """The files below a directory that its group or others may open, through directories that let them pass."""
    if not root.is_dir() or not _grants(root, stat.S_IXGRP | stat.S_IXOTH):
        return
    for path in sorted(root.iterdir()):
        if path.is_symlink():
            continue  # what it leads to has a mode of its own
        if path.is_dir():
            yield from reachable_by_others(path)
        elif _grants(path, stat.S_IRWXG | stat.S_IRWXO):
            yield path


def _grants(path: Path, bits: int) -> bool:
    return bool(path.stat().st_mode & bits)


def device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", True, torch.cuda.get_device_name(0))
    return Finding("device", True, f"CPU, {os.cpu_count()} cores (no CUDA device)")


def trainer(institution: Institution) -> Finding:
    where = institution.trainer.where
    package = {"kubernetes": "dagster_k8s", "ray": "ray"}.get(where)
    if package is not None and importlib.util.find_spec(package) is None:
        command = f"pip install 'sovereign-pipeline[{where}]'"
        return Finding("trainer", False, f"runs on {where}; {package} is missing", {"Command": command})
    return Finding("trainer", True, f"runs {where}" if where == "here" else f"runs on {where}")


def writable(settings: Settings) -> Finding:
    """Whether this account can write where work is kept. A directory that is not there yet is made by the first act."""
    roots = {VARIABLES["home"]: settings.home, **settings.secret_directories}
    refused = [f"{name} ({path})" for name, path in roots.items() if not _may_write(path)]
    copy = settings.ledger_copy
    if copy is not None and not (copy.is_file() and os.access(copy, os.W_OK)):
        refused.append(f"{VARIABLES['ledger_copy']} ({copy})")
    if refused:
        hint = "Give these to the account that runs this program, or mount their medium."
        return wrong("writable", f"this account cannot write to {and_more(refused)}", hint)
    return Finding("writable", True, f"home and {counted(len(roots) - 1, 'secret directory', 'secret directories')}")


def _may_write(path: Path) -> bool:
    place = next(each for each in (path, *path.parents) if each.exists())
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def reachable(settings: Settings, institution: Institution) -> list[Finding]:
    """Whether the institution's hosts that are configured take a connection. Databases are asked with their records."""
    hosts = {VARIABLES["otlp_url"]: settings.otlp_url}
    if institution.trainer.where == "ray":
        hosts["trainer"] = institution.trainer.address
    return [_reached(name, url) for name, url in hosts.items() if url]


def _reached(name: str, url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), PATIENCE).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        hint = "Start it, or correct its address."
        return wrong(f"host of {name}", f"{parts.hostname}:{port} does not answer ({reason})", hint)
    return Finding(f"host of {name}", True, f"{parts.hostname}:{port} answers")
