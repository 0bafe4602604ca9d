"""The tables and the page of a comparison: right in the letter, whole, and the same each time."""

from __future__ import annotations

import builtins
import html.parser
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

import triptych as tt
from triptych.cli.comparison_tables import print_comparison
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.evaluation.significance import Comparison
from triptych.experiments.comparison import compare
from triptych.experiments.content import Change
from triptych.experiments.jobs import Workshop
from triptych.experiments.result import ComparisonResult, Failure, LeftOut, Spread, SystemFigures
from triptych.report.comparison import (
    comparison_latex,
    comparison_markdown,
    write_comparison,
    write_comparison_page,
)
from triptych.report.page import in_words
from triptych.runs import RunRecord
from triptych.testing import toy_dataset
from triptych.training.observer import EpochRecord
from triptych.training.recipe import Recipe

HOSTILE = """<script>alert("x")</script> & 'q' $x_1$ {{ 7 * 7 }} url(#a) 日本"""


def system(name, recall, ndcg, sd=0.002, seeds=(1, 2), settings=None, runs=()):
    def spread(mean):
        return Spread(mean=mean, sd=sd)

    return SystemFigures(
        name=name,
        settings=settings or {},
        seeds=list(seeds),
        runs=list(map(str, runs)) or [f"nowhere/{seed}" for seed in seeds],
        valid={"recall@5": spread(recall + 0.01), "ndcg@5": spread(ndcg + 0.01)},
        test={"recall@5": spread(recall), "ndcg@5": spread(ndcg), "hit@5": spread(0.5)},
        legacy=None,
        epochs=[12 for _ in seeds],
        seconds_per_epoch=1.5 + recall,
        peak_memory_bytes=300 * 2**20,
    )


def difference(name, value, p):
    return Comparison(
        metric="recall@5",
        baseline="base",
        system=name,
        n_users=1234,
        n_differing=321,
        mean_baseline=0.1,
        mean_system=0.1 + value,
        spread_baseline=0.002,
        spread_system=0.002,
        difference=value,
        interval=(value - 0.01, value + 0.01),
        p_bootstrap=p,
        p_wilcoxon=p,
        p_corrected=p,
        detectable=0.012,
    )


def result(systems, differences=(), failures=(), **facts):
    return ComparisonResult(
        **{
            "data": "shop",
            "data_hash": "0123456789abcdef",
            "split_hash": "fedcba9876543210",
            "split": {"kind": "ratio", "shares": [0.8, 0.1, 0.1], "test": 12345},
            "protocol": {"k": [5], "masked": "train", "users": 1234, "users_left_out": 7},
            "metric": "recall@5",
            "systems": list(systems),
            "reference": "base",
            "reference_chosen": True,
            "legacy_choice": None,
            "differences": list(differences),
            "failures": list(failures),
            **facts,
        }
    )


def small():
    return result(
        [
            system("base", 0.1, 0.05),
            system("a_b|c 5%", 0.12, 0.06),
            system("third", 0.12004, 0.04, sd=None, seeds=(1,)).model_copy(update={"n_parameters": 12345}),
        ],
        [difference("a_b|c 5%", 0.02, 0.001), difference("third", 0.02, 0.3)],
        [Failure(name="third", seed=2, error="loss is NaN")],
    )


def record(folder: Path, model: str, seed: int, settings: dict, curve: list[float]) -> Path:
    """Write what a run folder says of a run, and nothing else of it."""
    best = max(range(len(curve)), key=curve.__getitem__)
    facts = RunRecord(
        model=model,
        model_settings=settings,
        train_settings={"metric": "recall@5"},
        seed=seed,
        device="cpu",
        versions={},
        data="shop",
        data_hash="",
        split_hash="",
        split={},
        best_epoch=best + 1,
        history=[
            EpochRecord(epoch, {"loss": 1.0}, {"recall@5": value}, epoch == best + 1, 1.0, 0.1)
            for epoch, value in enumerate(curve, start=1)
        ],
        valid={"recall@5": curve[best]},
        test={},
        protocol={},
        seconds_per_epoch=1.0,
        seconds_per_evaluation=0.1,
        peak_memory_bytes=1,
    )
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({**facts.model_dump(mode="json"), "files": {}}))
    return folder


