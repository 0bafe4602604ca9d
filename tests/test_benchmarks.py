"""The pieces of which benchmarks are made; what they measure is no test's business."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import __main__ as command
from benchmarks import accuracy, growth, memory, models, sand, training
from benchmarks.against import compare, newest
from benchmarks.data import sized_split, with_features
from benchmarks.options import Options
from benchmarks.process import UNLIMITED, Most, NotMeasured, in_process, take_turns
from benchmarks.profiling import PRODUCTS, Profiled
from benchmarks.report import Case, Report, Table, crashed, side_by_side
from benchmarks.timing import Lap, Stopwatch, Timed, Timing, epoch_of, ratio
from benchmarks.training import EPOCH, LIMIT, Job, case_of

from triptych.data.dataset import Dataset
from triptych.data.split import Split
from triptych.training.recipe import Recipe, find_recipe

WIDTHS = {"image": 6, "text": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks") / "data"
    with_features(sized_split("tiny").split, WIDTHS).labelled().save(folder)
    return folder


def timing(*seconds: float) -> Timing:
    return Timing(1, list(seconds), [2 * each for each in seconds])


def case(benchmark: str, size: str, threads: int = 1, **timings: Timing) -> dict:
    """A kept case whose only ratio is that of an epoch to its products."""
    report = Report({"threads": threads})
    ratios = [ratio(timings, "epoch", "products")]
    report.add(Case(benchmark, size, {}, timings, ratios))
    return report.cases[0]


# --- time


def test_an_epoch_is_its_start_its_first_batch_and_the_median_of_others():
    laps = [Lap(5.0, 50.0), Lap(1.0, 10.0), Lap(9.0, 90.0), Lap(2.0, 20.0)]
    assert epoch_of(Lap(3.0, 30.0), laps, n_batches=11) == (3 + 5 + 10 * 2, 30 + 50 + 10 * 20)
    assert epoch_of(Lap(3.0, 30.0), laps[:1], n_batches=1) == (8, 80)
    assert epoch_of(Lap(3.0, 30.0), [], n_batches=0) == (3, 30)


def test_only_so_many_batches_are_drawn_and_each_is_timed():
    drawn = iter(range(10))
    timed = Timed(drawn, 3)
    for _ in timed:
        time.sleep(0.02)
    assert next(drawn) == 3
    assert len(timed.laps) == 3
    assert all(lap.wall >= 0.02 > lap.cpu for lap in timed.laps)


def test_on_cuda_the_watch_waits_for_the_device(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    watch = Stopwatch("cuda")
    time.sleep(0.01)
    lap = watch.lap()
    assert waited == ["cuda", "cuda"]
    assert lap.cpu == lap.wall >= 0.01


def test_the_profiler_tells_products_from_the_rest():
    a = torch.randn(400, 400)
    with Profiled(dim=400) as products:
        for _ in range(20):
            torch.mm(a, a)
    with Profiled(dim=400) as rest:
        for _ in range(20):
            torch.sort(a)
    shares = [sum(each.seconds()[place] for place in PRODUCTS) / each.lap.wall for each in (products, rest)]
    assert shares[0] > 0.5
    assert shares[1] == 0
    for each in (products, rest):
        assert sum(each.seconds().values()) == pytest.approx(each.lap.wall)


# --- processes


def run_code(tmp_path: Path, monkeypatch, code: str, most: Most = UNLIMITED):
    (tmp_path / "job.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return in_process("job", "word", threads=3, environment={"SAID": "yes"}, most=most)


def test_a_process_is_told_what_to_do_and_with_how_many_threads(tmp_path, monkeypatch):
    code = (
        "import json, os, sys\nprint('chatter')\n"
        "print(json.dumps([sys.argv[1], os.environ['OMP_NUM_THREADS'], os.environ['SAID']]))"
    )
    assert run_code(tmp_path, monkeypatch, code) == ["word", "3", "yes"]


@pytest.mark.parametrize(
    ("code", "most", "reason", "broke"),
    [
        ("import time; time.sleep(60)", Most(seconds=0.5), "more than 0.5 s", False),
        (
            "a = bytearray(400_000_000); import time; time.sleep(60)",
            Most(memory=200_000_000),
            "more than 0.2 GB",
            False,
        ),
        ('print(\'{"refused": "no room"}\')', Most(), "no room", False),
        ("raise SystemError('oh')", Most(), "SystemError: oh", True),
    ],
)
def test_what_passes_a_cap_is_refused_or_breaks_is_told_apart(
    tmp_path, monkeypatch, code, most, reason, broke
):
    started = time.monotonic()
    found = run_code(tmp_path, monkeypatch, code, most)
    assert isinstance(found, NotMeasured)
    assert reason in found.reason
    assert found.crashed is broke
    assert time.monotonic() - started < 30


def test_jobs_take_turns():
    order: list[str] = []
    found = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": [None, None], "b": [None, None]}


# --- the regression check


def test_a_ratio_is_worse_beyond_the_spread_and_the_tolerance():
    kept = [case("models", "m", epoch=timing(2.0, 2.2, 2.4), products=timing(1.0, 1.0, 1.0))]  # 2.0 to 2.4
    for seconds, worse in ((2.4, False), (2.63, False), (2.65, True), (1.0, False)):
        now = [case("models", "m", epoch=timing(seconds), products=timing(1.0))]
        verdict = compare(now, kept, tolerance=0.1)
        assert verdict.compared == 1
        assert bool(verdict.worse) is worse
        assert verdict.passed is not worse
    assert (
        "models, m, 1 thread: epoch / products"
        in compare([case("models", "m", epoch=timing(9.0), products=timing(1.0))], kept).worse[0]
    )


def test_slower_machines_are_no_regression():
    kept = [case("models", "m", epoch=timing(2.0), products=timing(1.0))]
    assert compare([case("models", "m", epoch=timing(20.0), products=timing(10.0))], kept).passed


def ratio_case(of: str, to: str, value: float, **bound: float) -> dict:
    report = Report({"threads": 1})
    timings = {of: timing(value), to: timing(1.0)}
    report.add(Case("some", "size", {}, timings, [ratio(timings, of, to, **bound)]))
    return report.cases[0]


@pytest.mark.parametrize(
    ("of", "to", "bound", "falls_is_worse", "rises_is_worse"),
    [
        ("COO", "triptych", {}, True, False),
        ("loop", "triptych", {"at_least": 50.0}, True, False),
        ("triptych", "product", {}, False, True),
        ("SAND_a", "SAND_b", {"at_most": 1.5}, False, True),
        ("product + topk", "product", {}, False, False),  # neither is ours
    ],
)
def test_which_way_is_worse(of, to, bound, falls_is_worse, rises_is_worse):
    kept = [ratio_case(of, to, 4.0, **bound)]
    for value, worse in ((2.0, falls_is_worse), (8.0, rises_is_worse)):
        assert bool(compare([ratio_case(of, to, value, **bound)], kept).worse) is worse


def test_nothing_to_compare_is_no_pass_and_what_is_gone_is_named():
    one = case("models", "m", epoch=timing(2.0), products=timing(1.0))
    assert not compare([one], []).passed
    assert not compare([one], [one | {"threads": 2}]).passed
    without = one | {"ratios": []}
    verdict = compare([without, one | {"size": "n"}], [one, one | {"size": "n"}])
    assert verdict.missing == ["models, m, 1 thread: epoch / products"]
    assert "not compared: models, m, 1 thread: epoch / products" in str(verdict)
    assert verdict.passed
    assert not compare([without], [one]).passed


def test_the_newest_kept_report_with_ratios_counts(tmp_path):
    def keep(name: str, when: str, *cases: dict) -> None:
        facts = {"time": when, "threads": 1}
        (tmp_path / name).write_text(json.dumps({"machine": facts, "cases": cases}))

    old = case("models", "m", epoch=timing(2.0), products=timing(1.0))
    new = case("models", "m", epoch=timing(3.0), products=timing(1.0))
    del old["threads"]  # as in reports of before
    keep("z.json", "2026-01-01", old, case("sand", "b", epoch=timing(1.0), products=timing(1.0)))
    keep("a.json", "2026-02-01", new)
    keep("latest.json", "2026-03-01", new | {"ratios": []})
    (tmp_path / "accuracy.json").write_text("[1, 2]")
    found = newest(["models"], tmp_path)
    assert [each["ratios"][0]["cpu"] for each in found] == [3.0]
    assert [each["benchmark"] for each in newest(["sand", "models"], tmp_path)] == ["sand", "models"]
    assert newest(["growth"], tmp_path) == []


def test_our_own_kept_results_are_read():
    found = newest(["propagation", "ranking", "reading"])
    assert {each["benchmark"] for each in found} == {"propagation", "ranking", "reading"}
    assert compare(found, found).passed


# --- exponents


def test_a_power_law_is_found_again():
    exact = growth.fit([(10.0**k, 3 * 10.0 ** (1.5 * k)) for k in (1, 2, 3)])
    assert exact is not None
    assert (exact.exponent, exact.n) == (pytest.approx(1.5), 3)
    assert exact.error == pytest.approx(0, abs=1e-6)
    two = growth.fit([(1.0, 1.0), (10.0, 100.0)])
    assert two == growth.Fit(pytest.approx(2.0), None, 2)
    assert str(two) == "2.00"
    assert growth.fit([(5.0, 1.0)]) is growth.fit([]) is growth.fit([(5.0, 1.0), (5.0, 2.0)]) is None


def test_the_error_of_an_exponent_is_that_of_a_line():
    # Logarithms (0, 0), (1, 1), (2, 1): slope 1/2; residuals -1/6, 1/3, -1/6, squares 1/6, over (n - 2) 2.
    found = growth.fit([(math.exp(x), math.exp(y)) for x, y in ((0, 0), (1, 1), (2, 1))])
    assert found.exponent == pytest.approx(0.5)
    assert found.error == pytest.approx(math.sqrt(1 / 6 / 2))


def test_points_lie_on_two_lines():
    assert growth.points_of(Options()) == [
        (100_000, 10_000), (1_000_000, 10_000), (1_000_000, 100_000), (1_000_000, 316_228), (10_000_000, 10_000),
    ]  # fmt: skip
    assert growth.points_of(Options(interactions=(1_000,), items=(100, 5_000))) == [(1_000, 100)]


def grown(model: str, interactions: int, items: int, seconds: float, megabytes: float) -> dict:
    facts = {"model": model, "interactions": interactions, "items": items, training.BUILT: 300.0}
    timings = {EPOCH: timing(seconds * interactions), "later batch": timing(seconds)}
    case = Case(
        "growth", f"{model}, {interactions:,} x {items:,}", facts | {training.PEAK: 300 + megabytes}, timings
    )
    report = Report({"threads": 1})
    report.add(case)
    return report.cases[0]


def test_the_table_names_what_grows_faster_than_the_data():
    cases = [grown("linear", e, 100, e / 1e3, e / 1e3) for e in (1_000, 10_000, 100_000)]
    cases += [grown("linear", 10_000, i, 1.0, 5.0) for i in (1_000, 10_000)]
    cases += [grown("all-pairs", 10_000, i, i**2 / 1e4, i**2) for i in (100, 1_000)]
    stopped = {
        "model": "all-pairs",
        "interactions": 10_000,
        "items": 10_000,
        training.NOT_MEASURED: "more than 9 s",
    }
    cases.append({"size": "all-pairs, 10,000 x 10,000", "facts": stopped, "timings": {}})
    table = growth.table(cases)
    linear, pairs = table.rows
    assert linear[:4] == ["linear", "2.00 ± 0.00", "1.00 ± 0.00", "1.00 ± 0.00"]
    assert pairs[0:4] == ["all-pairs", "–", "–", "–"]
    assert pairs[4:7] == ["2.00", "2.00", "2.00"]
    assert "all-pairs (a batch, items: 2.00)" in table.note
    assert "linear (" not in table.note
    assert "all-pairs, 10,000 x 10,000: more than 9 s" in table.note


# --- tables and reports


def test_a_table_is_markdown():
    assert str(Table(("a", "b"), [("1", "2")], "Note.")) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n\nNote."


def test_the_table_of_models_tells_what_was_not_measured(capsys):
    report = Report({"threads": 1})
    timings = {"set-up": timing(0.5), EPOCH: timing(3.0), "evaluation": timing(0.25), LIMIT: timing(2.0)}
    facts = {"recipe": "good-baby.toml", training.PEAK: 1_234.4, training.SHARE: 0.3}
    report.add(Case("models", "good, baby", facts, timings, [ratio(timings, EPOCH, LIMIT)]))
    report.add(
        case_of(
            "models", "bad, baby", NotMeasured("exit status 1:\nlong story", crashed=True), {"recipe": "bad"}
        )
    )
    rows = models.table(report.cases).rows
    assert rows[0] == ["good", "0.50", "3.00", "0.25", "1,234", "30%", "1.50", "good-baby.toml"]
    assert rows[1] == ["bad", "not measured: exit status 1:", "–", "–", "–", "–", "–", "bad"]
    assert crashed(report.cases) == ["models, bad, baby"]
    report.finish({"models": models.table})
    assert "| good | 0.50 | 3.00 |" in capsys.readouterr().out


def test_threads_stand_side_by_side():
    cases = [case("epoch", "baby", n, epoch=timing(4.0 / n), products=timing(1.0)) for n in (1, 2)]
    table = side_by_side(cases)
    assert table.header[3:] == ("wall ms, 1 thread", "wall ms, 2 threads", "quicker by")
    assert list(table.rows[0]) == ["epoch", "baby", "epoch", "8,000.0", "4,000.0", "2.00"]
    assert table.rows[1][-1] == "1.00"


def test_a_report_is_kept_after_every_case(tmp_path):
    report = Report({"threads": 1}, tmp_path / "kept.json")
    report.add(Case("some", "size", {"fact": 1}))
    assert json.loads((tmp_path / "kept.json").read_text())["cases"][0]["facts"] == {"fact": 1}


# --- the real thing, tiny


def measured(tiny: Path, model: str, **options) -> Case:
    found = [training.measure(Job(model, batches=1, **options), tiny)]
    return case_of("models", f"{model}, tiny", json.loads(json.dumps(found)), {})


def test_a_model_is_measured(tiny):
    case = measured(tiny, "vbpr", profiled=True, settings={"batch_size": 256})
    assert list(case.timings) == list(training.FORMS)
    assert case.facts["an epoch is"] == "9 batches of 256, of which 2 were measured"
    assert all(
        seconds > 0 for form in (EPOCH, "set-up", "evaluation", LIMIT) for seconds in case.timings[form].cpu
    )
    assert (
        case.timings[EPOCH].cpu[0]
        >= case.timings["first batch"].cpu[0] + 8 * case.timings["later batch"].cpu[0]
    )
    assert 0 <= case.facts[training.SHARE] < 1
    assert sum(case.facts["share of a profiled epoch"].values()) == pytest.approx(1)
    assert case.facts[training.PEAK] > case.facts[training.BUILT] > 50
    (held,) = case.ratios
    assert (held.of, held.to, held.better) == (EPOCH, LIMIT, "lower")


@pytest.mark.parametrize(("model", "epoch"), [("ease", "the solution"), ("ials", "a sweep over all pairs")])
def test_models_without_batches_are_measured(tiny, model, epoch):
    case = measured(tiny, model, profiled=True)
    assert case.facts["an epoch is"] == epoch
    assert "later batch" not in case.timings
    assert case.timings[EPOCH] == case.timings["epoch start"]


def test_a_refusal_is_told_in_one_line(tiny):
    job = Job("lightgcn", {"n_layer": 3})
    found = training.in_own_process(job, tiny, threads=1)
    assert isinstance(found, NotMeasured)
    assert not found.crashed
    assert "n_layers" in found.reason


def test_a_model_is_measured_with_the_recipe_of_the_data():
    assert models.recipe_of("sand", "baby") == "sand-baby.toml"
    assert models.recipe_of("sand", "tiny") == "sand"


def test_the_variants_of_sand_are_those_of_the_ablation():
    from importlib.resources import files

    from triptych.training.recipe import parse_toml

    text = (files("triptych") / "recipes" / "ablations" / "sand.toml").read_text()
    for name, settings in parse_toml(text, "sand.toml", wanted="variants")["variants"].items():
        if name.startswith("SAND_"):
            assert settings.items() <= sand.VARIANTS[name].items()


def test_printed_figures_of_sand_are_those_of_the_data():
    found = {data: sand.printed(data) for data in ("baby", "sports", "clothing", "tiny")}
    assert found["baby"]["SAND_a"] == ("16.04", "3.42")
    assert found["sports"]["lattice"] == ("13.59", "19.93")
    assert found["clothing"]["mf-bpr"] == ("1.52", "2.16")
    assert found["tiny"] == {}
    assert found["baby"].keys() == {*sand.BESIDE, "SAND_a", "SAND_b", "SAND_c", "SAND_d"}
    timing = {"cpu_median": 2.0, "cpu": [1.0, 3.0]}
    case = {
        "size": "sports",
        "timings": {"SAND_d": timing},
        "ratios": [],
        "facts": {training.PEAK: {"SAND_d": 4.0}},
    }
    assert sand.table([case]).rows == [["SAND_d", "2.00 (1.00 to 3.00)", "4", "16.13", "3.94"]]


def test_wide_maps_are_measured_in_both_forms():
    case = sand.wide_maps("tiny", 40, 12, rounds=1)
    assert list(case.timings) == [sand.COMPOSED, sand.PLAIN]
    assert [(held.of, held.to, held.at_least) for held in case.ratios] == [(sand.PLAIN, sand.COMPOSED, 7.0)]
    report = Report({"threads": 1})
    report.add(case)
    assert [row[0] for row in sand.table(report.cases).rows] == list(case.timings)


def test_ksi_is_trained_as_its_recipes_are():
    loop = find_recipe("ksi-sports.toml").configs().training
    for point in accuracy.GRID["ksi"]:
        assert Recipe("ksi", point).configs().training == loop


@pytest.mark.parametrize("model", ["micro", "sand", "diffmm", "camgr", "ease"])
def test_the_memory_of_these_models_can_be_measured(model):
    found = memory.measure_here(model, None, "tiny", torch.device("cpu"), WIDTHS)
    expected = {"epoch and embeddings"} if model == "ease" else {"first batch", "later batch", "embeddings"}
    assert set(found["timings"]) == expected
    assert found["peak_bytes"] > 50e6


def test_growth_data_have_exactly_the_counts(tmp_path):
    growth.write_data(tmp_path / "data", 3_000, 1_000)
    split = Split.by_label(Dataset.load(tmp_path / "data"))
    assert (len(split.data.interactions), split.n_items, split.n_users) == (3_000, 1_000, 300)
    assert {name: each.values.shape for name, each in split.data.features.items()} == {
        "image": (1_000, 64),
        "text": (1_000, 32),
    }


# --- the command


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["epic"], "no benchmark 'epic'"),
        (["ranking", "--device", "cuda"], "'ranking' measures the CPU"),
        (["models", "--rounds", "0"], "at least 1"),
    ],
)
def test_the_command_refuses_with_a_reason(monkeypatch, capsys, arguments, told):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "models", "--device", "cuda"])
    with pytest.raises(SystemExit, match="torch sees 0 CUDA devices"):
        command.main()


@pytest.mark.parametrize(("kept_seconds", "code"), [(2.0, 0), (1.0, 1)])
def test_the_command_ends_with_1_if_a_ratio_is_worse(monkeypatch, tmp_path, capsys, kept_seconds, code):
    now = case("models", "m", epoch=timing(2.0), products=timing(1.0))
    kept = case("models", "m", epoch=timing(kept_seconds), products=timing(1.0))
    path = tmp_path / "kept.json"
    path.write_text(json.dumps({"machine": {"time": "now", "threads": 1}, "cases": [kept]}))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "models", "--against", str(path)])
    monkeypatch.setattr(command, "_run", lambda options, threads: {"cases": [now]})
    if code:
        with pytest.raises(SystemExit) as ended:
            command.main()
        assert ended.value.code == code
        assert "WORSE: models, m, 1 thread: epoch / products" in capsys.readouterr().out
    else:
        command.main()
        assert "1 ratios compared, 0 worse" in capsys.readouterr().out


def test_kept_tables_are_printed_again(monkeypatch, tmp_path, capsys):
    (tmp_path / "g.json").write_text(json.dumps({"cases": [grown("linear", 1_000, 100, 1.0, 1.0)]}))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--tables", str(tmp_path / "g.json")])
    with pytest.raises(SystemExit):
        command.main()
    assert "| linear |" in capsys.readouterr().out
