"""Every endpoint says what the library says."""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from triptych.data.dataset import Dataset
from triptych.data.interactions import Interactions
from triptych.data.split import Split
from triptych.encode.encoder import EncoderSpec, Options
from triptych.encode.pictures import Descriptor
from triptych.runs import ItemMaker, explain, fold_in, train
from triptych.runs.batch import recommend_all
from triptych.serving import contents as contents_of
from triptych.serving import schemas as s
from triptych.serving.app import create_app
from triptych.serving.catalogue import Catalogue
from triptych.serving.contents import NewContents
from triptych.serving.problems import RefusedError

ANSWERS = {
    "/health": s.Health, "/runs": s.Runs, "/recommend": s.Lists, "/similar": s.Similar,
    "/explain": s.Explanation, "/items/new": s.NewItem, "/users/new": s.NewUserList, "/users": s.Users,
    "/users/history": s.History, "/items": s.Items,
}  # fmt: skip


def fit(path: str, answer) -> dict:
    """The answer is good, and of the form that the service's document promises."""
    assert answer.status_code == 200, answer.text
    assert ANSWERS[path].model_validate_json(answer.content).model_dump(mode="json") == answer.json()
    return answer.json()


def ask(client: TestClient, path: str, **query) -> dict:
    return fit(path, client.get(path, params=query))


def problem(answer, status: int) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].keys() == {"found", "wanted", "fix"}
    return answer.json()["error"]


def ids(items) -> list:
    return [item["item_id"] for item in items]


def scores(items) -> list[float]:
    return [item["score"] for item in items]


def same(items: list[dict], expected) -> None:
    """The items of an answer are those of the library, with titles, and scores to the last digits."""
    assert ids(items) == [item.item_id for item in expected]
    assert scores(items) == pytest.approx([item.score for item in expected], rel=1e-5, abs=1e-7)
    assert [item["title"] for item in items] == [item.title for item in expected]


@pytest.mark.parametrize("name", ["vbpr", "lightgcn", "ease"])
@pytest.mark.parametrize("exclude", ["all", "train", "none"])
def test_lists_are_those_of_the_run(served, client, name: str, exclude: str):
    users = [f"u{number:04d}" for number in (3, 1, 77)]
    expected = served.runs[name].recommend(users, 7, exclude=exclude)
    question = {"users": users, "k": 7, "run": name, "exclude": exclude}
    many = fit("/recommend", client.post("/recommend", json=question))
    assert (many["run"], len(many["version"])) == (name, 16)
    for entry, listed in zip(expected, many["lists"], strict=True):
        assert (listed["user_id"], listed["basis"]) == (entry.user_id, "model")
        same(listed["items"], entry.items)
        one = ask(client, "/recommend", user=entry.user_id, k=7, run=name, exclude=exclude)
        assert one["version"] == many["version"]
        assert len(one["lists"]) == 1
        same(one["lists"][0]["items"], entry.items)


def test_conditions_and_diversity_are_those_of_the_library(served, client):
    where = "category = 'Kitchen' or price > 60"
    question = {"user": "u0005", "k": 6, "where": where, "diversity": 0.4}
    (expected,) = recommend_all(served.runs["vbpr"], ["u0005"], 6, where=where, diversity=0.4)
    same(ask(client, "/recommend", **question)["lists"][0]["items"], expected.items)
    plain = ask(client, "/recommend", user="u0005", k=6)["lists"][0]["items"]
    assert ids(plain) != [item.item_id for item in expected.items]
    assert "colour" in problem(client.get("/recommend?user=u0005&where=colour%20%3D%201"), 400)["found"]
    problem(client.get("/recommend?user=u0005&k=5&diversity=0.5&run=ease"), 400)  # it has no vectors


