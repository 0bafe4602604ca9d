"""The page in a real browser, against the service as it listens."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import polars as pl
import pytest

from triptych.data.dataset import Dataset
from triptych.data.interactions import Interactions
from triptych.data.split import Split
from triptych.runs import train
from triptych.serving.app import create_app
from triptych.serving.catalogue import Catalogue

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with Playwright")
expect = playwright.expect
expect.set_options(timeout=15_000)  # the machine may be busy

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium to show the page")

KEY = "a key of the tests, 32 letters ok".replace(" ", "-")
HOSTILE = """<img src=x onerror="document.title='broken in'"><script>document.title='broken in'</script>"""
HOSTILE_USER = """u&run=none#"><b onclick='x'>é 1"""
VIEWS = {
    "welcome": "",
    "user": "user=u0007&run=vbpr",
    "compared": "user=u0007&run=vbpr&run=lightgcn&run=ease&heldout=1",
    "why": "user=u0007&run=vbpr&item={item}&of=vbpr&tab=why",
    "similar": "user=u0007&run=vbpr&item={item}&of=vbpr&tab=image",
    "new": "view=new&run=vbpr&run=lightgcn&text=a+quiet+lamp",
    "runs": "view=runs&run=vbpr&run=lightgcn&run=ease",
    "trouble": "user=nobody",
}


