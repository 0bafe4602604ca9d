"""Pictures of what a model learned: what the coordinates and numbers are of, and that the page shows them."""

from __future__ import annotations

import html.parser
import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures, ItemGraph
from triptych.data.interactions import Interactions
from triptych.data.split import Split
from triptych.errors import ConfigError, StorageError
from triptych.graph.bipartite import bipartite_graph
from triptych.models.base import ModelInputs
from triptych.nn.correlation import redundancy
from triptych.report.embedding_figures import angle_density, density_levels, draw_maps
from triptych.report.embedding_page import write_picture_page
from triptych.report.embeddings import Picture, evenness, lay_out, picture_run
from triptych.runs import Run, train
from triptych.runs.rebuild import rebuild
from triptych.training.config import TrainConfig

BRIEFLY = TrainConfig(epochs=1, batch_size=256, metric="recall@2")


@pytest.fixture(scope="module")
def split() -> Split:
    """Forty items, of which three lack a picture; one modality is a graph alone."""
    rng = np.random.default_rng(0)
    n = 40
    users, items = rng.integers(0, 50, 400), rng.integers(0, n, 400)
    items[:n] = np.arange(n)
    edges = ItemGraph.from_edges(np.array([0]), np.array([1]), np.ones(1, np.float32), n)
    features = {
        "image": ItemFeatures.dense(rng.normal(size=(n, 7)), np.arange(n) > 2),
        "text": ItemFeatures.dense(rng.normal(size=(n, 5))),
        "bought": ItemFeatures(present=np.ones(n, bool), graph=edges),
    }
    pairs = Interactions.from_ids(users, np.char.mod("i%02d", items))
    return Split.by_ratio(replace(Dataset.from_interactions("forty", pairs), features=features), rng=0)


def trained(split: Split, model: str, **settings: object) -> Run:
    fields = {"embedding_dim": 4, **settings}
    return train(model, split, settings=fields, config=BRIEFLY, k=(2,), device="cpu", seed=1)


@pytest.fixture(scope="module")
def sand(split: Split) -> tuple[Run, Picture]:
    settings = {"modalities": ("image", "text"), "n_neighbors": 3, "use_distance": False}
    run = trained(split, "sand", **settings)
    return run, picture_run(run, split.data, sample=20, n_layers=1)


@pytest.fixture(scope="module")
def lightgcn(split: Split) -> tuple[Run, Picture]:
    run = trained(split, "lightgcn")
    return run, picture_run(run, split.data, sample=30, n_layers=2)


def test_maps_are_of_the_models_own_vectors(sand, split: Split):
    run, found = sand
    vectors = rebuild(run, ModelInputs.from_split(split)).modality_embeddings()
    one = found.maps[0]
    assert (one.kind, [panel.name for panel in one.panels]) == ("modalities", ["image", "text"])
    ids = [panel.ids for panel in one.panels]
    assert ids[0] == ids[1] == sorted(set(ids[0]))  # the same items, each once
    assert len(ids[0]) == 20
    assert set(ids[0]).isdisjoint({"i00", "i01", "i02"})  # which have no picture
    rows = torch.cat([vectors[name][split.data.items.index(ids[0])] for name in vectors]).detach()
    places = lay_out(rows.double().numpy(), seed=0)
    assert np.concatenate([panel.points for panel in one.panels]) == pytest.approx(places)


def test_halves_are_those_of_sand(sand):
    _, found = sand
    halves = next(one for one in found.maps if one.kind == "halves")
    assert [panel.name for panel in halves.panels] == [
        "image generic", "image unique", "text generic", "text unique",
    ]  # fmt: skip
    assert "items before the model" in found.missing  # SAND has no ids


def test_what_a_model_lacks_is_named(lightgcn):
    _, found = lightgcn
    assert [one.kind for one in found.maps] == ["nodes", "ids", "result"]
    assert found.histograms == []
    assert found.missing["the modalities in the model"] == "it has no vectors by modality"
    assert "generic and unique halves" in found.missing
    assert [len(panel.points) for panel in found.maps[0].panels] == [30, 30]


def test_a_sample_of_large_groups_is_bounded(split: Split, monkeypatch):
    from triptych.report import embeddings

    monkeypatch.setattr(embeddings, "MOST_ROWS", 30)
    found = picture_run(trained(split, "lightgcn"), split.data, sample=30, n_layers=0)
    assert [len(panel.points) for one in found.maps for panel in one.panels] == [15, 15, 30, 30]


def test_the_same_seed_gives_the_same_places(lightgcn, split: Split):
    run, found = lightgcn
    assert picture_run(run, split.data, sample=30, n_layers=2) == found
    assert picture_run(run, split.data, sample=30, n_layers=2, seed=1).maps != found.maps


