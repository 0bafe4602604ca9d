"""Conditions: what each form means, what is refused and how, and polars' SQL as an oracle for all of them."""

from __future__ import annotations

from contextlib import suppress
from datetime import date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.data import condition_tests
from triptych.data.condition_parser import MAX_DEPTH
from triptych.data.conditions import MAX_LENGTH, Condition
from triptych.errors import ConfigError, ShapeError

SHOES = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "category": ["Shoes", "shoes", None, ""],
        "price": [10.0, 50.0, None, float("nan")],
        "stock": [1, None, 3, 2**53 + 1],
        "on sale": [True, False, None, True],
        "cost": ["9.5", "12", None, "1e2"],
        "tags": [["Red", "big"], ["red hat"], None, []],
        "day": [date(2024, 1, 1), date(2024, 6, 1), None, date(2025, 1, 1)],
        "at": [datetime(2024, 1, 1, 12), None, datetime(2024, 1, 2), datetime(2030, 1, 1)],
        "size": pl.Series([1.1, 2.0, None, 3.0], dtype=pl.Float32),
        "kind": pl.Series(["x", "y", None, "x"], dtype=pl.Categorical),
        "note": ["50% off", "a_b", "it's", "two\nlines"],
        "never": [None] * 4,
        'a "b"': [1, 2, 3, 4],
        "^p.*$": [4, 3, 2, 1],
    }
)


