"""Loss functions on tensors; each returns a scalar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_BLOCK = {False: 1 << 19, True: 1 << 26}
"""Products held at once: 2 MiB, which a core's cache holds; 256 MiB on a GPU."""


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


def info_nce(
    anchor: Tensor,
    other: Tensor,
    temperature: float,
    *,
    partner: Tensor | None = None,
    within: bool = False,
    cosine: bool = True,
) -> Tensor:
    """Tell each row's partner from all other rows: mean of -log softmax at the partner.

    One direction only: row b of `anchor` against all rows of `other`.

    Source: InfoNCE (arXiv:1807.03748, eq. 4), with the batch, or all nodes, as the negatives.

    Args:
        anchor: (B, D).
        other: (N, D), all of them negatives but for the partner.
        temperature: what similarities are divided by, above 0.
        partner: (B,) int64, the row of `other` that belongs to each anchor; by default row b to anchor b.
        within: take all other anchors as negatives too, as MICRO and MMSSL do.
        cosine: compare directions; if not, compare by plain inner products.

    Cost: O((B + N) D) memory, whatever B N is; see `log_sum_exp_products`.
    """
    if cosine:
        anchor, other = F.normalize(anchor, dim=1), F.normalize(other, dim=1)
    chosen = other[: len(anchor)] if partner is None else other.index_select(0, partner)
    negatives = log_sum_exp_products(anchor, other, 1 / temperature)  # (B,); the partner is among them
    if within:
        others = log_sum_exp_products(anchor, anchor, 1 / temperature, skip_diagonal=True)
        negatives = torch.logaddexp(negatives, others)
    return (negatives - (anchor * chosen).sum(dim=1) / temperature).mean()


def log_sum_exp_products(
    rows: Tensor, others: Tensor, scale: float = 1.0, *, skip_diagonal: bool = False
) -> Tensor:
    """Compute log sum_j exp(scale * rows[i] . others[j]) without the (B, N) matrix: (B, D), (N, D) -> (B,).

    Products are made block by block, and made again for the gradient: on a CPU, where a block stays in
    the cache, this is no slower than one large matrix, and nothing of its size is kept.

    Args:
        rows: (B, D).
        others: (N, D).
        scale: what products are multiplied by.
        skip_diagonal: leave out j = i.
    """
    precision = torch.promote_types(rows.dtype, torch.float32)  # sums of exponentials need it
    with torch.autocast(rows.device.type, enabled=False):
        sums: Tensor = _LogSumExpProducts.apply(  # type: ignore[no-untyped-call]
            rows.to(precision), others.to(precision), scale, skip_diagonal
        )
    return sums


class _LogSumExpProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, others: Tensor, scale: float, skip_diagonal: bool) -> Tensor:
        sums = rows.new_empty(len(rows))
        for start, stop in _blocks(rows, others):
            products = torch.mm(rows[start:stop] * scale, others.T)  # (b, N)
            if skip_diagonal:
                products.diagonal(start).fill_(-torch.inf)
            sums[start:stop] = products.logsumexp(dim=1)
        # A sum of nothing is -inf; any finite number serves as well below, where all products are -inf.
        sums.clamp_(min=torch.finfo(sums.dtype).min)
        ctx.save_for_backward(rows, others, sums)
        ctx.scale, ctx.skip_diagonal = scale, skip_diagonal
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows, others, sums = ctx.saved_tensors
        to_rows, to_others = torch.empty_like(rows), torch.zeros_like(others)
        for start, stop in _blocks(rows, others):
            products = torch.mm(rows[start:stop] * ctx.scale, others.T)
            if ctx.skip_diagonal:
                products.diagonal(start).fill_(-torch.inf)
            shares = products.sub_(sums[start:stop, None]).exp_()
            shares *= grads[0][start:stop, None] * ctx.scale
            torch.mm(shares, others, out=to_rows[start:stop])
            to_others.addmm_(shares.T, rows[start:stop])
        return to_rows, to_others, None, None


def _blocks(rows: Tensor, others: Tensor) -> Iterator[tuple[int, int]]:
    """Part the rows so that a block of products has about `_BLOCK` entries."""
    size = max(1, _BLOCK[rows.is_cuda] // max(1, len(others)))
    for start in range(0, len(rows), size):
        yield start, min(start + size, len(rows))


def cosine_bootstrap(online: Tensor, target: Tensor) -> Tensor:
    """Draw predictions towards their targets: mean of 2 - 2 cos, with no gradient to the targets.

    Source: BYOL (arXiv:2006.07733, eq. 2), as BUIR (arXiv:2105.06323) uses it for users and items.

    Args:
        online: (B, D) predictions.
        target: (B, D) what they should point to.
    """
    return 2 * cosine_distance(online, target.detach())


def cosine_distance(rows: Tensor, partners: Tensor) -> Tensor:
    """Average 1 - cos, row by row; 0 if there are no rows.

    Args:
        rows: (B, D).
        partners: (B, D).
    """
    return (1 - F.cosine_similarity(rows, partners, dim=1)).sum() / max(1, len(rows))
