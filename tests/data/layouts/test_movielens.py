import gzip

import numpy as np
import polars as pl
import pytest

from triptych.data.bad_rows import BadRows
from triptych.data.ids import IdMap
from triptych.data.layouts import movielens
from triptych.data.layouts.movielens import MovieLens
from triptych.data.readers import interactions_from_frame
from triptych.errors import DataError

RATINGS = [(196, 1, 3, 881250949), (186, 2, 4, 891717742), (196, 2, 1, 878887116)]
GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]


def item_ids(*ids):
    return IdMap(np.array(ids), "item")


def flags(*names):
    return "|".join(str(int(genre in names)) for genre in GENRES)


def write_100k(folder):
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
    url = "http://us.imdb.com/M/title-exact?x"
    lines = [
        f"1|Toy Story: the first (1995)|01-Jan-1995||{url}|{flags('Animation', 'Comedy')}\n",
        f"2|Été, L' (1996)|09-Feb-1996||{url}|{flags('Drama')}\n",
        f"267|unknown||||{flags('unknown')}\n",
        f"9|No genre (1960)|||{url}|{flags()}\n",
    ]
    (folder / "u.item").write_bytes("".join(lines).encode("latin-1"))
    numbered = "".join(f"{genre}|{at}\n" for at, genre in enumerate(GENRES))
    (folder / "u.genre").write_text(numbered + "\n")


def write_1m(folder, encoding="latin-1"):
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))
    lines = ["1::Toy Story: the first (1995)::Animation|Comedy\n", "2::Été, L' (1996)::Drama\n"]
    (folder / "movies.dat").write_bytes("".join(lines).encode(encoding))


def write_25m(folder):
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n" + "".join(",".join(map(str, row)) + "\n" for row in RATINGS)
    )
    (folder / "movies.csv").write_text(
        "movieId,title,genres\r\n1,Toy Story: the first (1995),Animation|Comedy\r\n"
        '2,"Été, L\' (1996)",Drama\r\n9,"He said ""no"" (2006–2007)",(no genres listed)\r\n',
        newline="",
        encoding="utf-8",
    )


