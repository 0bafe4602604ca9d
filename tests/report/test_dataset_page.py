import base64
import html.parser
import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from triptych.data.dataset import Dataset
from triptych.data.demo import build_shop
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import Interactions
from triptych.data.pictures import Thumbnails
from triptych.data.statistics import describe
from triptych.report.dataset_page import (
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    UP,
    WIDTH,
    bar_chart,
    histogram,
    percent,
    pictured_items,
    write_dataset_page,
)
from triptych.report.page import in_words

HOSTILE = """<script>alert("x")</script> & 'quotes' onerror="x" {{ 7 * 7 }} 日本"""
DIGEST = "0123456789abcdef" * 4
PROVENANCE = {
    "layout": "amazon-2018",
    "files": {"reviews_Baby_5.json.gz": {"bytes": 123456, "sha256": DIGEST}},
    "steps": [
        {"step": "read interactions", "rows": 160792, "left_out": {"no item id": 3}, "examples": ["line 17", "line 9"]},
        {"step": "k-core", "users_removed": 12, "merged": True, "min_rating": None, "none": [], "empty": {}},
    ],
    "encoders": {"text": {"model": "MiniLM", "width": 384}},
}  # fmt: skip


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that what is opened is closed in order."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag, key):
        return [attributes[key] for name, attributes in self.tags if name == tag and key in attributes]

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def write(path, data, facts=None):
    write_dataset_page(path, data, facts or describe(data))
    page = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return page, reader


def full(title=None):
    """Forty items with everything there is to show; `title` is the title of them all."""
    rng = np.random.default_rng(0)
    n = 40
    item = np.repeat(np.arange(n), rng.integers(1, 20, n))
    pairs = Interactions.from_ids(
        rng.integers(0, 60, len(item)), item, rating=rng.integers(1, 6, len(item)).astype(float),
        timestamp=1.7e9 + rng.random(len(item)) * 1e6,
    )  # fmt: skip
    pairs = pairs.with_label(rng.integers(-1, 3, len(pairs)).astype(np.int8))
    titles = [title or f"Item {at}" for at in range(n)]
    table = pl.DataFrame({"item_id": pairs.items.ids, "title": titles, "brand": [None] * n})
    table = table.cast({"brand": pl.String})
    row = np.arange(n)
    features = {
        "image": ItemFeatures.dense(rng.normal(size=(n, 3)), rng.random(n) < 0.7, "a.npy"),
        "text": ItemFeatures(
            np.ones(n, dtype=bool), graph=ItemGraph.from_edges(row, (row + 1) % n, rng.random(n), n)
        ),
    }
    pictures = [None if at % 4 == 0 else Image.new("RGB", (20, 20), (6 * at, 80, 80)) for at in range(n)]
    return Dataset("shop", pairs, table, features, PROVENANCE, Thumbnails.of(pictures))


def test_the_page_is_one_file_that_asks_for_nothing_else(tmp_path):
    page, reader = write(tmp_path / "page" / "index.html", full())
    assert "http" not in page
    assert "<script" not in page
    assert "url(" not in page
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]
    for _, attributes in reader.tags:
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert not any(name.startswith("on") or name == "href" for name in attributes)
    assert reader.tags.count(("html", {"lang": "en"})) == 1


def test_hostile_texts_stay_texts(tmp_path):
    provenance = {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}], "steps": [{"step": HOSTILE}]}
    data = replace(full(HOSTILE), name=HOSTILE, provenance=provenance)
    data = replace(data, item_table=data.item_table.rename({"brand": HOSTILE}))
    data = replace(data, features={name: replace(one, source=HOSTILE) for name, one in data.features.items()})
    page, reader = write(tmp_path / "index.html", data)
    assert "<script" not in page
    assert "49 日本" not in page
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "".join(reader.text).count(HOSTILE) >= 50
    assert set(reader.all("img", "alt")) == {f"Picture of {HOSTILE}"}


