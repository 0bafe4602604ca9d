"""Plans that come with Triptych: all that they name can be trained, and no printed figure is dropped in silence."""

from __future__ import annotations

import csv
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
import torch

from triptych.experiments import plans
from triptych.experiments.plans import (
    VARIANTS,
    PaperRow,
    published,
    published_sizes,
    shipped_ablation,
    shipped_papers,
)
from triptych.experiments.reproduction import DataUsed
from triptych.models.base import ModelInputs
from triptych.models.plugins.base import create_plugged_in
from triptych.models.registry import models
from triptych.testing import checkerboard
from triptych.training.recipe import Recipe, find_recipe

RECIPES = files("triptych") / "recipes"
ABLATIONS = sorted(path.name.removesuffix(".toml") for path in (RECIPES / "ablations").iterdir())
PRINTED = list(
    csv.DictReader((RECIPES / "papers" / "published.csv").read_text(encoding="utf-8").splitlines())
)

NOT_ACCURACY = {
    "users", "items", "interactions", "density_pct", "sparsity_pct", "dim_text", "dim_visual",  # statistics
    "improve_recall_pct", "improve_ndcg_pct",  # gains
    "memory_gb", "seconds_per_epoch",  # cost
}  # fmt: skip

LEFT_OUT = {("SAND", "log:valid", "SAND(official log)"): "of the validation part; ours are of the test part"}

SAME = {("MSI", "2"): {"BM3", "BM3(reproduced)"}}
"""Rows that one system stands for: what another paper printed, and the authors' own run of it."""


shipped_paper = cache(plans.shipped_paper)


def read(*path: str) -> dict[str, Any]:
    return tomllib.loads(RECIPES.joinpath(*path).read_text(encoding="utf-8"))


def scores(recipe: Recipe, inputs: ModelInputs) -> bool:
    """Say whether it can be built and ranks by finite numbers."""
    configs = recipe.configs()
    model = create_plugged_in(configs.model, configs.plugins, inputs)
    with torch.no_grad():
        return all(rows.isfinite().all() for rows in model.eval().embeddings())


@pytest.fixture(scope="module")
def inputs() -> ModelInputs:
    return ModelInputs.from_split(checkerboard())


def distinct(systems: dict[str, Recipe]) -> bool:
    return len({repr(recipe.configs()) for recipe in systems.values()}) == len(systems)


# Ablations


def test_the_five_papers_models_have_variants_and_every_file_is_of_a_model():
    assert {"camgr", "ksi", "mgnm", "msi", "sand"} <= set(ABLATIONS) <= {entry.name for entry in models()}


@pytest.mark.parametrize("model", ABLATIONS)
def test_variants_can_be_built_and_differ_from_the_model_and_each_other(model: str, inputs: ModelInputs):
    assert read("ablations", f"{model}.toml").keys() <= {"model", "source", "variants", "sweeps", "grids"}
    plan = shipped_ablation(model)
    assert plan.model == model
    assert plan.source
    systems = plan.systems(find_recipe(model))
    assert list(systems) == [model, *plan.variants]
    assert distinct(systems)
    assert all(scores(recipe, inputs) for recipe in systems.values())


def test_variants_of_modalities_are_those_of_the_data():
    variants = shipped_ablation("msi", ["audio", "image", "text"]).variants
    assert variants["w/o audio"] == {"modalities": ["image", "text"]}
    assert variants["w/o image"] == {"modalities": ["audio", "text"]}
    assert variants["MSI user-audio"] == {"score_with": "audio"}
    assert shipped_ablation("camgr", ["audio", "image"]).variants["audio"] == {"modalities": ["audio"]}
    alone = shipped_ablation("msi", ["sound"]).variants
    assert alone["MSI user-sound"] == {"score_with": "sound"}
    assert not [name for name in alone if name.startswith("w/o ") and "modalities" in alone[name]]
    assert not [name for model in ABLATIONS for name in shipped_ablation(model).variants if "{" in name]


@pytest.mark.parametrize("model", ABLATIONS)
def test_sweeps_have_valid_and_distinct_points(model: str):
    plan = shipped_ablation(model)
    for name in [*plan.sweeps, *plan.grids]:
        systems = plan.sweep(name, find_recipe(model))
        assert len(systems) > 1
        assert distinct(systems)
    for name, grid in plan.grids.items():
        assert name == " x ".join(grid)


