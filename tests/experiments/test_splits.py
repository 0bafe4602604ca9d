"""The same systems under several splits: orders and their agreement by hand, and nothing mixed up."""

from __future__ import annotations

from pathlib import Path

import pytest

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.experiments.comparison import compare
from triptych.experiments.jobs import Workshop
from triptych.experiments.splits import SplitsResult, agreement, compare_splits
from triptych.report.splits import write_splits
from triptych.testing import toy_dataset
from triptych.training.recipe import Recipe

QUICK = {"epochs": 2, "batch_size": 16, "metric": "recall@2", "embedding_dim": 4}
SYSTEMS = {"factors": Recipe("mf-bpr", QUICK), "popular": Recipe("popularity", {"metric": "recall@2"})}


def shop(folder: Path) -> Workshop:
    return Workshop(folder, device="cpu", threads=1, k=(2,))


def test_agreement_by_hand():
    ones = {"a": 0.3, "b": 0.2, "c": 0.1}
    assert agreement("x", "y", ones, ones).tau == 1
    assert agreement("x", "y", ones, {"a": 1, "b": 2, "c": 3}).tau == -1
    # b and c change places: 2 of 3 pairs agree, 1 does not
    assert agreement("x", "y", ones, {"a": 9, "b": 1, "c": 2}).tau == pytest.approx(1 / 3)
    tied = agreement("x", "y", ones, {"a": 2, "b": 1, "c": 1})  # tau-b: 2 / sqrt(3 * 2)
    assert tied.tau == pytest.approx(2 / 6**0.5)
    assert agreement("x", "y", ones, dict.fromkeys(ones, 1.0)).tau is None
    fewer = agreement("x", "y", ones, {"c": 1, "a": 2, "z": 3})
    assert (fewer.systems, fewer.tau) == (2, 1)
    assert agreement("x", "y", ones, {"a": 1}).tau is None


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[SplitsResult, dict[str, Split], Path]:
    data, folder = toy_dataset(), tmp_path_factory.mktemp("splits")
    splits = {"ratio": Split.by_ratio(data, rng=0), "leave-one-out": Split.leave_one_out(data, rng=0)}
    return compare_splits(SYSTEMS, splits, [1], shop(folder), k=(2,)), splits, folder


def test_each_split_has_the_comparison_it_would_have_alone(found, tmp_path: Path):
    result, splits, _ = found
    for name, split in splits.items():
        alone = compare(SYSTEMS, split, [1], shop(tmp_path), k=(2,))
        one = result.comparisons[name]
        assert one.split_hash == split.content_hash
        assert [system.test for system in one.systems] == [system.test for system in alone.systems]
        means = {system.name: system.test["recall@2"].mean for system in alone.systems}
        assert [means[system] for system in result.orders[name]] == sorted(means.values(), reverse=True)
    assert [(one.first, one.second) for one in result.agreements] == [("ratio", "leave-one-out")]
    assert SplitsResult.model_validate_json(result.model_dump_json()) == result


def test_everything_is_written(found, tmp_path: Path):
    result, splits, _ = found
    write_splits(result, tmp_path / "splits.json")
    assert SplitsResult.model_validate_json((tmp_path / "splits.json").read_text()) == result
    best = result.orders["ratio"][0]
    mean = result.comparisons["ratio"].systems[list(SYSTEMS).index(best)].test["recall@2"].mean
    for kind in ("html", "md", "tex"):
        text = (tmp_path / f"splits.{kind}").read_text(encoding="utf-8")
        assert f"1 ({mean:.4f})" in text
        assert "Kendall" in text
    for name in splits:
        assert (tmp_path / f"splits-{name}.html").is_file()
        assert f"splits-{name}.html" in (tmp_path / "splits.html").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("*.tmp"))


def test_what_has_no_order_is_refused_before_training(tmp_path: Path):
    data, other = toy_dataset(), toy_dataset(seed=1)
    one, two = Split.by_ratio(data, rng=0), Split.by_time(data)
    for systems, splits in (
        ({"factors": SYSTEMS["factors"]}, {"ratio": one, "time": two}),
        (SYSTEMS, {"ratio": one}),
        (SYSTEMS, {"ratio": one, "time": Split.by_time(other)}),
    ):
        with pytest.raises(ConfigError, match="at least two systems"):
            compare_splits(systems, splits, [1], shop(tmp_path), k=(2,))
    assert list(tmp_path.iterdir()) == []
