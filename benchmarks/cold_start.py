"""New items and users: how well those are served that a model was not trained on.

    python -m benchmarks.cold_start vbpr freedom                     # on the built-in shop
    python -m benchmarks.cold_start freedom --data data/shop --seeds 3 --json cold.json

A share of the items, and by itself a share of the users, is held out with all interactions; see
`triptych.runs.held_out`. Items come back by their content, users by four fifths of their items. Figures are
means over seeds, with the lowest and the highest; each seed holds out others.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from triptych.data.dataset import Dataset
from triptych.files import write_json
from triptych.runs.held_out import Figures, measure_new_items, measure_new_users
from triptych.training.config import TrainConfig


def main() -> None:
    """Measure the models that are named."""
    options = _parse()
    data = Dataset.load(options.data) if options.data else Dataset.demo()
    config = TrainConfig(epochs=options.epochs)
    results = []
    for model in options.models:
        for what, measure in (("items", measure_new_items), ("users", measure_new_users)):
            runs = [
                measure(model, data, share=options.share, k=options.k, seed=seed, config=config)
                for seed in range(options.seeds)
            ]
            figures = _over_seeds([run.figures for run in runs])
            results.append(
                {
                    "model": model,
                    "held_out": what,
                    "candidates": [run.n_candidates for run in runs],
                    "users": [run.n_users for run in runs],
                    "basis": runs[0].basis,
                    "figures": figures,
                }
            )
            print(f"\n{model}, new {what}: {runs[0].n_candidates:,} candidates, {runs[0].n_users:,} users")
            for way, measured in figures.items():
                told = (
                    f"{name} {mean:.4f} ({low:.4f} to {high:.4f})"
                    for name, (mean, low, high) in measured.items()
                    if name.startswith(("recall", "ndcg"))
                )
                print(f"  {way:<10}" + "  ".join(told))
    facts: dict[str, Any] = {
        "data": data.name,
        "data_hash": data.content_hash,
        "share": options.share,
        "seeds": options.seeds,
        "epochs": options.epochs,
        "results": results,
    }
    if options.json:
        write_json(options.json, facts)
        print(f"\nFigures: {options.json}")


def _over_seeds(figures: list[Figures]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Give mean, lowest and highest of each figure."""
    return {
        way: {
            name: (sum(values) / len(values), min(values), max(values))
            for name in measured
            for values in [[run[way][name] for run in figures]]
        }
        for way, measured in figures[0].items()
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold_start", description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--data", type=Path, help="a data set folder; by default the built-in shop")
    parser.add_argument("--share", type=float, default=0.1, help="share held out (default 0.1)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100, help="at most; the best on validation is kept")
    parser.add_argument("--k", type=int, nargs="+", default=[10], help="list lengths (default 10)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
