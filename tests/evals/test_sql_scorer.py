"""SQL by execution: equal results however they are asked for, and a query that can read and nothing else."""

from __future__ import annotations

import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith.evals.sql import QueryLimits, extract_query, is_ordered, same_rows, sql_execution
from tunesmith.evals.task import Item, Reply, Request
from tunesmith.records import Verdict

SCHEMA = "CREATE TABLE pets (name TEXT, kind TEXT, kilos REAL, age INTEGER);"
ROWS = {"pets": [["Rex", "dog", 20.1, 3], ["Tom", "cat", 4.0, 3], ["Kit", "cat", 3.5, None]]}
CATS = "SELECT name FROM pets WHERE kind = 'cat'"


def said(query: str, gold: str = CATS, limits: QueryLimits | None = None, **metadata: object) -> Verdict:
    item = Item(id="a", messages=(), target=gold, metadata={"schema": SCHEMA, "rows": ROWS, **metadata})
    return sql_execution(limits or QueryLimits())(item, Reply(request=Request(item=item, messages=()), text=query))


@pytest.mark.parametrize(
    ("query", "gold", "right"),
    [
        (CATS, CATS, 1),
        ("select p.NAME as n from pets as p where kind in ('cat') order by age", CATS, 1),
        ("Here it is:\n```sql\nSELECT name FROM pets WHERE kind='cat';\n```\nDone.", CATS, 1),
        ("SELECT name FROM pets", CATS, 0),
        ("SELECT DISTINCT kind FROM pets", "SELECT kind FROM pets", 0),
        ("SELECT kind, name FROM pets", "SELECT name, kind FROM pets", 0),
        ("SELECT name FROM pets ORDER BY kilos", "SELECT name FROM pets ORDER BY kilos DESC", 0),
        ("SELECT name FROM pets ORDER BY -kilos", "SELECT name FROM pets ORDER BY kilos DESC", 1),
        ("SELECT 3.0, '3'", "SELECT 3, '3'", 1),
        ("SELECT '3', 3", "SELECT 3, 3", 0),
        ("SELECT NULL", "SELECT age FROM pets WHERE name = 'Kit'", 1),
        ("SELECT 0", "SELECT age FROM pets WHERE name = 'Kit'", 0),
        ("SELECT 0.1 + 0.2", "SELECT 0.3", 1),
        ("SELECT 0.3001", "SELECT 0.3", 0),
        ("SELECT avg(kilos) FROM pets", "SELECT sum(kilos) / count(*) FROM pets", 1),
        ("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n LIMIT 1) SELECT i FROM n", "SELECT 1", 1),
    ],
)  # fmt: skip
def test_results_are_compared_not_queries(query: str, gold: str, right: int) -> None:
    assert said(query, gold).values == {"executes": 1.0, "execution": float(right)}


@pytest.mark.parametrize(
    "query",
    [
        "",
        "I do not know.",
        "SELECT nme FROM pets",
        "SELECT 1; SELECT 2",
        "DELETE FROM pets",
        "DROP TABLE pets",
        "INSERT INTO pets VALUES ('x', 'cat', 1, 1)",
        "CREATE TABLE t AS SELECT * FROM pets",
        "CREATE TEMP VIEW v AS SELECT 1",
        "PRAGMA user_version",
        "SELECT * FROM pragma_table_info('pets')",
        "ATTACH ':memory:' AS other",
        "VACUUM INTO 'copy.db'",
        "BEGIN",
        "SELECT load_extension('x')",
        "SELECT zeroblob(100000000)",
        "SELECT 'a\x00b",
        "SELECT '\ud800'",
        "WITH x AS (SELECT 1) DELETE FROM pets",
    ],
)
def test_a_query_can_read_and_nothing_else(query: str) -> None:
    verdict = said(query)
    assert verdict.values == {"executes": 0.0, "execution": 0.0} and verdict.explanation


def test_a_query_without_end_is_stopped_and_so_is_a_flood_of_rows() -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n"
    start = time.monotonic()
    verdict = said(endless, limits=QueryLimits(seconds=0.1))
    assert time.monotonic() - start < 2
    assert verdict.values["executes"] == 0.0 and verdict.explanation == "took longer than 0.1 s"
    flood = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 50) SELECT i FROM n"
    assert said(flood, limits=QueryLimits(max_rows=49)).explanation == "returns more than 49 rows"
    assert said(flood, limits=QueryLimits(max_rows=50)).values["executes"] == 1.0


def test_long_values_and_large_results_are_stopped() -> None:
    # Within one call nobody looks at the clock: the sizes must keep it short.
    long = "replace(hex(zeroblob({0})), '0', 'a')"
    slow = f"SELECT instr({long.format(400_000)}, {long.format(200_000)} || 'b')"
    start = time.monotonic()
    assert said(slow).values["executes"] == 0.0 and time.monotonic() - start < 2
    large = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n LIMIT 300) SELECT hex(zeroblob(45000)) FROM n"
    assert said(large).explanation == "returns more than 10000000 bytes"


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order\n  by a limit 3", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a) ORDER BY a", True),
        ("SELECT ' ORDER BY ' FROM t -- ORDER BY a", False),
        ('SELECT "(" FROM t /* ) */ ORDER BY 1', True),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT border by FROM t", False),
    ],
)
def test_only_the_outermost_order_counts(query: str, ordered: bool) -> None:
    assert is_ordered(query) is ordered


cells = st.none() | st.integers(-3, 3) | st.text(alphabet="ab", max_size=2) | st.floats(-2, 2)


@given(st.lists(st.tuples(cells, cells), max_size=5), st.randoms())
def test_bags_of_rows_have_no_order_and_keep_count(rows: list[tuple[object, ...]], random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert same_rows(rows, shuffled, ordered=False)
    assert same_rows(rows, rows, ordered=True)
    assert not same_rows(rows, [*rows, ("extra", None)], ordered=False)
    if rows:
        assert not same_rows([*rows, rows[0]], rows, ordered=False)


def test_a_target_or_tables_that_cannot_be_made_are_errors() -> None:
    with pytest.raises(DataError, match="item a: the target query fails: no such table: cats"):
        said(CATS, gold="SELECT * FROM cats")
    with pytest.raises(DataError, match=r"item a: its tables cannot be made: .*4 columns but 1 values"):
        said(CATS, rows={"pets": [["Rex"]]})
    with pytest.raises(DataError, match="a row of pets is no list of values"):
        said(CATS, rows={"pets": [{"name": "Rex", "kind": "dog", "kilos": 2, "age": 3}]})
    with pytest.raises(DataError, match="item a: its tables cannot be made"):
        said(CATS, schema="ATTACH 'x.db' AS x")
    with pytest.raises(DataError, match="item a: no schema"):
        said(CATS, schema=None)


def test_the_reading_query_is_found_in_its_block() -> None:
    assert extract_query("x\n```\nSELECT 1\n```") == "SELECT 1"
    assert extract_query("```SQLite\nSELECT 1```") == "SELECT 1"
    assert extract_query("  SELECT 1; ") == "SELECT 1;"
    assert sqlite3.sqlite_version_info >= (3, 8)
