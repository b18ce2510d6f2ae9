"""`sovereign doctor`: what a run needs from this machine, examined one by one. Changes nothing."""

import importlib.util
import os
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.markup import escape

from sovereign_pipeline.artifacts.confined import left_in_home
from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.commands.terminal import advice_of, out, print_json, tell_progress
from sovereign_pipeline.errors import SovereignError
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.policy.line import Line, load_lines
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.signing.officers import pipeline_signer, trust_root
from sovereign_pipeline.signing.trusted import DEMONSTRATION_KEYS, Trust
from sovereign_pipeline.wording import and_more, counted

NEEDED_BYTES = 6 << 30
"""Free disk that a run needs: base model, two lines of artifacts, MLflow and Dagster, with room to spare."""


@dataclass(frozen=True)
class Finding:
    """One thing that a run needs."""

    what: str
    ok: bool
    found: str

    advice: Mapping[str, str] = field(default_factory=dict)
    """What puts it right, by its label, such as `Hint`."""


def print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """Print a line for each finding, and below it what puts it right."""
    if as_json:
        print_json([asdict(each) for each in findings])
        return
    for each in findings:
        out.print(f"{'[green]✓[/]' if each.ok else '[red]✗[/]'} {each.what}: {escape(each.found)}")
        for label, advice in each.advice.items():
            out.print(f"  [bold]{label}:[/] {escape(advice)}")


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which a run would meet it."""
    findings = [_python(), _disk(settings), _private(settings), _apart(settings), _device(), _vault(settings)]
    findings.append(_trust(settings))
    try:
        institution = load_institution(settings.data)
    except SovereignError as error:
        return [*findings, _failed("institution", error)]
    recipes = load_lines(settings.data, institution)
    findings += [_trainer(institution), *(_failed(f"line {name}", error) for name, error in recipes.broken.items())]
    findings += [Finding(f"line {recipe.line}", True, recipe.purpose) for recipe in recipes.valid]
    if not recipes.valid and not recipes.broken:
        findings.append(Finding("lines", False, "no line has a recipe", {"Hint": "Add one.", "Command": _ADD}))
    of_registry = [*_registry(settings), *_recalls(settings), *_mlflow(settings), *_flags(settings)]
    return [*findings, *_base_models(settings, recipes.valid), *of_registry]


_ADD = "sovereign lines add FILE"


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", sys.version_info[:2] == (3, 11), version)


def _disk(settings: Settings) -> Finding:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    return Finding("disk", free >= NEEDED_BYTES, f"{free / (1 << 30):.1f} GiB free at {place}")


def _private(settings: Settings) -> Finding:
    """Whether another account of this machine reaches anything. New files are private; an earlier release's are not."""
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


def _apart(settings: Settings) -> Finding:
    """Whether unscrubbed text lies under the corpus root alone. Releases up to 0.1.0 kept it in the home."""
    left = [f"{manifest.kind} {short(path.name)}" for path, manifest, _ in left_in_home(settings.artifacts)]
    if not left:
        return Finding("corpus", True, f"unscrubbed text lies under {settings.corpus} alone")
    hint = "The next run that makes raw_corpus moves it."
    return Finding("corpus", False, f"unscrubbed text lies in the home: {and_more(left)}", {"Hint": hint})


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


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", True, torch.cuda.get_device_name(0))
    return Finding("device", True, f"CPU, {os.cpu_count()} cores (no CUDA device)")


def _vault(settings: Settings) -> Finding:
    if settings.vault_public_key.is_file():
        return Finding("vault key", True, f"public key at {settings.vault_public_key}")
    command = f"sovereign-vault keygen --private FILE --public {settings.vault_public_key}"
    return Finding("vault key", False, "no public key", {"Hint": "Make one offline.", "Command": command})


def _trust(settings: Settings) -> Finding:
    """Without a trust root, or the pipeline's key, nothing is made."""
    try:
        trust = trust_root(settings)
        pipeline_signer(settings, trust)
        _assert_on_record(settings, trust)
    except SovereignError as error:
        return _failed("trust root", error)
    if trust.is_demonstration:
        hint = "Make a trust root with sovereign-trust, on an offline machine."
        return Finding("trust root", False, f"{DEMONSTRATION_KEYS}: this machine can sign as anybody", {"Hint": hint})
    return Finding("trust root", True, f"root {trust.root_version}, accepted until {trust.expires:%Y-%m-%d}")