def swept(folder: Path, points: list[dict], model: str = "lightgcn") -> ComparisonResult:
    """Systems that differ in settings, with two runs each."""
    systems = []
    for at, settings in enumerate(points):
        name = " ".join(f"{field}={value}" for field, value in settings.items())
        runs = [
            record(folder / f"{at}-{seed}", model, seed, settings, [0.05, 0.1 + at / 100, 0.09])
            for seed in (1, 2)
        ]
        systems.append(system(name, 0.1 + at / 100, 0.05, settings=settings, runs=runs))
    differences = [difference(one.name, 0.01 * at, 0.2 / at) for at, one in enumerate(systems) if at]
    return result(systems, differences, reference=systems[0].name)


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that what is opened is closed in order."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "meta":
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


def page(found: ComparisonResult, path: Path) -> tuple[str, Reader]:
    write_comparison_page(found, path)
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    used = [
        value for _, of in reader.tags for name, value in of.items() if name in ("href", "aria-labelledby")
    ]
    used += re.findall(r'clip-path="url\(([^)]*)', text)
    assert {one.removeprefix("#") for names in used for one in names.split()} <= set(ids)
    return text, reader


CAPTION = (
    "Test figures on shop, mean ± standard deviation over seeds 1, 2 (at least 1 of them). 1,234 users; all items "
    "ranked, train items masked; epochs chosen on validation. Best bold, second underlined. † differs in recall@5 from "
    "the reference base (the best on validation) significantly (p < 0.05, paired by user, bootstrap, Holm's correction). "
    "Not in it, as the training failed: third with seed 2."
)
COSTS = (
    "Seconds of an epoch without evaluation, the median; memory of the process, the largest: both are of the machine at "
    "that time. Parameters are those learned by gradient, 0 of what is solved."
)


def test_the_markdown_table_to_the_letter():
    assert comparison_markdown(small()) == (
        "| system | recall@5 | ndcg@5 |\n"
        "|:--|--:|--:|\n"
        "| base | <ins>0.1000</ins> ± 0.0020 | <ins>0.0500</ins> ± 0.0020 |\n"
        "| a\\_b\\|c 5% | **0.1200** ± 0.0020† | **0.0600** ± 0.0020 |\n"
        "| third | **0.1200** | 0.0400 |\n"
        "\n" + CAPTION.replace("<", "\\<") + "\n"
        "\n"
        "| system | epochs by seed | seconds per epoch | memory, MiB | parameters |\n"
        "|:--|--:|--:|--:|--:|\n"
        "| base | 12, 12 | 1.60 | 300 | – |\n"
        "| a\\_b\\|c 5% | 12, 12 | 1.62 | 300 | – |\n"
        "| third | 12 | 1.62 | 300 | 12,345 |\n"
        "\n" + COSTS + "\n"
    )


def test_the_latex_table_to_the_letter():
    caption = CAPTION.replace("±", r"$\pm$").replace("†", r"$^{\dagger}$").replace("<", r"\textless{}")
    assert comparison_latex(small()) == "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            r"\begin{tabular}{lrr}",
            r"\toprule",
            r"system & recall@5 & ndcg@5 \\",
            r"\midrule",
            r"base & \underline{0.1000} $\pm$ 0.0020 & \underline{0.0500} $\pm$ 0.0020 \\",
            r"a\_b\textbar{}c 5\% & \textbf{0.1200} $\pm$ 0.0020$^{\dagger}$ & \textbf{0.0600} $\pm$ 0.0020 \\",
            r"third & \textbf{0.1200} & 0.0400 \\",
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{COSTS}}}",
            r"\begin{tabular}{lrrrr}",
            r"\toprule",
            r"system & epochs by seed & seconds per epoch & memory, MiB & parameters \\",
            r"\midrule",
            r"base & 12, 12 & 1.60 & 300 & -- \\",
            r"a\_b\textbar{}c 5\% & 12, 12 & 1.62 & 300 & -- \\",
            r"third & 12 & 1.62 & 300 & 12,345 \\",
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def test_one_system_of_one_seed_is_neither_best_nor_compared():
    alone = result([system("base", 0.1, 0.05, sd=None, seeds=(4,))])
    text = comparison_markdown(alone)
    assert "| base | 0.1000 | 0.0500 |\n" in text
    assert "Test figures on shop, seed 4. " in text
    for word in ("±", "bold", "†", "differ"):
        assert word not in text


