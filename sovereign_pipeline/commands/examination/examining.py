"""Every examination, in the order in which a run would meet what it is about.

What belongs here: that order. What does not: any examination.
"""

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.examination import machine, pinned
from sovereign_pipeline.commands.examination.findings import Finding, failed
from sovereign_pipeline.commands.examination.records import records
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_lines


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which a run would meet it."""
    findings = [machine.python(), machine.disk(settings), machine.private(settings), machine.writable(settings)]
    findings += [machine.device(), pinned.trust(settings)]
    try:
        institution = load_institution(settings.data)
    except SovereignError as error:
        return [*findings, failed("institution", error)]
    recipes = load_lines(settings.data, institution)
    findings += [pinned.vault(settings, institution), machine.trainer(institution)]
    findings += machine.reachable(settings, institution)
    findings += [failed(f"line {name}", error) for name, error in recipes.broken.items()]
    findings += [Finding(f"line {recipe.line}", True, recipe.purpose) for recipe in recipes.valid]
    if not recipes.valid and not recipes.broken:
        findings.append(Finding("lines", False, "no line has a recipe", {"Hint": "Add one.", "Command": _ADD}))
    findings += [*pinned.base_models(settings, recipes.valid), *pinned.suites(settings, recipes.valid)]
    return [*findings, *pinned.signed(settings), *records(settings)]


_ADD = "sovereign lines add FILE"
