"""Item graphs of several modalities in one, in shares that are given or learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from triptych.errors import ConfigError
from triptych.graph.sparse import SparseGraph, spmm


class ItemMixture(nn.Module):
    """S = sum_m s_m S_m with learned shares s = softmax(w), of two modalities a sigmoid.

    An item shares out 1 among the modalities in which it has neighbours.

    Args:
        graphs: S_m, (I, I) each.
        weights: what shares begin with, all above 0; their sum does not matter.
    """

    has: Tensor  # (M, I) bool, which items have neighbours in which modality

    def __init__(self, graphs: Sequence[SparseGraph], weights: Sequence[float]) -> None:
        super().__init__()
        self.graphs = nn.ModuleList(graph.share(persistent=True) for graph in graphs)
        self.logits = nn.Parameter(torch.tensor(weights).log())  # (M,)
        has = torch.stack([graph.offsets.diff() > 0 for graph in graphs])
        self.register_buffer("has", has, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply: (I, D) -> (I, D)."""
        logits = torch.where(self.has, self.logits[:, None], torch.finfo(self.logits.dtype).min)
        shares = logits.softmax(dim=0) * self.has  # (M, I)
        total = torch.zeros_like(x)
        for share, graph in zip(shares, self.graphs, strict=True):
            total = total + share[:, None] * spmm(cast(SparseGraph, graph), x)
        return total


def mixture_weights(given: Mapping[str, float] | None, modalities: Sequence[str]) -> dict[str, float]:
    """Weigh modalities as given; by default 0.1 image and 0.9 text where these are they, else equally.

    Source: FREEDOM (arXiv:2211.06924), authors' code, for the default.

    Raises:
        ConfigError: what is given names other modalities.
    """
    if given is not None and set(given) != set(modalities):
        raise ConfigError(
            f"modality_weights names {', '.join(given)}; the modalities are {', '.join(modalities)}",
            wanted="one weight for each modality",
            fix="Name the same ones in 'modalities' and 'modality_weights'",
        )
    if given is not None:
        return {modality: given[modality] for modality in modalities}
    if set(modalities) == {"image", "text"}:
        return {"image": 0.1, "text": 0.9}
    return dict.fromkeys(modalities, 1 / len(modalities))
