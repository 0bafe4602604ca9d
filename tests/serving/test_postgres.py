"""PostgreSQL, by a throwaway server: what is read is what is there, what is written is all there or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import triptych as tt
from triptych.errors import ConfigError, DataError, StorageError, TriptychError
from triptych.files import read_json
from triptych.preparation import prepare
from triptych.runs import Run
from triptych.scorer import Embeddings, EmbeddingScorer
from triptych.serving import postgres
from triptych.serving.postgres import MARKER, pull, push_vectors
from triptych.testing import toy_dataset

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("pgvector")

SECRET = "s3cr3t"


def server_programs() -> Path | None:
    """Find initdb and postgres: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).parent if found else installed[-1].parent if installed else None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a server on a socket in a folder of its own; initdb refuses root, so that "nobody" runs it."""
    programs = server_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL server here")
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("PostgreSQL does not run as root, and there is no setpriv to be somebody else")
        prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    folder = Path(
        tempfile.mkdtemp(prefix="pg-", dir="/tmp")
    )  # a socket's path is short, and nobody can go there
    process = None
    try:
        if prefix:
            shutil.chown(folder, "nobody", "nogroup")
        data = folder / "data"
        make = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "tester",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        subprocess.run([*prefix, *map(str, make)], check=True, capture_output=True, timeout=120, cwd=folder)
        start = [
            programs / "postgres",
            "-D",
            data,
            "-k",
            folder,
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
        ]
        process = subprocess.Popen(
            [*prefix, *map(str, start)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        url = f"postgresql://tester:{SECRET}@/postgres?host={folder}"
        for _ in range(300):
            try:
                psycopg.connect(url, connect_timeout=5).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, "the server has ended"
                time.sleep(0.1)
        yield url
    finally:
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(server: str) -> Iterator[str]:
    """Give a server without tables."""
    yield server
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            "drop schema public cascade; create schema public; drop schema if exists other cascade"
        )


@pytest.fixture(scope="module")
def run() -> Run:
    quick = tt.TrainConfig(epochs=1, batch_size=64, metric="recall@5")
    split = tt.Split.by_ratio(toy_dataset(30, 40), rng=0)
    return tt.train("lightgcn", split, seed=1, settings={"embedding_dim": 4}, config=quick, k=(5,))


def ask(url: str, statement: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement).fetchall()


def tell(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def test_every_type_arrives_as_it_should(url: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(postgres, "_AT_ONCE", 7)
    tell(
        url,
        """
        create type mood as enum ('ok', 'bad');
        create table t as select n, n::smallint as small, n / 4.0::real as real, (n / 8.0)::numeric(10, 4) as amount,
            case when n > 15 then n end as late, 'x' || n as text, 'y'::varchar(9) as short, n % 2 = 0 as even,
            date '2024-01-01' + n as day, timestamp '2024-01-01' + n * interval '1 hour' as plain,
            timestamptz '2024-01-01 00:00+02' + n * interval '1 hour' as zoned, array['a', null, 'b' || n] as tags,
            array[n, 2] as numbers, '{"a": 1}'::jsonb as json, 'bad'::mood as mood,
            '00000000-0000-0000-0000-000000000001'::uuid as uuid, null::text as nothing
        from generate_series(1, 20) n
        """,
    )
    facts = pull(url, tmp_path / "out", interactions="select * from t order by n;  ")
    table = pl.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert table.schema == {
        "n": pl.Int64, "small": pl.Int64, "real": pl.Float64, "amount": pl.Float64, "late": pl.Int64,
        "text": pl.String, "short": pl.String, "even": pl.Boolean, "day": pl.Date,
        "plain": pl.Datetime("us"), "zoned": pl.Datetime("us", "UTC"), "tags": pl.List(pl.String),
        "numbers": pl.String, "json": pl.String, "mood": pl.String, "uuid": pl.String, "nothing": pl.String,
    }  # fmt: skip
    assert table.height == 20, "three blocks"
    first, last = table.row(0, named=True), table.row(19, named=True)
    assert first == {
        "n": 1, "small": 1, "real": 0.25, "amount": 0.125, "late": None, "text": "x1", "short": "y", "even": False,
        "day": date(2024, 1, 2), "plain": datetime(2024, 1, 1, 1),
        "zoned": datetime(2023, 12, 31, 23, tzinfo=UTC), "tags": ["a", None, "b1"], "numbers": "{1,2}",
        "json": '{"a": 1}', "mood": "bad", "uuid": "00000000-0000-0000-0000-000000000001", "nothing": None,
    }  # fmt: skip
    assert (last["late"], last["amount"]) == (20, 2.5)
    assert facts["counts"] == {"interactions": 20}
    assert SECRET not in json.dumps(facts)
    assert read_json(tmp_path / "out" / MARKER) == facts


def test_what_is_pulled_is_prepared(url: str, tmp_path: Path):
    tell(
        url,
        """
        create table sales as select 'u' || n % 9 as customer, n % 11 as sku, n % 5 + 1 as stars,
            timestamptz '2024-01-01' + n * interval '1 day' as sold from generate_series(1, 99) n;
        create table products as select n as sku, 'Thing ' || n as title, n * 1.5 as price from generate_series(0, 10) n
        """,
    )
    pull(
        url,
        tmp_path / "export",
        interactions="select customer as user_id, sku as item_id, stars as rating, sold as timestamp from sales",
        items="select sku as item_id, title, price from products",
    )
    data = prepare(tmp_path / "export", name="shop", text="none")
    assert (data.n_users, data.n_items, len(data.interactions)) == (9, 11, 99)
    assert data.item_table["price"].to_list() == [1.5 * n for n in range(11)]
    first = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=1)
    assert data.interactions.timestamp.min() == first.timestamp()
    assert set(data.interactions.rating) == {1, 2, 3, 4, 5}


def test_both_queries_see_one_state(url: str, tmp_path: Path, monkeypatch):
    tell(url, "create table t as select 1 as user_id, 2 as item_id")
    original = postgres._pull_table

    def pull_table(connection, name, query, path):
        count = original(connection, name, query, path)
        tell(url, "insert into t values (3, 4)")
        return count

    monkeypatch.setattr(postgres, "_pull_table", pull_table)
    facts = pull(url, tmp_path / "out", interactions="select * from t", items="select * from t")
    assert facts["counts"] == {"interactions": 1, "items": 1}
    assert ask(url, "select count(*) from t") == [(3,)]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("selec 1", 'syntax error at or near "selec"'),
        ("select * from nothing", '"nothing" does not exist'),
        ("select 1 as a, 2 as a", "two columns of one name: a, a"),
        ("select * from t where false", "gives no rows"),
        ("select 1; drop table t", "cannot insert multiple commands"),
        ("delete from t returning 1", "syntax error"),
        ("select grow()", "read-only transaction"),
        ("select 'infinity'::timestamp", "timestamp too large"),
        ("select 1 / n from t", "division by zero"),
    ],
)
def test_a_query_that_fails_leaves_nothing(url: str, tmp_path: Path, query: str, said: str):
    tell(
        url,
        "create table t as select 0 as n; create function grow() returns int as "
        "'insert into t values (1) returning n' language sql",
    )
    with pytest.raises(DataError, match=said):
        pull(url, tmp_path / "out", interactions="select * from t", items=query)
    assert list(tmp_path.iterdir()) == []
    assert ask(url, "select * from t") == [(0,)]


def test_a_folder_of_others_is_not_replaced(url: str, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="was not made by this command"):
        pull(url, tmp_path / "out", interactions="select 1 as user_id")


def test_vectors_arrive_bit_for_bit_and_are_replaced(url: str, run: Run):
    facts = push_vectors(url, run, array=True)
    assert facts["tables"] == ["public.triptych_users", "public.triptych_items"]
    assert SECRET not in json.dumps(facts)
    for side in ("users", "items"):
        name = f"triptych_{side}"
        rows = dict(ask(url, f"select {side[:-1]}_id, vector from {name}"))
        vectors = np.array(
            [rows[raw] for raw in getattr(run.split.data, side).ids.tolist()], dtype=np.float32
        )
        assert np.array_equal(vectors, getattr(run.scorer.embeddings, side).numpy())
        ((said,),) = ask(url, f"select obj_description('{name}'::regclass)")
        assert json.loads(said) == {key: facts[key] for key in facts if key not in ("tables", "database")}
        key = f"select conname from pg_constraint where conrelid = '{name}'::regclass and contype = 'p'"
        assert ask(url, key) == [(f"{name}_pkey",)]
    changed = replace(run, scorer=EmbeddingScorer(Embeddings(*(part + 1 for part in run.scorer.embeddings))))
    again = push_vectors(url, changed, array=True)
    assert again["content_hash"] != facts["content_hash"]
    (vector,) = next(iter(ask(url, "select vector from triptych_items where item_id = 'i003'")))
    assert np.array_equal(np.float32(vector), changed.scorer.embeddings.items[3].numpy())
    tables = "select relname from pg_class where relname like 'triptych%' and relkind = 'r' order by 1"
    assert ask(url, tables) == [("triptych_items",), ("triptych_users",)]


def test_integer_ids_stay_integers(url: str, run: Run):
    data = run.split.data
    users = replace(data.interactions.users, ids=np.arange(30))
    numbered = replace(data, interactions=replace(data.interactions, users=users))
    push_vectors(url, replace(run, split=replace(run.split, data=numbered)), array=True)
    assert ask(url, "select pg_typeof(user_id)::text, max(user_id) from triptych_users group by 1") == [
        ("bigint", 29)
    ]


def test_names_and_ids_are_never_read_as_sql(url: str, run: Run):
    strange = "o'ther\"; drop table t; --"
    tell(url, "create table t (n int)")
    quoted = strange.replace('"', '""')
    tell(url, f'create schema "{quoted}"')
    data = run.split.data
    ids = np.sort(np.array([f"'); drop table t; --\t\\N\n{n:02d}" for n in range(30)]))
    odd = replace(data, interactions=replace(data.interactions, users=replace(data.users, ids=ids)))
    push_vectors(url, replace(run, split=replace(run.split, data=odd)), schema=strange, array=True)
    found = ask(url, f'select user_id from "{quoted}".triptych_users order by user_id collate "C"')
    assert [raw for (raw,) in found] == ids.tolist()
    assert ask(url, "select * from t") == []
    tell(url, f'drop schema "{quoted}" cascade')


def test_a_failure_half_way_leaves_the_old_tables(url: str, run: Run):
    before = push_vectors(url, run, array=True)
    tell(url, "create view mine as select item_id from triptych_items")
    changed = replace(run, scorer=EmbeddingScorer(Embeddings(*(part + 1 for part in run.scorer.embeddings))))
    with pytest.raises(DataError, match="other objects depend on it"):
        push_vectors(url, changed, array=True)
    for name in ("triptych_users", "triptych_items"):
        ((said,),) = ask(url, f"select obj_description('{name}'::regclass)")
        assert json.loads(said)["content_hash"] == before["content_hash"]
    assert len(ask(url, "select * from mine")) == 40
    assert ask(url, "select 1 from pg_class where relname like '%_new'") == []


def test_a_table_of_others_is_not_replaced(url: str, run: Run):
    tell(url, "create table triptych_items as select 7 as mine")
    with pytest.raises(DataError, match=r"public\.triptych_items that was not written by this command"):
        push_vectors(url, run, array=True)
    assert ask(url, "select * from triptych_items") == [(7,)]
    assert ask(url, "select 1 from pg_class where relname = 'triptych_users'") == []


def test_two_at_a_time_come_one_after_the_other(url: str, run: Run):
    failures: list[BaseException] = []

    def push() -> None:
        try:
            push_vectors(url, run, array=True)
        except TriptychError as error:
            failures.append(error)

    threads = [threading.Thread(target=push) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ask(url, "select count(*) from triptych_items") == [(40,)]


def test_without_pgvector_it_says_what_to_do(url: str, run: Run):
    with pytest.raises(ConfigError, match="does not have the extension pgvector") as refused:
        push_vectors(url, run)
    assert "--array" in refused.value.fix
    available = ask(url, "select 1 from pg_available_extensions where name = 'vector'")
    assert ("create extension vector" in refused.value.fix) == bool(available)


def test_with_pgvector_the_database_finds_what_the_run_recommends(url: str, run: Run):
    if not ask(url, "select 1 from pg_available_extensions where name = 'vector'"):
        pytest.skip("this server has no pgvector")
    tell(url, "create schema other; create extension vector schema other")  # not where tables are looked for
    push_vectors(url, run)
    kind = (
        "select format_type(atttypid, atttypmod) from pg_attribute where attname = 'vector' and attrelid = "
    )
    assert ask(url, f"{kind} 'triptych_items'::regclass") == [("other.vector(4)",)]
    nearest = """
        select item_id, -(i.vector operator(other.<#>) u.vector) from triptych_items i, triptych_users u
        where user_id = 'u003' order by 2 desc limit 5
    """
    (entry,) = run.recommend(["u003"], 5, exclude="none")
    found = ask(url, nearest)
    assert [item for item, _ in found] == [item.item_id for item in entry.items]
    assert [score for _, score in found] == pytest.approx([item.score for item in entry.items], abs=1e-6)


def test_runs_without_vectors_are_refused(url: str, run: Run):
    with pytest.raises(ConfigError, match="no vectors"):
        push_vectors(url, tt.train("item-knn", run.split, k=(5,)), array=True)


@pytest.mark.parametrize(
    "address",
    [
        "mysql://tester:{secret}@localhost/shop",
        "host=localhost password={secret}",
        "postgresql://tester:a@{secret}@localhost/shop",
        "postgresql://tester:a/{secret}@localhost/shop",
        "postgresql://tester:a?{secret}@localhost/shop",
        "postgresql://tester:a#{secret}@localhost/shop",
        "postgresql://tester@localhost/shop#{secret}",
        "postgresql://tester:{secret}@localhost:port/shop",
        "postgresql://tester:{secret}@localhost/shop?no_such_option=1",
        "postgresql://tester:{secret}@localhost:1/shop",
        "postgresql://tester@localhost:1/shop?password={secret}",
        "postgresql://tester:{secret}@{secret}.invalid/shop",
        "postgresql://tester:{secret}@/nothere?host={folder}",
    ],
)
def test_no_password_is_ever_shown(server: str, run: Run, address: str):
    folder = server.partition("host=")[2]
    with pytest.raises(ConfigError) as refused:
        push_vectors(address.format(secret=SECRET, folder=folder), run, array=True)
    assert SECRET not in repr(refused.value)
    assert refused.value.__context__ is None or refused.value.__suppress_context__, (
        "no trace shows the driver's error"
    )
    if "nothere" in address:
        assert 'database "nothere" does not exist' in str(refused.value)


def test_without_the_extra(run: Run, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"triptych\[postgres\]"):
        push_vectors("postgresql://localhost/shop", run)
    with pytest.raises(ConfigError, match=r"triptych\[postgres\]"):
        pull("postgresql://localhost/shop", tmp_path / "out", interactions="select 1")
    assert list(tmp_path.iterdir()) == []


def test_vectors_keep_every_float(url: str, run: Run):
    """Smallest, largest, and the float next to one."""
    rows = torch.zeros(40, 4)
    rows[0] = torch.tensor([1e-45, 3.4028235e38, 1.0000001, -0.1])
    odd = replace(run, scorer=EmbeddingScorer(Embeddings(run.scorer.embeddings.users, rows)))
    push_vectors(url, odd, array=True)
    ((vector,),) = ask(url, "select vector from triptych_items where item_id = 'i000'")
    assert np.array_equal(np.float32(vector), rows[0].numpy())