def test_conditions_hold_for_items_alike_new_users_and_new_items(served, client):
    """A product page, or a basket without a user, lists nothing that is sold out either."""
    where = "category = 'Kitchen' and price < 60"
    table = served.data.item_table
    kitchen = (table["category"] == "Kitchen") & (table["price"].cast(float) < 60)
    fit_items = set(table.filter(kitchen.fill_null(value=False))["item_id"])
    bag, lamp = served.data.items.ids[[2, 40]].tolist()
    for name, run in served.runs.items():
        answer = ask(client, "/similar", item=bag, k=5, run=name, where=where)
        same(answer["items"], run.similar(bag, 5, where=where))
        assert set(ids(answer["items"])) <= fit_items
        for items in ([bag, lamp], []):
            question = {"items": items, "k": 5, "run": name, "where": where}
            (expected,) = fold_in(run, [items], 5, where=where)
            folded = fit("/users/new", client.post("/users/new", json=question))
            same(folded["items"], expected.items)
            assert len(folded["items"]) == 5
            assert set(ids(folded["items"])) <= fit_items
    by_text = ask(client, "/similar", item=bag, k=5, by="text", where=where)["items"]
    assert len(by_text) == 5
    assert set(ids(by_text)) <= fit_items
    form = {"text": "Lamp in felt and wool", "k": 5, "where": where}
    alike = fit("/items/new", client.post("/items/new", data=form))["similar"]
    assert len(alike) == 5
    assert set(ids(alike)) <= fit_items
    bad = "colour = 1"
    for refused in (
        client.get("/similar", params={"item": bag, "where": bad}),
        client.post("/users/new", json={"items": [bag], "where": bad}),
        client.post("/items/new", data={**form, "where": bad}),
    ):
        assert "colour" in problem(refused, 400)["found"]


def test_many_users_are_answered_in_the_order_asked_for(client):
    users = [f"u{1 + (7 * number) % 120:04d}" for number in range(300)]
    many = client.post("/recommend", json={"users": users, "k": 3}).json()["lists"]
    assert [entry["user_id"] for entry in many] == users
    assert many[0] == many[120]
    assert many[0] != many[1]


def test_likeness_by_behaviour_is_that_of_the_run(served, client):
    for name, run in served.runs.items():
        item = served.data.items.ids[11].item()
        answer = ask(client, "/similar", item=item, k=5, run=name)
        same(answer["items"], run.similar(item, 5))
        assert (answer["item_id"], answer["by"]) == (item, "behaviour")


def test_likeness_by_a_modality_is_the_cosine_of_features(served, client):
    features = served.data.features["text"]
    at = int(np.flatnonzero(features.present)[4])
    unit = features.values / np.maximum(np.linalg.norm(features.values, axis=1, keepdims=True), 1e-30)
    cosine = np.where(features.present, unit @ unit[at], -np.inf)
    cosine[at] = -np.inf
    answer = ask(client, "/similar", item=served.data.items.ids[at].item(), k=5, by="text")
    assert scores(answer["items"]) == pytest.approx(np.sort(cosine)[::-1][:5], rel=1e-5)
    blank = served.data.items.ids[int(np.flatnonzero(~features.present)[0])].item()
    assert (
        "has no text" in problem(client.get("/similar", params={"item": blank, "by": "text"}), 409)["found"]
    )
    assert "image" in problem(client.get(f"/similar?item={blank}&by=imag"), 400)["fix"]


def test_explanations_are_those_of_the_library(served, client):
    item = served.data.items.ids[30].item()
    for name in ("vbpr", "ease"):
        expected = explain(served.runs[name], "u0009", item, served.data)
        answer = ask(client, "/explain", user="u0009", item=item, run=name)
        assert answer["score"] == pytest.approx(expected.score, rel=1e-5)
        assert answer["shares"] == pytest.approx(expected.shares, rel=1e-4)
        assert (answer["exact"], answer["how"]) == (expected.exact, expected.how)
        same(answer["because"], expected.because)


def test_a_text_and_a_picture_of_a_known_item_get_its_stored_rows(served):
    contents = NewContents(served.data)
    assert contents.takes == ["text", "picture"]
    texts = served.data.item_table["title"] + " " + served.data.item_table["description"]
    for item in (0, 17, 53):
        picture = served.shop.picture(item)
        if picture is None or texts[item] is None:
            continue
        file = io.BytesIO()
        picture.save(file, "PNG")
        rows = contents.encode(texts[item], file.getvalue())
        np.testing.assert_allclose(rows["text"][0], served.data.features["text"].values[item], atol=1e-5)
        np.testing.assert_array_equal(rows["image"][0], served.data.features["image"].values[item])
        marked = contents.encode(f"<p>{texts[item]}<br></p>", None)
        np.testing.assert_array_equal(marked["text"], rows["text"])