def test_metrics_are_chosen_and_unknown_ones_refused():
    assert comparison_markdown(small(), ["hit@5"]).startswith("| system | hit@5 |\n")
    assert "†" not in comparison_markdown(small(), ["ndcg@5"])
    with pytest.raises(ConfigError, match="ndcg@5"):
        comparison_latex(small(), ["ndgc@5"])
    assert comparison_markdown(small().model_copy(update={"metric": "hit@5"})).startswith(
        "| system | hit@5 | recall@5 | ndcg@5 |\n"
    )


def test_without_a_significant_difference_the_caption_says_so():
    found = result([system("base", 0.1, 0.05), system("b", 0.11, 0.06)], [difference("b", 0.01, 0.05)])
    for text in (comparison_markdown(found), comparison_latex(found)):
        assert "No system differs in recall@5 from the reference base (the best on validation)" in text
    assert "(as asked for)" in comparison_markdown(found.model_copy(update={"reference_chosen": False}))


@pytest.mark.parametrize("name", ["\\input{x}", "a\nb", "x^2 ~ #1 & {y}", "a*b*c `d` [e](f) <g>"])
def test_names_are_names_and_no_markup(name: str):
    found = result([system("base", 0.1, 0.05), system(name, 0.2, 0.06)])
    row = comparison_latex(found).splitlines()[9]
    bare = re.sub(r"\\(text\w+\{\}|[{}$&#%_])|\{[\[\]]\}", "", row.split(" & ")[0])
    assert not re.search(r"[\\{}$&#%_^~<>|\[\]]", bare)
    row = comparison_markdown(found).splitlines()[3]
    assert not re.search(r"(?<!\\)[*`\[\]<>&~_]", row.split(" | ")[0])


def test_the_page_holds_every_system_and_figure(tmp_path: Path):
    text, reader = page(small(), tmp_path / "page.html")
    rows = [attributes for tag, attributes in reader.tags if tag == "th"]
    assert all("scope" in attributes for attributes in rows)
    for word in ("base", "a_b|c 5%", "third", "loss is NaN", "0.1200", "± 0.0020", "+0.0200", "0.300", "300",
                 "fedcba9876543210", "7 users without test items", "Not all runs of base"):  # fmt: skip
        assert word in reader.words
    costs = reader.words.partition("What it cost")[2].partition("How this was")[0]
    assert "12,345" in costs  # parameters
    assert "–" in costs  # of a run that does not say
    assert not re.search(r"https?:|<script|<link|<img|src=|@import", text)
    assert "In what the systems differ" not in reader.words


def test_no_head_of_a_printed_table_is_broken_within_a_word(monkeypatch: pytest.MonkeyPatch):
    systems = [one.model_copy(update={"legacy": {"recall@5": 0.4}}) for one in small().systems]
    found = small().model_copy(update={"systems": systems, "legacy_choice": "third"})
    written = io.StringIO()
    narrow = Console(file=written, width=80)
    monkeypatch.setattr("triptych.cli.output.out", narrow)
    monkeypatch.setattr("triptych.cli.comparison_tables.out", narrow)
    print_comparison(found)
    words = written.getvalue().split()
    for head in ("recall@5", "legacy", "valid", "differs", "interval", "Holm", "Wilcoxon", "detects", "users",
                 "seconds", "parameters", "12,345"):  # fmt: skip
        assert head in words


def test_what_choosing_by_test_would_show_stands_beside(tmp_path: Path):
    systems = [
        one.model_copy(update={"legacy": {"recall@5": 0.4321 + at}}) for at, one in enumerate(small().systems)
    ]
    systems[1] = systems[1].model_copy(update={"legacy": None})  # none of its trainings ended
    found = result(systems, legacy_choice="third")
    _, reader = page(found, tmp_path / "page.html")
    for word in ("legacy recall@5", "0.4321", "2.4321", "–"):
        assert word in reader.words
    markdown, latex = comparison_markdown(found), comparison_latex(found)
    assert markdown.startswith("| system | recall@5 | ndcg@5 | legacy recall@5 |\n|:--|--:|--:|--:|\n")
    assert "| third | **0.1200** | 0.0400 | 2.4321 |" in markdown
    assert r"third & \textbf{0.1200} & 0.0400 & 2.4321 \\" in latex
    assert r"\begin{tabular}{lrrr}" in latex
    for text in (reader.words, markdown, latex):
        assert "Legacy figures are not to be quoted" in text
        assert "rounded to 4 places" in text
        assert "Choosing so would take third; validation takes" in text


