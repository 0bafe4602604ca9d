"""PostgreSQL: interactions and items out of it as files that `prepare` reads, vectors of a run into it.

Names go into statements as names and values as values, by the driver. No password is ever part of a message.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import polars as pl

from triptych.data.frames import write_frames
from triptych.encode.encoder import require
from triptych.errors import ConfigError, DataError
from triptych.files import checksums, new_folder, write_json
from triptych.runs import Run
from triptych.serving.vectors import KIND, RunVectors

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable


MARKER = "triptych-pull.json"
"""The file that says what was read; only folders that hold it are ever replaced."""

SCHEMA_VERSION = 1

_TYPES: Mapping[str, pl.DataType] = {
    "bool": pl.Boolean(),
    "int2": pl.Int64(),
    "int4": pl.Int64(),
    "int8": pl.Int64(),
    "float4": pl.Float64(),
    "float8": pl.Float64(),
    "numeric": pl.Float64(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us"),
    "timestamptz": pl.Datetime("us", "UTC"),
    "text[]": pl.List(pl.String),
}
"""What columns become; all other types come as text, as the server writes them."""

Facts = dict[str, Any]

SIDES: tuple[Literal["users", "items"], ...] = ("users", "items")

_AT_ONCE = 50_000
"""Rows in memory while reading."""

_COMMENT = f'{{"kind": "{KIND}"'
"""How the comment on a table of ours begins."""


def pull(
    url: str, folder: str | Path, *, interactions: str, items: str | None = None, overwrite: bool = False
) -> Facts:
    """Read interactions, and items if wanted, into `interactions.parquet` and `items.parquet`.

    Both queries see one state of the database, and cannot change it. Blocks of rows are in memory at a time.

    Args:
        url: postgresql://USER@HOST/DATABASE; a password is better left to ~/.pgpass or PGPASSWORD.
        folder: a folder still to be made, which `prepare` reads.
        interactions: SQL query whose columns are users, items and whatever else `prepare` reads.
        items: SQL query with a row for each item.
        overwrite: replace a folder that was made so before.

    Returns: the facts that `triptych-pull.json` holds: where from, queries, counts and files.

    Raises:
        ConfigError: the extra `postgres` is missing, or the database cannot be reached.
        DataError: a query fails, gives no rows, or has two columns of one name.
        StorageError: something is in the folder's place.
    """
    queries = {"interactions": interactions} | ({} if items is None else {"items": items})
    with new_folder(Path(folder), marker=MARKER, overwrite=overwrite) as new:
        with _connect(url) as connection:
            connection.execute("set transaction isolation level repeatable read, read only")
            connection.execute("set local time zone 'UTC'")
            _read_as_columns(connection)
            counts = {
                name: _pull_table(connection, name, query, new / f"{name}.parquet")
                for name, query in queries.items()
            }
            place = _place(connection)
        facts = {"kind": "pull", "schema_version": SCHEMA_VERSION, "source": place, "queries": queries}
        facts |= {"counts": counts, "files": checksums(new)}
        write_json(new / MARKER, facts)
    return facts


def push_vectors(url: str, run: Run, *, schema: str = "public", array: bool = False) -> Facts:
    """Write a run's vectors into the tables `triptych_users` and `triptych_items`.

    Their columns are user_id or item_id, the primary key, and vector: `vector(D)` of the extension pgvector,
    whose `<#>` is the negative inner product, or `real[]`. Tables that were written so before are replaced,
    all in one transaction: others see the old vectors or the new. A comment on each says whose they are.

    Args:
        url: postgresql://USER@HOST/DATABASE; a password is better left to ~/.pgpass or PGPASSWORD.
        run: whose vectors.
        schema: where the tables are.
        array: write `real[]`, for which no extension is needed.

    Returns: the facts in the comments, with `database`, and the names of the `tables`.

    Raises:
        ConfigError: the run has no vectors, the database cannot be reached or lacks pgvector, or the extra
            `postgres` is missing.
        DataError: a table of one of these names is not from Triptych, or the database refuses.
    """
    vectors = RunVectors.of(run)
    facts = {"kind": KIND, **vectors.facts}
    with _connect(url) as connection:
        connection.execute("select pg_advisory_xact_lock(hashtext('triptych vectors'))")  # one at a time
        column = _array() if array else _vector_column(connection, int(facts["dim"]))
        for side in SIDES:
            _replace_table(connection, schema, f"triptych_{side}", vectors.frame(side), column, facts)
        tables = [f"{schema}.triptych_{side}" for side in SIDES]
        return {**facts, "database": _place(connection), "tables": tables}


class _Column(NamedTuple):
    """How vectors are kept."""

    kind: Composable
    write: Callable[[list[float]], object]  # what is handed to the driver for a vector


def _array() -> _Column:
    from psycopg import sql

    return _Column(sql.SQL("real[]"), lambda vector: vector)


def _vector_column(connection: Connection[Any], dim: int) -> _Column:
    """Find pgvector's type, in whatever schema it is.

    Raises:
        ConfigError: the database does not have it.
    """
    from pgvector import Vector
    from psycopg import sql

    found = connection.execute(
        "select nspname from pg_extension e join pg_namespace n on n.oid = extnamespace "
        "where extname = 'vector'"
    ).fetchone()
    if found is None:
        available = connection.execute(
            "select 1 from pg_available_extensions where name = 'vector'"
        ).fetchone()
        raise ConfigError(
            f"the database {_place(connection)} does not have the extension pgvector",
            wanted="its type 'vector'",
            fix=("Run there: create extension vector" if available else "Install pgvector on the server")
            + "; or write real[] columns with --array",
        )
    kind = sql.SQL("{}({})").format(sql.Identifier(found[0], "vector"), sql.Literal(dim))
    return _Column(kind, lambda vector: Vector(vector).to_text())


def _replace_table(
    connection: Connection[Any], schema: str, name: str, frame: pl.DataFrame, column: _Column, facts: Facts
) -> None:
    """Fill a new table and then put it in the place of the old one, so that readers hardly wait."""
    from psycopg import sql

    table, new = sql.Identifier(schema, name), sql.Identifier(schema, f"{name}_new")
    _refuse_foreign(connection, schema, name)
    id_column = sql.Identifier(frame.columns[0])
    id_kind = sql.SQL("bigint" if frame.dtypes[0].is_integer() else "text")
    create = sql.SQL("create table {} ({} {} not null, vector {} not null)")
    connection.execute(create.format(new, id_column, id_kind, column.kind))
    with connection.cursor() as cursor, cursor.copy(sql.SQL("copy {} from stdin").format(new)) as copy:
        for raw_id, vector in frame.iter_rows():
            copy.write_row((raw_id, column.write(vector)))
    for statement in (
        sql.SQL("drop table if exists {}").format(table),
        sql.SQL("alter table {} rename to {}").format(new, sql.Identifier(name)),
        sql.SQL("alter table {} add primary key ({})").format(table, id_column),
        sql.SQL("comment on table {} is {}").format(table, sql.Literal(json.dumps(facts))),
    ):
        connection.execute(statement)


def _refuse_foreign(connection: Connection[Any], schema: str, name: str) -> None:
    """Refuse to replace a table that the comment does not call ours.

    Raises:
        DataError: there is one.
    """
    found = connection.execute(
        "select obj_description(c.oid, 'pg_class') from pg_class c "
        "join pg_namespace n on n.oid = relnamespace where nspname = %s and relname = %s",
        (schema, name),
    ).fetchone()
    if found is not None and not str(found[0]).startswith(_COMMENT):
        raise DataError(
            f"there is a {schema}.{name} that was not written by this command",
            wanted="no such table, or one that may be replaced",
            fix="Rename it, or choose another place with --schema",
        )


def _pull_table(connection: Connection[Any], name: str, query: str, path: Path) -> int:
    """Write what a query gives, block by block, and count its rows.

    Raises:
        DataError: it gives no rows, or two columns have one name.
    """
    with connection.cursor(f"triptych_{name}") as cursor:
        cursor.execute(query.strip().removesuffix(";").encode())
        columns = [(column.name, column.type_code) for column in cursor.description or ()]
        schema = pl.Schema({column: _column_type(connection, oid) for column, oid in columns})
        if len(schema) < len(columns):
            raise DataError(
                f"the query of {name} has two columns of one name: {', '.join(name for name, _ in columns)}",
                wanted="a name for each column",
                fix="Name them apart with: AS",
            )

        def frames() -> Iterator[pl.DataFrame]:
            while rows := cursor.fetchmany(_AT_ONCE):
                yield pl.DataFrame(rows, schema=schema, orient="row")

        n_rows = write_frames(path, frames(), schema)
    if n_rows == 0:
        raise DataError(f"the query of {name} gives no rows", wanted="at least one", fix="Check the query")
    return n_rows


def _column_type(connection: Connection[Any], oid: int) -> pl.DataType:
    kind = connection.adapters.types.get(oid)
    name = "" if kind is None else kind.name if kind.oid == oid else f"{kind.name}[]"
    return _TYPES.get(name, pl.String())


def _read_as_columns(connection: Connection[Any]) -> None:
    """Let the driver give numbers as floats, and what has no column of its own as text."""
    from psycopg.types.numeric import FloatLoader
    from psycopg.types.string import TextLoader

    for kind in connection.adapters.types:
        if kind.name == "numeric":
            connection.adapters.register_loader(kind.oid, FloatLoader)
        elif kind.name not in _TYPES:
            connection.adapters.register_loader(kind.oid, TextLoader)
        if kind.array_oid and f"{kind.name}[]" not in _TYPES:
            connection.adapters.register_loader(kind.array_oid, TextLoader)


@contextmanager
def _connect(url: str) -> Iterator[Connection[Any]]:
    """Open a connection for one transaction, which is undone if the block fails.

    Raises:
        ConfigError: the extra is missing, the address is none, or nobody answers there.
        DataError: the database refuses what the block asks for.
    """
    require("postgres", "psycopg", "pgvector")
    import psycopg

    secret = _check_url(url)
    try:
        connection = psycopg.connect(url, connect_timeout=10)
    except psycopg.Error as error:
        raise ConfigError(
            f"the database does not answer: {_said(error, secret)}",
            wanted="an address at which PostgreSQL lets this user in",
            fix="Check host, port, user, password and name of the database",
        ) from None  # the driver's own error may hold the address
    try:
        with connection:
            yield connection
    except psycopg.Error as error:
        raise DataError(
            f"the database refuses: {_said(error, secret)}",
            wanted="a statement that it can carry out for this user",
            fix="Check the query, the schema and the rights",
        ) from None


def _check_url(url: str) -> str:
    """Check the address as far as it can be without telling it to others, and return its password or nothing.

    Raises:
        ConfigError: it is none, or its password is not spelled so that it can be told from the rest.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    scheme, _, rest = url.partition("://")
    user, _, server = rest.rpartition("@")
    wrong = ConfigError(
        "the address of the database cannot be read (it is not shown, for it may hold a password)",
        wanted="postgresql://USER@HOST:PORT/DATABASE",
        fix="Leave the password to ~/.pgpass or PGPASSWORD, or write its special characters as in %40 for @",
    )
    if scheme not in ("postgresql", "postgres") or re.search("[/?#@]", user) or "#" in server:
        raise wrong
    try:
        facts = conninfo_to_dict(url)
    except ProgrammingError:
        raise wrong from None
    if not str(facts.get("port") or "0").isdecimal():
        raise wrong
    return str(facts.get("password") or "")


def _said(error: Exception, secret: str) -> str:
    text = " ".join(str(error).split())
    return text.replace(secret, "***") if secret else text


def _place(connection: Connection[Any]) -> str:
    return f"{connection.info.host}:{connection.info.port}/{connection.info.dbname}"
