"""A statement counts when a key of the role signed these bytes, about this file, of this kind; other programs agree."""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.record.keys import P256_ORDER, FileSigner, generate
from sovereign_pipeline.record.statements import (
    APPROVAL,
    GATE,
    PAYLOAD,
    PREDICATES,
    STATEMENT,
    Statement,
    Subject,
    bundle_bytes,
    bundle_parts,
    pre_authentication_encoding,
    read_statement,
    sign_statement,
    signed_by,
    verify_statement,
)
from sovereign_pipeline_tests.record.conftest import Holders

MANIFEST = b'{"kind": "lamp_list"}\n'
DIGEST = hashlib.sha256(MANIFEST).hexdigest()
VERDICT = Statement(
    (Subject("manifest.json", DIGEST),), GATE, {"gate": "lamps_counted", "artifact": DIGEST, "outcome": "pass"}
)


@pytest.fixture
def bundle(holders: Holders) -> bytes:
    return sign_statement(holders.pipeline, VERDICT)


def verify(bundle: bytes, holders: Holders, **changes: Any) -> Any:
    given = {"role": "pipeline", "predicate_type": GATE, "sha256": DIGEST, **changes}
    return verify_statement(bundle, holders.trust, given.pop("role"), **given)


def test_what_was_signed_comes_back_with_whose_key_it_was(bundle: bytes, holders: Holders) -> None:
    verified = verify(bundle, holders)
    assert verified.statement == VERDICT == read_statement(bundle)
    assert verified.key.keyid == holders.pipeline.keyid == signed_by(bundle)
    approval = Statement((Subject("request.json", DIGEST),), APPROVAL, {"decision": "approve"})
    signed = sign_statement(holders.officers[0], approval)
    assert verify(signed, holders, role="officer", predicate_type=APPROVAL).key.person == "Layla Haddad"


def test_the_bundle_is_what_sigstore_and_in_toto_define(bundle: bytes, holders: Holders) -> None:
    content = json.loads(bundle)
    assert bundle.endswith(b"}\n") and b"\n" not in bundle[:-1]
    assert content["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert content["verificationMaterial"] == {"publicKey": {"hint": holders.pipeline.keyid}}
    statement = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
    assert statement == {
        "_type": STATEMENT,
        "subject": [{"name": "manifest.json", "digest": {"sha256": DIGEST}}],
        "predicateType": f"{PREDICATES}gate/v1",
        "predicate": {"gate": "lamps_counted", "artifact": DIGEST, "outcome": "pass"},
    }


@pytest.mark.security_case("A bit of a signed statement is changed", "rejected")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0), bit=st.integers(0, 7))
def test_a_changed_bit_is_refused(bundle: bytes, holders: Holders, place: int, bit: int) -> None:
    changed = bytearray(bundle)
    changed[place % len(bundle)] ^= 1 << bit
    with pytest.raises(IntegrityError):
        verify(bytes(changed), holders)


@pytest.mark.security_case("A signature is rewritten into its other form, (r, n - s)", "rejected")
def test_the_other_form_of_a_signature_is_refused(bundle: bytes, holders: Holders) -> None:
    for _ in range(8):  # a signer draws either form
        signed = sign_statement(holders.pipeline, VERDICT)
        verify(signed, holders)
        keyid, payload, signature = bundle_parts(signed)
        r, s = decode_dss_signature(signature)
        other = bundle_bytes(keyid, payload, encode_dss_signature(r, P256_ORDER - s))
        with pytest.raises(IntegrityError):
            verify(other, holders)


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.sampled_from(["mediaType", "verificationMaterial", "dsseEnvelope", "payload", "signatures"])
    return st.lists(values) | st.dictionaries(keys, values)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@settings(max_examples=100)
