"""Keys of `record.json` stay as they were where a field got a better name; records of earlier versions are read."""

import json

from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.registry.record import AdapterRecord, GateFacts, ParentAdapterFacts, WaiverFacts
from sovereign_pipeline_tests.registry.test_registration import RECORD

WAIVER = WaiverFacts(digest="w", kind="accept", officer="A. Officer", reason="Because.", at="2024-01-15T00:00:00+00:00")
GATE = GateFacts(stage="sft_adapter", gate="trained", evaluated="e", record="r", outcome="inconclusive", waiver=WAIVER)
PARENT = ParentAdapterFacts(adapter="lamps-1.0.0", digest="d", adapter_sha256="s")
STORED_GATE = (
    b'{"acceptance":{"at":"2024-01-15T00:00:00+00:00","digest":"w","kind":"accept","officer":"A. Officer",'
    b'"reason":"Because."},"gate":"trained","judged":"e","outcome":"inconclusive","record":"r","stage":"sft_adapter"}'
)


def test_a_gate_is_written_under_the_keys_of_the_first_version() -> None:
    assert canonical_json(GATE.model_dump(mode="json")) == STORED_GATE
    assert GateFacts.model_validate_json(STORED_GATE) == GATE


def test_a_parent_adapter_is_written_under_the_key_of_the_first_version() -> None:
    record = RECORD.model_copy(update={"parent_adapter": PARENT, "gates": (GATE,)})
    stored = record.model_dump(mode="json")
    assert stored["started_from"] == {"adapter": "lamps-1.0.0", "adapter_sha256": "s", "digest": "d"}
    assert "parent_adapter" not in stored
    assert AdapterRecord.model_validate_json(canonical_json(stored)) == record


def test_a_record_without_outcome_waiver_and_parent_is_read() -> None:
    stored = RECORD.model_copy(update={"gates": (GATE,)}).model_dump(mode="json")
    del stored["started_from"], stored["gates"][0]["outcome"], stored["gates"][0]["acceptance"]
    record = AdapterRecord.model_validate_json(json.dumps(stored))
    assert record.parent_adapter is None
    assert (record.gates[0].outcome, record.gates[0].waiver) == ("pass", None)
