"""A task that ties items to content without taking it in: to find one's own content among that of others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from triptych.errors import ConfigError
from triptych.graph.sparse import SparseGraph
from triptych.graph.weighted import edge_dots
from triptych.nn.embedding import take_rows
from triptych.unit import unit_rows


class ContentRetrieval(nn.Module):
    """Asks items for their own content among that of K others, which are drawn anew with `draw`.

    With h the vector of an item, e its content and e_j that of the others, the loss is
    -h . e / t + log(exp(h . e / t) + sum_j exp(h . e_j / t)). Content is constant, and no part of a model's
    state. Letters: I items, M modalities, D width, n asked.

    Source: KSI (arXiv:2305.07419), eq. 13-15.

    Args:
        content: (M, I, D).
        has: (M, I) bool, which items have which modality.
        n_others: K, below I.
        temperature: t, above 0.
        cosine: compare directions instead of plain inner products.

    Raises:
        ConfigError: fewer than two items have a modality, or there are no K others.
    """

    content: Tensor
    has: Tensor
    others: Tensor  # (M, I, K) int32; never the item itself, nor one that lacks the modality

    def __init__(
        self, content: Tensor, has: Tensor, n_others: int, temperature: float, *, cosine: bool = False
    ) -> None:
        super().__init__()
        n_owners = int(has.sum(dim=1).min())
        if n_owners < 2:
            raise ConfigError(
                f"only {n_owners} items have features of a modality",
                wanted="at least two, to tell one from the other",
                fix="Leave that modality out of 'modalities'",
            )
        if n_others >= has.shape[1]:
            raise ConfigError(
                f"n_negatives = {n_others:,}, but there are only {has.shape[1]:,} items",
                wanted="other items than the one that is asked",
                fix="Set a smaller n_negatives",
            )
        self.n_others, self.temperature, self.cosine = n_others, temperature, cosine
        self.register_buffer("content", unit_rows(content) if cosine else content, persistent=False)
        self.register_buffer("has", has, persistent=False)
        self.register_buffer("others", torch.empty(0, dtype=torch.int32), persistent=False)
        self.draw()

    def draw(self) -> None:
        """Draw K others for each item, uniformly and with repetition among those that have the modality."""
        drawn = []
        for has in self.has:
            owners = has.nonzero().squeeze(1)
            place = has.cumsum(dim=0) - 1  # of an item among the owners
            picked = torch.randint(len(owners) - 1, (len(has), self.n_others), device=has.device)
            picked += picked >= place[:, None]  # passes over the item itself
            drawn.append(owners[picked].sort(dim=1).values.int())  # in the order of a graph's columns
        self.others = torch.stack(drawn)

    def forward(self, place: int, vectors: Tensor, items: Tensor) -> Tensor:
        """Ask some items in one modality: (I, D) vectors, (n,) int64 -> (n,) losses, 0 where it is lacking.

        An item that lacks the modality is not asked: a mean is over those of the others (`has`).

        Args:
            place: of the modality, counted from 0.
            vectors: of all items.
            items: which of them are asked.
        """
        rows, content = take_rows(vectors, items), self.content[place]
        if self.cosine:
            rows = unit_rows(rows)
        others = self.others[place][items].flatten()  # (n K,)
        offsets = torch.arange(0, len(others) + 1, self.n_others, dtype=torch.int32, device=others.device)
        asked = SparseGraph(offsets, others, content.new_empty(0), len(content), None)  # (n, I)
        scores = edge_dots(asked, rows, content).view(len(items), self.n_others)
        own = (rows * take_rows(content, items)).sum(dim=1, keepdim=True)
        losses: Tensor = torch.cat([own, scores], dim=1).div(self.temperature).log_softmax(dim=1)[:, 0].neg()
        return losses * self.has[place][items]
