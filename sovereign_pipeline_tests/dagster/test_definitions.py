"""The definitions: what an operator sees, how fast they load, and what they must not import."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from sovereign_pipeline.dagster.chain import AFTER_PEOPLE, CHAIN, PRESENTATION, chain_with
from sovereign_pipeline.dagster.definitions import build_definitions, defs
from sovereign_pipeline.dagster.resources import LINES
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS

ALL = (*CHAIN, *AFTER_PEOPLE)

OF_FLAGS = ("staged_adapter", "production_adapter")
"""Assets that are no artifacts: what officers decided, in the flag of the line."""

OF_EXPERIMENTS = ("experiment", "experiment_trial")

HEAVY = (
    *("presidio_analyzer", "detect_secrets"),
    *("torch", "transformers", "trl", "peft", "mlflow", "datasets", "spacy", "lm_eval", "matplotlib", "pyarrow"),
    *("kubeflow_trainer_api", "kubernetes", "ray", "fastapi", "evalica", "pandas"),
)


def assets() -> list[dg.AssetsDefinition]:
    return [definition for definition in defs.assets or () if isinstance(definition, dg.AssetsDefinition)]


def test_definitions_load_no_heavy_library() -> None:
    program = "import json, sys, sovereign_pipeline.dagster.definitions\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert [name for name in json.loads(done.stdout) if name.split(".")[0] in HEAVY] == []


def test_the_assets_depend_on_each_other_as_the_stages_do() -> None:
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert all(spec.description and spec.owners and spec.code_version for spec in specs.values())
    assert sorted(specs) == sorted([*(stage.kind for stage in ALL), *OF_FLAGS, *OF_EXPERIMENTS])
    depends = {key: {dep.asset_key.to_user_string() for dep in spec.deps} for key, spec in specs.items()}
    for stage in ALL:
        assert depends[stage.kind] == {upstream.kind for upstream in (*stage.inputs, *stage.optional_inputs)}
    for key in OF_EXPERIMENTS:  # nothing of the chain reads an experiment
        assert depends[key] == {"base_model", "training_dataset"}
        assert not any(key in upstream for upstream in depends.values())


def test_every_gate_is_a_blocking_check_of_each_line() -> None:
    checks = {
        (spec.asset_key.to_user_string(), spec.name)
        for definition in assets()
        for spec in definition.check_specs
        if spec.blocking and spec.partitions_def == LINES
    }
    assert checks == {(stage.kind, gate.name) for stage in ALL for gate in stage.gates}


def test_what_uses_the_device_shares_one_pool() -> None:
    pooled = {definition.key.to_user_string() for definition in assets() if definition.op.pool == "gpu"}
    assert pooled == {
        "sft_adapter",
        "reward_model",
        "aligned_adapter",
        "capability_scores",
        "private_scores",
        "red_team_report",
        "experiment",
    }


def test_the_chain_job_asks_nobody_and_the_review_has_a_job_of_its_own() -> None:
    jobs = {"chain": [each.kind for each in CHAIN], "closed_review": [each.kind for each in AFTER_PEOPLE]}
    for name, kinds in {**jobs, "rollout": OF_FLAGS}.items():
        job = defs.resolve_job_def(name)
        selected = {key.to_user_string() for key in job.asset_layer.executable_asset_keys}
        assert selected == {*kinds}


@pytest.mark.security_case("The launchpad's run configuration changes a resource's paths", "rejected by Dagster")
@pytest.mark.parametrize("name", ["installation", "references"])
def test_a_run_configuration_can_give_no_resource_other_paths(name: str, tmp_path: Path) -> None:
    job = defs.resolve_job_def("chain")
    planted = {"resources": {name: {"config": {"home": str(tmp_path)}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match='unexpected config entry "home"'):
        dg.validate_run_config(job, planted)
    with dg.instance_for_test() as instance, pytest.raises(dg.DagsterInvalidConfigError):
        job.execute_in_process(run_config=planted, instance=instance)


def test_a_replaced_stage_is_read_by_all_that_follow_it() -> None:
    other = replace(SCRUBBED_CORPUS, code_version="other")
    stages = {stage.kind: stage for stage in chain_with({"scrubbed_corpus": other})}
    assert list(stages) == [stage.kind for stage in ALL] == list(PRESENTATION)
    assert stages["leakage_safe_split"].inputs == (other,)
    assert stages["training_dataset"].inputs[0] == stages["leakage_safe_split"]
    assert stages["aligned_adapter"].optional_inputs == (stages["reward_model"],)
    assert stages["reward_model"].inputs[1] == stages["leakage_safe_split"]
    assert chain_with({}) == ALL
    specs = build_definitions(stages={"scrubbed_corpus": other}).resolve_all_asset_specs()
    assert {spec.key.to_user_string(): spec.code_version for spec in specs}["scrubbed_corpus"] == "other"
