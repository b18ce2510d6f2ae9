"""List the tables of a database, run a source's read-only query, and write the result to the source's Parquet file."""

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
"""Maps an SQL dialect to the statement that makes the database reject changes. In all other dialects, changes are
rolled back at the end."""


def take_snapshot(source: Source, path: Path, most: int | None = None) -> int:
    """Run the query of a source, replace the source's Parquet file with the result, and return the number of rows. All
    values become text, as in a CSV file; null stays null.

    Args:
        most: maximum number of rows to read; None for all.

    Raises SourceError if `query` is not a single SELECT statement, the URL is not set, or the query fails or returns
    binary values. The error omits the database's own message, which may quote the URL and values.
    """
    import pyarrow
    import pyarrow.parquet

    query = source.query or ""
    if _IS_A_QUERY.fullmatch(query) is None:
        raise SourceError(f"Source '{source.name}': `query` is not a single SELECT statement.", "Correct `query`.")
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
    """Return a dict that maps each table and view in a database's default schema to a query for its rows. The query
    omits binary columns. It sorts by the primary key, or by the first column if the table has no key.

    Args:
        url_from: environment variable that contains the database's URL.

    Raises SourceError if the tables cannot be listed.
    """
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
    """Yield a connection to a database, and roll back the transaction at the end. Raises SourceError if the environment
    variable `url_from` is not set, or if the database fails. The error omits the database's own message.

    Args:
        act: beginning of the error message, such as "The query of".
    """
    url = os.environ.get(url_from)
    if not url:
        raise SourceError(
            f"The environment variable {url_from} is not set.",
            f"Set {url_from} to the SQLAlchemy URL of the database, only for this command.",
        )
    try:
        engine = create_engine(make_url(url))
        try:
            with engine.connect() as connection:
                yield connection
                connection.rollback()
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        why = type(getattr(error, "orig", None) or error).__name__
        raise SourceError(
            f"{act} the database whose URL is in {url_from} failed ({why}).",
            "Check the URL, the permissions of the database account, the installed driver and the query.",
        ) from None


def _queried(connection: Connection, query: str) -> tuple[list[str], Iterator[Any]]:
    _set_read_only(connection)
    # Escape colons, so that none begins a parameter's name.
    result = connection.execution_options(yield_per=ROWS_OF_A_BATCH).execute(text(query.replace(":", r"\:")))
    columns = list(result.keys())
    if len({*columns}) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise SourceError(f"The query returns two columns named '{twice}'.", "Give each column its own name with AS.")
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
        raise SourceError("The query returns binary data.", "Leave the binary column out of the query.")
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return format(value, "f") if isinstance(value, Decimal) else str(value)
