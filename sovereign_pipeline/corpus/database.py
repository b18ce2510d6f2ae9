"""List the tables of a database, run a source's read-only query, and write its rows to the source's Parquet file."""

import datetime
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import LargeBinary, column, create_engine, inspect, select, table, text
from sqlalchemy.engine import Connection, Inspector, make_url
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
"""Dialect -> statement that makes the database reject changes. In other dialects, changes are only rolled back at the
end."""


def take_snapshot(source: Source, path: Path, most: int | None = None) -> int:
    """Run the query of a source, replace the source's Parquet file with the result, and return the number of rows. All
    values become text, as in a CSV file; null stays null.

    Args:
        most: maximum number of rows to read; None for all.

    Raises SourceError. Its message omits the database's own message, which may quote the URL and values.
    """
    import pyarrow
    import pyarrow.parquet

    query = source.query or ""
    if _IS_A_QUERY.fullmatch(query) is None:
        raise SourceError(f"Source '{source.name}': `query` is not one SELECT statement.", "Correct the query.")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
    os.close(handle)
    rows = 0
    try:
        with _connected(source.url_from or "", f"Source '{source.name}': the query of") as connection:
            columns, batches = _queried(connection, query)
            schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
            with pyarrow.parquet.ParquetWriter(aside, schema) as writer:
                for batch in batches:
                    batch = batch[: None if most is None else most - rows]
                    rows += len(batch)
                    arrays = [
                        pyarrow.array(map(_text, values), pyarrow.string()) for values in zip(*batch, strict=True)
                    ]
                    writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
                    if rows == most:
                        break
        Path(aside).replace(path)
    finally:
        Path(aside).unlink(missing_ok=True)
    return rows


def tables_in(url_from: str) -> dict[str, str]:
    """Return a dict from each table and view of a database's default schema to a query for its rows. The query sorts by
    the primary key, or without one by the first column, and omits binary columns. `url_from`: environment variable with
    the database's URL. Raises SourceError."""
    with _connected(url_from, "Listing the tables of") as connection:
        _set_read_only(connection)
        found = inspect(connection)
        return {name: _query_of(name, found) for name in sorted([*found.get_table_names(), *found.get_view_names()])}


def _query_of(table_name: str, found: Inspector) -> str:
    columns = [each["name"] for each in found.get_columns(table_name) if not isinstance(each["type"], LargeBinary)]
    keys = found.get_pk_constraint(table_name)["constrained_columns"] or columns[:1]
    statement: Any = select(*[column(each) for each in columns]).select_from(table(table_name))
    statement = statement.order_by(*[column(each) for each in keys])
    return str(statement.compile(dialect=found.dialect)).replace("\n", "")


@contextmanager
def _connected(url_from: str, act: str) -> Iterator[Connection]:
    """Yield a connection to a database, and roll back its transaction at the end. A database error is raised as a
    SourceError without the database's message.

    Args:
        act: beginning of an error message, such as "The query of".
    """
    url = os.environ.get(url_from)
    if not url:
        raise SourceError(
            f"The environment variable {url_from} is not set.",
            "Set it to the SQLAlchemy URL of the database, for this command alone.",
        )
    try:
        engine = create_engine(make_url(url))
        with engine.connect() as connection:
            yield connection
            connection.rollback()
        engine.dispose()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        why = type(getattr(error, "orig", None) or error).__name__
        raise SourceError(
            f"{act} the database in {url_from} failed ({why}).",
            "Check the URL, the rights of its account, the installed driver and the query.",
        ) from None


def _queried(connection: Connection, query: str) -> tuple[list[str], Iterator[Any]]:
    _set_read_only(connection)
    # Escape colons, so that none begins a parameter's name.
    result = connection.execution_options(yield_per=ROWS_OF_A_BATCH).execute(text(query.replace(":", r"\:")))
    columns = list(result.keys())
    if len({*columns}) < len(columns):
        raise ValueError
    return columns, iter(result.partitions())


def _set_read_only(connection: Connection) -> None:
    if (statement := _READ_ONLY.get(connection.dialect.name)) is not None:
        connection.exec_driver_sql(statement)


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
