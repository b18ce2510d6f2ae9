"""The incumbent: which adapter it is, its level, and a changed base model."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import CeilingExceeded, IntegrityError
from sovereign_pipeline.evaluation.report.report import IncumbentFacts
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.evaluation.chain import Chain
from sovereign_pipeline_tests.evaluation.report.planted import figure
from sovereign_pipeline_tests.tiny_model import write_card

pytestmark = pytest.mark.slow


def test_the_last_registered_adapter_is_the_incumbent_and_never_the_candidate_itself(
    prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path], make_model: Callable[[Path], Path]
) -> None:
    chain = prepare(make_adapter(5e-3))
    chain.make_all()
    first = chain.report()
    assert first.incumbent is None

    chain.register("1.0.0")
    before = dict(chain.made)
    chain.make_all()
    assert chain.made == before

    chain.tune(make_adapter(-5e-3))
    chain.make_all()
    report = chain.report()
    assert report.incumbent is not None
    assert (report.incumbent.id, report.incumbent.digest) == ("lamps-1.0.0", before["aligned_adapter"].digest)
    assert report.incumbent.compared
    before_it, now = figure(first, "held-out loss"), figure(report, "held-out loss", "incumbent")
    assert now.reference == before_it.candidate
    assert figure(report, "held-out loss").reference == before_it.reference
    assert now.low > 0
    assert report.outcome == "fail"
    for kind in ("capability_scores", "private_scores", "red_team_report"):
        inputs = chain.workplace.store.read_manifest(chain.made[kind]).external_inputs
        assert inputs["incumbent:lamps-1.0.0"] == before["aligned_adapter"].digest
        assert set(chain.items(before[kind])) == {"base_items_computed", "candidate_items_computed"}
        items = chain.items(chain.made[kind])
        assert set(items) == {"base_items_kept", "incumbent_items_kept", "candidate_items_computed"}
        assert len(set(items.values())) == 1

    chain.register("1.0.1", classification="SECRET")
    second = dict(chain.made)
    chain.make_all()
    assert chain.made == second

    chain.tune(make_model(make_adapter(5e-3)), "model")
    chain.make_all()
    report = chain.report()
    assert report.incumbent == IncumbentFacts(id="lamps-1.0.1", digest=second["aligned_adapter"].digest, compared=True)
    assert figure(report, "held-out loss").high < 0
    assert chain.kinds_at("SECRET") == {"capability_scores", "private_scores", "red_team_report", "evaluation_report"}


def test_an_incumbent_is_held_to_ceiling_and_bytes_unless_the_line_has_another_base_model(
    institution: DemoInstitution,
    prepare: Callable[[Path], Chain],
    make_adapter: Callable[[float], Path],
    base_model: Path,
) -> None:
    chain = prepare(make_adapter(5e-3))
    chain.make_all()
    chain.register("1.0.0", classification="SECRET")
    registered = chain.made["aligned_adapter"].digest
    chain.tune(make_adapter(0.0))
    institution.recipe["ceiling"] = "CONFIDENTIAL"
    chain.workplace = institution.workplace()
    with pytest.raises(CeilingExceeded, match=r"its incumbent lamps-1\.0\.0 has the level SECRET"):
        chain.make_all()

    institution.recipe["ceiling"] = "SECRET"
    chain.workplace = institution.workplace()
    weights = chain.workplace.store.path_of(registered) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors"):
        chain.make_all()

    other = institution.root / "other"
    shutil.copytree(base_model, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    write_card(institution.settings.data, "tiny", other)
    chain.make_all()
    report = chain.report()
    assert report.incumbent == IncumbentFacts(id="lamps-1.0.0", digest=registered, compared=False)
    assert {each.reference for each in report.figures} == {"base"}
    assert "not compared" in chain.text("evaluation_report", "report.html")
