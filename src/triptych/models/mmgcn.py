"""MMGCN: a graph network of its own for each modality, whose last vectors are averaged.

Paper: Wei et al., MMGCN: Multi-modal Graph Convolution Network for Personalized Recommendation of
Micro-video, ACM MM 2019. Nodes of modality m begin as x = [T_m ; f_m], rows of length 1, T_m being what
users want of it. Each layer aggregates the neighbours' mean, h = lrelu(A x W), A = D^-1 A (eq. 1), links
modalities by a vector e that all of them share, x' = lrelu(V x + b) + e (eq. 5), and combines both,
x = lrelu(G [h ; x'] + c) (the "concatenation" combiner, which runs whatever the authors' switch says).
Final vectors are the mean over modalities; inner products score.

The authors' code means to train T_m and e but holds both as plain tensors, so they stay as drawn; MMRec,
from which the published tables come, inherits this. So does `train_id = False`; `train_id = True` is the
model of the paper. What stays as drawn is not regularised here: that term is a constant.

A modality whose items enter as they are (see `project_wider_than`) has the same nodes in every step as
long as T_m is not trained. Their mean A x is then taken once, and (A x) W = A (x W) needs no graph.

Beyond the paper: any modalities by name. An item that lacks a modality enters that graph as zeros, and
has there what its users and e tell of it.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.graph.sparse import SparseGraph, spmm
from triptych.losses import bpr_loss
from triptych.models.base import (
    ContentConfig,
    Losses,
    ModelInputs,
    Recommender,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.registry import register
from triptych.nn.content import FeatureBank
from triptych.nn.linear import SameTypeLinear
from triptych.nn.preference import ModalityNodes
from triptych.scorer import Embeddings


class MMGCNConfig(ContentConfig):
    """Settings of MMGCN."""

    n_layers: int = Field(3, ge=1)
    """Layers of each modality's network; the authors and MMRec always run 3."""
    project_wider_than: int = Field(512, ge=0)
    """Features of more columns than this are first projected to `hidden_dim`; narrower ones enter as they
    are. The authors and MMRec project images (4096 columns) and leave texts (384) and sounds alone."""
    hidden_dim: int = Field(256, gt=0)
    """Width that wide features are projected to."""
    train_id: bool = False
    """Whether the shared vectors and the users' preferences learn, as in the paper. Published figures are
    of codes that leave both as drawn."""
    reg_weight: float = Field(0.1, ge=0)
    """Weight of the mean squared entries of the shared vectors and of the preferences; the authors use 0.1
    and 1e-4, MMRec searches 0 and 1e-5 ... 0.1. Without `train_id` it has no effect."""