def test_a_new_item_stands_where_the_library_puts_it(served, client):
    at = int(np.flatnonzero(served.data.features["text"].present)[8])
    row = served.data.item_table.row(at, named=True)
    stored = served.data.features["text"].values[at : at + 1].astype(np.float64)
    for name in ("vbpr", "lightgcn"):
        expected = ItemMaker(served.runs[name], served.data).embed({"text": stored})
        form = {"text": f"{row['title']} {row['description']}", "k": 4, "run": name}
        answer = fit("/items/new", client.post("/items/new", data=form))
        assert ids(answer["similar"]) == [item.item_id for item in expected.similar(4)[0]]
        assert scores(answer["similar"]) == pytest.approx(
            [item.score for item in expected.similar(4)[0]], abs=1e-4
        )
        assert [one["user_id"] for one in answer["audience"]] == [
            one.user_id for one in expected.audience(4)[0]
        ]
        assert answer["basis"] == expected.basis


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_alone_is_enough_in_three_formats(served, client, kind: str):
    at = int(np.flatnonzero(served.data.features["image"].present)[0])
    file = io.BytesIO()
    served.shop.picture(at).convert("RGB").save(file, kind)
    answer = client.post("/items/new", files={"picture": ("../../etc/x.png", file.getvalue())}, data={"k": 3})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["similar"]) == len(answer.json()["audience"]) == 3


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_new_item_needs_something_that_can_be_encoded(served, client):
    problem(client.post("/items/new"), 422)
    assert (
        "some of: k, picture"
        in problem(client.post("/items/new", data={"text": "lamp", "wher": "x"}), 422)["wanted"]
    )
    assert "multipart" in problem(client.post("/items/new", json={"text": "lamp"}), 415)["wanted"]
    asked = client.post("/recommend", content=b'{"users": ["u0001"]}')
    assert "content-type" in problem(asked, 415)["fix"]
    refused = client.delete("/recommend")
    assert "GET, POST" in problem(refused, 405)["wanted"]
    assert refused.headers["allow"] == "GET, POST"
    problem(client.post("/items/new", data={"text": "  \0 "}), 422)
    problem(client.post("/items/new", data={"text": "<p></p>"}), 422)
    assert "no word" in problem(client.post("/items/new", data={"text": "xyzzy"}), 422)["found"]
    problem(client.post("/items/new", files={"picture": b"GIF89a, but no picture"}), 415)
    gif = io.BytesIO()
    Image.new("RGB", (4, 4)).save(gif, "GIF")
    problem(client.post("/items/new", files={"picture": gif.getvalue()}), 415)
    large = io.BytesIO()
    Image.new("1", (5000, 5000)).save(large, "PNG")
    assert "pixels" in problem(client.post("/items/new", files={"picture": large.getvalue()}), 413)["wanted"]
    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size) + png_chunk(b"IDAT") + png_chunk(b"IEND")
    assert "pixels" in problem(client.post("/items/new", files={"picture": bomb}), 413)["wanted"]
    problem(client.post("/items/new", data={"text": "x" * 20_001}), 422)
    cut = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(cut, "PNG")
    problem(client.post("/items/new", files={"picture": cut.getvalue()[:1500]}), 422)


def test_new_items_are_refused_where_their_features_cannot_be_made(served):
    unsaid = NewContents(replace(served.data, provenance={}))
    assert unsaid.takes == []
    with pytest.raises(RefusedError, match="does not say how its text features were made") as refused:
        unsaid.encode("A lamp", None)
    assert refused.value.status == 409
    features = served.data.features["text"]
    turned = replace(features, values=np.roll(features.values, 1, axis=1))
    with pytest.raises(RefusedError, match="other rows than those stored"):
        NewContents(replace(served.data, features={"text": turned})).encode("A lamp", None)
    made = served.data.provenance["features"]
    other = {**made["image"]["encoder"], "settings": {"side": 32}}
    changed = {**served.data.provenance, "features": {**made, "image": {"encoder": other}}}
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    with pytest.raises(RefusedError, match="image features are by descriptor"):
        NewContents(replace(served.data, provenance=changed)).encode(None, file.getvalue())


