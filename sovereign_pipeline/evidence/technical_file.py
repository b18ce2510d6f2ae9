"""Write an adapter's technical file (Annex IV of the EU AI Act) and model card, and sign the completed file."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import read_bounded
from sovereign_pipeline.evidence.documents import THIRD, AdapterFacts
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.statements import TECHNICAL_FILE, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.training.compute import COUNTED

UNWRITTEN = "Not known to this system"
"""Text that marks each passage that a person must write."""
LARGEST = 4 << 20
CORPUS = ("raw_corpus", "classified_corpus", "scrubbed_corpus", "leakage_safe_split")
"""Kinds of artifacts whose gates document how data were selected, labelled and cleaned."""
TRAINED = ("sft_adapter", "reward_model", "aligned_adapter")


def technical_file(facts: AdapterFacts) -> str:
    return _filled("technical-file.md", facts)


def model_card(facts: AdapterFacts) -> str:
    """Return the model card as Markdown with YAML front matter."""
    return _filled("model-card.md", facts)


def sign_technical_file(adapter: Adapter, path: Path, signer: Signer) -> bytes:
    """Return an officer's detached signature of a completed file: an in-toto statement in a sigstore bundle. Raises
    InputError if the file does not name the adapter's record."""
    content = read_bounded(path, LARGEST, "Name the completed file.")
    if adapter.record_digest.encode() not in content:
        raise InputError(
            f"{path}: the file does not contain the digest of {adapter.id}'s record, {adapter.record_digest}.",
            "Complete the draft of this adapter, and keep the record's digest in it.",
        )
    about = Subject(path.name, hashlib.sha256(content).hexdigest())
    stated = {"adapter": adapter.id, "record": adapter.record_digest}
    return sign_statement(signer, Statement((about,), TECHNICAL_FILE, stated))


def _filled(template: str, facts: AdapterFacts) -> str:
    by_data = {each: each.stage in CORPUS or "dataset" in each.stage for each in facts.verdicts}
    return (
        _templates()
        .get_template(template)
        .render(
            facts=facts,
            record=facts.record,
            held=facts.record.evaluation.get("held", {}),
            trained={kind: facts.manifests[kind] for kind in TRAINED if kind in facts.manifests},
            of_data=[each for each in facts.verdicts if by_data[each]],
            of_model=[each for each in facts.verdicts if not by_data[each]],
            waived=[each for each in facts.verdicts if each.waived_because is not None],
            issues="; ".join(facts.issues),
            licences=sorted({str(each.get("licence", "")) for each in facts.sources}),
            front_matter=_front_matter(facts),
            counted=COUNTED,
            third=THIRD,
        )
    )


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    found.globals["unwritten"] = UNWRITTEN
    found.filters |= {
        "cell": lambda text: _line(text).replace("|", "\\|"),
        "energy": lambda hours: "not known" if hours is None else f"{hours:.4g}",
        "figure": lambda value: f"{value:.4g}" if isinstance(value, int | float) else "–",
        "interval": _interval,
        "json": lambda value: json.dumps(value, ensure_ascii=False, sort_keys=True),
        "line": _line,
        "spec": format,
    }
    return found


def _interval(figure: Mapping[str, Any]) -> str:
    low, high = figure.get("low"), figure.get("high")
    return "none" if low is None or high is None else f"{low:+.4g} to {high:+.4g}"


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _front_matter(facts: AdapterFacts) -> str:
    record = facts.record
    content: dict[str, Any] = {
        "library_name": "transformers" if "full" in record.method else "peft",
        "pipeline_tag": "text-generation",
        "base_model": record.base_model.name,
        "license": "other",
        "license_name": record.base_model.licence,
        "language": sorted(facts.card.get("by_language", {})),
        "datasets": [dataset.digest for dataset in record.datasets],
        "tags": [record.line, record.method, f"classification:{record.classification}"],
    }
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
