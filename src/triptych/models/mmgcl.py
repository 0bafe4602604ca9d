"""MMGCL: channels of ids and modalities, contrasted on graphs that lack some of their edges.

Paper: Yi et al., Multi-modal Graph Contrastive Learning for Micro-video Recommendation, SIGIR 2022.
Vectors are SLMRec's: r_x = LightGCN([P ; x]) for ids and for each modality's projected row-normalised
features, with one user table P, read out as Z = W [r_Q ; r_1 ; ... ; r_M] + b. The loss is BPR plus
`contrast_weight` times contrasts of the batch's users with their chosen items, CE(cos(Z_u, Z_i) / tau):

- "official", what the authors' code adds up: 2 CE on the graph without some edges. It also computes the other
  two, but never uses them.
- "paper": CE on that graph, with challenging negatives among the candidates: the chosen items, but with the
  part of one modality, drawn for the batch, taken from the sampled ones; and CE on the whole graph, with
  that modality's channel from a graph without some users and items.

Thinned graphs are normalised by the degrees that are left. The published figures are reruns of the authors'
code, so "official" is the default. Its BPR has 1e-5 added within the logarithm, which changes nothing but
hopeless pairs; its released settings file does not parse, and its masking of text mixes up the modalities.
What it computes for challenging negatives is -CE(cos(Z_u, Z_challenge) / tau) with the last modality
replaced; taken into the sum, that outweighs the ranking, so here they are negatives of the contrast, and
the modality is drawn.

An item that lacks a modality is zero in its channel before propagation.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from triptych.errors import ConfigError
from triptych.graph.bipartite import bipartite_graph
from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import bpr_loss, info_nce
from triptych.models.base import (
    ContentConfig,
    Group,
    Losses,
    ModelInputs,
    Recommender,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.registry import register
from triptych.nn.channels import Channels, Readout
from triptych.scorer import Embeddings


class MMGCLConfig(ContentConfig):
    """Settings of MMGCL."""

    variant: Literal["official", "paper"] = "official"
    """Which contrasts are added: "official" twice the one with edges left out, as the authors' code in
    effect does; "paper" edges left out, with challenging negatives, and one modality's nodes left out."""
    n_layers: int = Field(3, ge=0)
    """L, layers over the user–item graph."""
    contrast_weight: float = Field(0.4, ge=0)
    """Weight of the contrasts."""
    temperature: float = Field(0.2, gt=0)
    """What cosines are divided by in the contrasts."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Share of edges left out in one view, and in the paper's other view of users and of items."""
    draw_weights: dict[str, PositiveFloat] | None = None
    """How often each modality is drawn in the paper's variant; by default all alike. The authors have
    0.4 image, 0.4 text and 0.2 audio."""
    weight_decay: float = Field(1e-4, ge=0)
    """Adam's pull towards zero, the only regulariser."""


@register(
    "mmgcl",
    MMGCLConfig,
    paper="Multi-modal Graph Contrastive Learning for Micro-video Recommendation",
    year=2022,
)
class MMGCL(Recommender):
    """Channels read out together, learned by ranking and by contrast on thinned graphs."""

    config: MMGCLConfig
    adj: SparseGraph

    def __init__(self, config: MMGCLConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities, dim = inputs.choose_modalities(config.modalities), config.embedding_dim
        self.channels = Channels(inputs.features, modalities, inputs.n_users, inputs.n_items, dim)
        self.readout = Readout(self.channels.width, dim)
        weights = config.draw_weights or dict.fromkeys(self.channels.modalities, 1.0)
        if set(weights) != set(self.channels.modalities):
            raise ConfigError(
                f"draw_weights names {', '.join(weights)}; the modalities are {', '.join(modalities)}",
                wanted="one weight for each modality",
                fix="Name the same ones in 'modalities' and 'draw_weights'",
            )
        # On the CPU for good, so that drawing from it waits for no device.
        self.draw_weights = torch.tensor([weights[modality] for modality in self.channels.modalities])
        self.register_buffer("user", inputs.user, persistent=False)  # (E,)
        self.register_buffer("item", inputs.item, persistent=False)  # (E,)
        self.register_graph("adj", inputs.graphs.bipartite("sym"))

    def embeddings(self) -> Embeddings:
        fused: Embeddings = self.readout(self._propagate(self.adj, self.channels()))
        return fused

    def loss(self, batch: Triplets) -> Losses:
        ego = self.channels()  # (U+I, C D)
        whole = batch_rows(self._propagate(self.adj, ego), batch)  # three (B, C D)
        thin = batch_rows(self._propagate(self._without_edges(), ego), batch)
        users, pos, neg = whole
        scores = pair_scores(self.readout.user(users), self.readout.item(pos), self.readout.item(neg))
        losses = {"bpr": bpr_loss(*scores)}
        if self.config.variant == "official":
            return losses | {"edges": 2 * self._contrast(thin[0], thin[1])}
        columns = self.channels.columns(int(torch.multinomial(self.draw_weights, 1)))
        part = batch_rows(self._propagate(self._without_nodes(), ego[:, columns]), batch)  # three (B, D)
        return losses | {
            "edges": self._contrast(thin[0], thin[1], replace(thin[1], columns, thin[2][:, columns])),
            "masked": self._contrast(*(replace(whole[n], columns, part[n]) for n in (0, 1))),
        }

    def modality_embeddings(self) -> dict[str, Tensor]:
        return self.channels.contents()

    def id_embeddings(self) -> Embeddings:
        return self.channels.nodes.ego

    def optimizer_groups(self) -> dict[str, Group]:
        return {"main": Group(list(self.parameters()), {"weight_decay": self.config.weight_decay})}

    def _propagate(self, adj: SparseGraph, nodes: Tensor) -> Embeddings:
        return self.channels.split(propagate(adj, nodes, self.config.n_layers))

    def _contrast(self, users: Tensor, items: Tensor, *others: Tensor) -> Tensor:
        """Contrast users with their items, and with others that are nobody's; rows of (B, C D) each."""
        candidates = self.readout.item(torch.cat([items, *others]))
        term = info_nce(self.readout.user(users), candidates, self.config.temperature)
        return self.config.contrast_weight * term

    def _without_edges(self) -> SparseGraph:
        user, item = self.get_buffer("user"), self.get_buffer("item")
        n_keep = max(1, int((1 - self.config.dropout) * len(user)))
        kept = torch.randperm(len(user), device=user.device)[:n_keep]
        return bipartite_graph(user[kept], item[kept], self.n_users, self.n_items, "sym")

    def _without_nodes(self) -> SparseGraph:
        user, item = self.get_buffer("user"), self.get_buffer("item")
        kept = keep_some(self.n_users, self.config.dropout, user.device)[user]
        kept &= keep_some(self.n_items, self.config.dropout, item.device)[item]
        return bipartite_graph(user[kept], item[kept], self.n_users, self.n_items, "sym")


def keep_some(n: int, dropout: float, device: torch.device) -> Tensor:
    """Draw which of n nodes stay when the share `dropout` of them, rounded down, goes: (n,) bool."""
    kept = torch.ones(n, dtype=torch.bool, device=device)
    kept[torch.randperm(n, device=device)[: int(dropout * n)]] = False
    return kept


def replace(rows: Tensor, columns: slice, part: Tensor) -> Tensor:
    """Put a part (B, D) in the place of some columns of (B, C D)."""
    return torch.cat([rows[:, : columns.start], part, rows[:, columns.stop :]], dim=1)
