"""Several runs as one: their scores added up by weights that are chosen on validation.

Letters: P parts, C candidates for the weights, B users of a block, I items, S places of a shortlist, K list
length.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from triptych.data.arrays import IntArray
from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.evaluation.metrics import METRICS, parse_metric
from triptych.evaluation.ranking import (
    BLOCK_SIZE,
    Masked,
    SeenItems,
    check_lengths,
    check_metric,
    evaluate_ranking,
    memory_to_rank,
    top_k,
)
from triptych.memory import free_bytes, require_memory
from triptych.runs.record import RunRecord, current_versions
from triptych.runs.run import Run, open_test
from triptych.scorer import FusedScorer, Normalisation
from triptych.training.observer import EpochRecord
from triptych.training.trainer import peak_memory_bytes

_FIRST_STEP, _LAST_STEP = 1 / 2, 1 / 32
"""Of the search: the largest and the smallest share that is moved from one part to another."""
_SHORTLIST = 10
"""Items on a shortlist by each part, for each place of the list that is measured."""
_BYTES_PER_PLACE = 8
"""Of a shortlist, for each part: the scores in blocks, and put together."""
_FAR_BELOW = -1e9
"""Finite, as a weight of zero times infinity is no number."""
_BLOCK_SCORES = 1 << 24
"""Mixed scores held at once: 64 MiB."""


def fuse(
    runs: Sequence[Run],
    *,
    metric: str = "recall@20",
    normalisation: Normalisation = "zscore",
    k: Sequence[int] = (10, 20),
    masked: Masked = "train",
) -> Run:
    """Make one run of several, whose scores are the weighted sum of theirs, each user's made comparable.

    The weights are not negative, sum to 1, and are the best found on validation; see `search_weights`. They
    are chosen without the test part, which is opened after that if it has been for the first run; else the
    fusion stays unmeasured, and `open_test` measures it later. Nothing is drawn: the same runs give the same.

    Args:
        runs: at least two, trained on one split; of their training nothing is needed but the scorers.
        metric: what the weights are to maximise on validation.
        normalisation: how a user's scores by one run are made comparable with those by another.
        k: list lengths of the figures.
        masked: whose items are no candidates at test time.

    Raises:
        ConfigError: fewer than two runs, or two of them were trained on different splits; or the fusion
            needs more memory than is free.
    """
    whole = _shared_split(runs)
    sealed = whole.without_test()
    first = runs[0].record
    lengths = check_lengths([*k, check_metric(metric, sealed.n_items)], sealed.n_items)
    started = time.perf_counter()
    scorers = [run.scorer for run in runs]
    device = next(iter(scorers[0].arrays().values())).device
    equal = torch.full((len(runs),), 1 / len(runs), device=device)
    weights = search_weights(FusedScorer(scorers, equal, normalisation), sealed, metric)
    scorer = FusedScorer(scorers, weights, normalisation)
    searched = time.perf_counter()
    valid = evaluate_ranking(scorer, sealed, "valid", lengths).mean()
    epoch = EpochRecord(1, {}, valid, True, searched - started, time.perf_counter() - searched)
    hashes = {"data_hash": first.data_hash, "split_hash": first.split_hash}
    record = RunRecord(
        model="fusion",
        model_settings={
            "normalisation": normalisation,
            "metric": metric,
            "parts": [_part(run.record, weight) for run, weight in zip(runs, weights.tolist(), strict=True)],
        },
        train_settings={},
        seed=first.seed,
        device=str(device),
        versions=current_versions(),
        data=first.data,
        **hashes,
        split=dict(sealed.protocol),
        best_epoch=1,
        history=[epoch],
        valid=valid,
        test={},
        protocol={},
        seconds_per_epoch=epoch.train_seconds,
        seconds_per_evaluation=epoch.eval_seconds,
        peak_memory_bytes=peak_memory_bytes(device),
        n_parameters=_sum_known([run.record.n_parameters for run in runs]),
    )
    if not len(whole.test):
        return Run(record, scorer, sealed, {})
    # a run that was read from a folder has its split without features, which goes by another name
    named = record.model_copy(update={"split_hash": sealed.content_hash})
    opened = open_test(Run(named, scorer, sealed, {}), whole, lengths, masked=masked)
    return replace(opened, record=opened.record.model_copy(update=hashes))


@dataclass(frozen=True, eq=False)
class Shortlists:
    """The items among which each user's list will be, whatever the weights: the best few by each part.

    Args:
        scores: (N, P, S) of each of N users by each part; far below all others at places that hold no item.
        relevant: (N, S) bool, what is to be found.
        n_relevant: (N,) how much there is to be found, on the shortlist or not.
    """

    scores: Tensor
    relevant: Tensor
    n_relevant: IntArray

    def measure(self, weights: Tensor, metric: str) -> Tensor:
        """Measure many weights at once: (C, P) -> (C,) float64, the means over users."""
        name, length = parse_metric(metric)
        total = np.zeros(len(weights))
        at_once = max(1, _BLOCK_SCORES // (len(weights) * self.scores.shape[2]))
        for start in range(0, len(self.scores), at_once):
            rows = slice(start, start + at_once)
            mixed = weights @ self.scores[rows]  # (C, P) @ (B, P, S) -> (B, C, S)
            _, places = top_k(mixed.flatten(0, 1), length)
            hits = self.relevant[rows].repeat_interleave(len(weights), dim=0).gather(1, places)  # (B C, K)
            found = METRICS[name](hits.cpu().numpy(), self.n_relevant[rows].repeat(len(weights)))
            total += found.reshape(-1, len(weights)).sum(axis=0)
        return torch.from_numpy(total / len(self.scores))


def make_shortlists(scorer: FusedScorer, split: Split, length: int) -> Shortlists:
    """Take the best unseen items by each part for each user with something to find on validation.

    Args:
        scorer: the parts; its weights play no role.
        split: its test part plays no role either.
        length: items by each part, S / P; so many that no fusion's list goes beyond them.

    Raises:
        ConfigError: they need more memory than is free.
    """
    n_relevant = np.bincount(split.valid.user, minlength=split.n_users)
    users = torch.from_numpy(np.flatnonzero(n_relevant))
    seen, wanted = (SeenItems([pairs], split.n_users) for pairs in (split.train, split.valid))
    length, n_parts = min(length, split.n_items), len(scorer.parts)
    shortlists = _BYTES_PER_PLACE * len(users) * n_parts**2 * length
    require_memory(
        shortlists + n_parts * memory_to_rank(split.n_items),
        free_bytes(),
        f"fusing {n_parts} runs for {len(users):,} users",
        fix="Fuse fewer runs, or where there is more memory",
    )
    kept: list[tuple[Tensor, Tensor]] = []
    for block in users.split(BLOCK_SIZE):
        scores = scorer.part_scores(block)  # (P, B, I)
        unseen = seen.mask(scores.clone().flatten(0, 1), block.repeat(n_parts))
        best, items = unseen.topk(length, dim=1)
        items = items.masked_fill(best == -torch.inf, -1).view(n_parts, len(block), length)
        items = items.transpose(0, 1).flatten(1).sort(dim=1).values  # (B, S)
        counts = items >= 0
        counts[:, 1:] &= items[:, 1:] != items[:, :-1]
        items = items.clamp(min=0)
        picked = scores.transpose(0, 1).gather(2, items[:, None].expand(-1, n_parts, -1))  # (B, P, S)
        relevant = wanted.mask(torch.zeros_like(scores[0]), block).isinf().gather(1, items)
        kept.append((picked.masked_fill(~counts[:, None], _FAR_BELOW), relevant & counts))
    picked, relevant = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return Shortlists(picked, relevant, n_relevant[users.numpy()])


def search_weights(scorer: FusedScorer, split: Split, metric: str) -> Tensor:
    """Find the weights of a fusion that are best on the validation part: (P,), none negative, of sum 1.

    The search starts from the best of the single parts and their mean, and moves a share from one part to
    another, the best of all such moves at a time, as long as that helps; then it moves half that share. So
    a part that adds nothing is left out, and a single part that is not improved on stays alone. Weights are
    measured on shortlists, of which no list of a few dozen items is likely to want more.

    Args:
        scorer: the parts; its weights play no role.
        split: its test part plays no role either.
        metric: such as "recall@20".
    """
    lists = make_shortlists(scorer, split, _SHORTLIST * parse_metric(metric)[1])
    corners = torch.eye(len(scorer.parts), device=scorer.weights.device)
    candidates = torch.cat([corners, corners.mean(dim=0, keepdim=True)])
    values = lists.measure(candidates, metric)
    best, value = candidates[values.argmax()], values.max()
    step = _FIRST_STEP
    while step >= _LAST_STEP:
        moved = best.clamp(max=step)  # nobody gives more than there is
        moves = corners[None, :, :] - corners[:, None, :]  # from the part of a row to that of a column
        candidates = (best + moved[:, None, None] * moves)[(moved[:, None] > 0) & (corners == 0)]
        values = lists.measure(candidates, metric)
        if values.max() > value:
            best, value = candidates[values.argmax()], values.max()
        else:
            step /= 2
    return best


def _shared_split(runs: Sequence[Run]) -> Split:
    """Give the first run's split, if the others learned from and chose by the same pairs."""
    if len(runs) < 2:
        raise ConfigError(
            f"a fusion of {len(runs)} runs", wanted="at least two", fix="Name more runs of the same split"
        )
    first = _pieces(runs[0].split)
    for place, run in enumerate(runs[1:], start=2):
        other = _pieces(run.split)
        differing = [what for what in first if not np.array_equal(first[what], other[what])]
        if differing:
            raise ConfigError(
                f"run {place}, {run.record.name} on {run.record.data}, has other {' and '.join(differing)} "
                f"than run 1, {runs[0].record.name} on {runs[0].record.data}",
                wanted="runs that were trained on one split",
                fix="Train them on the same data, split the same way",
            )
    return runs[0].split


def _pieces(split: Split) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """Name what runs must share; neither the features nor the test part is among it."""
    return {
        "users": split.data.users.ids,
        "items": split.data.items.ids,
        "training pairs": np.stack(split.train),
        "validation pairs": np.stack(split.valid),
    }


def _sum_known(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _part(record: RunRecord, weight: float) -> dict[str, object]:
    told = {"model", "model_settings", "plugins", "train_settings", "seed", "best_epoch", "valid"}
    return {"weight": weight, **record.model_dump(mode="json", include=told)}
