"""Every variant of a first file has the outcome that the table states: nothing lost, nothing quoted, no traceback."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.cli.main import app, main
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.stages import RAW_CORPUS, read_sources
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Verdict
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.corpus.first_file import OUTCOMES, SECRET_WORDS, NotPassed, Read, Stop, Variant
from sovereign_pipeline_tests.corpus.first_files import VARIANTS

EVERY = [variant for variants in VARIANTS.values() for variant in variants]


def institution_with(variant: Variant, root: Path) -> tuple[DemoInstitution, Path]:
    recipe = minimal_recipe(quarantine={"max_share": 0.9})
    recipe["sources"][0] |= {"path": f"sources/{variant.name}", "links": "linked", **variant.source}
    institution = DemoInstitution(root, recipe, [letter(0)])
    institution.write()
    path = institution.settings.data / "sources" / variant.name
    variant.write(path)
    return institution, path


def run(institution: DemoInstitution) -> tuple[Artifact, dict[str, Verdict]]:
    workplace = institution.workplace()
    ref = produce(RAW_CORPUS, workplace, {}).ref
    return workplace.store.open(ref), evaluate_gates(RAW_CORPUS, workplace, ref)


def assert_quotes_nothing(*said: str) -> None:
    for each in said:
        assert not [word for word in SECRET_WORDS if word in each], each


@pytest.mark.parametrize("variant", EVERY, ids=lambda variant: f"{variant.what}-{variant.name}")
def test_each_variant_has_the_outcome_of_the_table(variant: Variant, tmp_path: Path) -> None:
    institution, path = institution_with(variant, tmp_path)
    outcome = variant.outcome
    if isinstance(outcome, Stop):
        with pytest.raises(SovereignError) as stopped:
            run(institution)
        error = stopped.value
        assert_quotes_nothing(str(error))
        assert outcome.says in error.message and outcome.remedy in error.hint, error
        assert path.name in error.message or "'letters'" in error.message
        return
    raw, verdicts = run(institution)
    assert_quotes_nothing(*(verdict.message for verdict in verdicts.values()))
    assert_quotes_nothing(raw.file("sources.json").read_text(), raw.file("quarantine.jsonl").read_text())
    failed = {name: verdict.message for name, verdict in verdicts.items() if not verdict.passed}
    if isinstance(outcome, NotPassed):
        assert [*failed] == [outcome.gate] and outcome.says in failed[outcome.gate]
        return
    assert not failed
    (source,) = read_sources(raw)
    assert {name: source[name] for name in OUTCOMES} == {name: getattr(outcome, name) for name in OUTCOMES}
    assert source["rows"] == outcome.rows
    assert source["reasons"] == ({outcome.reason: outcome.quarantined} if outcome.reason else {})
    assert (source["links"], source["links_without_row"]) == (outcome.links, 0)
    assert len(list(read_documents(raw.file("documents.jsonl")))) == outcome.documents


@pytest.mark.parametrize("variant", EVERY, ids=lambda variant: f"{variant.what}-{variant.name}")
def test_each_variant_can_be_looked_at(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file that is read is shown too; one that is not ends with a message. `--recipe` takes whatever is shown."""
    institution, path = institution_with(variant, tmp_path)
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    sheet = ["--sheet", variant.source["sheet"]] if "sheet" in variant.source else []
    monkeypatch.setattr("sys.argv", ["sovereign", "sources", "look", str(path), *sheet])
    with pytest.raises(SystemExit) as ended:
        main()
    said = "".join(capfd.readouterr())
    assert ended.value.code in ((0, None) if isinstance(variant.outcome, Read) else (0, None, 2))
    assert "Traceback" not in said and said.strip()
    assert_quotes_nothing(said)
    if ended.value.code == 2:
        assert path.name in said and "Hint" in said
        return
    printed = CliRunner().invoke(app, ["sources", "look", str(path), "--recipe", *sheet])
    assert printed.exit_code == 0 and "sources" in yaml.safe_load(printed.stdout)
    assert_quotes_nothing(printed.output)


def test_no_two_rows_of_the_table_are_the_same() -> None:
    keys = [(variant.what, variant.name, repr(variant.source)) for variant in EVERY]
    assert len({*keys}) == len(keys)
