"""From an export to a trained model through the commands about content, for people and for machines."""

from __future__ import annotations

import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from triptych.cli.app import run
from triptych.data.dataset import Dataset
from triptych.data.demo import build_shop

LIGHT = ("--encoder", "text=tfidf", "--encoder", "image=descriptor")


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("content") / "export"
    build_shop(n_users=80, n_items=60, seed=5).export(folder)
    return folder


@pytest.fixture(scope="module")
def shop(export: Path) -> Path:
    folder, cache = export.parent / "shop", export.parent / "cache"
    assert run(["prepare", str(export), "--cache", str(cache), *LIGHT, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def labelled(shop: Path) -> Path:
    folder = shop.with_name("labelled")
    assert run(["split", str(shop), "--split", "leave-one-out", "--out", str(folder)]) == 0
    return folder


def test_the_example_is_an_export_that_prepare_understands(call, tmp_path):
    facts = call("data", "example", "--out", tmp_path / "export", "--json").json
    assert (facts["products"], facts["pictures"]) == (360, 331)
    assert (tmp_path / "export" / "sales.csv").read_text().count("\n") == facts["sales"] + 1
    again = call("data", "example", "--out", tmp_path / "export")
    assert again.status == 2
    assert "already exists" in again.stderr


def test_prepare_says_what_it_found_and_what_became_of_it(call, export, tmp_path):
    called = call("prepare", export, "--cache", tmp_path, *LIGHT, "--core", "3", "--out", tmp_path / "shop")
    words = " ".join(called.stdout.split())
    assert "Read as tables: interactions sales.csv, items products.csv, pictures pictures" in words
    assert "core 3 " in words
    assert "descriptor" in words
    assert "image: descriptor" in called.stderr
    assert "0 from the cache" in called.stderr
    warm = call(
        "prepare", export, "--cache", tmp_path, *LIGHT, "--core", "3", "--out", tmp_path / "again", "--json"
    )
    assert "image: descriptor (triptych" in warm.stderr
    assert " 0 encoded" in warm.stderr
    assert warm.json["provenance"]["layout"] == "tables"
    assert [step["step"] for step in warm.json["provenance"]["steps"]] == ["read", "duplicates", "core"]


def test_describe_tells_more_and_writes_a_page(call, shop, tmp_path):
    page = tmp_path / "shop.html"
    words = call("describe", shop, "--page", page).stdout
    for heading in ("Popularity (Gini", "Texts, in words", "Nearest by image (cosine)", "Nearest by text"):
        assert heading in words
    assert str(page) in words
    assert "data:image/jpeg;base64," in page.read_text()
    facts = call("describe", shop, "--json").json
    assert len(facts["neighbors"]["image"]["examples"]) == 4
    assert facts["missing"]["modalities"]["image"]["items"] == 5
    assert facts["provenance"]["features"]["text"]["encoder"]["name"] == "tfidf"


def test_what_is_made_of_a_data_set_is_called_after_its_folder(call, shop: Path, tmp_path: Path):
    for command in (["filter", shop, "--min-user", 1], ["split", shop, "--split", "ratio"]):
        assert call(*command, "--out", tmp_path / command[0]).status == 0
        assert Dataset.load(tmp_path / command[0]).name == command[0]
        assert call(*command, "--name", "late", "--out", tmp_path / f"{command[0]}-named").status == 0
        assert Dataset.load(tmp_path / f"{command[0]}-named").name == "late"


def test_filter_keeps_what_it_is_told(call, shop, tmp_path):
    called = call(
        "filter", shop, "--since", "2024-07-01", "--min-user", "2", "--out", tmp_path / "late", "--json"
    )
    assert called.json["times"]["first"] >= "2024-07-01"
    assert called.json["interactions_per_user"]["min"] >= 2
    steps = called.json["provenance"]["steps"]
    assert [step["step"] for step in steps] == ["read", "duplicates", "time", "min_user"]
    late = Dataset.load(tmp_path / "late")
    assert len(late.thumbnails) == late.n_items == late.features["image"].n_items


def test_a_time_window_is_shown_in_dates(call, shop, tmp_path):
    window = ("--since", "2024-07-01", "--until", "2024-12-24T18:30")
    shown = call("filter", shop, *window, "--out", tmp_path / "late").stdout
    assert {"since", "2024-07-01,", "until", "2024-12-24", "18:30:00"} <= set(shown.split())


def test_split_writes_parts_that_train_then_uses(call, labelled, tmp_path):
    facts = call("describe", labelled, "--json").json
    assert facts["labels"]["test"] == 80
    assert facts["provenance"]["steps"][-1]["kind"] == "leave-one-out"
    trained = call("train", "mf-bpr", labelled, "--epochs", "1", "--out", tmp_path / "run", "--json").json
    assert trained["split"]["kind"] == "label"
    assert trained["split"]["test"] == 80


@pytest.mark.parametrize("layout", ["mmrec", "recbole"])
def test_what_is_exported_can_be_prepared_again(call, labelled, layout, tmp_path):
    facts = call("export", labelled, "--to", layout, "--out", tmp_path / "out", "--json").json
    assert facts["not_carried"]
    again = call("prepare", tmp_path / "out", "--text", "none", "--out", tmp_path / "again", "--json").json
    assert again["provenance"]["layout"] == layout
    before = call("describe", labelled, "--json").json
    for fact in ("users", "items", "interactions", "labels"):
        assert again[fact] == before[fact]
    assert again["modalities"].keys() == before["modalities"].keys()
    assert again["missing"] == before["missing"]


def test_encode_adds_to_a_data_set(call, shop, export, tmp_path):
    called = call(
        "encode",
        shop,
        "--text",
        "{title} ({category})",
        "--encoder",
        "text=tfidf",
        "--out",
        tmp_path / "new",
        "--json",
    )
    features = called.json["provenance"]["features"]
    assert features["text"]["template"] == "{title} ({category})"
    assert features["image"] == call("describe", shop, "--json").json["provenance"]["features"]["image"]
    pictures = call(
        "encode", tmp_path / "new", "--images", export / "pictures", "--out", tmp_path / "newer", "--json"
    )
    assert pictures.json["modalities"]["image"]["coverage"] == pytest.approx(55 / 60)
    nothing = call("encode", shop, "--out", tmp_path / "none")
    assert nothing.status == 2
    assert "nothing to encode" in nothing.stderr


def test_encode_heeds_an_encoder_of_texts_without_a_template(call, shop, export, tmp_path):
    images = ("--images", export / "pictures", "--cache", tmp_path / "cache")
    wrong = call("encode", shop, *images, "--encoder", "text=no-such-model", "--out", tmp_path / "wrong")
    assert wrong.status == 2
    assert "no-such-model" in wrong.stderr
    assert not (tmp_path / "wrong").exists()
    again = call("encode", shop, "--encoder", "text=tfidf", "--out", tmp_path / "again", "--json").json
    text = again["provenance"]["features"]["text"]
    assert (text["encoder"]["name"], text["template"]) == ("tfidf", "{title}. {category}. {description}")
    only = call("encode", shop, *images, "--out", tmp_path / "only", "--json")
    assert "text:" not in only.stderr
    off = call(
        "encode", shop, *images, "--text", "none", "--encoder", "text=tfidf", "--out", tmp_path / "off"
    )
    assert off.status == 2
    assert "--text none with --encoder text=tfidf" in off.stderr
    help_text = " ".join(call("encode", "--help").stdout.split())
    assert "[default: none]" not in help_text


def test_a_cache_that_cannot_be_written_is_a_note(call, export, tmp_path):
    words = ("prepare", export, "--cache", tmp_path / "cache", *LIGHT, "--out")
    call(*words, tmp_path / "first")
    (kept,) = (tmp_path / "cache" / "encoded").iterdir()
    shutil.rmtree(kept)
    kept.write_text("in the way")
    again = call(*words, tmp_path / "again")
    assert again.status == 0
    assert "what is encoded is not kept from here on" in " ".join(again.stderr.split())


def test_missing_rows_are_filled_for_training(call, shop, tmp_path):
    arguments = ("train", "vbpr", shop, "--epochs", "1", "--json")
    filled = call(*arguments, "--missing", "neighbors", "--out", tmp_path / "filled").json
    left = call(*arguments, "--out", tmp_path / "left").json
    assert filled["split"]["missing"] == "neighbors"
    assert filled["data_hash"] != left["data_hash"]


def test_public_data_sets_are_listed_with_their_terms(call):
    listed = {entry["name"]: entry for entry in call("data", "list", "--json").json["data_sets"]}
    assert {"amazon-baby", "movielens-100k"} <= listed.keys()
    assert all(entry["terms"] and entry["page"].startswith("http") for entry in listed.values())
    assert "amazon-baby" in call("data", "list").stdout


def test_offline_is_said_with_a_way_out(call, monkeypatch, tmp_path):
    monkeypatch.setenv("TRIPTYCH_MIRROR", "http://127.0.0.1:9")
    called = call("data", "get", "movielens-100k", "--out", tmp_path)
    assert called.status == 2
    assert "ml-100k.zip" in called.stderr
    assert "Traceback" not in called.stderr
    assert (
        call("data", "get", "movielens", "--out", tmp_path, "--json").json["error"]["type"] == "ConfigError"
    )


@pytest.fixture
def site():
    jpg = b"\xff\xd8\xff\xe0 a jpeg \xff\xd9"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path != "/gone.jpg"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(jpg) if found else 0))
            self.end_headers()
            self.wfile.write(jpg if found else b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_pictures_are_fetched_by_the_addresses_in_the_item_table(call, site, tmp_path):
    (tmp_path / "sales.csv").write_text("user,item\na,1\na,2\nb,3\n")
    urls = [f"{site}/1.jpg", f"{site}/gone.jpg", None]
    pl.DataFrame({"item": [1, 2, 3], "image_url": urls}).write_csv(tmp_path / "items.csv")
    call("prepare", tmp_path / "sales.csv", "--items", tmp_path / "items.csv", "--out", tmp_path / "data")
    facts = call("data", "pictures", tmp_path / "data", "--out", tmp_path / "pictures", "--json").json
    assert (facts["fetched"], facts["without_address"], sum(facts["failed"].values())) == (1, 1, 1)
    assert (tmp_path / "pictures" / "1.jpg").is_file()
    again = call("data", "pictures", tmp_path / "data", "--out", tmp_path / "pictures", "--json").json
    assert (again["fetched"], again["already_there"]) == (0, 1)
    wrong = call("data", "pictures", tmp_path / "data", "--column", "photo", "--out", tmp_path / "p")
    assert "no column 'photo'" in wrong.stderr
    pl.DataFrame(
        {"item": [1, 2, 3], "image_url": ["http://a..b/x.jpg", f"{site}/2.jpg", None], "price": [1, 2, 3]}
    ).write_csv(tmp_path / "items.csv")
    call("prepare", tmp_path / "sales.csv", "--items", tmp_path / "items.csv", "--out", tmp_path / "odd")
    facts = call("data", "pictures", tmp_path / "odd", "--out", tmp_path / "p", "--json").json
    assert (facts["fetched"], sum(facts["failed"].values())) == (1, 1)
    numbers = call("data", "pictures", tmp_path / "odd", "--column", "price", "--out", tmp_path / "p")
    assert "column 'price' holds Int64 values; wanted addresses" in " ".join(
        numbers.stderr.replace("\n  wanted: ", "; wanted ").split()
    )


def test_rows_are_selected_and_what_was_kept_is_said(call, tmp_path):
    lines = [
        f"u{n % 5},i{n % 7},{'purchase' if n % 4 == 0 else 'page_view'},{n % 3 - 1}" for n in range(1200)
    ]
    (tmp_path / "events.csv").write_text("user,item,event,quantity\n" + "\n".join(lines))
    words = ("prepare", tmp_path / "events.csv", "--out", tmp_path / "data")
    shown = call(*words, "--rows", "event = 'purchase'", "--rows", "quantity >= 0")
    assert shown.status == 0, shown.stderr
    assert "Kept 300 of 1,200 rows where event = 'purchase'\n" in shown.stdout
    assert "Kept 200 of 300 rows where quantity >= 0\n" in shown.stdout
    assert re.search("rows +kept 200 +100", shown.stdout)
    assert "Columns not read" not in shown.stdout
    described = call("describe", tmp_path / "data").stdout
    assert "Kept 300 of 1,200 rows where event = 'purchase'\n" in described
    refused = call(*words[:-1], tmp_path / "other", "--rows", "evnt = 'purchase'")
    assert refused.status == 2
    assert "the column 'evnt'" in refused.stderr
    assert "Did you mean 'event'" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_of_several_addresses_in_a_cell_the_first_is_asked_for(call, site, tmp_path):
    (tmp_path / "sales.csv").write_text("user,item\na,1\na,2\nb,3\nb,4\nb,5\n")
    cells = [
        f"{site}/1.jpg, {site}/gone.jpg",
        f"{site}/2,b.jpg",
        f"{site}/3.jpg|{site}/gone.jpg | {site}/4.jpg",
        " ",
        None,
    ]
    pl.DataFrame({"item": [1, 2, 3, 4, 5], "images": cells}).write_csv(tmp_path / "items.csv")
    call("prepare", tmp_path / "sales.csv", "--items", tmp_path / "items.csv", "--out", tmp_path / "data")
    words = ("data", "pictures", tmp_path / "data", "--column", "images", "--out", tmp_path / "pictures")
    facts = call(*words, "--json").json
    counts = {name: facts[name] for name in ("without_address", "more_than_one_address", "fetched", "failed")}
    assert counts == {"without_address": 2, "more_than_one_address": 2, "fetched": 3, "failed": {}}
    assert sorted(path.name for path in (tmp_path / "pictures").glob("*.jpg")) == ["1.jpg", "2.jpg", "3.jpg"]
    assert "Next: triptych encode" in call(*words).stdout, "they are there"


def test_without_a_picture_there_is_nothing_to_encode(call, site, tmp_path):
    (tmp_path / "sales.csv").write_text("user,item\na,1\na,2\n")
    (tmp_path / "items.csv").write_text(f"item,image_url\n1,{site}/gone.jpg\n2,\n")
    call("prepare", tmp_path / "sales.csv", "--items", tmp_path / "items.csv", "--out", tmp_path / "data")
    called = call("data", "pictures", tmp_path / "data", "--out", tmp_path / "pictures")
    assert called.status == 0
    assert "HTTP 404" in called.stdout
    assert "Next" not in called.stdout


def test_what_looks_like_markup_is_printed_as_it_is(call, tmp_path):
    (tmp_path / "sales.csv").write_text("user,item\na,[/x]\na,[b]\nb,[/x]\n")
    (tmp_path / "items.csv").write_text("item,title\n[/x],[red]Mug[/blue]\n[b],[/] red pan\n")
    called = call(
        "prepare", tmp_path / "sales.csv", "--items", tmp_path / "items.csv", "--encoder", "text=tfidf",
        "--name", "shop [v1][red]", "--out", tmp_path / "data",
    )  # fmt: skip
    assert called.status == 0
    assert called.stdout.startswith("shop [v1][red] in ")
    described = call("describe", tmp_path / "data", "--page", tmp_path / "[/page].html")
    assert described.status == 0
    assert "[red]Mug[/blue] ([/x])" in described.stdout


def test_a_cache_that_cannot_be_is_done_without(call, export, tmp_path):
    (tmp_path / "file").write_text("in the way")
    called = call("prepare", export, "--cache", tmp_path / "file", *LIGHT, "--out", tmp_path / "data")
    assert called.status == 0
    assert "nothing encoded is kept" in called.stderr


def test_what_odd_pictures_and_items_are_left_out_is_told(call, tmp_path):
    (tmp_path / "in" / "pictures").mkdir(parents=True)
    (tmp_path / "in" / "sales.csv").write_text("user,item\na,00012\na,14\nb,15\n")
    (tmp_path / "in" / "items.csv").write_text("item,title\n12,Mug\n14,Pan\n16,Cup\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "in" / "pictures" / "14.png")
    (tmp_path / "in" / "pictures" / "15.png").write_text("no picture")
    (tmp_path / "in" / "pictures" / "99.png").write_text("of nothing")
    (tmp_path / "in" / "prices.csv").write_text("code,price\n1,2\n")
    words = call("prepare", tmp_path / "in", *LIGHT, "--cache", tmp_path, "--out", tmp_path / "data").stdout
    for told in (
        "Not used, since it is not clear what they are: prices.csv",
        "Item table: 3 rows, 2 without interactions: left out, 2 items without row",
        "image: left out 1 no picture",
        "no picture: 15.png",
        "image: 1 files of no item",
    ):
        assert told in words


@pytest.mark.parametrize(
    "arguments", [("split", "{shop}", "--split-seed", "-1"), ("filter", "{shop}", "--until", "inf")]
)
def test_numbers_out_of_range_are_refused(call, shop, arguments, tmp_path):
    called = call(*(argument.format(shop=shop) for argument in arguments), "--out", tmp_path / "out")
    assert called.status == 2
    assert not (tmp_path / "out").exists()


def test_ctrl_c_is_answered(call, export, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("triptych.preparation.prepare", interrupt)
    called = call("prepare", export, "--out", tmp_path / "data")
    assert called.status == 130
    assert "what was encoded is kept" in called.stderr
    assert call("prepare", export, "--out", tmp_path / "data", "--json").json["error"]["found"] == "stopped"


def test_columns_that_are_not_read_are_named(call, tmp_path):
    more = [f"c{n:02}" for n in range(20)]
    rows = "".join(f"{user},{user},i{item},1{',x' * 20}\n" for user in "ab" for item in range(3))
    (tmp_path / "orders.csv").write_text(",".join(["order_id", "user", "item", "Menge", *more]) + "\n" + rows)
    called = call("prepare", tmp_path / "orders.csv", "--out", tmp_path / "wide")
    said = f"Columns not read of orders.csv: order_id, Menge, {', '.join(more[:18])} and 2 more"
    assert said in " ".join(called.stdout.split())
    facts = call("describe", tmp_path / "wide", "--json").json
    assert facts["provenance"]["columns_not_read"] == {"orders.csv": ["order_id", "Menge", *more]}


def test_a_name_that_leads_elsewhere_is_refused(call, tmp_path):
    (tmp_path / "orders.csv").write_text("user,item\na,1\n")
    called = call("prepare", tmp_path / "orders.csv", "--name", "../../esc", "--out", tmp_path / "data")
    assert called.status == 2
    assert "Call it 'esc' with --name" in " ".join(called.stderr.split())
    assert not (tmp_path / "data").exists()