def test_hostile_names_are_shown_and_nothing_else(tmp_path: Path):
    pytest.importorskip("matplotlib")
    runs = [record(tmp_path / "run", HOSTILE, 1, {HOSTILE: HOSTILE}, [0.1, 0.2])]
    found = result(
        [system("base", 0.1, 0.05, runs=runs, seeds=(1,)), system(HOSTILE, 0.1, 0.05, runs=runs, seeds=(1,))],
        [difference(HOSTILE, 0.1, 0.01)],
        [Failure(name=HOSTILE, seed=1, error=HOSTILE)],
        data=HOSTILE,
        reference=HOSTILE,
        split={HOSTILE: HOSTILE},
    )
    text, reader = page(found, tmp_path / "page.html")
    assert "<script" not in text
    assert "script" not in {tag for tag, _ in reader.tags}
    assert "49" not in reader.words
    assert reader.words.count(HOSTILE) >= 10


def test_a_sweep_is_drawn_as_a_curve_and_training_by_epoch(tmp_path: Path):
    pytest.importorskip("matplotlib")
    found = swept(tmp_path / "runs", [{"n_layers": value} for value in (4, 1, 2)])
    text, reader = page(found, tmp_path / "page.html")
    assert reader.all("svg", "aria-labelledby") == [
        f"{name}-title {name}-desc" for name in ("differences", "sweep", "curves")
    ]
    assert "n_layers 1: validation 0.1200, test 0.1100; n_layers 2: validation 0.1300" in reader.words
    assert "n_layers=4: best in epoch 2, 2 of 3, 3" in reader.words
    assert len(re.findall(r'<g id="curves-line2d_', text)) >= 12  # 3 systems, 2 seeds, a line and a dot each
    assert "n_layers" in reader.words.partition("In what the systems differ")[2]
    assert "#f0000" not in text
    assert "#f1000" not in text


def test_a_grid_is_drawn_as_heat_maps(tmp_path: Path):
    pytest.importorskip("matplotlib")
    points = [
        {"n_layers": layers, "dropout": dropout, "on": True}
        for layers in (1, 2)
        for dropout in (0.0, 0.1, 0.2)
    ]
    _, reader = page(swept(tmp_path / "runs", points), tmp_path / "page.html")
    assert [names.split()[0] for names in reader.all("svg", "aria-labelledby")] == [
        "differences-title", "grid-validation-title", "grid-test-title", "curves-title",
    ]  # fmt: skip
    assert "n_layers 2, dropout 0.2: 0.1500" in reader.words


def test_what_is_no_sweep_is_not_drawn_as_one(tmp_path: Path):
    pytest.importorskip("matplotlib")
    words = swept(tmp_path / "words", [{"kind": "a"}, {"kind": "b"}])
    holes = swept(tmp_path / "holes", [{"x": 1, "y": 1}, {"x": 2, "y": 2}])
    switch = swept(tmp_path / "switch", [{"on": True}, {"on": False}])
    gone = result([system(f"x={x}", 0.1, 0.05, settings={"x": x}) for x in (1, 2)])
    for found in (words, holes, switch, gone):
        _, reader = page(found, tmp_path / "page.html")
        assert "How much the settings matter" not in reader.words
        assert "In what the systems differ" in reader.words


def test_many_systems_are_told_apart(tmp_path: Path):
    pytest.importorskip("matplotlib")
    _, reader = page(swept(tmp_path / "runs", [{"x": x} for x in range(10)]), tmp_path / "page.html")
    key = r"stroke: var\(--series-\d\); stroke-dasharray: [\d ]+"
    keys = [style for style in reader.all("path", "style") if re.fullmatch(key, style)]
    assert len(keys) == 2 + 10  # of the sweep, and of the curves
    assert len(set(keys[2:])) == 10


def test_the_same_input_gives_the_same_bytes(tmp_path: Path):
    found = swept(tmp_path / "runs", [{"n_layers": value} for value in (1, 2)])
    write_comparison(found, tmp_path / "one.json")
    write_comparison(found, tmp_path / "two.json")
    for kind in ("md", "tex", "html"):
        assert (tmp_path / f"one.{kind}").read_bytes() == (tmp_path / f"two.{kind}").read_bytes()


