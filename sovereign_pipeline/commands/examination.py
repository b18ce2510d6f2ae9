"""`sovereign doctor`: what a run needs from this machine, looked at one by one. Changes nothing."""

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass

from sovereign_pipeline.errors import SovereignError
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import line_names, load_line
from sovereign_pipeline.settings import Settings

NEEDED_BYTES = 6 << 30  # base model, two lines of artifacts, MLflow and Dagster, with room to spare


@dataclass(frozen=True)
class Finding:
    what: str
    ok: bool
    found: str


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which a run would meet it."""
    return [
        _python(),
        _disk(settings),
        _device(),
        _vault(settings),
        _trainer(settings),
        *_lines_and_models(settings),
    ]


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", sys.version_info[:2] == (3, 11), version)


def _disk(settings: Settings) -> Finding:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    return Finding("disk", free >= NEEDED_BYTES, f"{free / (1 << 30):.1f} GiB free at {place}")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", True, torch.cuda.get_device_name(0))
    return Finding("device", True, f"CPU, {os.cpu_count()} cores (no CUDA device)")


def _vault(settings: Settings) -> Finding:
    if settings.vault_public_key.is_file():
        return Finding("vault key", True, f"public key at {settings.vault_public_key}")
    command = f"sovereign-vault keygen --private FILE --public {settings.vault_public_key}"
    return Finding("vault key", False, f"no public key. On the offline machine: {command}")


def _trainer(settings: Settings) -> Finding:
    try:
        where = load_institution(settings.data).trainer.where
    except SovereignError as error:
        return Finding("trainer", False, str(error))
    needed = {"kubernetes": "dagster_k8s", "ray": "ray"}.get(where)
    if needed is not None and importlib.util.find_spec(needed) is None:
        return Finding("trainer", False, f"runs on {where}: pip install 'sovereign-pipeline[{where}]'")
    return Finding("trainer", True, f"runs {where}" if where == "here" else f"runs on {where}")


def _lines_and_models(settings: Settings) -> list[Finding]:
    from sovereign_pipeline.base_models.cards import load_card
    from sovereign_pipeline.base_models.verified import verify

    try:
        institution = load_institution(settings.data)
        recipes = [load_line(settings.data, name, institution) for name in line_names(settings.data)]
    except SovereignError as error:
        return [Finding("recipes", False, str(error))]
    findings = [Finding("recipes", bool(recipes), ", ".join(recipe.line for recipe in recipes) or "no line yet")]
    for name in sorted({recipe.training.base_model for recipe in recipes}):
        try:
            verify(settings, load_card(settings, name))
            findings.append(Finding(f"base model {name}", True, "every file is the pinned one"))
        except SovereignError as error:
            findings.append(Finding(f"base model {name}", False, str(error)))
    return findings
