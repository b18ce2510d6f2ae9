"""Tables of examples for parametrised tests, kept in a JSON file next to the module."""

import json
from pathlib import Path
from typing import Any


def examples(test_file: str, table: str) -> Any:
    """Return one table of `test_x.json`, beside `test_x.py`. A row with several values is a list.

    Args:
        test_file: `__file__` of the test module.
    """
    tables: dict[str, Any] = json.loads(Path(test_file).with_suffix(".json").read_bytes())
    return tables[table]