def matching(text: str, table: pl.DataFrame = SHOES) -> str:
    mask = Condition.parse(text).mask(table, table.height)
    assert mask.dtype == bool
    return "".join(table["item_id"].filter(pl.Series(mask)).to_list())


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("price = 10", "a"),
        ("price != 10", "b"),
        ("price < 50", "a"),
        ("price <= 50.0", "ab"),
        ("price > 1e1", "b"),
        ("price >= +10", "ab"),
        ("price > -1", "ab"),
        ("not price < 50", "b"),  # what is missing matches neither a test nor its not
        ("price is missing", "cd"),  # null and NaN
        ("price is not missing", "ab"),
        ("not price is missing", "ab"),
        ("category = 'shoes'", "b"),
        ("category like 'SHOES'", "ab"),
        ("category contains 'HOE'", "ab"),
        ("category is missing", "cd"),  # null and an empty text
        ("category = ''", ""),
        ("category != 'x'", "ab"),
        ("category < 'a'", "a"),
        ("stock = 9007199254740993", "d"),  # a float could not tell it from its neighbour
        ("stock = 9007199254740992", ""),
        ("stock < 99999999999999999999999", "acd"),
        ("stock in (1, 3.0, 7)", "ac"),
        ("stock not in (1, 7)", "cd"),
        ('"on sale" = true', "ad"),
        ('"on sale" != TRUE', "b"),
        ('"on sale" in (false)', "b"),
        ("cost < 12.5", "ab"),  # text as CSV gives it
        ("cost = '12'", "b"),
        ("cost > 99 or cost < 10", "ad"),
        ("tags contains 'red'", "a"),
        ("tags not contains 'red'", "bd"),
        ("tags is missing", "c"),
        ("day >= '2024-06-01'", "bd"),
        ("day = '2024-01-01'", "a"),
        ("at > '2024-01-01T12:00'", "cd"),
        ("at = '2024-01-01T13:00+01:00'", "a"),
        ("size = 1.1", "a"),
        ("size in (1.1, 2)", "ab"),
        ("kind = 'x'", "ad"),
        ("kind contains 'Y'", "b"),
        ("note like '%\\%%'", ""),
        ("note contains '%'", "a"),
        ("note like 'a_b'", "b"),
        ("note like '__s%'", ""),
        ("note like '%''s'", "c"),
        ("note = 'it''s'", "c"),
        ("note like 'two%S'", "d"),
        ("note not like '%o%'", "bc"),
        ("never is missing", "abcd"),
        ("never = 1 or never like 'x' or never in ('y')", ""),
        ('"a ""b""" > 2', "cd"),
        ('"^p.*$" = 4', "a"),
        ("price = 10 or price = 50 and stock = 3", "a"),  # and binds more
        ("(price = 10 or price = 50) and stock is missing", "b"),
        ("not price = 10 and stock is missing", "b"),  # not binds most
        ("not (price = 10 or stock is missing)", ""),
        ("NOT NOT price=10 AND item_id IN('a')", "a"),
        ("item_id='a'or item_id='b'", "ab"),
    ],
)
def test_each_form_means_what_the_guide_says(text: str, matches: str):
    assert matching(text) == matches


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it meets its end"),
        ("price", "it meets its end; wanted =, !="),
        ("price <", "wanted a number, or a text in single quotes"),
        ("price == 10", "'=' at character 8"),
        ("price < 10 stock = 1", "'stock' at character 12; wanted and, or, or the end"),
        ("price < 10)", "')' at character 11"),
        ("(price < 10", "its end; wanted )"),
        ("price < 'ten", "\"'ten\" at character 9"),
        ("price < ten", "'ten' at character 9"),
        ("price in 10", "'10' at character 10; wanted ("),
        ("price in ()", "')' at character 11"),
        ("price in (1 2)", "'2' at character 13; wanted , or )"),
        ("category like 3", "'3' at character 15; wanted a text in single quotes"),
        ("category is 3", "wanted missing"),
        ("and = 3", "'and' at character 1; wanted a column"),
        ("price < 1.2.3", "'1.2.3' at character 9"),
        ("price < 1e999", "'1e999' at character 9"),
        ("price < 10; drop table items", "'; drop table' at character 11"),
        ("__import__('os')", "'(' at character 11"),
        ("pric < 10", "Did you mean 'price'"),
        ("category < 50", "this one holds 'Shoes'"),
        ("price = '10'", "a number is written without quotes"),
        ("price = true", "a column of true and false"),
        ('"on sale" = 1', "a column of numbers"),
        ('"on sale" > true', "wanted = or !="),
        ("price contains '1'", "a column of text"),
        ("tags = 'red'", "a column of text"),
        ("tags like 'red'", "a column of text"),
        ("day > 2024", "a column of numbers"),
        ("day > 'June'", "a date such as '2024-01-31'"),
        (" or ".join(["price = 1"] * 400), f"at most {MAX_LENGTH:,}"),
        ("(" * (MAX_DEPTH + 2) + "price = 1", f"more than {MAX_DEPTH} deep"),
        ("not " * (MAX_DEPTH + 2) + "price = 1", f"more than {MAX_DEPTH} deep"),
    ],
)  # fmt: skip
def test_what_is_refused_and_why(text: str, said: str):
    with pytest.raises(ConfigError) as refused:
        matching(text)
    assert said in str(refused.value)


def test_depth_and_length_are_counted_exactly():
    assert matching("(" * MAX_DEPTH + "price = 10" + ")" * MAX_DEPTH) == "a"
    many = " or ".join(["price = 10"] * 290)
    assert len(many) < MAX_LENGTH
    assert matching(many.ljust(MAX_LENGTH)) == "a"


def test_a_column_of_text_is_read_as_numbers_once(monkeypatch):
    read: list[str] = []
    real = condition_tests.as_numbers
    monkeypatch.setattr(
        condition_tests, "as_numbers", lambda column: (read.append(column.name), real(column))[1]
    )
    assert matching("cost in (1, 2, 9.5, 12) or not cost < 50 and price is missing") == "abd"
    assert read == ["cost"]


def test_a_table_of_other_items_is_refused():
    with pytest.raises(ShapeError, match="one for each of 5 items"):
        Condition.parse("price < 3").mask(SHOES, 5)


