"""Conditions as they are written -> the tests they are made of. The grammar: `triptych.data.conditions`."""

from __future__ import annotations

import math
import operator
import re
from typing import NamedTuple

from triptych.data.condition_tests import COMPARISONS, Comparison, Joined, Missing, Node, Not, Pattern, Value
from triptych.errors import ConfigError

MAX_DEPTH = 32
"""Parentheses and nots inside each other."""

_KEYWORDS = frozenset({"and", "or", "not", "in", "like", "contains", "is", "missing", "true", "false"})
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")*")
    | (?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)(?![\w.])
    | (?P<word>[^\W\d]\w*)
    | (?P<sign>!=|<=|>=|[=<>(),])
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


def parse(text: str) -> tuple[Node, tuple[str, ...]]:
    """Read a condition, and say which columns it names, each once.

    Raises:
        ConfigError: it is nested too deeply, or not written so; the message says where.
    """
    parser = _Parser(text)
    root = parser.read()
    return root, tuple(dict.fromkeys(parser.columns))


class _Token(NamedTuple):
    kind: str  # "text", "name", "number", "word", "end"; a keyword or a sign is its own kind
    text: str
    place: int


class _Parser:
    """Reads a condition from left to right, each rule of the grammar by one method."""

    def __init__(self, text: str) -> None:
        self.columns: list[str] = []
        self._text = text
        self._next = 0
        self._tokens: list[_Token] = []
        place = 0
        while not self._tokens or self._tokens[-1].kind != "end":
            found = _TOKEN.match(text, place)
            if found is None:
                at = len(text) - len(text[place:].lstrip())
                raise self._unreadable(text[at : at + 12], at)
            kind = group = str(found.lastgroup)
            word = found[group]
            if kind == "sign" or (kind == "word" and word.lower() in _KEYWORDS):
                kind = word.lower()
            self._tokens.append(_Token(kind, word, found.start(group)))
            place = found.end()

    def read(self) -> Node:
        """Read all of it."""
        condition = self._any(depth=0)
        self._take("end", wanted="and, or, or the end")
        return condition

    def _any(self, depth: int) -> Node:
        parts = [self._all(depth)]
        while self._skip("or"):
            parts.append(self._all(depth))
        return Joined(operator.or_, tuple(parts)) if len(parts) > 1 else parts[0]

    def _all(self, depth: int) -> Node:
        parts = [self._one(depth)]
        while self._skip("and"):
            parts.append(self._one(depth))
        return Joined(operator.and_, tuple(parts)) if len(parts) > 1 else parts[0]

    def _one(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise ConfigError(
                f"a condition nested more than {MAX_DEPTH} deep",
                wanted="fewer parentheses and nots inside each other",
                fix="Write it more plainly",
            )
        if self._skip("not"):
            return Not(self._one(depth + 1))
        if self._skip("("):
            inner = self._any(depth + 1)
            self._take(")")
            return inner
        return self._test()

    def _test(self) -> Node:
        column = _unquoted(self._take("word", "name", wanted="a column"))
        self.columns.append(column)
        if self._skip("is"):
            negated = self._skip("not")
            self._take("missing")
            return Not(Missing(column)) if negated else Missing(column)
        if self._tokens[self._next].kind in COMPARISONS:
            return Comparison(column, self._take(*COMPARISONS).kind, self._value())
        negated = self._skip("not")
        word = self._take("in", "like", "contains", wanted="=, !=, <, <=, >, >=, in, like, contains or is")
        test: Node
        if word.kind == "in":
            self._take("(")
            tests = [Comparison(column, "=", self._value())]
            while self._skip(","):
                tests.append(Comparison(column, "=", self._value()))
            self._take(")", wanted=", or )")
            test = Joined(operator.or_, tuple(tests))
        else:
            text = _unquoted(self._take("text", wanted="a text in single quotes"))
            test = Pattern(column, "like" if word.kind == "like" else "contains", text)
        return Not(test) if negated else test

    def _value(self) -> Value:
        token = self._take("text", "number", "true", "false", wanted="a number, or a text in single quotes")
        if token.kind == "text":
            return _unquoted(token)
        if token.kind != "number":
            return token.kind == "true"
        number = float(token.text)
        if not math.isfinite(number):
            raise self._unreadable(token.text, token.place, "a number within the range of 64 bits")
        return int(token.text) if token.text.lstrip("+-").isdecimal() else number

    def _skip(self, kind: str) -> bool:
        """Go past the next token if it is of this kind, and say whether it was."""
        found = self._tokens[self._next].kind == kind
        self._next += found
        return found

    def _take(self, *kinds: str, wanted: str | None = None) -> _Token:
        token = self._tokens[self._next]
        if token.kind not in kinds:
            raise self._unreadable(token.text, token.place, wanted or " or ".join(kinds))
        self._next += 1
        return token

    def _unreadable(self, what: str, place: int, wanted: str = "a column, a value or a sign") -> ConfigError:
        found = f"{what!r} at character {place + 1}" if what else "its end"
        return ConfigError(
            f"the condition {self._text!r} cannot be read: it meets {found}",
            wanted=wanted,
            fix="Write for example \"category = 'shoes' and price < 50\"",
        )


def _unquoted(token: _Token) -> str:
    if token.kind == "word":
        return token.text
    quote = token.text[0]
    return token.text[1:-1].replace(quote * 2, quote)