@given(content=st.binary() | st.recursive(st.none() | st.text() | st.integers(), nested).map(encoded))
def test_no_bytes_end_in_anything_but_a_refusal(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        read_statement(content)


Change = Callable[[dict[str, Any]], object]


def remade(bundle: bytes, change: Change) -> bytes:
    content = json.loads(bundle)
    change(content)
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() + b"\n"


@pytest.mark.security_case(
    "A sigstore bundle has no key id, a second signature, another type, or additional fields", "rejected"
)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: each["verificationMaterial"].pop("publicKey"), "does not name the key"),
        (lambda each: each["verificationMaterial"].update(publicKey={}), "does not name the key"),
        (lambda each: each["verificationMaterial"]["publicKey"].update(hint=""), "does not name the key"),
        (lambda each: each["verificationMaterial"]["publicKey"].update(hint=7), "does not name the key"),
        (lambda each: each["dsseEnvelope"]["signatures"].append({"sig": "AAAA"}), "has 2 signatures"),
        (lambda each: each["dsseEnvelope"]["signatures"].clear(), "has 0 signatures"),
        (lambda each: each["dsseEnvelope"].update(signatures={}), "has 0 signatures"),
        (lambda each: each["dsseEnvelope"].update(signatures=["AAAA"]), "not Base64"),
        (lambda each: each["dsseEnvelope"]["signatures"][0].update(sig="é"), "not Base64"),
        (lambda each: each["dsseEnvelope"].update(payload=None), "not Base64"),
        (lambda each: each["dsseEnvelope"].update(payloadType="text/plain"), "payload type is not application"),
        (lambda each: each.update(mediaType="application/json"), "media type"),
        (lambda each: each.update(dsseEnvelope=[]), "payload type is not"),
        (lambda each: each.update(more=1), "bytes are not canonical"),
        (lambda each: each["dsseEnvelope"]["signatures"][0].update(keyid="a"), "bytes are not canonical"),
        (lambda each: each["verificationMaterial"].update(tlogEntries=[]), "bytes are not canonical"),
    ],
)
def test_a_bundle_of_another_form_is_refused(bundle: bytes, holders: Holders, change: Change, said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        verify(remade(bundle, change), holders)


def signed_payload(signer: FileSigner, payload: bytes) -> bytes:
    """A bundle with a good signature over any payload."""
    return bundle_bytes(signer.keyid, payload, signer.sign(pre_authentication_encoding(payload)))


def _payload(**changes: Any) -> bytes:
    content = {
        "_type": STATEMENT,
        "subject": [{"name": "manifest.json", "digest": {"sha256": DIGEST}}],
        "predicateType": GATE,
        "predicate": dict(VERDICT.predicate),
        **changes,
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (_payload(_type="https://in-toto.io/Statement/v0.1"), "type is not"),
        (_payload(subject=[]), "one or more files"),
        (_payload(subject=None), "has no subject"),
        (_payload(subject=[{"name": "manifest.json", "digest": {"sha1": "0" * 40}}]), "has no subject"),
        (_payload(subject=[{"name": "manifest.json", "digest": {"sha256": DIGEST.upper()}}]), "lower case"),
        (_payload(subject=[{"name": "a", "digest": {"sha256": DIGEST}}] * 2), "each listed once"),
        (_payload(predicateType=f"{PREDICATES}gate/v2"), "is unknown"),
        (_payload(predicateType=[]), "is unknown"),
        (_payload(predicate=[]), "not an object"),
        (_payload(predicate={"gate": "lamps_counted"}), "lacks artifact, outcome"),
        (_payload(predicate={**VERDICT.predicate, "share": float("nan")}), "bytes are not canonical"),
        (_payload(predicate={**VERDICT.predicate, "note": "\ud800"}), "bytes are not canonical"),
        (_payload(more=1), "bytes are not canonical"),
        (_payload() + b" ", "bytes are not canonical"),
        (_payload()[:-1] + b',"predicateType":"x"}', "is unknown"),
        (b"[]", "is not a statement"),
        (b"[" * 100_000, "is not a statement"),
    ],
)
def test_a_signed_payload_that_is_no_statement_of_ours_is_refused(holders: Holders, payload: bytes, said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        verify(signed_payload(holders.pipeline, payload), holders)
    assert verify(signed_payload(holders.pipeline, _payload()), holders)


@pytest.mark.security_case(
    "A statement is signed with another role, by an unknown key, about another file or with another type",
    "rejected, with the reason",
)
def test_role_key_file_and_kind_are_those_that_are_asked_for(bundle: bytes, holders: Holders) -> None:
    for changes, said in (
        ({"role": "officer"}, f"{holders.pipeline.keyid} does not have the role officer"),
        ({"sha256": "0" * 64}, f"is about {DIGEST}, not about {'0' * 64}"),
        ({"predicate_type": APPROVAL}, f"has the type {GATE} instead of {APPROVAL}"),
    ):
        with pytest.raises(IntegrityError, match=said):
            verify(bundle, holders, **changes)
    with pytest.raises(IntegrityError, match="does not have the role pipeline"):
        verify(sign_statement(generate(), VERDICT), holders)


def test_another_ones_id_over_an_own_signature_is_refused(holders: Holders) -> None:
    stranger = generate()
    hinted = remade(
        sign_statement(stranger, VERDICT),
        lambda each: each["verificationMaterial"]["publicKey"].update(hint=holders.pipeline.keyid),
    )
    with pytest.raises(IntegrityError, match="does not match this statement"):
        verify(hinted, holders)


@given(words=st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.lists(st.text()), max_size=4))
def test_any_predicate_of_plain_values_comes_back(first_holders: Holders, words: dict[str, Any]) -> None:
    statement = Statement(VERDICT.subjects, GATE, {**words, **VERDICT.predicate})
    try:
        bundle = sign_statement(first_holders.pipeline, statement)
    except ValueError:  # A lone surrogate is no text.
        return
    assert verify(bundle, first_holders).statement == statement


@given(payload=st.binary(max_size=300))
def test_what_is_signed_is_what_dsses_own_library_says(payload: bytes) -> None:
    assert pre_authentication_encoding(payload) == Envelope(payload, PAYLOAD, {}).pae()
