"""The SPDX bill is what SPDX's own classes read and write, has the facts of record, and refers to nothing it lacks."""

import io
import json
from typing import Any

import pytest
from spdx_python_model import v3_0_1 as spdx

from sovereign_pipeline_tests.audit.conftest import FIRST, Desk


@pytest.fixture
def bill(desk: Desk) -> bytes:
    return desk.package.files[f"documents/{FIRST}/bill-of-materials.spdx.json"]


def _read(bill: bytes) -> Any:
    found = spdx.SHACLObjectSet()
    spdx.JSONLDDeserializer().read(io.BytesIO(bill), found)
    return found


def _changed(bill: bytes, kind: str, **properties: Any) -> bytes:
    content = json.loads(bill)
    for each in content["@graph"]:
        if each["type"] == kind:
            each |= properties
    return json.dumps(content).encode()


def test_spdxs_own_classes_read_and_write_it(bill: bytes) -> None:
    found = _read(bill)
    assert found.missing_ids == set()
    spdx.JSONLDSerializer().write(found, io.BytesIO())  # it checks that everything required is there
    with pytest.raises(ValueError):
        _read(_changed(bill, "dataset_DatasetPackage", dataset_confidentialityLevel="pink"))
    with pytest.raises(ValueError):
        _read(_changed(bill, "ai_AIPackage", builtTime="yesterday"))
    gone = _read(_changed(bill, "Relationship", to=["urn:sovereign:gone"]))
    assert gone.missing_ids == {"urn:sovereign:gone"}


def test_it_has_the_facts_of_record(desk: Desk, bill: bytes) -> None:
    row = json.loads(desk.package.files[f"registry/{FIRST}.json"])
    record = json.loads(desk.package.files[f"artifacts/{row['record_digest']}/record.json"])
    found = _read(bill)
    (document,) = found.foreach_type(spdx.SpdxDocument)
    (adapter,) = document.rootElement
    assert (adapter.name, adapter.software_packageVersion) == ("lamps", "1.0.0")
    assert [each.hashValue for each in adapter.verifiedUsing] == [row["adapter_sha256"]]
    assert adapter.suppliedBy.name == "Lamp Office"
    assert adapter.ai_limitation == "It takes candles for lamps."
    assert adapter.ai_metric[0].value == "-0.25 (-0.375 to -0.125)"
    related = {each.relationshipType: each for each in found.foreach_type(spdx.Relationship) if each.from_ == adapter}
    kinds = spdx.RelationshipType
    (trained_on, *_) = related[kinds.trainedOn].to
    assert trained_on.verifiedUsing[0].hashValue == record["training_dataset"]["file_sha256"]
    assert trained_on.dataset_datasetSize == record["training_dataset"]["rows"]
    assert trained_on.dataset_confidentialityLevel == spdx.dataset_ConfidentialityLevelType.clear
    assert [each.name for each in related[kinds.descendantOf].to] == ["tiny"]
    (licence,) = [each for each in found.foreach_type(spdx.simplelicensing_LicenseExpression)]
    declared = [each for each in found.foreach_type(spdx.Relationship) if licence in each.to]
    assert [(each.from_.name, each.relationshipType) for each in declared] == [("tiny", kinds.hasDeclaredLicense)]
    cyclonedx = json.loads(desk.package.files[f"documents/{FIRST}/bill-of-materials.cdx.json"])
    purls = {each["purl"] for each in cyclonedx["components"] if each["type"] == "library"}
    assert purls and {each.software_packageUrl for each in related[kinds.dependsOn].to} == purls
    assert related[kinds.dependsOn].completeness == spdx.RelationshipCompleteness.incomplete
    (waiver,) = found.foreach_type(spdx.Annotation)
    assert waiver.statement.endswith("was waived: The suite is being enlarged.")
