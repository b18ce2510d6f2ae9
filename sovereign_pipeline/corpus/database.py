"""Write the rows of a read-only query to a Parquet file, which a source of the kind `database` is then read from."""

import datetime
import json
import os
import re
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.policy.corpus import Source

ROWS_OF_A_BATCH = 1_000
_IS_A_QUERY = re.compile(r"\s*(?:select|with)\b[^;]*;?\s*", re.IGNORECASE | re.DOTALL)
_READ_ONLY = {
    "postgresql": "SET TRANSACTION READ ONLY",
    "oracle": "SET TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = ON",
}
"""Dialect -> statement after which the database refuses changes. For others the transaction is only rolled back."""


def take_snapshot(source: Source, path: Path) -> int:
    """Run the query of a source, replace its Parquet file, and return the number of rows. All values become text, as in
    a CSV file; null stays null.

    Raises SourceError without the URL, the query's values and the database's own message, which may quote both.
    """
    import pyarrow
    import pyarrow.parquet

    url, query = os.environ.get(source.url_from or ""), source.query or ""
    if not url:
        raise SourceError(
            f"Source '{source.name}': the environment variable {source.url_from} is not set.",
            "Set it to the SQLAlchemy URL of the database, for this command alone.",
        )
    if _IS_A_QUERY.fullmatch(query) is None:
        raise SourceError(f"Source '{source.name}': `query` is not one SELECT statement.", "Correct the recipe.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent)  # 0600
    os.close(handle)
    rows = 0
    try:
        engine = create_engine(make_url(url))
        with engine.connect() as connection:
            columns, batches = _queried(connection, query)
            schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
            with pyarrow.parquet.ParquetWriter(aside, schema) as writer:
                for batch in batches:
                    rows += len(batch)
                    arrays = [
                        pyarrow.array(map(_text, values), pyarrow.string()) for values in zip(*batch, strict=True)
                    ]
                    writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            connection.rollback()
        engine.dispose()
        Path(aside).replace(path)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        why = type(getattr(error, "orig", None) or error).__name__
        raise SourceError(
            f"Source '{source.name}': the query of the database in {source.url_from} failed ({why}).",
            "Check the URL, the rights of its account, the installed driver and the query.",
        ) from None
    finally:
        Path(aside).unlink(missing_ok=True)
    return rows


def _queried(connection: Connection, query: str) -> tuple[list[str], Iterator[Any]]:
    if (statement := _READ_ONLY.get(connection.dialect.name)) is not None:
        connection.exec_driver_sql(statement)
    # No colon in the query begins the name of a parameter.
    result = connection.execution_options(yield_per=ROWS_OF_A_BATCH).execute(text(query.replace(":", r"\:")))
    columns = list(result.keys())
    if len({*columns}) < len(columns):
        raise ValueError
    return columns, iter(result.partitions())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes | memoryview):
        raise ValueError  # binary data
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return format(value, "f") if isinstance(value, Decimal) else str(value)
