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


def half_squared(*rows: Tensor) -> Tensor:
    """Keep embeddings short: half the sum of all squared entries, not divided by anything.

    Args:
        rows: tensors of any shape.
    """
    return 0.5 * torch.stack([part.pow(2).sum() for part in rows]).sum()


def info_nce(anchor: Tensor, other: Tensor, temperature: float, *, cosine: bool = True) -> Tensor:
    """Tell each row's partner from the partners of all other rows: mean of -log softmax on the diagonal.

    One direction only: row b of `anchor` against all rows of `other`.

    Source: InfoNCE (arXiv:1807.03748, eq. 4), with the batch as the negatives.

    Args:
        anchor: (B, D).
        other: (B or more, D); row b is the partner of row b of `anchor`, rows beyond B are negatives only.
        temperature: what similarities are divided by, above 0.
        cosine: compare directions; if not, compare by plain inner products.
    """
    if cosine:
        anchor, other = F.normalize(anchor, dim=1), F.normalize(other, dim=1)
    logits = anchor @ other.T / temperature  # (B, B)
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def cosine_bootstrap(online: Tensor, target: Tensor) -> Tensor:
    """Draw predictions towards their targets: mean of 2 - 2 cos, with no gradient to the targets.

    Source: BYOL (arXiv:2006.07733, eq. 2), as BUIR (arXiv:2105.06323) uses it for users and items.

    Args:
        online: (B, D) predictions.
        target: (B, D) what they should point to.
    """
    return (2 - 2 * F.cosine_similarity(online, target.detach(), dim=1)).mean()
