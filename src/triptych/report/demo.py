"""The built-in shop from end to end: generate, train, compare, recommend, and show it on a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from triptych.data.dataset import Dataset
from triptych.data.demo import DemoShop, build_shop
from triptych.data.interactions import LEFT_OUT, TEST
from triptych.data.split import Split
from triptych.device import limited_threads
from triptych.encode.registry import load_encoder
from triptych.evaluation.ranking import evaluate_ranking
from triptych.files import new_folder
from triptych.report.page import ShownItem, write_demo_page
from triptych.runs import Run, train
from triptych.training.config import TrainConfig
from triptych.training.observer import Observer

MODELS = ("lightgcn", "vbpr", "freedom")
TRAINING = TrainConfig(batch_size=256, learning_rate=2e-3, patience=15, epochs=200)
"""A small shop wants small batches."""
SPARSE_AT_MOST = 5
"""Training interactions of an item that counts as sparse."""

ShowProgress = Callable[[str, int, str], AbstractContextManager[Observer]]
"""Makes something that shows a training, from the model's name, its epochs and the metric watched."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo found out.

    Args:
        facts: counts of the shop; items with at most `sparse_at_most` training interactions are sparse.
        comparison: per model, its name and its test figures.
        metrics: the names of the figures.
        user_id: whose lists are shown: the user with most test items.
        history: what that user chose.
        recommendations: model -> the user's top 10.
        best_model: the one with the best validation recall@20.
        folder: where it all is.
    """

    facts: Mapping[str, Any]
    comparison: Sequence[Mapping[str, Any]]
    metrics: tuple[str, ...]
    user_id: str
    history: Sequence[ShownItem]
    recommendations: Mapping[str, Sequence[ShownItem]]
    best_model: str
    folder: Path

    def as_dict(self) -> dict[str, Any]:
        """Give it in JSON values, without the pictures."""
        return {
            "facts": dict(self.facts),
            "comparison": [dict(row) for row in self.comparison],
            "user_id": self.user_id,
            "history": [_plain(item) for item in self.history],
            "recommendations": {
                model: [_plain(item) for item in items] for model, items in self.recommendations.items()
            },
            "best_model": self.best_model,
            "page": str(self.folder / "index.html"),
        }


def run_demo(
    folder: Path,
    *,
    seed: int,
    noise: float,
    overwrite: bool = False,
    progress: ShowProgress,
    config: TrainConfig = TRAINING,
) -> DemoResult:
    """Carry the demo out and write `folder` whole: `data/`, `runs/MODEL/` and `index.html`.

    Args:
        folder: to make.
        seed: of the shop, the split and the trainings.
        noise: share of items whose picture and text are another's, in [0, 1].
        overwrite: replace an earlier demo there.
        progress: shows each training.
        config: how to train.

    Raises:
        StorageError: something else is in that place.
    """
    # On tensors as small as the shop's, more threads mostly wait for each other.
    with new_folder(folder, marker="index.html", overwrite=overwrite) as place, limited_threads(1):
        shop = build_shop(seed=seed, noise=noise)
        data = with_encoders(shop.dataset())
        data.save(place / "data")
        split = Split.by_ratio(data, rng=seed)
        runs: dict[str, Run] = {}
        for model in MODELS:
            with progress(model, config.epochs, config.metric) as observer:
                runs[model] = train(
                    model, split, seed=seed, config=config, masked="train+valid", observer=observer
                )
            runs[model].save(place / "runs" / model)
        comparison = [_figures(model, run) for model, run in runs.items()]
        user = int(np.bincount(split.test.user, minlength=split.n_users).argmax())
        user_id = str(data.users.ids[user])
        result = DemoResult(
            facts={"users": data.n_users, "items": data.n_items, "interactions": len(data.interactions),
                   "noise": noise, "seed": seed, "sparse_at_most": SPARSE_AT_MOST},
            comparison=comparison,
            metrics=tuple(name for name in comparison[0] if name != "model"),
            user_id=user_id,
            history=[_shown(shop, item) for item in split.train.item[split.train.user == user].tolist()],
            recommendations={model: _top_items(shop, run, user) for model, run in runs.items()},
            best_model=max(runs, key=lambda model: runs[model].record.valid[config.metric]),
            folder=folder,
        )  # fmt: skip
        write_demo_page(
            place / "index.html",
            comparison=comparison,
            history=result.history,
            recommendations=result.recommendations,
            user_id=user_id,
            facts={
                "users": data.n_users,
                "items": data.n_items,
                "interactions": len(data.interactions),
                "noise": noise,
                "seed": str(seed),
                "choices of a sparse item, at most": SPARSE_AT_MOST,
            },
        )
    return result


def with_encoders(data: Dataset) -> Dataset:
    """Note what encodes a picture or a text as the shop's are, so that new items can be added to it."""
    width, seed = data.features["text"].dim, data.provenance["seed"]
    text = {"template": "{title} {description}", "encoder": _spec("text", "tfidf", dim=width, seed=seed)}
    made = {"image": {"encoder": _spec("image", "descriptor")}, "text": text}
    return replace(data, provenance={**data.provenance, "features": made})


def _spec(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    return {**load_encoder(kind, name).spec.to_json(), "settings": settings}


def sparse_test(split: Split, at_most: int = SPARSE_AT_MOST) -> Split:
    """Keep of the test part only the items with few training interactions; the rest is left out."""
    degree = np.bincount(split.train.item, minlength=split.n_items)
    popular = (split.part == TEST) & (degree[split.data.interactions.item] > at_most)
    return replace(split, part=np.where(popular, LEFT_OUT, split.part).astype(np.int8))


def _figures(model: str, run: Run) -> dict[str, Any]:
    test = run.record.test
    sparse = evaluate_ranking(run.scorer, sparse_test(run.split), "test", (20,), masked="train+valid").mean()
    return {
        "model": model,
        **{name: test[name] for name in ("recall@10", "recall@20", "ndcg@20")},
        "sparse recall@20": sparse["recall@20"],
        "epochs": len(run.record.history),
        "seconds": sum(epoch.train_seconds + epoch.eval_seconds for epoch in run.record.history),
    }


def _top_items(shop: DemoShop, run: Run, user: int) -> list[ShownItem]:
    split = run.split
    held_out = set(split.test.item[split.test.user == user].tolist())
    (answer,) = run.recommend([str(split.data.users.ids[user])], k=10, exclude="train+valid")
    index = split.data.items.index([item.item_id for item in answer.items]).tolist()
    return [
        replace(_shown(shop, item), score=listed.score, hit=item in held_out)
        for item, listed in zip(index, answer.items, strict=True)
    ]


def _shown(shop: DemoShop, item: int) -> ShownItem:
    row = shop.item_table.row(item, named=True)
    subtitle = " · ".join(str(row[name]) for name in ("category", "price") if row.get(name) is not None)
    return ShownItem(
        item_id=row["item_id"], title=row["title"], subtitle=subtitle, score=None, picture=shop.picture(item)
    )


def _plain(item: ShownItem) -> dict[str, Any]:
    return {"item_id": item.item_id, "title": item.title, "score": item.score, "hit": item.hit}