def test_without_matplotlib_the_page_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = builtins.__import__

    def without(name, *arguments, **options):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return whole(name, *arguments, **options)

    monkeypatch.setattr("triptych.encode.encoder.import_module", without)
    monkeypatch.setattr(builtins, "__import__", without)
    text, reader = page(swept(tmp_path / "runs", [{"x": 1}, {"x": 2}]), tmp_path / "page.html")
    assert "pip install 'triptych[report]'" in reader.words
    assert "<figure" not in text
    assert "x=2" in reader.words


def worn() -> ComparisonResult:
    """Two systems with content that wears thin, one with a share of which nothing is known."""

    def variant(base: str, recall: float, **change) -> SystemFigures:
        of = Change(modalities=("image", "text"), **change)
        one = system(f"{base}: {of.name}", recall, 0.01)
        return one.model_copy(update={"base": base, "change": of})

    intact = [
        system(name, recall, 0.05).model_copy(update={"beyond": {"coverage@5": Spread(mean=0.5, sd=None)}})
        for name, recall in (("a", 0.2), ("b", 0.1))
    ]
    systems = [
        intact[0],
        variant("a", 0.15, kind="missing", amount=90),
        variant("a", 0.18, kind="missing", amount=30),
        variant("a", 0.19, kind="noisy", amount=0.5),
        intact[1],
        variant("b", 0.09, kind="missing", amount=30),
    ]
    differences = [difference(one.name, -0.01, 0.3) for one in systems if one.base]
    left_out = [LeftOut(name="c: image zeros", reason="of a <given> graph")]
    return result(systems, differences, reference=None, reference_chosen=False, left_out=left_out)


def test_curves_of_worn_content_are_tables_in_markdown_and_latex():
    text = comparison_markdown(worn())
    assert (
        "| system | 0 % | 30 % | 90 % |\n|:--|--:|--:|--:|\n"
        "| a | 0.2000 ± 0.0020 | 0.1800 ± 0.0020 | 0.1500 ± 0.0020 |\n"
        "| b | 0.1000 ± 0.0020 | 0.0900 ± 0.0020 | – |\n"
    ) in text
    assert "| system | 0 sd | 0.5 sd |" in text
    assert "Left out: c: image zeros (of a \\<given\\> graph)." in text
    assert "No system differs in recall@5 from the intact system" in text
    assert "| coverage@5 | 0.5000 |" in text
    latex = comparison_latex(worn())
    assert r"a & 0.2000 $\pm$ 0.0020 & 0.1800 $\pm$ 0.0020 & 0.1500 $\pm$ 0.0020 \\" in latex
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 5
    assert latex.count("booktabs") == 1


def test_curves_of_worn_content_are_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib")
    text, reader = page(worn(), tmp_path / "page.html")
    drawn = [names.split()[0] for names in reader.all("svg", "aria-labelledby")]
    assert drawn == ["differences-title", "content-0-title", "content-1-title"]
    assert "a: 0 0.2000, 30 0.1800, 90 0.1500; b: 0 0.1000, 30 0.0900" in reader.words
    for word in ("Differences to the intact system", "of a <given> graph", "By missing content",
                 "By added noise", "Beside accuracy", "trained on the data as they are"):  # fmt: skip
        assert word in reader.words
    assert "None" not in reader.words
    assert "#f0000" not in text


def test_a_real_comparison_end_to_end(tmp_path: Path):
    quick = {"epochs": 2, "batch_size": 16, "metric": "recall@2", "embedding_dim": 4}
    systems = {"factors": Recipe("mf-bpr", quick), "graph": Recipe("lightgcn", quick)}
    split = Split.by_ratio(toy_dataset(), rng=0)
    found = compare(systems, split, [1], Workshop(tmp_path, device="cpu", threads=1, k=(2,)), k=(2,))
    write_comparison(found, tmp_path / "comparison.json")
    reader = Reader()
    reader.feed((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    for one in found.systems:
        assert f"{one.test['recall@2'].mean:.4f}" in reader.words
    assert "modelmf-bprlightgcn" in reader.words.partition("In what the systems differ")[2]
    assert "Not all runs" not in reader.words
    assert (tmp_path / "comparison.md").read_text().startswith("| system | recall@2 | ndcg@2 |")
    assert in_words(found.protocol["users"]) in reader.words
    assert tt.load(found.systems[0].runs[0]).record.test_opened