# Any condition and its spelling in SQL, which polars reads by a parser of its own.
COLUMNS = {"n": pl.Int64, "x": pl.Float64, "t": pl.String, "b": pl.Boolean}
TEXTS = st.text(alphabet="abAB'% _.*\\", max_size=3)
NUMBERS = st.integers(-3, 3) | st.sampled_from([-1.5, 0.5, 2.0])


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@st.composite
def column_tests(draw) -> tuple[str, str]:
    column = draw(st.sampled_from(list(COLUMNS)))
    negated = "not " if draw(st.booleans()) else ""
    values = {"n": NUMBERS, "x": NUMBERS, "t": TEXTS.map(quoted), "b": st.sampled_from(["true", "false"])}
    value = values[column].map(str)
    form = draw(st.sampled_from(["compare", "in", "missing", "contains"]))
    if form == "missing":
        return f"{column} is {negated}missing", f"{column} is {negated}null"
    if form == "in":
        listed = f"{column} {negated}in ({', '.join(draw(st.lists(value, min_size=1, max_size=3)))})"
        return listed, listed
    if form == "contains" and column == "t":
        part = draw(TEXTS.filter(lambda text: not set(text) & set("%_\\")))
        return f"t {negated}contains {quoted(part)}", f"t {negated}ilike {quoted('%' + part + '%')}"
    signs = ["=", "!="] if column == "b" else ["=", "!=", "<", "<=", ">", ">="]
    compared = f"{column} {draw(st.sampled_from(signs))} {draw(value)}"
    return compared, compared


def combined(inner: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
    pairs = st.tuples(inner, inner, st.sampled_from(["and", "or"]))
    joined = pairs.map(lambda p: tuple(f"{p[0][n]} {p[2]} {p[1][n]}" for n in (0, 1)))
    return joined | joined.map(lambda p: tuple(f"not ({part})" for part in p))


CONDITIONS = st.recursive(column_tests(), combined, max_leaves=6)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.none() | st.integers(-3, 3),
            "x": st.none() | st.sampled_from([-1.5, 0.0, 0.5, 2.0]),
            "t": st.none() | TEXTS.filter(bool),
            "b": st.none() | st.booleans(),
        }
    ),
    min_size=1,
    max_size=8,
)


def check_against_sql(condition: tuple[str, str], rows: list[dict]) -> None:
    table = pl.DataFrame(rows, schema=COLUMNS)
    ours = Condition.parse(condition[0]).mask(table, table.height)
    sql = pl.SQLContext(items=table, eager=True).execute(f"select {condition[1]} as hit from items")
    assert ours.tolist() == sql["hit"].fill_null(value=False).to_list()


def test_words_of_truth_are_as_good_as_booleans():
    table = pl.DataFrame({"on_sale": ["true", "FALSE", None, ""], "word": ["true", "maybe", None, "false"]})
    assert Condition.parse("on_sale = true").mask(table, 4).tolist() == [True, False, False, False]
    assert Condition.parse("not on_sale = true").mask(table, 4).tolist() == [False, True, False, False]
    with pytest.raises(ConfigError, match="a column of true and false"):
        Condition.parse("word = true").mask(table, 4)


def test_prices_may_have_decimal_commas():
    prices = pl.DataFrame({"Preis": ["4,5", "1.234,56", "19", None, ""]})
    assert Condition.parse("Preis < 20").mask(prices, 5).tolist() == [True, False, True, False, False]
    unclear = pl.DataFrame({"Preis": ["1,234", "950"]})
    with pytest.raises(ConfigError, match="holds '1,234', and whether its comma parts decimals or thousands"):
        Condition.parse("Preis < 20").mask(unclear, 2)


@given(CONDITIONS, ROWS)
@settings(max_examples=150, deadline=None)
def test_sql_agrees(condition: tuple[str, str], rows: list[dict]):
    check_against_sql(condition, rows)


@pytest.mark.long
@given(CONDITIONS, ROWS)
@settings(max_examples=5000, deadline=None)
def test_sql_agrees_at_length(condition: tuple[str, str], rows: list[dict]):
    check_against_sql(condition, rows)


@given(st.text(max_size=40) | st.text(alphabet="()'\"=<>!, notandorinislikemissing0.1ab", max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_text_ends_in_anything_but_an_answer(text: str):
    with suppress(ConfigError):
        assert len(Condition.parse(text).mask(SHOES, 4)) == 4