@pytest.mark.parametrize(
    ("model", "tables"),
    [("mgnm", ["III"]), ("camgr", ["3"]), ("msi", ["4", "5", "Fig3(derived)"]), ("sand", ["4"]), ("ksi", ["III"])],
)  # fmt: skip
def test_variants_that_are_printed_have_their_printed_names(model: str, tables: list[str]):
    plan, ablation = shipped_paper(model), shipped_ablation(model)
    printed = {row.printed: row for table in tables for row in plan.tables[table].rows}
    itself = {model.upper(), "CAmgr", "MSI user-ID", "SAND_a", "LightGCN+both"}
    assert printed.keys() - ablation.variants.keys() == printed.keys() & itself
    for name in printed.keys() - itself:
        variant = find_recipe(model).with_settings(ablation.variants[name]).configs().model.model_dump()
        row = printed[name].recipe.configs().model.model_dump()
        assert all(row[field] == variant[field] for field in ablation.variants[name]), name


# Figures


@pytest.mark.parametrize("paper", shipped_papers())
def test_figures_are_what_comes_with_the_model_on_data_of_the_paper(paper: str, inputs: ModelInputs):
    plan = shipped_paper(paper)
    for figure in plan.figures.values():
        assert set(figure.datasets) <= plan.datasets.keys()
        assert figure.row.by_data.keys() <= set(figure.datasets)
        for data in figure.datasets:
            assert list(figure.systems(data)) == figure.panels
            for panel, systems in figure.systems(data).items():
                fields = panel.split(" x ")
                assert len(systems) > 2
                assert distinct(systems)
                if panel == VARIANTS:
                    assert list(systems)[1:] == figure.variants
                    continue
                for name, recipe in systems.items():
                    config = recipe.configs().model.model_dump()
                    assert name == " ".join(f"{field}={config[field]}" for field in fields)
        assert scores(next(iter(systems.values())), inputs)


def test_figures_vary_what_the_papers_say():
    assert {name: list(shipped_paper(name).figures) for name in shipped_papers()} == {
        "camgr": ["2", "3"], "ksi": ["2a", "2b", "2c", "2d", "3"], "mgnm": [], "msi": ["4", "5", "6"], "sand": ["3", "4"],
    }  # fmt: skip
    neighbors = shipped_paper("camgr").figures["3"].systems("baby")["n_neighbors"]
    assert [recipe.settings["n_neighbors"] for recipe in neighbors.values()] == [5, 10, 15, 20, 25]
    (grid,) = shipped_paper("msi").figures["5"].systems("sports").values()
    assert {(recipe.settings["dropout"], recipe.settings["reg_weight"]) for recipe in grid.values()} == {
        (0.3, 0.1), (0.3, 0.01), (0.5, 0.1), (0.5, 0.01),
    }  # fmt: skip
    assert all(recipe.settings["ssd_weight"] == 0.01 for recipe in grid.values())  # the paper's for Sports


def test_variants_that_a_recipe_has_already_are_named():
    plan = shipped_ablation("sand")
    base = find_recipe("sand").with_settings({"use_align": False})
    assert plan.no_variants(find_recipe("sand")) == []
    assert plan.no_variants(base) == ["w/o Alignment"]
    assert plan.systems(base).keys() == {"sand", *plan.variants} - {"w/o Alignment"}


# Papers


def rows_of(paper: str) -> list[tuple[str, PaperRow]]:
    return [(number, row) for number, table in shipped_paper(paper).tables.items() for row in table.rows]


def datasets_of(paper: str, table: str, row: str) -> set[str]:
    key = (shipped_paper(paper).paper, table, row)
    return {
        line["dataset"] for line in PRINTED if (line["paper"], line["table"], line["model_or_variant"]) == key
    }


def test_each_paper_of_the_published_figures_has_a_plan():
    assert {shipped_paper(name).paper for name in shipped_papers()} == {line["paper"] for line in PRINTED}


@pytest.mark.parametrize("paper", shipped_papers())
def test_plans_hold_what_they_should(paper: str):
    content = read("papers", f"{paper}.toml")
    keys = {"paper", "title", "source", "differs", "datasets", "tables"}
    assert keys <= content.keys() <= keys | {"figures"}
    for table in content["tables"].values():
        assert table.keys() == {"title", "rows"}
        for row in table["rows"].values():
            assert {"system"} <= row.keys() <= {"system", "settings", "by_data"}
    plan = shipped_paper(paper)
    assert plan.paper.lower() == paper
    assert plan.datasets.keys() == {line["dataset"] for line in PRINTED if line["paper"] == plan.paper}


@pytest.mark.parametrize("paper", shipped_papers())
def test_rows_are_printed_and_can_be_built(paper: str, inputs: ModelInputs):
    built: set[str] = set()
    for number, row in rows_of(paper):
        datasets = datasets_of(paper, number, row.printed)
        assert datasets, row.printed
        assert row.by_data.keys() <= datasets, row.printed
        for data in datasets:
            recipe = row.on(data)
            if repr(recipe.configs()) not in built:
                built.add(repr(recipe.configs()))
                assert scores(recipe, inputs)


