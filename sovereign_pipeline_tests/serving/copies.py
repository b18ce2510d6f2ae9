"""An office that is made once a process, and copied for each test that begins with it."""

import atexit
import copy
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.release.conftest import Office


def new_institution() -> DemoInstitution:
    """In a directory that lasts as long as the process."""
    root = Path(tempfile.mkdtemp(prefix="sovereign-institution-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return DemoInstitution(root, minimal_recipe(), [letter(number) for number in range(40)], may_copy=lambda: True)


def copy_of(made: Office, institution: DemoInstitution) -> Office:
    """The same office in another institution's directory, with a registry of its own. `made` is at rest."""
    source, made_root = made.bench.institution, str(made.bench.institution.root)
    shutil.copytree(source.root, institution.root, ignore=shutil.ignore_patterns("registry.db-shm"), dirs_exist_ok=True)
    for card in (institution.settings.data / "models").glob("*.yaml"):
        card.write_text(card.read_text().replace(made_root, str(institution.root)))
    institution.recipe, institution.rows = copy.deepcopy(source.recipe), copy.deepcopy(source.rows)
    institution.rules = copy.deepcopy(source.rules)
    bench = replace(made.bench, institution=institution, refs=dict(made.bench.refs))
    return replace(made, bench=bench)
