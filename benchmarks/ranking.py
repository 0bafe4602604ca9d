"""Ranking all items for all users and measuring the lists, against the bare product and top-k.

Reference: block by block, the product of user and item vectors alone, and the product followed by
`torch.topk` for the 20 best; no masking, no metrics, nothing kept. Both are limits, not rivals.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.data import SEED, Sized, only_test_of, sized_splits
from benchmarks.options import Options
from benchmarks.report import Case
from benchmarks.timing import interleave, ratio
from triptych.evaluation.ranking import BLOCK_SIZE, evaluate_ranking
from triptych.scorer import Embeddings, EmbeddingScorer

DIM, K = 64, (10, 20)
TARGET = 3.0
MOST_USERS = {"electronics": 8_192}
"""Sizes of which only so many users are ranked; the others are ranked whole."""

OURS, PRODUCT, TOP = "triptych", "product", "product + topk"


def run(options: Options) -> Iterator[Case]:
    """Measure all sizes."""
    for sized in sized_splits():
        yield measure(sized, options.rounds)


def measure(sized: Sized, rounds: int) -> Case:
    """Time one size with random vectors."""
    split = sized.split
    users = np.arange(split.n_users)
    if sized.size in MOST_USERS:
        rng = np.random.default_rng(SEED)
        users = np.sort(rng.choice(split.n_users, MOST_USERS[sized.size], replace=False))
        split = only_test_of(sized, users)
    generator = torch.Generator().manual_seed(SEED)
    embeddings = Embeddings(
        torch.randn(split.n_users, DIM, generator=generator),
        torch.randn(split.n_items, DIM, generator=generator),
    )
    scorer = EmbeddingScorer(embeddings)
    blocks = torch.from_numpy(users).split(BLOCK_SIZE)
    ranked = evaluate_ranking(scorer, split, "test", K)
    if len(ranked.users) != len(users):
        raise AssertionError(f"{len(ranked.users)} users were ranked, not {len(users)}")

    def product() -> None:
        for block in blocks:
            torch.mm(embeddings.users[block], embeddings.items.T)

    def product_and_top() -> None:
        for block in blocks:
            torch.mm(embeddings.users[block], embeddings.items.T).topk(max(K), dim=1)

    timings = interleave(
        {OURS: lambda: evaluate_ranking(scorer, split, "test", K), TOP: product_and_top, PRODUCT: product},
        rounds,
    )
    whole = "all" if sized.size not in MOST_USERS else f"a random sample of {split.n_users:,}"
    return Case(
        "ranking",
        sized.size,
        {
            **sized.facts(),
            "users ranked": f"{len(users):,}, {whole}",
            "users in a block": BLOCK_SIZE,
            "dimension": DIM,
            "list lengths": list(K),
        },
        timings,
        [
            ratio(timings, OURS, TOP, at_most=TARGET),
            ratio(timings, OURS, PRODUCT),
            ratio(timings, TOP, PRODUCT),
        ],
    )
