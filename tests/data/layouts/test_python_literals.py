import json
import os
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.data.layouts.python_literals import MAX_LITERAL_BYTES, parse_record

LINE = (
    r"""{'asin': '0000031852', 'related': {'also_bought': ['B00JHONN1S', 'B002BZX8Z6']}, 'price': 3.17, """
    r"""'title': "Girl's \"Ballet\" Tutu", 'description': u'Caf\xe9 \u2013 5\' wide', 'salesRank': {'Toys & """
    r"""Games': 211836}, 'categories': [['Sports & Outdoors', 'Other Sports'], ['Baby']]}"""
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = PLAIN | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(SCALARS, inner, max_size=3)
    ),
    max_leaves=8,
)


def test_a_line_of_2014_is_read_with_its_quotes_escapes_and_nests():
    assert parse_record(LINE.encode()) == {
        "asin": "0000031852",
        "related": {"also_bought": ["B00JHONN1S", "B002BZX8Z6"]},
        "price": 3.17,
        "title": 'Girl\'s "Ballet" Tutu',
        "description": "Café – 5' wide",
        "salesRank": {"Toys & Games": 211836},
        "categories": [["Sports & Outdoors", "Other Sports"], ["Baby"]],
    }


@given(st.dictionaries(SCALARS, VALUES, max_size=5))
def test_what_python_writes_comes_back(record):
    back = parse_record(repr(record).encode())
    assert back == record
    assert repr(back) == repr(record)  # 1, 1.0 and True are equal, and not the same


@given(st.dictionaries(st.text(), st.recursive(PLAIN | st.text(), st.lists, max_leaves=5), max_size=5))
def test_what_json_writes_comes_back(record):
    assert parse_record(json.dumps(record).encode()) == record
    assert parse_record(json.dumps(record, ensure_ascii=False).encode()) == record


def test_mixed_copies_with_json_lines():
    assert parse_record(b' {"a": true, "b": null, "c": "x\\/y"}\n') == {"a": True, "b": None, "c": "x/y"}


def test_an_escape_that_is_none_is_kept_without_a_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert parse_record(rb"{'a': 'x\/y \d'}") == {"a": r"x\/y \d"}
    assert caught == []


def test_nothing_is_ever_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("it ran"))
    for attack in (
        "__import__('os').system('touch pwned')",
        "{'a': __import__('os').system('touch pwned')}",
        "{'a': open('pwned', 'w')}",
        "{'a': [x for x in (1, 2)]}",
        "{x: x for x in (1, 2)}",
        "{'a': (lambda: 1)()}",
        "{'a': lambda: 1}",
        "{'a': f'{1 + 1}'}",
        "{'a': 'x'.upper()}",
        "{'a': 10 ** 10 ** 10}",
        "{'a': 'x' * 10 ** 12}",
        "{'a': 1 if True else 2}",
        "{'a': (b := 1)}",
        "{**{'a': 1}}",
        "{'a': name}",
    ):
        with pytest.raises(ValueError, match="neither JSON nor a Python literal"):
            parse_record(attack.encode())
    assert list(tmp_path.iterdir()) == []


DEEP = 10_000
BROKEN = {
    "round brackets": "(" * DEEP + ")" * DEEP,
    "square brackets": "{'a': " + "[" * DEEP + "]" * DEEP + "}",
    "curly brackets": "{'a':" * DEEP + "1" + "}" * DEEP,
    "JSON brackets": '{"a": ' + "[" * DEEP + "]" * DEEP + "}",
    "signs": "{'a': " + "-" * DEEP + "1}",
    "sums": "{'a': " + "1+" * DEEP + "1}",
    "attributes": "{'a': x" + ".x" * DEEP + "}",
    "huge integer": "{'a': " + "9" * DEEP + "}",
    "huge JSON integer": '{"a": ' + "9" * DEEP + "}",
    "list as key": "{[]: 1}",
    "cut short": LINE[:-20],
    "two records": LINE + LINE,
    "NUL": "{'a': '\0'}",
    "empty": "",
    "prose": "once upon a time",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_a_value_error(name):
    with pytest.raises(ValueError, match="neither JSON nor a Python literal") as caught:
        parse_record(BROKEN[name].encode())
    assert len(str(caught.value)) < 100
    assert " at 0x" not in str(caught.value)


def test_bytes_that_are_no_text_and_values_that_are_no_records_are_value_errors():
    with pytest.raises(ValueError, match="neither"):
        parse_record(b"{'a': '\xff'}")
    for line, kind in ((b"[1, 2]", "list"), (b"'text'", "str"), (b"None", "NoneType"), (b"{1, 2}", "set")):
        with pytest.raises(ValueError, match=f"^{kind} instead of a record"):
            parse_record(line)


def test_the_longest_literal():
    def line(n_bytes):
        return b"{'a': '" + b"x" * (n_bytes - 9) + b"'}"

    assert len(parse_record(line(MAX_LITERAL_BYTES))["a"]) == MAX_LITERAL_BYTES - 9
    with pytest.raises(ValueError, match=r"1,048,577 bytes too long"):
        parse_record(line(MAX_LITERAL_BYTES + 1))
