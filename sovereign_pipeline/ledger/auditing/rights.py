"""What the role that is connected may do to the registry's tables in PostgreSQL, beyond what a service needs.

A service reads and inserts. Whoever owns a table, or may change or empty it, can take its triggers' protection away or
go past it. SQLite knows no roles: whoever may write to the file owns it. What belongs here: that comparison. What does
not: the triggers (`triggers.py`), and the making of roles, which is the administrator's.
"""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from sovereign_pipeline.ledger.tables import Table

TOO_MUCH = ("UPDATE", "DELETE", "TRUNCATE", "TRIGGER")
"""Rights at a table that only grows which no service needs."""


def beyond_a_service(connection: Connection) -> list[str]:
    """What the connected role may do and a service need not, each in words; empty in SQLite."""
    return [] if connection.dialect.name == "sqlite" else list(_beyond(connection))


def _beyond(connection: Connection) -> Iterator[str]:
    role, is_superuser = connection.execute(
        text("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")
    ).one()
    if is_superuser:
        yield f"{role} is a superuser"
        return
    tables = [table.name for table in Table.metadata.sorted_tables if not table.info.get("may_change")]
    owned = connection.scalars(
        text(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname = ANY(:tables) "
            "AND relnamespace = current_schema()::regnamespace AND pg_has_role(current_user, relowner, 'MEMBER')"
        ),
        {"tables": tables},
    ).all()
    if owned:
        yield f"{role} owns {len(owned)} of its {len(tables)} tables"
        return
    for right in TOO_MUCH:
        may = connection.scalars(
            text("SELECT t FROM unnest(CAST(:tables AS text[])) AS t WHERE has_table_privilege(t, :right)"),
            {"tables": tables, "right": right},
        ).all()
        if may:
            yield f"{role} has {right} on {', '.join(sorted(may))}"