def _assert_on_record(settings: Settings, trust: Trust) -> None:
    """Raise IntegrityError for a trust root that is not the one of the ledger. Without a registry there is none yet."""
    from sovereign_pipeline.ledger.database import is_there, open_registry
    from sovereign_pipeline.ledger.in_force import assert_same_trust, trust_files, trust_on_record

    if not is_there(settings):
        return
    with open_registry(settings).reading() as session:
        known = trust_on_record(session)
    if known is not None:
        assert_same_trust(known, trust, trust_files(settings))


def _trainer(institution: Institution) -> Finding:
    where = institution.trainer.where
    package = {"kubernetes": "dagster_k8s", "ray": "ray"}.get(where)
    if package is not None and importlib.util.find_spec(package) is None:
        command = f"pip install 'sovereign-pipeline[{where}]'"
        return Finding("trainer", False, f"runs on {where}; {package} is missing", {"Command": command})
    return Finding("trainer", True, f"runs {where}" if where == "here" else f"runs on {where}")


def _base_models(settings: Settings, recipes: Sequence[Line]) -> list[Finding]:
    from sovereign_pipeline.base_models.cards import load_card
    from sovereign_pipeline.base_models.verified import verify

    findings = []
    for name in sorted({recipe.training.base_model for recipe in recipes}):
        try:
            verify(settings, load_card(settings, name), tell_progress)
            findings.append(Finding(f"base model {name}", True, "every file is the pinned one"))
        except SovereignError as error:
            findings.append(_failed(f"base model {name}", error))
    return findings


def _registry(settings: Settings) -> list[Finding]:
    """Whether the role that is connected may do more than a service needs. A registry that is not there is not made."""
    from sovereign_pipeline.ledger.auditing.rights import beyond_a_service
    from sovereign_pipeline.ledger.database import is_there, open_registry

    if not is_there(settings):
        return []
    try:
        with open_registry(settings).engine.connect() as connection:
            is_file, found = connection.dialect.name == "sqlite", beyond_a_service(connection)
    except SovereignError as error:
        return [_failed("registry", error)]
    if found:
        hint = "Connect services by a role that reads and inserts alone: docs/administrator.md, The ledger."
        return [Finding("registry", False, and_more(found), {"Hint": hint})]
    where = "a file: whoever may write to it owns it" if is_file else "the role reads and inserts alone"
    return [Finding("registry", True, where)]


def _recalls(settings: Settings) -> list[Finding]:
    """Each recall that still holds for an adapter. A registry that is not there yet is not made."""
    from sovereign_pipeline.ledger.database import is_there, open_registry
    from sovereign_pipeline.release.recall import list_recalls, question_of

    if not is_there(settings):
        return []
    try:
        with open_registry(settings).reading() as session:
            held = [(recall, adapters) for recall, adapters in list_recalls(session, settings) if adapters]
    except SovereignError as error:
        return [_failed("recalls", error)]
    hint = "Retire each adapter, or let an officer waive the recall for it."
    return [
        Finding(recall.id, False, f"{question_of(recall)} is recalled and held by {and_more(adapters)}", {"Hint": hint})
        for recall, adapters in held
    ] or [Finding("recalls", True, "none holds for an adapter")]


def _mlflow(settings: Settings) -> list[Finding]:
    """Whether MLflow shows what the registry says."""
    from sovereign_pipeline.ledger.database import is_there, open_registry
    from sovereign_pipeline.registry.mlflow_states import differences

    if not is_there(settings):
        return []
    try:
        found = differences(open_registry(settings), settings)
    except SovereignError as error:
        return [_failed("MLflow", error)]
    if not found:
        return [Finding("MLflow", True, "shows what the registry says")]
    command = {"Command": "sovereign adapters mlflow --repair"}
    return [Finding("MLflow", False, f"differs from the registry: {and_more(found, separator='; ')}", command)]


def _flags(settings: Settings) -> list[Finding]:
    """The newest change of each line's flag: whether it can be believed and evaluated."""
    from sovereign_pipeline.serving.flags.files import lines_with_flags
    from sovereign_pipeline.serving.flags.flag import evaluator_of
    from sovereign_pipeline.serving.flags.rollback import current_flag

    findings: list[Finding] = []
    for line in lines_with_flags(settings):
        try:
            flag = current_flag(settings, line, trust_root(settings))
            evaluator_of(flag)
        except SovereignError as error:
            findings.append(_failed(f"flag of {line}", error))
        else:
            findings.append(Finding(f"flag of {line}", True, flag.in_words()))
    return findings


def _failed(what: str, error: SovereignError) -> Finding:
    return Finding(what, False, error.message, advice_of(error))