def made_by(data: Dataset, modality: str, **facts) -> Dataset:
    """The data set with another encoder in its provenance."""
    made = data.provenance["features"]
    encoder = {**made[modality]["encoder"], **facts}
    features = {**made, modality: {**made[modality], "encoder": encoder}}
    return replace(data, provenance={**data.provenance, "features": features})


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


def test_an_encoder_of_other_weights_is_refused_and_one_of_other_libraries_is_said(served, monkeypatch):
    spec = EncoderSpec("seer", "transformers 5.0, files 0123abcd", {})

    def seer(*_, **__) -> Descriptor:
        encoder = Descriptor(Options())
        encoder.spec = spec
        return encoder

    monkeypatch.setattr(contents_of, "load_encoder", seer)
    facts = {"name": "seer", "settings": {}}
    same = NewContents(made_by(served.data, "image", version=spec.version, **facts))
    same.encode(None, png())
    assert same.remarks == []
    other = NewContents(made_by(served.data, "image", version="transformers 4.9, files 0123abcd", **facts))
    other.encode(None, png())
    assert "other versions" in other.remarks[0]
    for version in ("transformers 5.0, files ffff0000", "transformers 5.0"):
        changed = NewContents(made_by(served.data, "image", version=version, **facts))
        with pytest.raises(RefusedError, match="other weights") as refused:
            changed.encode(None, png())
        assert refused.value.status == 409


def test_a_question_fetches_no_model(served, monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("transformers")
    asked = []

    def download(name: str, **_: object) -> str:
        asked.append((name, hub.constants.HF_HUB_OFFLINE))
        raise OSError("not in the cache")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "snapshot_download", download)
    data = made_by(served.data, "image", name="eyes-of-ours", settings={"dtype": "float32"})
    contents = NewContents(data)
    for _ in range(2):
        with pytest.raises(RefusedError, match="'eyes-of-ours' cannot be loaded") as refused:
            contents.encode(None, png())
        assert refused.value.status == 409
        assert "folder" in refused.value.fix
    assert asked == [("eyes-of-ours", True)]
    assert hub.constants.HF_HUB_OFFLINE is False


def test_new_users_are_folded_in(served, client):
    items = served.data.items.ids[[4, 9, 40]].tolist()
    (expected,) = fold_in(served.runs["lightgcn"], [items], 6)
    answer = fit("/users/new", client.post("/users/new", json={"items": items, "k": 6, "run": "lightgcn"}))
    assert answer["basis"] == "fold-in"
    same(answer["items"], expected.items)
    assert client.post("/users/new", json={"items": []}).json()["basis"] == "popular"
    problem(client.post("/users/new", json={"items": ["no such item"]}), 404)


def test_users_items_and_histories_are_found(served, client):
    assert ask(client, "/users", query="U000", limit=3)["users"] == ["u0001", "u0002", "u0003"]
    assert len(ask(client, "/users")["users"]) == 20
    titles = served.data.titles
    found = ask(client, "/items", query="LAMP", limit=90)["items"]
    by_hand = {
        raw for raw, title in zip(served.data.items.ids.tolist(), titles, strict=True)
        if "lamp" in f"{raw} {title}".lower()
    }  # fmt: skip
    assert set(ids(found)) == by_hand
    assert ids(found)[0].startswith("lamp")  # those that begin with it come first
    assert ask(client, "/items", query="no such thing")["items"] == []
    history = ask(client, "/users/history", user="u0007")["items"]
    interactions = served.data.interactions
    of_user = np.flatnonzero(interactions.user == served.data.users.index(["u0007"])[0])
    latest = of_user[np.argsort(-interactions.timestamp[of_user])]
    assert ids(history) == served.data.items.ids[interactions.item[latest]].tolist()
    part = served.runs["vbpr"].split.part[latest].tolist()
    assert [item["part"] for item in history] == [{0: "train", 1: "valid", 2: "test"}[code] for code in part]
    assert ask(client, "/users/history", user="u0007", limit=2)["items"] == history[:2]
    assert ask(client, "/users/history", user="u0007", limit=2, offset=3)["items"] == history[3:5]
    assert ask(client, "/users/history", user="u0007", offset=2**31 - 1)["items"] == []
    problem(client.get("/users/history?user=u0007&offset=-1"), 422)