@pytest.mark.parametrize("paper", shipped_papers())
def test_what_a_paper_has_for_a_data_set_alone_makes_a_difference(paper: str):
    for _, row in rows_of(paper):
        assert all(row.on(data).configs() != row.recipe.configs() for data in row.by_data), row.printed


@pytest.mark.parametrize("paper", shipped_papers())
def test_no_system_stands_for_two_rows_of_a_table(paper: str):
    plan = shipped_paper(paper)
    for number, table in plan.tables.items():
        same = SAME.get((plan.paper, number), set())
        for data in plan.datasets:
            assert distinct({row.printed: row.on(data) for row in table.rows if row.printed not in same})
            assert len({repr(row.on(data).configs()) for row in table.rows if row.printed in same}) < 2


def test_every_printed_accuracy_is_in_a_plan_or_left_out_for_a_reason():
    metrics = {line["metric"] for line in PRINTED}
    assert metrics == NOT_ACCURACY | {"recall", "ndcg"}
    printed = {
        (line["paper"], line["table"], line["model_or_variant"])
        for line in PRINTED
        if line["metric"] not in NOT_ACCURACY
    }
    planned = {
        (shipped_paper(paper).paper, number, row.printed)
        for paper in shipped_papers()
        for number, row in rows_of(paper)
    }
    assert not planned & LEFT_OUT.keys()
    assert planned | LEFT_OUT.keys() == printed


@pytest.mark.parametrize("table", ["IV", "V", "VI"])
def test_swept_rows_of_mgnm_have_the_weights_of_their_names(table: str):
    for row in shipped_paper("mgnm").tables[table].rows:
        weights = dict(part.split("=") for part in row.printed.split(";"))
        config = row.recipe.configs().model.model_dump()
        assert config["id_decorrelation"] == float(weights["beta"])
        assert config["modality_decorrelation"] == float(weights["delta"])


def test_swept_rows_of_camgr_have_the_weights_of_their_names():
    for row in shipped_paper("camgr").tables["4"].rows:
        name, value = row.printed.split("=")
        assert name == "alpha1"
        assert row.recipe.configs().model.model_dump()["contrast_weight"] == float(value)


def test_the_flexible_forms_of_sand_are_those_of_the_notes():
    notes = {
        line["model_or_variant"]: line["note"]
        for line in PRINTED
        if (line["paper"], line["table"]) == ("SAND", "4")
    }
    for row in shipped_paper("sand").tables["4"].rows:
        config = row.recipe.configs().model.model_dump()
        assert f"{config['align']}+{config['distance']}" == notes[row.printed].lower()


def test_the_undefined_infonce_is_over_all_items_and_its_other_reading_is_named():
    rows = {row.printed: row.recipe.configs().model for row in shipped_paper("sand").tables["4"].rows}
    assert {config.align_pool for config in rows.values()} == {"all"}
    for name in ("SAND_c", "SAND_d"):
        other = shipped_ablation("sand").variants[f"table 4: {name} in batches"]
        changed = find_recipe("sand-baby.toml").with_settings(other).configs().model
        assert changed == rows[name].model_copy(update={"align_pool": "batch"})


def test_plugins_are_attached_to_the_system_of_the_host_alone():
    rows = {row.printed: row.recipe.configs() for row in shipped_paper("sand").tables["3"].rows}
    for host in ("VBPR", "FREEDOM"):
        assert (rows[host].model, rows[host].training) == rows[f"{host}+SAND"][:2]
        assert (list(rows[host].plugins), list(rows[f"{host}+SAND"].plugins)) == ([], ["sand"])


def test_sizes_of_data_sets_are_found_and_compared():
    assert published_sizes("SAND", "baby") == {"users": "19445", "items": "7050", "interactions": "160792"}
    assert published_sizes("MGNM", "nothing") == {}
    for users, printed, differing in (
        (19445, "19445", []),
        (19446, "19445", ["users"]),
        (35598, "35k", []),
        (36000, "35k", ["users"]),
    ):
        assert (
            DataUsed(users=users, items=1, interactions=1, printed={"users": printed}).differing == differing
        )


def test_figures_are_found_by_row_and_metric():
    assert published("SAND", "2", "baby")["SAND"]["recall@20"].value == 0.1033
    assert published("MGNM", "VI", "beauty")["beta=1e-4;delta=0.01"]["ndcg@50"].value == 0.0858