@dataclass(frozen=True)
class Site:
    """A service with the page, and what its answers are."""

    address: str

    def ask(self, path: str, **query: Any) -> dict:
        answer = httpx.get(self.address + path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def offered(self, user: str, run: str, **query: Any) -> list[dict]:
        return self.ask("/recommend", user=user, run=run, **query)["lists"][0]["items"]

    def view(self, name: str) -> str:
        item = self.ask("/items", query="lamp", limit=1)["items"][0]["item_id"]
        return f"{self.address}/#{VIEWS[name].format(item=item)}"


@pytest.fixture(scope="module")
def site(served, serve) -> Iterator[Site]:
    with serve(create_app(served.catalogue())) as port:
        yield Site(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator[Callable[..., Any]]:
    """Open a page that may neither fail nor ask another host."""
    contexts, faults = [], []

    def opened(address: str, *, expected: str = "$^", ready: str | None = None, **options: Any) -> Any:
        context = browser.new_context(
            locale="en-GB", **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)

        def note(text: str) -> None:
            if not re.search(expected, text):
                faults.append(text)

        page.on("console", lambda said: note(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: note(str(error)))
        home = urlsplit(address).netloc
        page.on(
            "request",
            lambda asked: (
                None
                if urlsplit(asked.url).netloc == home or asked.url.startswith("blob:http://" + home)
                else faults.append(f"asked {asked.url}")
            ),
        )
        page.goto(address)
        settle(page) if ready is None else page.wait_for_selector(ready)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def settle(page: Any) -> None:
    """Wait until nothing is awaited."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    page.locator("h1").wait_for()
    expect(page.locator("[aria-busy]")).to_have_count(0)


def shown(place: Any) -> list[str]:
    return place.locator("a.card").evaluate_all("cards => cards.map(card => card.dataset.item)")


def ids(items: list[dict]) -> list[str]:
    return [str(item["item_id"]) for item in items]


def scores(place: Any) -> list[float]:
    texts = place.locator(".words .score > span:last-child").all_text_contents()
    return [float(text.removeprefix("score ").replace("−", "-").replace(",", "")) for text in texts]


def query(page: Any) -> str:
    return urlsplit(page.url).fragment


def test_a_user_is_found_by_keyboard(site, open_page):
    page = open_page(site.address)
    page.keyboard.press("Tab")
    expect(page.get_by_text("To the content")).to_be_focused()
    field = page.get_by_role("combobox", name="User")
    field.focus()
    page.keyboard.type("u001")
    expect(page.get_by_role("option")).to_have_text(site.ask("/users", query="u001")["users"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")  # around to the last
    expect(page.get_by_role("option", selected=True)).to_have_text("u0019")
    page.keyboard.press("Escape")
    expect(page.get_by_role("listbox")).to_be_hidden()
    expect(field).to_have_value("u001")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option")).to_have_count(10)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("u0010")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    assert query(page) == "user=u0010"
    field.fill("u0042")
    page.keyboard.press("Enter")  # before any proposal is chosen
    expect(page.get_by_role("heading", level=1)).to_have_text("u0042")
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_have_text("u0010")


def test_what_is_shown_of_a_user_is_what_the_service_answers(site, open_page):
    page = open_page(site.view("user"))
    offers = page.locator(".offers")
    expected = site.offered("u0007", "vbpr")
    assert shown(offers) == ids(expected)
    assert offers.locator(".title").all_text_contents() == [item["title"] for item in expected]
    assert scores(offers) == pytest.approx([item["score"] for item in expected], rel=5e-3)
    pictures = offers.locator("a.card").evaluate_all(
        "cards => cards.map(card => card.querySelector('img')?.getAttribute('src') ?? null)"
    )
    assert pictures == [item["picture"] and "." + item["picture"] for item in expected]
    history = site.ask("/users/history", user="u0007")["items"]
    past = page.locator(".past")
    assert shown(past) == ids(history)[:8]
    if len(history) > 8:
        past.get_by_role("button").click()
        assert shown(past) == ids(history)
    held_out = [item["part"] != "train" for item in history]
    assert (
        past.locator("a.card").evaluate_all("cards => cards.map(card => !!card.querySelector('.badge'))")
        == held_out
    )
    page.get_by_label("Let held-out choices in").check()
    settle(page)
    offers = site.offered("u0007", "vbpr", exclude="train")
    assert shown(page.locator(".offers")) == ids(offers)
    later = {item["item_id"] for item in history if item["part"] in ("valid", "test")}
    expect(page.get_by_text("chosen, held out")).to_have_count(
        sum(item["item_id"] in later for item in offers)
    )
    expect(page.get_by_label("Let held-out choices in")).to_be_focused()


def test_each_run_marks_what_its_own_split_held_out_however_long_the_history(serve, open_page, tmp_path):
    chosen = {1: range(1050), 2: range(200), 3: range(201)} | {
        user: range(1000, 1060) for user in range(4, 60)
    }
    users = np.repeat(list(chosen), [len(items) for items in chosen.values()])
    items = np.concatenate([np.array(items) for items in chosen.values()])
    data = Dataset.from_interactions("long", Interactions.from_ids(users, items))
    splits = {f"ease-{seed}": Split.by_ratio(data, rng=seed) for seed in (1, 2)}
    for name, split in splits.items():
        train("ease", split, seed=1, device="cpu").save(tmp_path / name)
    held_out = {
        name: {
            str(data.items.ids[item])
            for item in data.interactions.item[(data.interactions.user == 0) & (split.part > 0)]
        }
        for name, split in splits.items()
    }
    with serve(create_app(Catalogue([tmp_path / name for name in splits]))) as port:
        address = f"http://127.0.0.1:{port}/#run=ease-1&run=ease-2&heldout=1&user="
        page = open_page(address + "1")
        for name in splits:
            column = page.locator(f".column[data-run={name}]")
            marked = set(shown(column)) & held_out[name]
            badges = column.locator("li", has_text="chosen, held out")
            assert set(shown(badges)) == marked
            assert any(int(item) >= 1000 for item in marked)  # beyond the longest answer
        assert held_out["ease-1"] != held_out["ease-2"]
        for user, said in (
            ("1", "The first 200 choices"),
            ("2", "200 choices"),
            ("3", "The first 200 choices"),
        ):
            page.goto(address + user)
            expect(page.get_by_role("heading", level=1)).to_have_text(user)
            expect(page.locator(".past .quiet").first).to_have_text(said)


def test_runs_stand_side_by_side(site, open_page):
    page = open_page(site.view("user"))
    for name in ("lightgcn", "ease"):
        page.get_by_role("button", name=name).focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name=name)).to_be_focused()
    settle(page)
    assert query(page).endswith("run=vbpr&run=lightgcn&run=ease")
    offered = {name: ids(site.offered("u0007", name)) for name in ("vbpr", "lightgcn", "ease")}
    columns = page.locator(".offers .column")
    assert columns.evaluate_all("all => all.map(one => one.dataset.run)") == list(offered)
    boxes = [columns.nth(at).bounding_box() for at in range(3)]
    assert len({box["y"] for box in boxes}) == 1
    for at, (name, items) in enumerate(offered.items()):
        assert shown(columns.nth(at)) == items
        for place, item in enumerate(items):
            said = columns.nth(at).locator(".foot").nth(place).text_content()
            for other, others in offered.items():
                if other != name:
                    assert (
                        (f"#{others.index(item) + 1} in {other}" in said)
                        if item in others
                        else other not in said
                    )
    page.get_by_role("button", name="vbpr").click()
    settle(page)
    assert columns.evaluate_all("all => all.map(one => one.dataset.run)") == ["lightgcn", "ease"]


@pytest.mark.parametrize("run", ["vbpr", "ease"])
def test_a_card_tells_why(site, open_page, run: str):
    page = open_page(f"{site.address}/#user=u0007&run={run}")
    card = page.locator(".offers a.card").nth(1)
    item = card.get_attribute("data-item")
    card.press("Enter")
    sheet = page.get_by_role("dialog")
    expect(sheet.locator(".total")).to_be_visible()
    settle(page)
    why = site.ask("/explain", user="u0007", item=item, run=run)
    expect(sheet.get_by_role("heading", level=2)).to_have_text(why["item"]["title"])
    rows = sheet.locator(".shares tbody tr")
    words = {"image": "picture"}
    assert rows.locator("th").all_text_contents() == [words.get(part, part) for part in why["shares"]]
    shares = [
        float(text.replace("−", "-").removesuffix(" %"))
        for text in rows.locator("td:nth-child(3)").all_text_contents()
    ]
    assert shares == pytest.approx([100 * share for share in why["shares"].values()], abs=0.51)
    parts = [float(text.replace("−", "-")) for text in rows.locator("td:nth-child(4)").all_text_contents()]
    assert parts == pytest.approx(list(why["parts"].values()), rel=5e-3)
    widths = rows.locator(".track i").evaluate_all(
        "bars => bars.map(bar => bar.getBoundingClientRect().width)"
    )
    low, high = min(0, *why["shares"].values()), max(0, *why["shares"].values())
    whole = rows.locator(".track").first.bounding_box()["width"]
    assert widths == pytest.approx(
        [abs(share) / (high - low) * whole for share in why["shares"].values()], abs=1
    )
    expect(sheet.locator(".badge")).to_have_text("exact" if why["exact"] else "approximate")
    expect(sheet.get_by_text(why["how"])).to_be_visible()
    assert shown(sheet) == ids(why["because"])
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    expect(card).to_be_focused()
    assert query(page) == f"user=u0007&run={run}"


def test_likeness_has_a_tab_for_each_kind(site, open_page):
    page = open_page(site.view("why"))
    sheet = page.get_by_role("dialog")
    item = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('item')")
    sheet.get_by_role("tab", name="Why").focus()
    for by in ("behaviour", "image", "text"):
        page.keyboard.press("ArrowRight")
        assert f"tab={by}" in query(page)
        settle(page)
        answer = site.ask("/similar", item=item, by=by, k=12, run="vbpr")
        assert shown(sheet) == ids(answer["items"])
    page.keyboard.press("ArrowRight")
    expect(sheet.get_by_role("tab", name="Why")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    settle(page)
    following = shown(sheet)[0]
    sheet.locator("a.card").first.click()
    settle(page)
    expect(sheet.locator("code")).to_have_text(following)
    assert shown(sheet) == ids(site.ask("/similar", item=following, by="text", k=12, run="vbpr")["items"])
    page.go_back()
    expect(sheet.locator("code")).to_have_text(item)


def test_the_tab_chosen_last_is_shown_whatever_comes_first(site, open_page):
    page = open_page(site.view("similar"))
    sheet = page.get_by_role("dialog")
    item = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('item')")
    held = []

    def hold(route):
        held.append(route)

    page.route("**/explain?*", hold)
    sheet.get_by_role("tab", name="Why").click()
    sheet.get_by_role("tab", name="by text").click()
    settle(page)
    alike = ids(site.ask("/similar", item=item, by="text", k=12, run="vbpr")["items"])
    assert shown(sheet) == alike
    with page.expect_response("**/explain?*"):
        held[0].continue_()
    settle(page)
    assert shown(sheet) == alike


def test_a_new_item_is_placed_by_picture_and_text(served, site, open_page, tmp_path):
    page = open_page(f"{site.address}/#view=new")
    page.get_by_role("button", name="Find its place").click()
    expect(page.get_by_role("alert")).to_have_text("Give a picture, a text, or both.")
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    page.set_input_files("#new-picture", tmp_path / "notes.txt")
    expect(page.get_by_role("alert")).to_contain_text("PNG, JPEG and WebP")
    at = int(np.flatnonzero(served.data.features["image"].present)[0])
    file = io.BytesIO()
    served.shop.picture(at).save(file, "PNG")
    page.set_input_files(
        "#new-picture", {"name": "lamp.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    expect(page.get_by_role("img", name="lamp.png")).to_be_visible()
    page.get_by_label("Text").fill("a quiet table lamp")
    page.get_by_label("Text").press("Control+Enter")
    results = page.locator(".results")
    expect(results.get_by_text("Who would like it")).to_be_visible()
    answer = httpx.post(
        f"{site.address}/items/new", files={"picture": file.getvalue()},
        data={"text": "a quiet table lamp", "k": 6, "run": "vbpr"},
    ).json()  # fmt: skip
    assert shown(results) == ids(answer["similar"])
    users = [one["user_id"] for one in answer["audience"]]
    assert results.locator(".audience .id").all_text_contents() == users
    expect(results.get_by_text(answer["basis"])).to_be_visible()
    assert query(page) == "view=new&text=a+quiet+table+lamp"
    results.locator(".audience a").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(users[0])
    page.go_back()
    expect(page.get_by_role("img", name="lamp.png")).to_be_visible()  # it outlives the view
    settle(page)
    assert shown(results) == ids(answer["similar"])


def test_runs_show_their_curves_and_figures(site, open_page):
    page = open_page(site.view("runs"))
    facts = {run["name"]: run for run in site.ask("/runs")["runs"]}
    lines = page.locator(".plot polyline")
    expect(lines).to_have_count(3)
    for line, run in zip(lines.all(), facts.values(), strict=True):
        points = [point.split(",") for point in line.get_attribute("points").split()]
        values = [epoch["valid"]["recall@20"] for epoch in run["curve"]]
        assert len(points) == len(values)
        assert (
            np.argsort([-float(y) for _, y in points], kind="stable").tolist()
            == np.argsort(values, kind="stable").tolist()
        )
    page.get_by_label("Metric").select_option("ndcg@10")
    assert "metric=ndcg%4010" in query(page)
    page.locator(".plot svg").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    read = ", ".join(
        f"{name} {facts[name]['curve'][1]['valid']['ndcg@10']:.4f}" for name in ("vbpr", "lightgcn")
    )
    expect(page.locator(".readout")).to_have_text(f"Epoch 2: {read}")
    row = page.locator(".figures tbody tr", has_text="recall@20")
    expected = np.array(
        [[run["metrics"][part]["recall@20"] for part in ("valid", "test")] for run in facts.values()]
    )
    assert row.locator("td").all_text_contents() == [f"{value:.4f}" for value in expected.ravel()]
    best = expected == expected.max(axis=0)
    assert row.locator("b").all_text_contents() == [f"{value:.4f}" for value in expected[best]]


def test_an_address_restores_its_view(site, open_page):
    page = open_page(site.view("user"))
    page.get_by_role("button", name="lightgcn").click()
    settle(page)
    page.locator(".column[data-run=lightgcn] a.card").nth(2).click()
    page.get_by_role("tab", name="by text").click()
    settle(page)
    look = "[...document.querySelectorAll('header, #chooser, main, #item')].map((part) => part.innerText)"
    again = open_page(page.url)
    assert again.evaluate(look) == page.evaluate(look)
    assert again.url == page.url
    assert "lightgcn" in again.get_by_role("dialog").inner_text()
    gone = open_page(f"{site.address}/#user=u0007&run=none&run=ease")
    expect(gone.get_by_text("Not loaded here: none.")).to_be_visible()
    assert shown(gone.locator(".offers")) == ids(site.offered("u0007", "ease"))


def test_hostile_titles_and_ids_stay_texts(serve, open_page, tmp_path):
    rng = np.random.default_rng(5)
    names = np.array([HOSTILE_USER, *(f"user {number}" for number in range(1, 20))])
    users, items = (
        names[np.repeat(np.arange(20), 6)],
        np.array([f"'\"><i>{n}" for n in rng.integers(0, 30, 120)]),
    )
    data = Dataset.from_interactions("hostile", Interactions.from_ids(users, items))
    data = replace(data, item_table=data.item_table.with_columns(title=pl.lit(HOSTILE)))
    train("ease", Split.by_ratio(data, rng=1), seed=1, device="cpu").save(tmp_path / "<b>run")
    with serve(create_app(Catalogue([tmp_path / "<b>run"]))) as port:
        page = open_page(f"http://127.0.0.1:{port}")
        page.get_by_role("combobox").fill("onclick")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE_USER)
        settle(page)
        assert set(page.locator(".title").all_text_contents()) == {HOSTILE}
        page.locator(".offers a.card").first.click()
        expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text(HOSTILE)
        settle(page)
        page.reload()
        settle(page)
        expect(page.get_by_role("dialog").get_by_role("heading", level=2)).to_have_text(HOSTILE)
        assert page.title() == f"{HOSTILE_USER} · Triptych"
        assert page.locator("main script, main b[onclick], .title *, h1 *, h2 *, [onerror]").count() == 0


def test_what_goes_wrong_is_said_and_can_be_tried_again(site, open_page):
    page = open_page(site.view("user"), expected="404|ERR_FAILED|500")
    page.get_by_role("combobox").fill("nobody")
    page.keyboard.press("Enter")
    alerts = page.get_by_role("alert")
    expect(alerts.first).to_contain_text("User id 'nobody' is not known to the run 'vbpr'")
    page.route("**/recommend*", lambda route: route.abort())
    page.goto(site.view("user"))
    expect(alerts).to_contain_text("The service does not answer")
    page.unroute("**/recommend*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".offers a.card")).to_have_count(10)
    page.route("**/similar*", lambda route: route.fulfill(status=500, body="<html>"))
    page.locator(".past a.card").first.click()
    page.get_by_role("tab", name="Alike by behaviour").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("status 500")


def test_a_list_by_popularity_says_so(site, open_page):
    def popular(route: Any) -> None:
        content = route.fetch().json()
        content["lists"][0]["basis"] = "popular"
        route.fulfill(json=content)

    page = open_page(site.address)
    page.route("**/recommend*", popular)
    page.get_by_role("link", name="u0003", exact=True).click()
    note = page.locator(".offers .note")
    expect(note).to_have_text(
        "popular u0003 has no choices to learn from, so these are the most popular items."
    )
    page.unroute("**/recommend*")
    page.reload()
    settle(page)
    expect(note).to_have_count(0)


def test_without_data_there_is_less_and_the_page_says_so(served, serve, open_page):
    with serve(create_app(served.catalogue("vbpr", data=False))) as port:
        page = open_page(f"http://127.0.0.1:{port}/#view=new")
        expect(page.get_by_text("start the service with --data")).to_be_visible()
        expect(page.get_by_role("group", name="Runs to show")).to_be_hidden()  # there is one
        page.goto(f"http://127.0.0.1:{port}/#user=u0007")
        settle(page)
        page.locator(".offers a.card").first.click()
        expect(
            page.get_by_role("dialog").get_by_text("its parts are told where the data set is given")
        ).to_be_visible()
        expect(page.get_by_role("tab")).to_have_text(["Why", "Alike by behaviour"])


def test_the_key_is_asked_for_once_and_kept_in_memory(served, serve, open_page):
    with serve(create_app(served.catalogue("vbpr"), key=KEY)) as port:
        page = open_page(f"http://127.0.0.1:{port}/#user=u0007", expected="401", ready="dialog[open]")
        asked = page.get_by_role("dialog", name="This service wants a key")
        field = asked.get_by_label("Key")
        expect(field).to_be_focused()
        field.fill("not the key")  # a blank is no part of any key
        page.keyboard.press("Enter")
        expect(asked).to_be_visible()
        field.fill("not-the-key")
        page.keyboard.press("Enter")
        expect(asked.get_by_role("alert")).to_contain_text("That key was refused.")
        field.fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator(".offers a.card")).to_have_count(10)
        expect(asked).to_be_hidden()
        picture = page.locator(".offers img").first
        expect(picture).to_have_attribute("src", re.compile("^blob:"))
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        assert KEY not in page.content() + page.url
        page.reload()
        page.get_by_role("button", name="Not now").click()
        expect(page.get_by_role("alert")).to_contain_text("only with its key")


@pytest.mark.parametrize("view", list(VIEWS))
def test_nothing_runs_off_a_narrow_screen_and_all_text_can_be_read(site, open_page, view: str):
    page = open_page(
        site.view(view), expected="404", viewport={"width": 360, "height": 740}, color_scheme="dark"
    )
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    for scheme, width in (("dark", 360), ("light", 1280)):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 740})
        page.wait_for_timeout(50)
        wide = page.evaluate(
            "[document.scrollingElement, ...document.querySelectorAll('dialog[open]')]"
            ".map(one => one.scrollWidth - one.clientWidth)"
        )
        assert max(wide) <= 0
        texts = page.evaluate(CONTRASTS)
        assert len(texts) > 5
        assert [text for text in texts if text[0] < 4.5] == []


def test_whole_numbers_beyond_floats_keep_their_digits(site, open_page):
    page = open_page(site.address)
    parsed = page.evaluate(
        "import('/static/service.js').then(({ parse }) => parse('[9007199254740993, -9223372036854775808, 7, 1e30, 0.5]'))"
    )
    assert parsed == ["9007199254740993", "-9223372036854775808", 7, 1e30, 0.5]


CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (colour) => [...channels(colour)].slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (channels(colour)[3] === 255) return colour;
    }
    return "white";
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest(".unseen, noscript, .skip")) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(node instanceof SVGElement ? style.fill : style.color), light(behind(node))].sort();
    found.push([(b + 0.05) / (a + 0.05), node.textContent.slice(0, 40), node.className.toString()]);
  }
  return found;
}"""
