"""The pieces a page is put together from: links, pictures and tables as Dagster's metadata.

What belongs here: how a value becomes metadata. What does not: which values a page shows.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from sovereign_pipeline.base.files import short

Page = dict[str, Any]


def link(kind: str, digest: str) -> dg.MetadataValue:
    """To the page of another asset, with the digest that was read."""
    return dg.MetadataValue.md(f"[{kind}](/assets/{kind}) `{short(digest)}`")


def picture(png: bytes) -> dg.MetadataValue:
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})")


def facts(facts: Mapping[str, Any]) -> dg.MetadataValue:
    """A flat two-column table; nested values as JSON."""
    return table(
        [
            {"fact": name, "value": json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}
            for name, value in facts.items()
        ]
    )


def table(rows: list[dict[str, Any]]) -> dg.MetadataValue:
    """A cell that is no number becomes text: Dagster's tables know nothing else."""
    records = [
        dg.TableRecord({name: value if isinstance(value, int | float) else str(value) for name, value in row.items()})
        for row in rows
    ]
    kinds = {
        name: "int" if isinstance(value, int) else "float" if isinstance(value, float) else "string"
        for name, value in (rows[0] if rows else {}).items()
    }
    schema = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in kinds.items()])
    return dg.MetadataValue.table(records, schema=schema)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def is_number(value: object) -> bool:
    """A truth value is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
