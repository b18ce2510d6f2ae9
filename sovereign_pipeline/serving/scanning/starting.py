"""What one installation has searched, and the processes that do it, started.

What belongs here: from `institution.yaml`, recipes and word lists to a scanner. What does not: the search.
"""

from collections.abc import Callable

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.privacy.corrections import load_word_lists
from sovereign_pipeline.serving.scanning.findings import LineDetectors
from sovereign_pipeline.serving.scanning.scanner import Scanner
from sovereign_pipeline.serving.scanning.screen import Screens


def start_screens(settings: Settings, institution: Institution, report: Callable[[str], None]) -> Screens:
    """What is done with the texts of each line, once every detector of those that are searched was loaded.

    Raises RecipeError for a recipe that does not say how its line is searched, PrivacyError for a detector that cannot
    be loaded, and ScannerLost.
    """
    screened = {line: served.privacy for line, served in institution.serving.lines.items()}
    searched = [line for line, rules in screened.items() if rules.requests is not None or rules.answers is not None]
    if not searched:
        return Screens(None, screened)
    report(f"loading what searches for personal data in {', '.join(searched)}")
    scanner = Scanner(
        {line: _detectors(settings, institution, line) for line in searched}, institution.serving.scanners
    )
    try:
        scanner.start()
    except BaseException:
        scanner.close()
        raise
    return Screens(scanner, screened)


def _detectors(settings: Settings, institution: Institution, line: str) -> LineDetectors:
    privacy = load_line(settings.data, line, institution).privacy
    return LineDetectors(line, privacy, institution.treatments(line), load_word_lists(settings.data, line))
