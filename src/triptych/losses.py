"""Loss functions on tensors; each returns a scalar."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Rank what was chosen above what was not: mean of -log sigmoid(positive - negative).

    Source: BPR (arXiv:1205.2618), section 4.1, BPR-Opt, in the mean form.

    Args:
        positive: (B,) scores of chosen items.
        negative: (B,) scores of sampled items, row by row.
    """
    return F.softplus(negative - positive).mean()


def embedding_norm(*rows: Tensor) -> Tensor:
    """Keep embeddings short: the Frobenius norms of the given rows, summed, over the number of rows.

    The norms are not squared, so the pull on a batch has the same length however short its rows
    are; MMRec's regulariser, which the published figures of most models rest on.

    Args:
        rows: tensors of shape (B, D) each.
    """
    norms: Tensor = torch.stack([part.norm() for part in rows])
    return norms.sum() / len(rows[-1])