def test_histograms_hold_each_item_once(sand, split: Split):
    _, found = sand
    assert [(one.modality, one.stage) for one in found.histograms] == [
        ("image", "raw"), ("image", "model"), ("text", "raw"), ("text", "model"),
    ]  # fmt: skip
    for one in found.histograms:
        counts = np.array(one.counts)
        assert counts.sum() == 20
        assert one.cells == (counts > 0).sum()
        assert one.evenness == pytest.approx(evenness(counts))


def test_layers_are_correlated_over_the_graph(lightgcn, split: Split):
    run, found = lightgcn
    user, item = (torch.from_numpy(part) for part in split.train)
    dense = bipartite_graph(user, item, split.n_users, split.n_items).to_dense()
    nodes = run.weights["nodes.weight"]
    ids = [one for one in found.layers if one.of == "ids"]
    assert [one.layer for one in ids] == [0, 1, 2]
    for one in ids:
        items = (torch.linalg.matrix_power(dense, one.layer) @ nodes)[split.n_users :]
        assert one.redundancy == pytest.approx(redundancy(items).item(), rel=1e-4)
        assert np.array(one.matrix) == pytest.approx(np.corrcoef(items.T), abs=1e-4)
    result = found.layers[-1]
    assert result.redundancy == pytest.approx(redundancy(run.scorer.embeddings.items).item())
    diagnosed = [row.items for row in found.diagnosis.layers if row.of == "ids"]
    assert [one.redundancy for one in ids] == pytest.approx(diagnosed)


def test_modalities_begin_with_the_mean_of_what_users_chose(sand, split: Split):
    run, found = sand
    text = rebuild(run, ModelInputs.from_split(split)).modality_embeddings()["text"].detach()
    user, item = (torch.from_numpy(part) for part in split.train)
    chosen = torch.zeros(split.n_users, split.n_items).index_put_((user, item), torch.ones(len(user)))
    chosen /= chosen.sum(dim=1, keepdim=True)
    dense = bipartite_graph(user, item, split.n_users, split.n_items).to_dense()
    passed = (dense @ torch.cat([chosen @ text, text]))[split.n_users :]
    (one,) = [one for one in found.layers if (one.of, one.layer) == ("text", 1)]
    assert one.redundancy == pytest.approx(redundancy(passed).item(), rel=1e-4)


def test_a_graph_alone_and_a_small_modality_are_named(split: Split):
    few = ItemFeatures.dense(np.ones((40, 3)), np.arange(40) < 5)
    data = replace(split.data, features={**split.data.features, "sound": few})
    run = trained(replace(split, data=data), "vbpr", modalities=("text", "sound"))
    found = picture_run(run, data, sample=20, n_layers=0)
    assert "5 rows of a group" in found.missing["Items by modality in the model"]
    assert "5 rows of a group" in found.missing["sound, features as given"]


def test_planted_clouds_stay_apart_and_mixed_ones_do_not(split: Split, lightgcn):
    run, _ = lightgcn
    users, items = run.scorer.embeddings
    rng = np.random.default_rng(0)
    for shift, low, high in ((50.0, 0.99, 1.0), (0.0, 0.3, 0.7)):
        planted = [torch.from_numpy(rng.normal(size=part.shape)).float() for part in (users, items)]
        run.scorer.embeddings = type(run.scorer.embeddings)(planted[0] + shift, planted[1])
        try:
            one = picture_run(run, split.data, sample=30, n_layers=0).maps[0]
        finally:
            run.scorer.embeddings = type(run.scorer.embeddings)(users, items)
        assert all(low <= panel.apart <= high for panel in one.panels), shift
        centres = [np.mean(panel.points, axis=0) for panel in one.panels]
        spread = max(np.std(panel.points) for panel in one.panels)
        assert (np.linalg.norm(centres[0] - centres[1]) > spread) == (shift > 0)


def test_samples_and_data_that_do_not_fit_are_refused(lightgcn, split: Split):
    run, _ = lightgcn
    for sample in (5, 2001):
        with pytest.raises(ConfigError, match="from 12 to 2,000"):
            picture_run(run, split.data, sample=sample)
    with pytest.raises(StorageError, match="trained on"):
        picture_run(run, replace(split.data, features={}))
    with pytest.raises(ConfigError, match="ranks without embeddings"):
        picture_run(train("ease", split, k=(2,), config=BRIEFLY), split.data)


# The numbers behind the drawings