def figure(reader, title):
    """The text alternative of the chart with a title."""
    (says,) = [says for says in reader.all("svg", "aria-label") if says.startswith(title)]
    return says


@pytest.mark.parametrize("again", [False, True])
def test_figures_on_the_page_are_those_of_the_facts(tmp_path, again):
    data = full()
    facts = json.loads(json.dumps(describe(data))) if again else describe(data)
    page, reader = write(tmp_path / "index.html", data, facts)
    shown = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.split("</header>")[0]))
    assert shown == {
        "users": in_words(facts["users"]), "items": "40", "interactions": in_words(len(data.interactions)),
        "density": percent(data.interactions.density), "modalities": "image, text",
        "first interaction": "2023-11-14", "last interaction": facts["times"]["last"],
    }  # fmt: skip
    for title, bars in (
        ("Interactions per user", facts["degrees"]["users"]["histogram"]),
        ("Interactions per item", facts["degrees"]["items"]["histogram"]),
        ("Ratings", facts["rating_values"]["histogram"]),
    ):
        said = figure(reader, title).partition(": ")[2]
        assert said == "; ".join(f"{in_words(first)}: {n:,}" for first, _, n in bars)
    top = figure(reader, "How much goes to the most popular").partition(": ")[2]
    assert top == "; ".join(f"{p} %: {percent(share)}" for p, share in facts["popularity"]["top"].items())
    gini = f"Gini coefficient is {facts['popularity']['gini']:.3f}"
    assert gini in reader.words
    cells = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", page, re.DOTALL)
    table = {
        name: " ".join(re.sub("<svg.*?</svg>|<.*?>", " ", row, flags=re.DOTALL).split())
        for name, row in cells
    }
    levels = ("min", "p25", "median", "p75", "p90", "p99", "max", "mean")
    for one in ("user", "item"):
        assert table[one] == " ".join(in_words(facts["degrees"][one + "s"][level]) for level in levels)
    lacks = facts["missing"]["modalities"]["image"]
    assert (
        table["image"] == f"{lacks['items']} {percent(lacks['of_items'])} {percent(lacks['of_interactions'])}"
    )
    assert table["train"] == " ".join(str(n) for n in facts["parts"]["train"].values())
    assert table["title"] == "0 % 7 7 7 2 2 2"
    assert table["brand"] == "100 %" + " –" * 6
    widths = [float(width) for width in re.findall(r'<rect class="bar" width="(.*?)"', page)]
    shares = [
        one[of] for one in facts["missing"]["modalities"].values() for of in ("of_items", "of_interactions")
    ]
    assert widths == pytest.approx([100 * share for share in shares], abs=0.01)


def test_neighbors_are_shown_with_picture_title_and_similarity(tmp_path):
    data = full()
    facts = describe(data, n_examples=2, n_neighbors=3)
    page, _ = write(tmp_path / "index.html", data, facts)
    rows = re.findall(r'<ol class="cards neighbors".*?</ol>', page, re.DOTALL)
    examples = [(of, one) for of in ("image", "text") for one in facts["neighbors"][of]["examples"]]
    assert len(rows) == len(examples) == 4
    for row, (of, example) in zip(rows, examples, strict=True):
        cards = row.split('<li class="card')[1:]
        assert len(cards) == 1 + (3 if of == "image" else 1)
        assert "example" in cards[0]
        assert not any("example" in card for card in cards[1:])
        for card, shown in zip(cards, [example, *example["neighbors"]], strict=True):
            item_id = shown["item_id"]
            assert f'<p class="title">{shown["title"]}</p>' in card
            assert f'<p class="id">{item_id}</p>' in card
            jpeg = data.thumbnails.jpeg(item_id)
            assert ("No picture of" in card) == (jpeg is None)
            if jpeg is not None:
                assert base64.b64decode(re.findall('base64,(.*?)"', card)[0]) == jpeg
            if "similarity" in shown:
                assert f"</span>{shown['similarity']:.3f}</span>" in card