def test_pictures_are_the_thumbnails_of_the_data(served, client):
    listed = ask(client, "/items", query="", limit=90)["items"]
    present = served.data.features["image"].present
    assert [item["picture"] is not None for item in listed] == present.tolist()
    at = int(np.flatnonzero(present)[3])
    answer = client.get(listed[at]["picture"])
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content == served.data.thumbnails.jpeg(at)
    problem(
        client.get("/pictures", params={"item": listed[int(np.flatnonzero(~present)[0])]["item_id"]}), 404
    )


def test_runs_tell_what_there_is(served, client):
    facts = {run["name"]: run for run in ask(client, "/runs")["runs"]}
    assert list(facts) == ["vbpr", "lightgcn", "ease"]
    record = served.runs["vbpr"].record
    assert facts["vbpr"]["metrics"] == {"valid": record.valid, "test": record.test}
    assert [epoch["epoch"] for epoch in facts["vbpr"]["curve"]] == [1, 2]
    assert facts["vbpr"]["modalities"] == ["image", "text"]
    assert facts["vbpr"]["new_items"] == ["text", "picture"]
    health = ask(client, "/health")
    assert (health["status"], health["runs"]) == ("ok", 3)


def test_metrics_count_by_route_and_status(served):
    with TestClient(create_app(served.catalogue("vbpr"), page=served.page)) as client:
        for user in ("u0001", "u0002", "nobody"):
            client.get("/recommend", params={"user": user})
        client.get("/no/such/path")
        lines = client.get("/metrics").text.splitlines()
    assert 'triptych_requests_total{route="/recommend",status="200"} 2.0' in lines
    assert 'triptych_requests_total{route="/recommend",status="404"} 1.0' in lines
    assert 'triptych_requests_total{route="other",status="404"} 1.0' in lines
    assert 'triptych_request_seconds_count{route="/recommend"} 3.0' in lines
    assert any(line.startswith('triptych_run_loaded{run="vbpr"') and line.endswith(" 1.0") for line in lines)


def test_without_the_data_set_there_is_less_and_that_is_said(served):
    app = create_app(served.catalogue("vbpr", data=False), page=served.page)
    with TestClient(app) as client:
        facts = ask(client, "/runs")["runs"][0]
        assert (facts["modalities"], facts["new_items"]) == ([], [])
        assert facts["pictures"]  # a run keeps the thumbnails
        assert len(ask(client, "/recommend", user="u0001")["lists"][0]["items"]) == 10
        item = served.data.items.ids[0].item()
        assert "--data" in problem(client.get(f"/similar?item={item}&by=text"), 400)["fix"]
        assert "--data" in problem(client.post("/items/new", data={"text": "a lamp"}), 409)["fix"]
        told = ask(client, "/explain", user="u0001", item=item)
        assert told["shares"] == {}


def test_whole_numbers_as_ids_are_taken_as_numbers_and_as_texts(tmp_path):
    rng = np.random.default_rng(3)
    users, items = np.repeat(np.arange(20), 6), rng.integers(0, 30, 120)
    split = Split.by_ratio(Dataset.from_interactions("n", Interactions.from_ids(users, items)), rng=1)
    train("ease", split, seed=1, device="cpu").save(tmp_path / "numbers")
    with TestClient(create_app(Catalogue([tmp_path / "numbers"]), page=tmp_path)) as client:
        one = ask(client, "/recommend", user="7", k=4)["lists"]
        two = client.post("/recommend", json={"users": [7, "7"], "k": 4}).json()["lists"]
        assert one[0] == two[0] == two[1]
        assert one[0]["user_id"] == 7
        assert one[0]["items"][0]["title"] is None
        assert json.loads(client.get("/items?limit=1").text)["items"][0]["item_id"] == 0
