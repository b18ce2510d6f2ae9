"""`precision: auto` is one of the two others, decided by the machine, and nothing behind the recipe sees the word."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import Line, load_line
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.preflight import processors_have_bfloat16, with_decided_precision
from sovereign_pipeline.training.stages import SFT_ADAPTER
from sovereign_pipeline_tests.conftest import DemoInstitution

AMD = "processor : 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu sse2 avx512f {}\nbogomips : 1\n"
INTEL = AMD.replace("AuthenticAMD", "GenuineIntel")
ARM = "processor : 0\nFeatures\t: fp asimd {}\n"


@pytest.mark.parametrize(
    ("listing", "has_units"),
    [
        (AMD.format("avx512_bf16"), True),
        (INTEL.format("avx512_bf16"), False),
        (INTEL.format("avx512_bf16 amx_bf16"), True),
        (INTEL.format("amx_bf16 amx_tile"), True),
        (INTEL.format("avx512_bf16_like"), False),
        (INTEL.format(""), False),
        (AMD.format("avx512_bf16") + AMD.format(""), False),  # one processor without them may be the one that runs
        (ARM.format("bf16"), True),
        (ARM.format("i8mm"), False),
        ("", False),
        (None, False),
    ],
)
def test_units_are_read_from_what_the_kernel_lists(tmp_path: Path, listing: str | None, *, has_units: bool) -> None:
    processors = tmp_path / "cpuinfo"
    if listing is not None:
        processors.write_text(listing)
    assert processors_have_bfloat16(processors) == has_units


@pytest.mark.parametrize(("flag", "decided"), [("avx512_bf16", "bfloat16"), ("avx2", "float32")])
def test_the_decision_is_in_the_identity_as_if_the_recipe_named_it(
    institution: DemoInstitution, tmp_path: Path, flag: str, decided: str
) -> None:
    identities: list[Any] = []
    for written in ({}, {"precision": "auto"}, {"precision": decided}):
        institution.recipe["training"]["sft"] = written
        institution.write()
        identities.append(SFT_ADAPTER.config(decided_on(institution, machine(tmp_path, flag))))
    assert identities[0] == identities[1] == identities[2] and identities[0]["sft"]["precision"] == decided


@pytest.mark.parametrize(("has_units", "decided"), [(True, "bfloat16"), (False, "float32")])
def test_the_gpu_decides_where_there_is_one(
    institution: DemoInstitution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_units: bool, decided: str
) -> None:
    import torch

    institution.write()
    found = machine(tmp_path, "avx2" if has_units else "avx512_bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    processor = "float32" if has_units else "bfloat16"
    assert decided_on(institution, found).training.sft.precision == processor  # no file of a GPU: torch is not asked
    (found / "nvidia0").touch()
    assert decided_on(institution, found).training.sft.precision == decided


def test_evaluation_is_decided_beside_training_and_named_apart_from_it(
    institution: DemoInstitution, tmp_path: Path
) -> None:
    named: list[tuple[str, str]] = []
    for trained, scored in (("auto", "auto"), ("float32", "auto"), ("auto", "float32"), ("float32", "float32")):
        institution.recipe["training"]["sft"] = {"precision": trained}
        institution.recipe["evaluation"]["precision"] = scored
        institution.write()
        line = decided_on(institution, machine(tmp_path, "avx512_bf16"))
        named.append((line.training.sft.precision, line.named_evaluation.precision))
        for stage in (CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT):
            assert stage.config(line)["precision"] == line.named_evaluation.precision
    assert named == [("bfloat16", "bfloat16"), ("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "float32")]
    del institution.recipe["evaluation"]
    institution.recipe["training"]["sft"] = {}
    institution.write()
    assert decided_on(institution, machine(tmp_path, "avx512_bf16")).evaluation is None


def machine(directory: Path, flag: str) -> Path:
    """A directory with such a processor's `cpuinfo`, and no file of a GPU."""
    (directory / "cpuinfo").write_text(AMD.format(flag))
    return directory


def decided_on(institution: DemoInstitution, machine: Path) -> Line:
    data = institution.settings.data
    line = load_line(data, institution.recipe["line"], load_institution(data))
    return with_decided_precision(line, machine / "cpuinfo", machine)


def test_a_job_has_a_precision(make_job: Any) -> None:
    job: TrainingJob = make_job("job", [])
    sft = {**job.sft.model_dump(), "precision": "auto"}
    assert Sft.model_validate(sft).precision == "auto"
    with pytest.raises(ValidationError, match="a job needs the precision that the stage decided"):
        TrainingJob.model_validate({**job.model_dump(), "sft": sft})