def test_the_sheet_goes_from_the_most_popular_to_the_least():
    data = full()
    degree = np.bincount(data.interactions.item)
    everything = pictured_items(data, 60)
    assert sorted(everything) == [at for at in range(40) if at % 4]
    assert [degree[at] for at in everything] == sorted((degree[at] for at in everything), reverse=True)
    few = pictured_items(data, 4)
    assert few == [everything[0], everything[10], everything[19], everything[29]]
    assert pictured_items(data, 1) == everything[:1]
    assert pictured_items(replace(data, thumbnails=None), 60) == []
    assert pictured_items(replace(data, thumbnails=Thumbnails.of([None] * 40)), 60) == []


def test_the_sheet_shows_its_pictures(tmp_path):
    data = full()
    page, _ = write(tmp_path / "index.html", data)
    sheet = re.search(r'<ul class="sheet".*?</ul>', page, re.DOTALL)[0]
    expected = pictured_items(data, 60)
    shown = [base64.b64decode(code) for code in re.findall('base64,(.*?)"', sheet)]
    assert shown == [data.thumbnails.jpeg(item) for item in expected]
    assert re.findall('alt="(.*?)"', sheet) == [f"Picture of Item {item}" for item in expected]


def test_provenance_is_shown_to_the_last_value(tmp_path):
    page, reader = write(tmp_path / "index.html", full())
    origin = page.split('<div class="origin">')[1]
    assert f'<code title="{DIGEST}">0123456789ab…</code>' in origin
    assert DIGEST not in reader.words
    said = reader.words.split("what became of their rows.")[1]
    for words in ("layout amazon-2018".replace(" ", ""), "reviews_Baby_5.json.gz", "bytes123,456", "160,792",
                  "noitemid3", "examplesline17,line9", "usersremoved12", "mergedyes", "minrating–", "none–",
                  "empty–", "modelMiniLM", "width384"):  # fmt: skip
        assert words in said.replace(" ", ""), words


def test_long_lists_are_folded_and_whole(tmp_path):
    data = replace(full(), provenance={"files": {f"a{at}.jpg": at for at in range(30)}, "few": [1, 2]})
    page, _ = write(tmp_path / "index.html", data)
    assert page.count("<details>") == 1
    assert "<summary>30 entries</summary>" in page
    assert all(f"<dt>a{at}.jpg</dt>" in page for at in range(30))


def test_every_chart_has_words_labels_and_stays_in_its_frame(tmp_path):
    page, reader = write(tmp_path / "index.html", full())
    charts = re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL)
    assert len(charts) == 5
    for chart in charts:
        assert 'role="img"' in chart
        assert chart.count('<text class="name"') == 2
        assert f'viewBox="0 0 {WIDTH} {HEIGHT}"' in chart
        for x, y, width, height in re.findall(
            r'<rect class="bar" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', chart
        ):
            assert float(x) >= LEFT
            assert float(x) + float(width) <= WIDTH - RIGHT + 0.02
            assert float(width) > 0
            assert float(y) >= TOP
            assert float(y) + float(height) == pytest.approx(TOP + UP, abs=0.02)
    assert all(words.strip() for words in reader.all("svg", "aria-label"))


def test_bars_are_as_high_as_their_numbers():
    chart = bar_chart("T", "x", "y", [("a", 2), ("b", 0), ("c", 4)])
    assert [bar.height for bar in chart.bars] == [UP / 2, 0, UP]
    assert [text for _, text in chart.y_ticks] == ["0", "1", "2", "3", "4"]
    assert chart.says == "T. y by x: a: 2; b: 0; c: 4"
    assert [text for _, text in bar_chart("T", "x", "y", [("a", 17_000)]).y_ticks] == [
        "0",
        "5k",
        "10k",
        "15k",
        "20k",
    ]
    assert [text for _, text in bar_chart("T", "x", "y", [("a", 0)]).y_ticks] == ["0", "1"]
    shares = bar_chart("T", "x", "y", [("a", 0.0004)], word=percent)
    assert [text for _, text in shares.y_ticks] == ["0 %", "0.01 %", "0.02 %", "0.03 %", "0.04 %"]


