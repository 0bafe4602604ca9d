"""Loss functions on tensors; each returns a scalar."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from triptych.unit import unit_rows

_BLOCK = {False: 1 << 21, True: 1 << 28}
"""Bytes of products held at once: 2 MiB, which a core's cache holds; 256 MiB on a GPU."""
_ROWS = {False: 256, True: 64}
"""Rows of a block at least, in half the digits and in all: each goes through the others' gradient once."""
_NARROW = 64
"""Columns below which products take their time for the matrix they write: fewer digits gain nothing."""
_SAFE = 40.0
"""Exponents up to this size, summed up over any number of nodes, stay within float32 and bfloat16."""


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

    One direction only: row b of `anchor` against all rows of `other`; 0 without anchors.

    Source: InfoNCE (arXiv:1807.03748, eq. 4), with the batch, or all nodes, as the negatives.

    Args:
        anchor: (B, D).
        other: (N, D), all of them negatives but for the partner.
        temperature: what similarities are divided by, above 0.
        partner: (B,) int64, the row of `other` that belongs to each anchor; by default row b to anchor b.
        within: take all other anchors as negatives too, as MICRO and MMSSL do.
        cosine: compare directions; if not, compare by plain inner products.

    Cost: O((B + N) D) memory, whatever B N is.
    """
    if not len(anchor):
        return (anchor.sum() + other.sum()) * 0.0
    if cosine:
        anchor, other = unit_rows(anchor), unit_rows(other)
    chosen = other[: len(anchor)] if partner is None else other.index_select(0, partner)
    candidates, itself = (torch.cat([other, anchor]), len(other)) if within else (other, None)
    negatives = mean_log_sum_exp(anchor, candidates, 1 / temperature, skip=itself)  # partners are among them
    return negatives - (anchor * chosen).sum(dim=1).mean() / temperature


def mean_log_sum_exp(rows: Tensor, others: Tensor, scale: float = 1.0, *, skip: int | None = None) -> Tensor:
    """Compute the mean over i of log sum_j exp(scale * rows[i] . others[j]) without the (B, N) matrix.

    Products are made once, block by block, and turned into the gradient while they are there: on a CPU, where
    a block stays in the cache, this takes half the time of one large matrix, and nothing of its size is
    kept. Under autocast products of wide rows are made in its number format, and summed in float32.

    Args:
        rows: (B, D).
        others: (N, D).
        scale: what products are multiplied by.
        skip: leave out j = skip + i.
    """
    device = rows.device.type
    dtype = torch.promote_types(rows.dtype, torch.float32)
    if torch.is_autocast_enabled(device) and rows.shape[1] >= _NARROW:
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        mean: Tensor = _MeanLogSumExp.apply(  # type: ignore[no-untyped-call]
            rows.to(dtype), others.to(dtype), scale, skip
        )
    return mean


class Exponentials(NamedTuple):
    """exp of products of some rows with all others, each row over e^top; the next block overwrites them."""

    rows: slice
    values: Tensor  # (b, N)
    top: Tensor  # (b, 1), the row's largest product; 0 where all are small
    sums: Tensor  # (b, 1), of `values`


def exponentials(rows: Tensor, others: Tensor, scale: float, skip: int | None) -> Iterator[Exponentials]:
    """Make exp(scale * rows[i] . others[j]), a block of rows at a time; arguments as `mean_log_sum_exp`'s."""
    fitting = _BLOCK[rows.is_cuda] // max(1, len(others) * rows.itemsize)
    size = min(len(rows), max(_ROWS[rows.itemsize > 2], fitting))
    small = _are_small(rows, others, scale)
    columns = others.T if rows.itemsize > 2 else others.T.contiguous()  # each as its product is quickest
    room = rows.new_empty(size, len(others))
    for start in range(0, len(rows), size or 1):
        block = slice(start, min(start + size, len(rows)))
        values = torch.mm(rows[block] * scale, columns, out=room[: block.stop - start])
        if skip is not None:
            values.diagonal(start + skip).fill_(-torch.inf)
        if small:
            top = values.new_zeros(len(values), 1)
        else:  # all products may be left out; any finite number serves as well then
            top = values.amax(dim=1, keepdim=True).clamp_(min=torch.finfo(values.dtype).min)
            values.sub_(top)
        values.exp_()
        sums = values.sum(dim=1, keepdim=True)  # added up in float32; to ask for float32 would copy the block
        yield Exponentials(block, values, top, sums.to(torch.promote_types(values.dtype, torch.float32)))


def _are_small(rows: Tensor, others: Tensor, scale: float) -> bool:
    """Say whether every product's exponential can be summed as it is, by the lengths of the vectors.

    Unknown, and so False, on a GPU: it would have to stop and answer.
    """
    if rows.is_cuda or not len(rows) or not len(others):
        return False
    longest = (torch.linalg.vector_norm(x, dim=1).max().item() for x in (rows, others))
    return bool(abs(scale) * math.prod(longest) <= _SAFE)


class _MeanLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, others: Tensor, scale: float, skip: int | None) -> Tensor:
        needed = any(ctx.needs_input_grad[:2])
        dtype = torch.promote_types(rows.dtype, torch.float32)  # sums need it
        total = rows.new_zeros((), dtype=dtype)
        to_rows = torch.zeros_like(rows, dtype=dtype)
        exact = rows.dtype == dtype
        to_others = others.new_zeros(others.shape[::-1], dtype=dtype)  # (D, N) takes half the time of (N, D)
        for block, values, top, sums in exponentials(rows, others, scale, skip):
            total += (top + sums.log()).sum()
            if needed:
                shares = (scale / len(rows)) / sums.clamp(min=torch.finfo(sums.dtype).tiny)
                torch.mul(values @ others, shares, out=to_rows[block])
                weighted = (rows[block] * shares).T.to(values.dtype, memory_format=torch.contiguous_format)
                if exact:
                    to_others.addmm_(weighted, values)
                else:  # products in half the digits, their sum in all
                    to_others += weighted @ values
        ctx.save_for_backward(to_rows, to_others.T.contiguous())
        return total / len(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        to_rows, to_others = ctx.saved_tensors
        return to_rows * grads[0], to_others * grads[0], None, None


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