FORMS = {
    "100k": write_100k,
    "1m": write_1m,
    "10m": lambda folder: write_1m(folder, "utf-8"),
    "25m": write_25m,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(tmp_path, form):
    FORMS[form](tmp_path)
    layout = MovieLens.find(tmp_path)
    bad = BadRows(limit=0.0)
    frame, columns = layout.read_interactions(bad)
    data = interactions_from_frame(frame, columns).interactions
    assert data.users.ids.tolist() == [186, 196]
    assert data.items.ids.tolist() == [1, 2]
    assert list(zip(data.user, data.item, data.rating, data.timestamp, strict=True)) == [
        (0, 1, 4, 891717742), (1, 0, 3, 881250949), (1, 1, 1, 878887116),
    ]  # fmt: skip
    assert frame.height == 3
    table = layout.read_items(item_ids(1, 2, 77), bad)
    assert table.select("item_id", "title", "categories", "year").rows() == [
        (1, "Toy Story: the first (1995)", "Animation, Comedy", 1995),
        (2, "Été, L' (1996)", "Drama", 1996),
    ]
    assert table.width == 4
    assert bad.of("ratings.dat") == bad.of("u.item") == {}


def test_titles_without_year_or_genre(tmp_path):
    write_100k(tmp_path)
    table = MovieLens.find(tmp_path).read_items(item_ids(9, 267), BadRows())
    assert table.sort("item_id").select("title", "year", "categories").rows() == [
        ("No genre (1960)", 1960, None),
        ("unknown", None, "unknown"),
    ]
    (tmp_path / "u.data").unlink()
    (tmp_path / "u.item").unlink()
    write_25m(tmp_path)
    table = MovieLens.find(tmp_path).read_items(item_ids(9), BadRows())
    assert table.rows() == [(9, 'He said "no" (2006–2007)', None, 2006)]


def test_a_file_of_ratings_alone(tmp_path):
    write_100k(tmp_path)
    layout = MovieLens.find(tmp_path / "u.data")
    assert dict(layout.files) == {"interactions": tmp_path / "u.data"}
    assert layout.read_items(item_ids(1), BadRows()) is None
    assert MovieLens.find(tmp_path / "u.item") is None
    (tmp_path / "u.genre").unlink()
    assert MovieLens.find(tmp_path).read_items(item_ids(1), BadRows()).columns == ["item_id", "title", "year"]


BROKEN = {
    "u.data": ("196\t1\t3\t881250949\n", ["5\t6\t7\n", "1\t2\t3\t4\t5\n"], "x\t1\t3\t4\n"),
    "ratings.dat": ("196::1::3.5::881250949\r\n", ["5::6::7\n", "1::2::3::4::5\n"], "1::x::3::4\n"),
    "ratings.csv": ("196,1,3.5,881250949\n", ["5,6,7\n", '1,"2,3,4\n'], "1,2,high,4\n"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_lines_are_counted_and_named(tmp_path, name):
    good, misshapen, no_number = BROKEN[name]
    head = "\ufeff" + ("userId,movieId,rating,timestamp\n" if name.endswith("csv") else "")
    text = head + good * 10 + misshapen[0] + misshapen[1] + no_number + "\n" + good.strip()
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    layout, bad = MovieLens.find(tmp_path), BadRows(limit=0.5)
    frame, _ = layout.read_interactions(bad)
    assert frame["user_id"].to_list() == [196] * 11
    first = 12 if name.endswith("csv") else 11
    facts = bad.of(name)
    assert facts["left_out"] == {"not 4 fields": 2, "no number where one belongs": 1}
    assert [example.split(":")[1] for example in facts["first_left_out"]] == [
        f" line {first}", f" line {first + 1}", f" line {first + 2}",
    ]  # fmt: skip
    with pytest.raises(DataError, match=rf"{name}: 3 of 14 rows cannot be used: .*line {first}.*--max-bad"):
        layout.read_interactions(BadRows(limit=0.2))


def test_separators_that_only_add_up_are_no_good_lines(tmp_path):
    """A line too short beside one too long: as many separators as two good lines have."""
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n1\t2\t3\n1\t2\t3\t4\t5\n")
    bad = BadRows(limit=1.0)
    assert MovieLens.find(tmp_path).read_interactions(bad)[0].height == 1
    assert bad.count("u.data") == 2


def test_a_movie_listed_twice_is_counted(tmp_path):
    write_1m(tmp_path)
    with (tmp_path / "movies.dat").open("a") as file:
        file.write("1::Again (2001)::Drama\n1::Title::with::colons\n")
    bad = BadRows(limit=0.5)
    table = MovieLens.find(tmp_path).read_items(item_ids(1, 2), bad)
    assert table["title"].to_list()[0] == "Toy Story: the first (1995)"
    assert bad.of("movies.dat")["left_out"] == {"not 3 fields": 1, "a movie listed before": 1}


def test_fast_and_plain_splitting_agree(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = ["::".join(map(str, rng.integers(1, 99, 4))) + "\n" for _ in range(200)]
    (tmp_path / "ratings.dat").write_text("".join(rows))
    fast, _ = MovieLens.find(tmp_path).read_interactions(BadRows())

    def fail(*_, **__):
        raise pl.exceptions.ComputeError("no")

    monkeypatch.setattr(movielens.pl, "read_csv", fail)
    plain, _ = MovieLens.find(tmp_path).read_interactions(BadRows())
    assert fast.equals(plain)
    assert fast.height == 200


def test_genres_that_are_not_numbered_are_refused(tmp_path):
    write_100k(tmp_path)
    (tmp_path / "u.genre").write_text("Action|1\nDrama|2\n")
    with pytest.raises(DataError, match=r"u\.genre gives genres the numbers 1, 2"):
        MovieLens.find(tmp_path).read_items(item_ids(1), BadRows())


def test_other_things_are_not_movielens(tmp_path):
    assert MovieLens.find(tmp_path) is None
    assert MovieLens.find(tmp_path / "none") is None
    (tmp_path / "ratings.csv").write_text("user,movie,rating\n1,2,3\n")
    (tmp_path / "u.data").write_text("")
    (tmp_path / "ratings.dat").write_bytes(b"\xff\xfe\0:")
    assert MovieLens.find(tmp_path) is None
    assert MovieLens.find(tmp_path / "ratings.csv") is None


def test_two_forms_in_one_folder_are_refused(tmp_path):
    write_100k(tmp_path)
    write_1m(tmp_path)
    with pytest.raises(DataError, match=r"u\.data, ratings\.dat.*a folder of its own"):
        MovieLens.find(tmp_path)


@pytest.mark.parametrize("write", [write_100k, write_1m, write_25m])
def test_compressed_files_say_the_same(tmp_path, write):
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.mkdir()
    packed.mkdir()
    write(plain)
    for file in plain.iterdir():
        (packed / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    expected, found = MovieLens.find(plain), MovieLens.find(packed)
    assert found.files.keys() == expected.files.keys()
    assert found.read_interactions(BadRows())[0].equals(expected.read_interactions(BadRows())[0])
    items = item_ids(1, 2, 9)
    assert found.read_items(items, BadRows()).equals(expected.read_items(items, BadRows()))
    if "ratings.csv.gz" not in {file.name for file in packed.iterdir()}:
        assert MovieLens.find(found.files["interactions"]) is not None
    for file in packed.iterdir():
        file.write_bytes(b"\x1f\x8b damaged")
    assert MovieLens.find(packed) is None