def test_evenness_by_hand():
    assert evenness(np.array([[2, 2], [2, 2]])) == pytest.approx(1.0)
    assert evenness(np.array([[8, 0], [0, 0]])) == pytest.approx(0.0)
    assert evenness(np.array([1, 1, 0, 0])) == pytest.approx(1.0)  # two things fill two cells at most
    assert evenness(np.array([4, 4, 0, 0])) == pytest.approx(0.5)  # log 2 of log 4


def test_levels_hold_their_shares():
    density = np.arange(1, 101) / 100
    levels = density_levels(density, (0.75, 0.5, 0.25))
    assert levels == sorted(levels)
    assert [(density >= level).mean() for level in levels] == [0.75, 0.5, 0.25]


def test_angles_close_the_circle_and_sum_to_one():
    rng = np.random.default_rng(0)
    left = rng.normal(size=(400, 2)) - np.array([6, 0])  # around the angle pi, where the ends meet
    at, density = angle_density(left)
    assert density[0] == pytest.approx(density[-1])
    assert trapezoid(density, at) == pytest.approx(1, abs=1e-3)
    assert abs(at[density.argmax()]) > np.pi - 0.1
    turned, moved = angle_density(-left)  # half a turn
    assert abs(turned[moved.argmax()]) < 0.1
    assert moved == pytest.approx(np.append(np.roll(density[:-1], 90), density[90]), rel=1e-6)
    everywhere = angle_density(rng.normal(size=(4000, 2)))[1]
    assert everywhere == pytest.approx(np.full(181, 1 / (2 * np.pi)), rel=0.25)


# The page


class Reader(html.parser.HTMLParser):
    """Collects what a browser would load, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.loads, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for key, value in attributes if key in ("src", "href", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.loads += [value for key, value in attributes if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path) -> tuple[str, Reader]:
    page, reader = path.read_text(encoding="utf-8"), Reader()
    reader.feed(page)
    assert reader.open == []
    return page, reader


def test_the_page_is_whole_and_shows_the_numbers(sand, tmp_path):
    pytest.importorskip("matplotlib")
    _, found = sand
    write_picture_page(found, tmp_path / "sand.html")
    page, reader = read(tmp_path / "sand.html")
    assert "<script" not in page
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in reader.loads)
    charts = re.findall(r"<svg class=\"chart\".*?</svg>", page, re.DOTALL)
    n_maps = sum(len(one.panels) for one in found.maps)
    assert len(charts) == n_maps + len(found.histograms) + 2 * 2 + 1  # first and last of two modalities
    ids = re.findall(r' id="(.*?)"', page)
    assert len(ids) == len(set(ids))
    for chart in charts:
        title, described = re.search(r'aria-labelledby="(\S+) (\S+)"', chart).groups()
        words = re.search(f'<desc id="{described}">(.*?)</desc>', chart)[1]
        assert f'<title id="{title}">' in chart
        assert any(character.isdigit() for character in words)
    drawn = "".join(charts)
    assert not re.search("#f[01]000", drawn)  # all colours are the page's own
    shown = " ".join("".join(reader.text).split())
    for one in found.maps:
        assert one.title in shown
    for row in found.diagnosis.modalities:
        assert f"{row.uniformity:.3g}" in shown
    for one in found.layers:
        assert f"{one.redundancy:.3g}" in shown
    for why in found.missing.values():
        assert why in shown


def test_without_figures_there_are_tables(lightgcn, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _, found = lightgcn
    write_picture_page(found, tmp_path / "lightgcn.html")
    page, reader = read(tmp_path / "lightgcn.html")
    assert 'class="chart"' not in page
    assert "triptych[report]" in page
    assert f"{found.maps[0].trust:.3g}" in "".join(reader.text)


def test_the_same_picture_gives_the_same_drawings(lightgcn):
    pytest.importorskip("matplotlib")
    one = lightgcn[1].model_copy(update={"maps": lightgcn[1].maps[1:2]})
    assert draw_maps(one) == draw_maps(one)


def test_vectors_of_one_column_that_are_all_alike_are_drawn_as_they_are(split: Split, tmp_path):
    pytest.importorskip("matplotlib")
    run = train(
        "popularity", split, k=(2,), config=BRIEFLY, device="cpu"
    )  # users (1), items (their popularity)
    found = picture_run(run, split.data, sample=20, n_layers=1)
    assert [one.kind for one in found.maps] == ["nodes", "result"]
    write_picture_page(found, tmp_path / "popularity.html")
    assert "a single column" in read(tmp_path / "popularity.html")[0]


def test_the_json_has_the_coordinates(sand):
    _, found = sand
    facts = json.loads(found.model_dump_json())
    assert len(facts["maps"][0]["panels"][0]["points"]) == 20
    assert "matrix" not in facts["layers"][0]
    assert facts["layers"][0]["redundancy"] == found.layers[0].redundancy
