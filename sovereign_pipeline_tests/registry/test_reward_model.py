"""An adapter that was rewarded by a reward model: its record and its bill of materials name that, and the pairs."""

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.registry.registration import BILL_OF_MATERIALS_FILE
from sovereign_pipeline.registry.verification import verify_adapter
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.registry.rewarded import with_reward_model


def test_record_and_bill_name_the_reward_model_and_its_pairs(bench: Bench) -> None:
    with_reward_model(bench)
    adapter = bench.register()
    record = read_record(bench.artifact("registered_adapter"))
    reward_model = bench.refs["reward_model"].digest
    assert record.lineage["reward_model"] == reward_model
    assert bench.artifact("aligned_adapter").manifest.inputs["reward_model"] == reward_model
    assert record.reward is not None and record.reward.parts == {"preferred": reward_model}
    assert record.preference_dataset is not None
    assert adapter.preference_dataset_digest == bench.refs["preference_dataset"].digest
    assert ("reward_model", "not_empty") in {(gate.stage, gate.gate) for gate in record.gates}
    assert record.method == "sft-lora+ppo"
    bill = bench.artifact("registered_adapter").file(BILL_OF_MATERIALS_FILE).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    assert f'"reward-model:{reward_model}"' in bill
    report = verify_adapter(bench.open_registry(), bench.store, bench.settings, adapter.id)
    assert any("reward_model" in each.what for each in report.checked)


def test_a_reward_model_that_nothing_learned_from_is_no_part_of_the_adapter(bench: Bench) -> None:
    with_reward_model(bench, used=False)
    bench.run()
    record = read_record(bench.artifact("registered_adapter"))
    assert "reward_model" not in record.lineage and record.reward is None
    assert "reward_model" not in {gate.stage for gate in record.gates}