@register("mmgcn", MMGCNConfig, paper="MMGCN: Multi-modal Graph Convolution Network (ACM MM 2019)", year=2019)
class MMGCN(Recommender):
    """One graph network for each modality, with a vector for each node that all of them share."""

    ways_out: ClassVar = {"id_embeddings": "Let MMGCN learn them: --set train_id=true"}
    config: MMGCNConfig
    adj: SparseGraph
    shared: Tensor  # (U+I, D)

    def __init__(self, config: MMGCNConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities = inputs.choose_modalities(config.modalities)
        self.features = FeatureBank(inputs.features, modalities)
        self.register_graph("adj", inputs.graphs.bipartite("mean"))
        drawn = nn.init.xavier_normal_(torch.empty(inputs.n_users + inputs.n_items, config.embedding_dim))
        if config.train_id:
            self.shared = nn.Parameter(drawn)
        else:
            self.register_buffer("shared", drawn)
        self.branches = nn.ModuleList()
        for modality, width in self.features.dims.items():
            present = torch.from_numpy(inputs.features[modality].present)
            branch = Branch(inputs.n_users, present, width, config)
            if branch.constant:
                with torch.no_grad():
                    branch.average = spmm(self.adj, branch(self.features.rows(modality)))
            self.branches.append(branch)

    def embeddings(self) -> Embeddings:
        return self._split(torch.stack(self._by_modality()).mean(dim=0))

    def loss(self, batch: Triplets) -> Losses:
        losses = {"bpr": bpr_loss(*pair_scores(*batch_rows(self.embeddings(), batch)))}
        if self.config.train_id:
            losses["reg"] = self.config.reg_weight * self._regulariser(batch)
        return losses

    def modality_embeddings(self) -> dict[str, Tensor]:
        return {
            modality: self._split(nodes).items
            for modality, nodes in zip(self.features.dims, self._by_modality(), strict=True)
        }

    def id_embeddings(self) -> Embeddings | None:
        return self._split(self.shared) if self.config.train_id else None

    def score_parts(self) -> dict[str, Embeddings]:
        users, parts = self.embeddings().users, self.modality_embeddings()
        return {name: Embeddings(users, rows / len(parts)) for name, rows in parts.items()}

    def _by_modality(self) -> list[Tensor]:
        """Give the last layer's nodes of each modality, (U+I, D) each."""
        branches = self._branches()
        nodes = [
            branch(self.features.rows(m)) for m, branch in zip(self.features.dims, branches, strict=True)
        ]
        averages = [
            spmm(self.adj, x) if branch.average is None else branch.average
            for x, branch in zip(nodes, branches, strict=True)
        ]
        for number in range(self.config.n_layers):
            if number > 0:  # all modalities are of one width now, and side by side need one product
                averages = list(spmm(self.adj, torch.cat(nodes, dim=1)).chunk(len(nodes), dim=1))
            nodes = [
                branch.layers[number](x, average, self.shared)
                for x, average, branch in zip(nodes, averages, branches, strict=True)
            ]
        return nodes

    def _branches(self) -> list[Branch]:
        return cast("list[Branch]", list(self.branches))

    def _split(self, nodes: Tensor) -> Embeddings:
        users, items = nodes.split([self.n_users, self.n_items])
        return Embeddings(users, items)

    def _regulariser(self, batch: Triplets) -> Tensor:
        users, pos, neg = batch_rows(self._split(self.shared), batch)
        preferences = torch.stack([branch.nodes.preference.pow(2).mean() for branch in self._branches()])
        return users.pow(2).mean() + torch.cat([pos, neg]).pow(2).mean() + preferences.sum()


class Branch(nn.Module):
    """One modality's preferences and layers.

    Args:
        n_users: U.
        present: (I,) bool, which items have the modality.
        width: F.
        config: of the model.
    """

    average: Tensor | None
    """(U+I, F) mean over neighbours of the first nodes, where these are the same in every step."""

    def __init__(self, n_users: int, present: Tensor, width: int, config: MMGCNConfig) -> None:
        super().__init__()
        self.project: nn.Linear | None = None
        if width > config.project_wider_than:
            self.project = nn.Linear(width, config.hidden_dim)
            width = config.hidden_dim
        self.constant = self.project is None and not config.train_id
        self.nodes = ModalityNodes(n_users, width, present, trainable=config.train_id)
        self.register_buffer("average", None)
        dim = config.embedding_dim
        first = Layer(width, dim)
        nn.init.xavier_normal_(first.combine.weight)  # those of later layers begin as torch has it
        self.layers = nn.ModuleList([first, *(Layer(dim, dim) for _ in range(config.n_layers - 1))])

    def forward(self, rows: Tensor) -> Tensor:
        """Give the nodes before the first layer: raw rows (I, F) -> (U+I, C)."""
        nodes: Tensor = self.nodes(rows if self.project is None else self.project(rows))
        return nodes


class Layer(nn.Module):
    """Aggregate what neighbours have, keep what one has, combine both: (N, C), (N, C), (N, D) -> (N, D)."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.aggregate = SameTypeLinear(width, width, bias=False)
        self.keep = SameTypeLinear(width, dim)
        self.combine = SameTypeLinear(width + dim, dim)
        nn.init.xavier_normal_(self.aggregate.weight)
        nn.init.xavier_normal_(self.keep.weight)

    def forward(self, x: Tensor, average: Tensor, shared: Tensor) -> Tensor:
        """Go from one layer's nodes, their neighbours' mean, and the shared vectors to the next layer's."""
        neighbours = F.leaky_relu(self.aggregate(average))
        own = F.leaky_relu(self.keep(x)) + shared
        return F.leaky_relu(self.combine(torch.cat([neighbours, own], dim=1)))
