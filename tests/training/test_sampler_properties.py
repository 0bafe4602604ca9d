"""What holds for the batches of any data: each pair once, negatives never chosen, nothing invented."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from triptych.training.sampler import TripletSampler

EXAMPLES = pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.long)])
TABLES = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)).filter(np.any)


@EXAMPLES
@pytest.mark.parametrize("mode", ["pairs", "users"])
def test_batches_of_any_data(mode: str, examples: int):
    @settings(max_examples=examples, deadline=None)
    @given(TABLES, st.integers(1, 12), st.integers(0, 2**31), st.integers(0, 1))
    def check(table: np.ndarray, batch_size: int, seed: int, negatives: int) -> None:
        user, item = (torch.from_numpy(ends) for ends in table.nonzero())
        sampler = TripletSampler(
            user, item, *table.shape, batch_size=batch_size, negatives=negatives, mode=mode, seed=seed
        )
        pool = set(item.tolist()) if mode == "pairs" else set(range(table.shape[1]))
        for _ in range(2):
            batches = list(sampler.epoch())
            assert len(batches) == sampler.n_batches
            drawn = [
                pair
                for batch in batches
                for pair in zip(batch.user.tolist(), batch.pos.tolist(), strict=True)
            ]
            assert all(table[pair] for pair in drawn)
            if mode == "pairs":
                assert Counter(drawn) == Counter(zip(user.tolist(), item.tolist(), strict=True))
            for batch in batches:
                assert len(batch.neg) == (len(batch.user) if negatives else 0)
                for who, neg in zip(batch.user.tolist(), batch.neg.tolist(), strict=bool(negatives)):
                    assert neg in pool
                    chosen = set(np.flatnonzero(table[who]).tolist())
                    assert neg not in chosen or chosen >= pool

    check()


@EXAMPLES
def test_the_order_of_draws_depends_on_the_seed_alone(examples: int):
    @settings(max_examples=max(10, examples // 4), deadline=None)
    @given(TABLES, st.integers(1, 5), st.integers(0, 1000))
    def check(table: np.ndarray, batch_size: int, seed: int) -> None:
        ends = [torch.from_numpy(end) for end in table.nonzero()]

        def epochs() -> list[list[list[int]]]:
            sampler = TripletSampler(*ends, *table.shape, batch_size=batch_size, seed=seed)
            return [[part.tolist() for part in batch] for _ in range(2) for batch in sampler.epoch()]

        assert epochs() == epochs()

    check()
