"""SLMRec: ids and modalities are propagated by themselves, fused, and made to recognise each other.

Paper: Tao et al., Self-supervised Learning for Multimedia Recommendation, IEEE Transactions on Multimedia
2022; this is its best task, FAC (fine and coarse). Channel x of items (ids Q, or row-normalised features
through a linear map) gives r_x = LightGCN([P ; x]) with one user table P for all. Fused vectors are
Z = W [r_Q ; r_1 ; ... ; r_M] + b, another W for users than for items. The loss is
InfoNCE(cos(Z_u, Z_i) / temperature) in the batch plus a chain over the batch's items, modality by modality:
s_1 = A_1 r_Q, s_m = A_m s_(m-1), each term InfoNCE(s_m . H_m r_m / align_temperature), no cosine. The
last map of a chain of two or more halves the width. All of the chain is linear, as in the authors' code.

The authors chain image, audio and text, and for one data set the image alone: this chain with M = 3 and
M = 1. MMRec, from which the published figures come, leaves out audio and its term but keeps its map A:
M = 2 with `spare_maps` 1. Scores are inner products, though the loss sees cosines; both codes put them
through a sigmoid, which changes no order but ties large ones in float32.

An item that lacks a modality is zero in its channel before propagation and takes no part in its chain
term. Any number of modalities by name; as all batch rows are negatives of each other, so are equal ones.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import info_nce
from triptych.models.base import ContentConfig, Group, Losses, ModelInputs, Recommender, Triplets
from triptych.models.registry import register
from triptych.nn.channels import Channels, Readout, xavier_linear
from triptych.nn.embedding import take_rows
from triptych.scorer import Embeddings


class SLMRecConfig(ContentConfig):
    """Settings of SLMRec."""

    n_layers: int = Field(3, ge=0)
    """L, layers over the user–item graph."""
    temperature: float = Field(0.2, gt=0)
    """What cosines of users and items are divided by."""
    align_weight: float = Field(0.1, ge=0)
    """Weight of the chain terms; MMRec searches 0.01, 0.05, 0.1, 0.5 and 1."""
    align_temperature: float = Field(0.2, gt=0)
    """What products in the chain terms are divided by; MMRec searches 0.1, 0.2, 0.5 and 1."""
    spare_maps: int = Field(1, ge=0)
    """Linear maps before the last one of a chain of two or more: 1 in MMRec, 0 in the authors' code."""
    weight_decay: float = Field(1e-4, ge=0)
    """Adam's pull towards zero, the only regulariser."""


@register("slmrec", SLMRecConfig, paper="Self-supervised Learning for Multimedia Recommendation", year=2022)
class SLMRec(Recommender):
    """Channels read out together, learned by contrast within the batch."""

    config: SLMRecConfig
    adj: SparseGraph
    negatives = 0

    def __init__(self, config: SLMRecConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities, dim = inputs.choose_modalities(config.modalities), config.embedding_dim
        self.channels = Channels(inputs.features, modalities, inputs.n_users, inputs.n_items, dim)
        self.readout = Readout(self.channels.width, dim)
        widths = chain_widths(dim, len(self.channels.modalities))
        self.chain = nn.ModuleList([xavier_linear(dim, width) for width in widths])  # A_m
        self.heads = nn.ModuleList([xavier_linear(dim, width) for width in widths])  # H_m
        spare = config.spare_maps if len(widths) > 1 else 0
        self.spare = nn.Sequential(*(xavier_linear(dim, dim) for _ in range(spare)))
        self.register_graph("adj", inputs.graphs.bipartite("sym"))

    def embeddings(self) -> Embeddings:
        fused: Embeddings = self.readout(self._propagate())
        return fused

    def loss(self, batch: Triplets) -> Losses:
        nodes = self._propagate()
        rows = Embeddings(take_rows(nodes.users, batch.user), take_rows(nodes.items, batch.pos))  # (B, C D)
        users, items = self.readout(rows)  # (B, D) each
        losses = {"rank": info_nce(users, items, self.config.temperature)}
        for modality, term in zip(self.channels.modalities, self._align(rows.items, batch.pos), strict=True):
            losses[f"align_{modality}"] = self.config.align_weight * term
        return losses

    def modality_embeddings(self) -> dict[str, Tensor]:
        return self.channels.contents()

    def id_embeddings(self) -> Embeddings:
        return self.channels.nodes.ego

    def optimizer_groups(self) -> dict[str, Group]:
        return {"main": Group(list(self.parameters()), {"weight_decay": self.config.weight_decay})}

    def _propagate(self) -> Embeddings:
        return self.channels.split(propagate(self.adj, self.channels(), self.config.n_layers))  # (_, C D)

    def _align(self, rows: Tensor, items: Tensor) -> list[Tensor]:
        """Compare ids, through the chain, with each modality of the batch's items, (B, C D): M terms."""
        terms = []
        state = rows[:, : self.channels.dim]  # r_Q
        for place, (link, head) in enumerate(zip(self.chain, self.heads, strict=True)):
            last = place == len(self.chain) - 1
            state = link(self.spare(state) if last else state)
            other = head(rows[:, self.channels.columns(place)])
            known = self.channels.has(place, items)
            if known.any():
                terms.append(
                    info_nce(state[known], other[known], self.config.align_temperature, cosine=False)
                )
            else:  # nothing to compare in this batch
                terms.append((state.sum() + other.sum()) * 0.0)
        return terms


def chain_widths(dim: int, n_modalities: int) -> list[int]:
    """List how wide each modality is compared: D, but half of it for the last of several."""
    return [dim] * n_modalities if n_modalities == 1 else [dim] * (n_modalities - 1) + [(dim + 1) // 2]
