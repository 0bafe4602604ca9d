"""Adam as torch has it; by rows, equal to Adam where all rows are read, and to torch's sparse form where some are."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from triptych.training.optimizers import Adam, RowAdam


def descend(make, reads, *, sparse=True, seed=0):
    """Follow a rough loss along batches of rows."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.nn.Parameter(torch.randn(6, 3, generator=generator, dtype=torch.float64))
    optimizer = make([table])
    for rows in reads:
        optimizer.zero_grad()
        (F.embedding(torch.tensor(rows), table, sparse=sparse).pow(4).sum()).backward()
        optimizer.step()
    return table.detach(), optimizer


@pytest.mark.parametrize("fused", [True, False])
def test_adam_is_torchs(fused):
    reads, options = [[0, 1, 2], [5, 4, 1, 0], [3]], {"lr": 0.1, "weight_decay": 0.01, "fused": fused}
    ours, optimizer = descend(lambda p: Adam(p, **options), reads, sparse=False)
    theirs, peer = descend(lambda p: torch.optim.Adam(p, **options), reads, sparse=False)
    assert torch.equal(ours, theirs)
    state, wanted = (one.state_dict() for one in (optimizer, peer))
    assert state["param_groups"] == wanted["param_groups"]
    assert all(torch.equal(state["state"][0][name], wanted["state"][0][name]) for name in wanted["state"][0])


def test_training_loads_no_compiler():
    """It takes a second and a half and 76 MB, and nothing is compiled."""
    code = """
import sys
from triptych import train
from triptych import Split
from triptych.testing import toy_dataset
from triptych.training.config import TrainConfig
for model in ("lightgcn", "bm3", "sand", "mmssl", "ease"):
    train(model, Split.by_ratio(toy_dataset(40, 30)), config=TrainConfig(epochs=1, metric="recall@2"), device="cpu", k=(2,))
sys.exit("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_equals_adam_where_every_row_is_read():
    reads = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0, 0, 1]] * 4
    ours, _ = descend(lambda p: RowAdam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-6), reads)
    theirs, _ = descend(
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-6), reads, sparse=False
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_equals_torchs_lazy_form_where_some_are():
    reads = [[0, 1], [1, 1, 4], [5], [0, 4], [1]]
    # torch's adds eps before it corrects the bias; Adam, and so RowAdam, after
    ours, _ = descend(lambda p: RowAdam(p, lr=0.1, eps=1e-30), reads)
    theirs, _ = descend(lambda p: torch.optim.SparseAdam(p, lr=0.1, eps=1e-30), reads)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_rows_never_read_never_move():
    before, _ = descend(RowAdam, [])
    after, _ = descend(RowAdam, [[1, 2], [2, 4]])
    assert torch.equal(before[[0, 3, 5]], after[[0, 3, 5]])
    assert (before[[1, 2, 4]] != after[[1, 2, 4]]).all()


@pytest.mark.parametrize("cut", [1, 3])
def test_goes_on_from_its_state_as_if_it_had_never_stopped(cut):
    reads = [[0, 1], [1, 4], [5, 0], [0, 4], [1]]
    whole, _ = descend(RowAdam, reads)
    half, optimizer = descend(RowAdam, reads[:cut])
    table = torch.nn.Parameter(half.clone())
    resumed = RowAdam([table])
    resumed.load_state_dict(optimizer.state_dict())
    for rows in reads[cut:]:
        resumed.zero_grad()
        F.embedding(torch.tensor(rows), table, sparse=True).pow(4).sum().backward()
        resumed.step()
    assert torch.equal(table.detach(), whole)
