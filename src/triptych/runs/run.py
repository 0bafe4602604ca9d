"""A trained model: evaluated, asked, saved and read back.

The folder of a run holds `run.json` (settings, seed, versions, data and split by hash, curves,
figures), what scoring needs (`embeddings.safetensors`; `history.safetensors` of a closed form,
`fused.safetensors` of a fusion), `model.safetensors` (all weights of the best epoch) and `data/` (ids, item
table, and the split as labels): enough to evaluate and to recommend, without the features and without the
training code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from triptych.data.arrays import BoolArray, RawId
from triptych.data.conditions import matching_items
from triptych.data.dataset import Dataset
from triptych.data.sizes import require_memory_to_load
from triptych.data.split import PartName, Split
from triptych.errors import ConfigError, StorageError
from triptych.evaluation.ranking import (
    Masked,
    Ranking,
    check_lengths,
    evaluate_ranking,
    memory_to_rank,
    top_k,
)
from triptych.files import (
    checksums,
    home_in,
    new_folder,
    only_process,
    open_folder,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
)
from triptych.memory import free_bytes, require_memory
from triptych.runs.record import KIND, MAKER, RUN, SCHEMA_VERSION, RunRecord
from triptych.scorer import SCORERS, FusedScorer, HistoryScorer, Scorer
from triptych.training.trainer import CHECKPOINT

_BYTES_PER_PAIR = 64
"""Of an interaction in an evaluation: sorted by user, and found in the lists."""

Excluded = Literal["none", "train", "train+valid", "all"]
"""Which interactions of a user keep an item off the list; "all" are train, valid and test."""


@dataclass(frozen=True)
class ScoredItem:
    """One place of a list.

    Args:
        item_id: raw id.
        score: the model's; a popular item's score is its number of training interactions.
        title: from the item table, if it has titles.
    """

    item_id: RawId
    score: float
    title: str | None = None


@dataclass(frozen=True)
class Recommendation:
    """One user's list.

    Args:
        user_id: raw id.
        basis: "model"; "fold-in" for a new user; or "popular" for one of whom nothing is known.
        items: best first; fewer than asked for if the user knows nearly everything.
    """

    user_id: RawId
    basis: Literal["model", "popular", "fold-in"]
    items: list[ScoredItem]


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A trained model, ready to be evaluated, asked, and saved.

    Args:
        record: how it came to be.
        scorer: how it ranks: most models by frozen embeddings, closed forms by item-to-item weights.
        split: what it was trained and measured on.
        weights: the model's state at the best epoch; closed forms and fusions have none beside the scorer.
    """

    record: RunRecord
    scorer: Scorer
    split: Split
    weights: Mapping[str, Tensor]

    def __repr__(self) -> str:
        """Say in a line what it is."""
        record = self.record
        return f"<run of {record.model} on {record.data}, seed {record.seed}, best epoch {record.best_epoch}>"

    def recommend(
        self, user_ids: Iterable[RawId], k: int = 10, *, exclude: Excluded = "all", where: str | None = None
    ) -> list[Recommendation]:
        """List the best items for each user, leaving out those the user already has.

        A user without training interactions gets the most popular items, and `basis` says so.

        Args:
            user_ids: raw ids.
            k: list length.
            exclude: which of a user's interactions keep an item off the list.
            where: a condition on the item table (`triptych.data.conditions`): only what meets it is listed.

        Raises:
            UnknownIdError: a user is not in the data set.
            ConfigError: k is below 1 or above the number of items; or the condition cannot be read, or does
                not fit the item table.
        """
        from triptych.runs.batch import recommend_all  # which knows what a run is

        return list(recommend_all(self, user_ids, k, exclude=exclude, where=where))

    def similar(
        self, item_id: RawId, k: int = 10, *, where: str | BoolArray | None = None
    ) -> list[ScoredItem]:
        """List the items nearest to an item, itself left out.

        By embeddings that is the cosine, by item-to-item weights what having the item adds to another's
        score, and of a fusion the weighted sum of its parts', each made comparable. The list is shorter where
        item-to-item weights say nothing of the rest, and empty by popularity.

        Args:
            item_id: raw id.
            k: list length.
            where: a condition on the item table (`triptych.data.conditions`), or (I,) marks of the items that
                may be listed. The item itself need not meet it.

        Raises:
            UnknownIdError: the item is not in the data set.
            ConfigError: k is below 1 or not below the number of items; or the condition cannot be read, or
                does not fit the item table.
        """
        check_lengths([k], self.split.n_items - 1, "the number of other items")
        index = int(self.split.data.items.index([item_id])[0])
        near = nearness(self.scorer, index)[None]
        scores, items = top_k(only(near, self.matching(where)), k)
        return self._scored(items[0], scores[0])

    def matching(self, where: str | BoolArray | None) -> BoolArray | None:
        """Mark the items that a condition on the item table lets be listed; see `matching_items`."""
        return matching_items(where, self.split.data.item_table, self.split.n_items)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the folder `path`, whole or not at all.

        Raises:
            StorageError: something is there already, and `overwrite` is false or it is no run.
        """
        with new_folder(Path(path), marker=RUN, overwrite=overwrite) as folder:
            for name, tensors in ((self.scorer.kind, self.scorer.arrays()), ("model", self.weights)):
                arrays = {key: tensor.cpu().numpy() for key, tensor in tensors.items()}
                write_arrays(folder / f"{name}.safetensors", arrays)
            data = replace(self.split.data, features={})
            labelled = replace(data, interactions=data.interactions.with_label(self.split.part))
            (folder / "data").mkdir()
            labelled.write_into(folder / "data")
            write_json(folder / RUN, {**self.record.model_dump(mode="json"), "files": checksums(folder)})

    def _scored(self, items: Tensor, scores: Tensor) -> list[ScoredItem]:
        titles, ids = self.split.data.titles, self.split.data.items.ids
        return [
            ScoredItem(ids[item].item() if isinstance(ids[item], np.generic) else ids[item], score,
                       titles[item] if titles else None)
            for item, score in zip(items.tolist(), scores.tolist(), strict=True)
            if item >= 0
        ]  # fmt: skip


def nearness(scorer: Scorer, item: int) -> Tensor:
    """Say how near every item is to one: (I,) on the CPU; -inf for itself, and for what nothing ties to it.

    Item-to-item weights are zero where no user ties two items, which is no degree of likeness; and there is
    none at all where everything is zero, as by popularity.
    """
    near = scorer.item_similarities(item).cpu()
    if isinstance(scorer, HistoryScorer) or not near.any():
        near.masked_fill_(near == 0, -torch.inf)
    near[item] = -torch.inf
    return near


def only(scores: Tensor, allowed: BoolArray | None) -> Tensor:
    """Set the scores (B, I) of items that may not be listed to -inf, in place; None allows all."""
    return scores if allowed is None else scores.masked_fill_(torch.from_numpy(~allowed), -torch.inf)


def evaluate(
    run: Run, on: PartName = "test", k: int | Sequence[int] = (10, 20), *, masked: Masked = "train"
) -> Ranking:
    """Measure a run on a part of the split it was made on; see `evaluate_ranking`.

    Raises:
        ConfigError: as `evaluate_ranking`; also where the ranking needs more memory than is free.
    """
    n_parts = len(run.scorer.parts) if isinstance(run.scorer, FusedScorer) else 1
    needed = n_parts * memory_to_rank(run.split.n_items) + _BYTES_PER_PAIR * len(run.split.data.interactions)
    fix = "Evaluate it where there is more memory"
    require_memory(needed, free_bytes(), f"ranking {run.split.n_items:,} items", fix=fix)
    return evaluate_ranking(run.scorer, run.split, on, k, masked=masked)


def open_test(run: Run, split: Split, k: Sequence[int] = (10, 20), *, masked: Masked = "train") -> Run:
    """Measure a run that was trained without test pairs, once, and give it the whole split.

    Args:
        run: trained on `split.without_test()`.
        split: the whole split.
        k: list lengths of the figures.
        masked: whose items are no candidates.

    Raises:
        ConfigError: the run was trained on other data or another split, or has been measured before.
    """
    record = run.record
    if record.test_opened is not None:
        raise ConfigError(
            f"the test part was opened for this run at {record.test_opened}",
            wanted="a run that was trained without test pairs",
            fix="Measure it again, if you must, with 'triptych evaluate'",
        )
    if record.split_hash != split.without_test().content_hash:
        raise ConfigError(
            f"the run was trained on another split than this one of '{split.data.name}'",
            wanted="the split that it was trained on, with its test part",
            fix="Split the same data the same way",
        )
    ranking = evaluate_ranking(run.scorer, split, "test", k, masked=masked)
    opened = datetime.now(UTC).isoformat(timespec="seconds")
    measured = record.model_copy(
        update={
            "data_hash": split.data.content_hash,
            "split_hash": split.content_hash,
            "split": dict(split.protocol),
            "test": ranking.mean(),
            "test_opened": opened,
            "protocol": dict(ranking.protocol),
        }
    )
    return replace(run, record=measured, split=split)


def load(path: str | Path) -> Run:
    """Read a run folder, checking every file against its checksum.

    Checkpoints that a kill left after the run was saved are removed.

    Raises:
        StorageError: it is no run, of another schema version, or damaged, or its parts are not of one size.
        ConfigError: it does not fit into memory.
    """
    folder = home_in(path)
    with open_folder(folder, marker=RUN, kind=KIND, version=SCHEMA_VERSION, maker=MAKER) as facts:
        require_memory_to_load(folder)
        record = RunRecord.of(facts)
        data = Dataset.load(folder / "data")
        kind = next(kind for kind in SCORERS if f"{kind}.safetensors" in facts["files"])
        scoring, weights = (
            {
                key: torch.from_numpy(array)
                for key, array in read_arrays(folder / f"{name}.safetensors").items()
            }
            for name in (kind, "model")
        )
        split = replace(Split.by_label(data), protocol=record.split)
        run = Run(record, SCORERS[kind].from_arrays(scoring), split, weights)
        _check_sizes(run, folder)
    _drop_checkpoints(run, checkpoints_of(folder))
    return run


def checkpoints_of(path: Path) -> Path:
    """Say where `triptych train` keeps the checkpoints of what becomes the run `path`."""
    named = path if path.name.strip(".") else path.resolve()  # "." and ".." have no name to go by
    return named.with_name(f"{named.name}.checkpoint")


def _check_sizes(run: Run, folder: Path) -> None:
    scored, known = ((of.n_users, of.n_items) for of in (run.scorer, run.split))
    if scored != known:
        raise StorageError(
            f"{folder} scores {scored[1]:,} items for {scored[0]:,} users, but its data set has "
            f"{known[1]:,} items and {known[0]:,} users",
            wanted="a model and the data set that it was trained on",
            fix="Restore the folder from a copy, or train again",
        )


def _drop_checkpoints(run: Run, folder: Path) -> None:
    """Remove the checkpoints that a run came of; those of a training that is to replace it stay.

    A run came of those whose epochs are its own, to the fraction of a second; without the file that says so
    they are of no use to anybody.
    """
    if not folder.is_dir():
        return
    marker, history = folder / f"{CHECKPOINT}.json", run.record.model_dump(mode="json")["history"]
    in_use_or_damaged = suppress(StorageError, OSError, LookupError, TypeError)
    with in_use_or_damaged, only_process(folder, "clearing"):  # which removes the folder once it is empty
        told = read_json(marker)["progress"]["history"] if marker.is_file() else []
        if told == history[: len(told)]:
            for file in sorted(folder.glob(f"{CHECKPOINT}[-.]*")):  # the marker last
                file.unlink()