def test_labels_have_room():
    bars = [[10_000 * at, 10_000 * at + 9_999, at] for at in range(1, 26)]
    chart = histogram("T", "x", "y", bars)
    places = [x for x, _ in chart.x_ticks]
    assert len(places) < 12
    assert min(np.diff(places)) > 6 * len("250,000")
    assert places[0] == LEFT
    assert chart.x_ticks[0][1] == "10,000"
    assert chart.bars[0].says == "10,000–19,999: 1"


@pytest.mark.parametrize(
    ("share", "words"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.0806, "8.06 %"), (0.999883, "99.9883 %"), (0.10, "10 %"),
     (1.5e-7, "0.000015 %"), (1 / 3, "33.3 %"), (0.0101, "1.01 %"), (0.999999, "99.9999 %")],
)  # fmt: skip
def test_shares_are_worded_with_the_digits_that_matter(share, words):
    assert percent(share) == words


def one_item():
    pairs = Interactions.from_ids(np.array([1]), np.array([2]))
    return Dataset.from_interactions("one", pairs)


def one_item_with_everything():
    pairs = Interactions.from_ids(
        np.array(["u"]), np.array(["i"]), rating=np.array([3.0]), timestamp=np.array([5.0])
    )
    table = pl.DataFrame(
        {"item_id": ["i"], "title": [None]}, schema={"item_id": pl.String, "title": pl.String}
    )
    features = {
        "image": ItemFeatures.dense(np.zeros((1, 1)), np.array([False])),
        "text": ItemFeatures.dense(np.ones((1, 1))),
    }
    return Dataset("one", pairs, table, features, {}, Thumbnails.of([None]))


def many_items():
    rng = np.random.default_rng(0)
    n = 100_000
    item = np.concatenate([np.arange(n), (n * rng.random(200_000) ** 4).astype(np.int64)])
    return Dataset.from_interactions("many", Interactions.from_ids(rng.integers(0, 50_000, len(item)), item))


@pytest.mark.parametrize("make", [one_item, one_item_with_everything, many_items])
def test_the_least_and_the_most_make_a_page(tmp_path, make):
    data = make()
    page, reader = write(tmp_path / "index.html", data)
    assert f"<dd>{data.n_items:,}</dd>" in page
    assert "nan" not in reader.words.lower()
    assert "None" not in reader.words
    assert 'aria-labelledby="sheet"' not in page
    assert ("No modality is attached" in reader.words) == (not data.features)
    assert len(page) < 100_000


def test_without_titles_the_ids_are_shown_and_without_thumbnails_no_empty_frames(tmp_path):
    data = replace(full(), thumbnails=None)
    data = replace(data, item_table=data.item_table.drop("title"))
    page, reader = write(tmp_path / "index.html", data)
    assert not reader.all("img", "src")
    assert "no picture" not in page
    item_id = describe(data)["neighbors"]["image"]["examples"][0]["item_id"]
    assert f'<p class="title">{item_id}</p>' in page


def test_the_built_in_shop_makes_a_page(tmp_path):
    shop = build_shop()
    data = shop.dataset()
    pictures = (shop.picture(item) for item in range(data.n_items))
    page, reader = write(tmp_path / "index.html", replace(data, thumbnails=Thumbnails.of(pictures)))
    assert len(re.findall(r'<ol class="cards neighbors"', page)) == 8
    assert len(reader.all("img", "src")) > 60 + 30
    assert len(page) < 1_000_000


@pytest.mark.parametrize(
    ("value", "words"),
    [(999.4, "999"), (999.5, "1,000"), (999.9, "1,000"), (1234.5, "1,234"), (0.12345, "0.123")],
)
def test_figures_in_words(value: float, words: str):
    assert in_words(value) == words
