"""Which column of a table means what: said by the user, or seen by its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

import polars as pl

from triptych.data.lines import unpacked_name
from triptych.errors import DataError, nearest

# Well-known names, the clear ones first: the others only count where there is none of these.
_USER_NAMES = (
    {"user", "userid", "uid", "reviewerid", "customerid", "visitorid", "memberid"},
    {"clientid", "buyerid", "accountid", "shopperid", "personid"},
    {"customer", "visitor", "member", "reviewer", "client", "buyer", "account", "person"},
)
_ITEM_NAMES = (
    {"item", "itemid", "iid", "asin", "parentasin", "productid", "movieid", "videoid", "trackid", "bookid"},
    {"skuid", "itemsku", "productsku", "variantsku", "lineitemsku", "articleid", "songid", "goodsid"},
    {"sku", "product", "article", "movie", "video", "track", "song", "book"},
)
TITLE_NAMES = ("title", "name", "producttitle", "productname", "itemtitle", "itemname")
"""Names of the column of titles, spelled as by `plain_name`; the first wins."""
_BARE_ID = "id"
"""Of a table of items, where it can mean one thing only; but any table may call its ids so."""
_USER_WORDS = frozenset(name for names in _USER_NAMES for name in names) | {"people", "shopper", "subscriber"}
_OF_PEOPLE = {
    "email", "emailaddress", "mail", "phone", "phonenumber", "telephone", "mobile", "firstname", "lastname",
    "surname", "givenname", "familyname", "fullname", "dateofbirth", "birthdate", "birthday", "password",
}  # fmt: skip
"""Columns that tables of people have, and tables of things have not."""


@dataclass(frozen=True)
class Columns:
    """Which column of a table means what.

    Args:
        user: raw user ids; None for the one column with a well-known name, such as `user_id`.
        item: raw item ids; None as for `user`.
        rating: ratings; None to read none (a `.inter` file's `rating` is read all the same).
        timestamp: times; None to read none (or a `.inter` file's `timestamp`).
        label: parts of a given split; None to read none (or a `.inter` file's `x_label`).
    """

    user: str | None = None
    item: str | None = None
    rating: str | None = None
    timestamp: str | None = None
    label: str | None = None


def resolve_columns(frame: pl.DataFrame, columns: Columns, path: str | Path = "") -> Columns:
    """Fill in the columns left open, and check that all exist.

    Args:
        frame: the table.
        columns: what is known.
        path: where the table is from; a `.inter` file's well-known columns are read unasked.

    Raises:
        DataError: a column is missing, or nothing or too much could be the user or item column.
    """
    if unpacked_name(Path(path)).lower().endswith(".inter"):
        usual = {"rating": "rating", "timestamp": "timestamp", "label": "x_label"}
        new = {
            role: name for role, name in usual.items() if name in frame.columns and not getattr(columns, role)
        }
        columns = replace(columns, **new)
    for role in ("rating", "timestamp", "label"):
        if (name := getattr(columns, role)) is not None:
            existing_column(frame, name, f"--{role}")
    user = _guess(frame, _USER_NAMES, "user", "--user") if columns.user is None else columns.user
    return replace(
        columns, user=existing_column(frame, user, "--user"), item=item_column(frame, columns.item)
    )


def item_column(
    frame: pl.DataFrame, item: str | None = None, like: str | None = None, *, flag: str | None = "--item"
) -> str:
    """Name the column of item ids: `item` if given, else `like` if it is there, else the well-known one.

    Args:
        frame: the table.
        item: what it is said to be.
        like: what the interactions call theirs; None where `frame` holds the interactions.
        flag: the option that names it, for messages; None where there is none.

    Raises:
        DataError: it is missing, or nothing or too much could be it.
    """
    if item is not None:
        return existing_column(frame, item, flag or "item ids")
    if like is None:
        return _guess(frame, _ITEM_NAMES, "item", flag)
    if like in frame.columns:
        return like
    return _guess(frame, (*_ITEM_NAMES, {_BARE_ID}), "item", flag, like)


def is_bare_id(column: str) -> bool:
    """Say whether a column is called by the one word that says of no kind whose ids it holds."""
    return plain_name(column) == _BARE_ID


def is_of_people(name: str, columns: Iterable[str]) -> bool:
    """Say whether a table tells of people, by a word of its name or by what it knows of each.

    Args:
        name: the file's, without its suffix.
        columns: what the table's are called.
    """
    words = {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}
    spelled = words | {word.removesuffix("s") for word in words}
    return bool(spelled & _USER_WORDS or _OF_PEOPLE & set(map(plain_name, columns)))


def free_name(name: str, taken: Collection[str]) -> str:
    """Give a column a name that no other has: `name`, or `name_2` and so on."""
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(free for free in names if free not in taken)


def plain_name(column: str) -> str:
    """Spell the name of a column as well-known names are: lower case, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", column.lower())


def existing_column(frame: pl.DataFrame, name: str, flag: str) -> str:
    """Check that a table has a column.

    Args:
        frame: the table.
        name: the column.
        flag: the option that names it, for messages.

    Raises:
        DataError: it has none of this name.
    """
    if name not in frame.columns:
        raise DataError(
            f"there is no column '{name}' ({flag})",
            wanted="one of " + ", ".join(frame.columns),
            fix=nearest(name, frame.columns),
        )
    return name


def _guess(
    frame: pl.DataFrame,
    well_known: Iterable[Collection[str]],
    role: str,
    flag: str | None,
    like: str | None = None,
) -> str:
    found: list[str] = []
    for names in well_known:
        found = found or [name for name in frame.columns if plain_name(name) in names]
    if len(found) != 1:
        what = "more than one column could be meant" if found else "no column has a well-known name"
        raise DataError(
            f"{what} for {flag or f'{role} ids'}: the columns are {', '.join(frame.columns)}",
            wanted=f"one {role} id column",
            fix=f"Name it with {flag} COLUMN" if flag else f"Call it {like or f'{role}_id'}, and no other so",
        )
    return found[0]
