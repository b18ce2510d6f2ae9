"""The documents of a package: a bill of materials in CycloneDX 1.7, the lineage, and the file of Annex IV."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.evidence.documents import dangling, sign_technical_file
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.record.statements import TECHNICAL_FILE, verify_statement
from sovereign_pipeline_tests.evidence.conftest import FIRST, SECOND, Desk


@pytest.fixture
def bill(desk: Desk) -> dict[str, Any]:
    return dict(json.loads(desk.package.files[f"documents/{FIRST}/bill-of-materials.cdx.json"]))


def test_it_is_valid_cyclonedx_1_7(bill: dict[str, Any]) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_7)
    assert validator.validate_str(json.dumps(bill)) is None
    assert validator.validate_str(json.dumps(bill | {"formulation": "none"})) is not None


def test_it_has_the_minimum_elements(desk: Desk, bill: dict[str, Any]) -> None:
    row = json.loads(desk.package.files[f"registry/{FIRST}.json"])
    record = json.loads(desk.package.files[f"artifacts/{row['record_digest']}/record.json"])
    metadata, adapter = bill["metadata"], bill["metadata"]["component"]
    assert metadata["timestamp"] == desk.package.index["made_at"]
    assert (metadata["supplier"], metadata["distributionConstraints"]) == ({"name": "Lamp Office"}, {"tlp": "CLEAR"})
    assert (adapter["name"], adapter["version"]) == ("lamps", "1.0.0")
    assert adapter["purl"] == f"pkg:generic/lamps@1.0.0?checksum=sha256:{row['adapter_sha256']}"
    assert adapter["hashes"] == [{"alg": "SHA-256", "content": row["adapter_sha256"]}]
    assert adapter["pedigree"]["ancestors"][0]["name"] == "tiny"
    card = adapter["modelCard"]
    assert card["considerations"]["technicalLimitations"] == ["It takes candles for lamps."]
    held = [each for each in card["quantitativeAnalysis"]["performanceMetrics"] if "confidenceInterval" in each]
    assert [each["confidenceInterval"] for each in held] == [{"lowerBound": "-0.375", "upperBound": "-0.125"}]
    dataset = next(each for each in bill["components"] if each["name"] == "training_dataset")
    assert dataset["data"][0]["classification"] == record["training_dataset"]["classification"]
    (workflow,) = bill["formulation"][0]["workflows"]
    made = {task["uid"]: [each["resource"]["ref"] for each in task["inputs"]] for task in workflow["tasks"]}
    assert set(record["lineage"].values()) < set(made)
    assert f"artifact:{record['training_dataset']['digest']}" in made[record["lineage"]["sft_adapter"]]


def test_what_refers_to_nothing_is_named(bill: dict[str, Any]) -> None:
    assert dangling(bill) == []
    card = bill["metadata"]["component"]["modelCard"]
    card["modelParameters"]["datasets"].append({"ref": "dataset:gone"})
    bill["dependencies"][0]["dependsOn"].append("library:gone")
    bill["components"].append(bill["components"][0])
    again = bill["components"][0]["bom-ref"]
    assert {"dataset:gone", "library:gone", again} <= {*dangling(bill)}
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps({**bill, "components": []})) is None, (
        "the schema lets references to nothing pass"
    )


@pytest.fixture
def events(desk: Desk) -> list[dict[str, Any]]:
    lines = desk.package.files[f"documents/{FIRST}/lineage.openlineage.jsonl"].decode().splitlines()
    return [json.loads(line) for line in lines]


def test_every_artifact_has_a_complete_event_with_its_inputs(desk: Desk, events: list[dict[str, Any]]) -> None:
    row = json.loads(desk.package.files[f"registry/{FIRST}.json"])
    record = json.loads(desk.package.files[f"artifacts/{row['record_digest']}/record.json"])
    outputs = {event["outputs"][0]["facets"]["version"]["datasetVersion"]: event for event in events}
    assert set(outputs) == {*record["lineage"].values(), row["record_digest"]}
    assert {event["eventType"] for event in events} == {"COMPLETE"}
    for digest, event in outputs.items():
        manifest = json.loads(desk.package.files[f"artifacts/{digest}/manifest.json"])
        read = {each["facets"]["version"]["datasetVersion"] for each in event["inputs"]}
        assert read == {*manifest["inputs"].values(), *manifest["external_inputs"].values()}
        assert event["outputs"][0]["facets"]["tags"]["tags"][0]["value"] == manifest["classification"]
    (source,) = (each for event in events for each in event["inputs"] if each["name"] == "source:letters")
    assert source["namespace"] == "file"


def _sections(text: str) -> dict[str, str]:
    """Heading -> what stands below it."""
    parts = re.split(r"^#{2,3} (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_it_has_every_point_of_annex_iv_in_two_languages(desk: Desk) -> None:
    sections = _sections(desk.package.files[f"documents/{FIRST}/technical-file.md"].decode())
    points = [heading.split(" ")[0] for heading in sections if heading[0].isdigit() and "(" not in heading]
    assert points == [f"{number}." for number in range(1, 10)]
    letters = [heading[2:5] for heading in sections if heading.startswith("2 (")]
    assert letters == [f"({letter})" for letter in "abcdefgh"]
    for heading, below in sections.items():
        assert re.search("[\u0600-\u06ff]", heading), f"{heading}: no Arabic"
        assert below.strip() or heading.startswith("2. "), f"{heading}: empty"


def test_it_is_filled_from_the_record_and_says_what_is_not_known(desk: Desk) -> None:
    sections = _sections(desk.package.files[f"documents/{FIRST}/technical-file.md"].decode())

    def below(start: str) -> str:
        return next(text for heading, text in sections.items() if heading.startswith(start))

    assert "| Layla Haddad | Omar Nasser, Ines Farah | It is needed. |" in below("2 (e)")
    assert "| evaluation_report.capability_not_inferior | inconclusive |" in below("2 (g)")
    assert "| **together** | 1,000 | 2.5e+08 | 0.25 | |" in below("2 (c)")
    assert "raw_corpus.rows_accounted_for | pass" in below("2 (d)")
    assert "- waived: capability_not_inferior (inconclusive): The suite is being enlarged." in below("5.")
    assert "It takes candles for lamps." in below("NIST")
    assert "1 waived" in below("ISO")
    for start in ("2 (f)", "4.", "8.", "9."):
        assert "Not known to this system:" in below(start), start
    of_second = desk.package.files[f"documents/{SECOND}/technical-file.md"].decode()
    assert "Known issues: none on record." in of_second


def test_an_officer_signs_the_completed_file_of_this_adapter_alone(desk: Desk, tmp_path: Path) -> None:
    path, office = tmp_path / "file.md", desk.office
    path.write_bytes(desk.package.files[f"documents/{FIRST}/technical-file.md"] + b"Completed.")
    bundle = sign_technical_file(find_adapter(office.registry, FIRST), path, office.officers["layla"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    verified = verify_statement(
        bundle, office.trust, "officer", predicate_type=TECHNICAL_FILE, sha256=digest, at_index=None
    )
    assert (verified.key.person, verified.statement.predicate["adapter"]) == ("Layla Haddad", FIRST)
    with pytest.raises(InputError):
        sign_technical_file(find_adapter(office.registry, SECOND), path, office.officers["layla"])
