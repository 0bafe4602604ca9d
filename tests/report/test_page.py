import html.parser
import re

import numpy as np
import pytest
from PIL import Image

from triptych.report.page import ShownItem, write_demo_page

HOSTILE = """<script>alert("x")</script> & 'quotes' onerror="x" {{ 7 * 7 }} 日本"""


class Reader(html.parser.HTMLParser):
    """Collects tags and attributes, and checks that what is opened is closed."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in {"meta", "img", "rect", "circle", "path", "link", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def item(number, **changes):
    known = {"item_id": f"mug-{number:04d}", "title": f"Harbour mug {number}", "subtitle": "Kitchen",
             "score": 1 / (number + 1), "picture": Image.new("RGB", (96, 96), "teal")}  # fmt: skip
    return ShownItem(**(known | changes))


def write(path, **changes):
    shown = {
        "comparison": [
            {"model": "lightgcn", "recall@20": np.float64(0.21), "ndcg@20": 0.12, "epochs": 90},
            {"model": "freedom", "recall@20": 0.305, "ndcg@20": 0.11, "epochs": 40, "seconds": 12.345},
        ],
        "history": [item(0, score=None), item(1, score=None, picture=None)],
        "recommendations": {"lightgcn": [item(2), item(3, picture=None)], "freedom": [item(4, hit=True)]},
        "user_id": "u0042",
        "facts": {"users": 600, "n_items": np.int64(1360), "noise": 0.25, "name": "demo", "unknown": None},
    }
    write_demo_page(path, **(shown | changes))
    page = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return page, reader


def rows(page):
    body = page.split("<tbody>")[1].split("</tbody>")[0]
    return [re.sub(r"<span.*?</span>", "", row) for row in body.split("</tr>")[:-1]]


def test_the_page_is_one_file_that_asks_for_nothing_else(tmp_path):
    page, reader = write(tmp_path / "page" / "index.html")
    assert "http" not in page
    assert "<script" not in page
    assert "url(" not in page
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["index.html"]
    for _, attributes in reader.tags:
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert not any(name.startswith("on") or name == "href" for name in attributes)


def test_hostile_texts_stay_texts(tmp_path):
    hostile = item(1, title=HOSTILE, subtitle=HOSTILE, item_id=HOSTILE)
    page, reader = write(
        tmp_path / "index.html",
        history=[hostile, item(2, title=HOSTILE, picture=None)],
        recommendations={HOSTILE: [hostile]},
        user_id=HOSTILE,
        facts={HOSTILE: HOSTILE},
        comparison=[{"model": HOSTILE, HOSTILE: HOSTILE}],
    )
    assert "<script" not in page
    assert "{{ 7 * 7 }}" in page
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert "".join(reader.text).count(HOSTILE) >= 9
    assert {tags["alt"] for tag, tags in reader.tags if tag == "img"} == {f"Picture of {HOSTILE}"}


def test_ids_in_commands_are_quoted_for_the_shell(tmp_path):
    _, reader = write(tmp_path / "index.html", user_id="x; rm -rf ~")
    assert "recommend demo/runs/freedom 'x; rm -rf ~'\n" in "".join(reader.text)


def test_each_card_has_a_picture_with_words_or_a_placeholder(tmp_path):
    page, reader = write(tmp_path / "index.html")
    assert sum(tag == "img" for tag, _ in reader.tags) == 3
    assert all(attributes["alt"] for tag, attributes in reader.tags if tag == "img")
    labels = [attributes.get("aria-label", "") for _, attributes in reader.tags]
    assert sum(label.startswith("No picture of") for label in labels) == 2
    assert ("html", {"lang": "en"}) in reader.tags
    assert page.count("✓ chosen, held out") == 1


def test_the_best_of_each_metric_is_bold_and_nothing_else(tmp_path):
    first, second = rows(write(tmp_path / "index.html")[0])
    assert re.findall("<b>(.*?)</b>", first) == ["0.1200"]
    assert re.findall("<b>(.*?)</b>", second) == ["0.3050"]
    assert "90" in first
    assert "–" in first  # its seconds are not known
    assert "12.3" in second


def test_figures_that_are_not_numbers_do_not_win(tmp_path):
    page, _ = write(
        tmp_path / "index.html",
        comparison=[
            {"model": "a", "recall@20": float("nan")},
            {"model": "b", "recall@20": 0.1},
            {"model": "c"},
        ],
    )
    assert [re.findall("<b>(.*?)</b>", row) for row in rows(page)] == [[], ["0.1000"], []]


def test_facts_are_worded(tmp_path):
    page, _ = write(tmp_path / "index.html")
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    assert facts == [
        ("users", "600"),
        ("n items", "1,360"),
        ("noise", "0.25"),
        ("name", "demo"),
        ("unknown", "–"),
    ]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_pictures_of_any_mode_and_size_are_taken_and_made_small(tmp_path, mode):
    page, _ = write(
        tmp_path / "index.html", history=[item(0, picture=Image.new(mode, (3000, 40)))], recommendations={}
    )
    assert len(page) < 40_000


def test_a_page_of_nothing_is_still_a_page(tmp_path):
    page, _ = write(tmp_path / "index.html", comparison=[], history=[], recommendations={}, facts={})
    assert "u0042" in page


def test_an_older_page_is_replaced(tmp_path):
    (tmp_path / "index.html").write_text("old")
    assert "old" not in write(tmp_path / "index.html")[0][:20]
