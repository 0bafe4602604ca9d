"""SAND: vectors of each modality in two halves, one that modalities agree on, and one that is its own.

Paper: He et al., Boosting Multimedia Recommendation via Separate Generic and Unique Awareness, 2024
(arXiv:2406.08270, later called SEA). In modality m users have vectors P_m and items features X_m. A is
D^-1/2 R D^-1/2 of the user–item graph; S_m links an item to its K nearest by X_m, with weights 1/K.

- Nodes Z_m^0 = [P_m ; W_m X_m + b_m], Z_m^l = A Z_m^(l-1); E_m = Z_m^1 + ... + Z_m^L           (3), (4)
- Items E_I = [E_1 | ... | E_M] + S^n [E_1 | ... | E_M], with S = sum_m s_m S_m                (5)-(9), (15)
- Users E_U = [w_1 E_1 | ... | w_M E_M], each user with weights w; inner products score        (15)
- Items' E_m have halves g_m and q_m. L_align compares the g_m of two modalities, L_m the g_m with the q_m
  of one. The loss is BPR + alpha L_align + beta sum_m L_m                                     (10)-(17)

L_align is -log softmax_j cos(g_1i, g_2j) / tau at j = i, where eq. 10 prints products, and a softmax of their
exp over the pairs alone, which does not align ("literal"). L_m is CLUB's bound of what q_m tells of g_m (13),
or minus the squared distance of both in rows of length 1, without which (14) has no lower bound. BPR is a
mean, where (16) is a sum. CLUB's networks have an optimiser of their own and `club_inner_steps` before each
step of the model, which holds them still.

Table 4's InfoNCE is not defined. It is read as SoloSim's softmax both ways, over all items as there: table 5
prints one memory for both and more time for InfoNCE, which a smaller pool would not take (`align_pool`).

Other defaults are the paper's formulas and, where it is silent, the authors' code: alpha, beta (of the bound
as printed; the code has half of it), temperature, inner steps, a table P_m for each modality instead of one,
w near 1/M at first. Eq. 8 has a "learnable weight matrix" W_s and 1 - W_s: a matrix would be as large as S,
and so s is one number, which learns as printed, from FREEDOM's 0.1 and 0.9, where the code leaves it.

From the code come the published tables. What it does otherwise are settings; sand-official.toml puts them
together:

- Not E_m is halved but T_m = V_m X_m + c_m, as wide as X_m (`split_at` "features"). The losses see linear
  maps of these halves, the alignment through a network with batch norm: so they reach E_m by way of V_m
  alone. Nothing as wide as X_m is made here (`nn.composed`). Z_m^0 comes of T_m by two maps, in rows of
  length 1, and is part of E_m (`input_map`, `normalize_input`, `layer_sum_from`). BPR has log2 (`bpr_log`).
- s stays as it is (`item_graph`).
- CLUB has one network for all modalities, which guesses q_m from g_m; random negatives; half the bound, and
  not below 0. The network is fitted to other pairs than it bounds (`club_pairing`).

The order is no setting: in the code CLUB's steps follow the model's losses, which see networks one batch old.

Beyond the paper: any modalities by name, aligned two by two; a learned s is a softmax, of two modalities the
paper's scalar. An item that lacks a modality enters its graph as zeros and takes no part in its losses.
A modality that is given as an item graph only is refused, as there is nothing to halve.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from triptych.errors import ConfigError
from triptych.graph.sparse import SparseGraph, propagate, spmm
from triptych.losses import bpr_loss
from triptych.models.base import (
    ContentConfig,
    Group,
    Losses,
    ModelInputs,
    Recommender,
    Step,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.registry import register
from triptych.nn.composed import ComposedMaps
from triptych.nn.content import FeatureBank
from triptych.nn.generic_unique import Parts, Separation, SeparationSettings, split_halves
from triptych.nn.item_mixture import ItemMixture, mixture_weights
from triptych.scorer import Embeddings
from triptych.unit import unit_rows


class SANDConfig(ContentConfig, SeparationSettings):
    """Settings of SAND."""

    n_layers: int = Field(2, ge=1)
    """L, layers over the user–item graph."""
    n_item_layers: int = Field(1, ge=0)
    """n, layers over the item graph."""
    n_neighbors: int = Field(10, gt=0)
    """K of the item graphs, the item itself included."""
    modality_weights: dict[str, PositiveFloat] | None = None
    """s, by default 0.1 image and 0.9 text where these are the modalities, and equal shares otherwise."""
    item_graph: Literal["fixed", "learned"] = "learned"
    """Whether s stays so, as in the code, or learns from there, as in the paper."""
    share_user_table: bool = False
    """Whether all modalities have the same P, as printed."""
    user_weights: Literal["per_user", "global", "none"] = "per_user"
    """w, which learns: of each user, the same for all, or 1."""
    split_at: Literal["gnn", "features"] = "gnn"
    """What is halved: E_m, or T_m."""
    input_map: Literal["linear", "mlp"] = "linear"
    """How content enters Z_m^0: by a linear map, or by two with a leaky ReLU."""
    hidden_dim: int = Field(256, gt=0)
    """Width between these two."""
    normalize_input: bool = False
    """Whether rows of Z_m^0 are scaled to length 1."""
    layer_sum_from: Literal[0, 1] = 1
    """The first of the layers that E_m adds up: 0 with Z_m^0, 1 without."""
    bpr_log: Literal["e", "2"] = "e"
    """Base of the logarithm in BPR; with "2" it weighs 1.44 times as much."""


@register(
    "sand", SANDConfig, paper="Separate Generic and Unique Awareness: SAND (arXiv:2406.08270)", year=2024
)
class SAND(Recommender):
    """A graph network for each modality, whose items' halves are aligned and driven apart."""

    config: SANDConfig
    adj: SparseGraph
    item_adj: SparseGraph

    def __init__(self, config: SANDConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        dim, at_features = config.embedding_dim, config.split_at == "features"
        modalities = inputs.choose_modalities(config.modalities)
        self.features = FeatureBank(inputs.features, modalities)
        narrowest = min(self.features.dims.values()) if at_features else dim
        if narrowest < 2 or (not at_features and dim % 2):
            raise ConfigError(
                f"vectors of {narrowest} columns are to be halved",
                wanted="an even embedding_dim, or features of 2 columns or more",
                fix="Set another embedding_dim or split_at",
            )
        present = [self.features.present(modality) for modality in modalities]
        halves = [config.projection_dim if at_features else dim // 2] * len(modalities)
        self.separate = Separation(config, modalities, present, halves, mapped=at_features)
        deep = config.input_map == "mlp"
        entering = config.hidden_dim if deep else dim
        self.maps, self.enter = nn.ModuleList(), nn.ModuleList()
        for width in self.features.dims.values():
            wanted = {"content": (slice(width), entering)} | self.separate.consumers(width)
            self.maps.append(ComposedMaps(width, wanted) if at_features else nn.Linear(width, entering))
            after = nn.Sequential(nn.LeakyReLU(), nn.Linear(entering, dim)) if deep else nn.Identity()
            self.enter.append(after)
        n_tables = 1 if config.share_user_table else len(modalities)
        self.preferences = nn.Parameter(torch.empty(n_tables, inputs.n_users, dim))
        for table in self.preferences:
            nn.init.xavier_normal_(table)
        if config.user_weights != "none":
            weights = nn.init.xavier_normal_(torch.empty(inputs.n_users, len(modalities))).softmax(dim=1)
            if config.user_weights == "global":
                weights = weights.mean(dim=0, keepdim=True)
            self.weights = nn.Parameter(weights)  # (U, M) or (1, M), free to become anything
        self.register_graph("adj", inputs.graphs.bipartite("sym"))
        shares = mixture_weights(config.modality_weights, modalities)
        self.mixture: ItemMixture | None = None
        if config.item_graph == "fixed" or len(modalities) == 1 or config.n_item_layers == 0:  # no s to learn
            self.register_graph("item_adj", inputs.graphs.mixed_items(shares, config.n_neighbors))
        else:
            graphs = [inputs.graphs.items(modality, config.n_neighbors) for modality in modalities]
            self.mixture = ItemMixture(graphs, list(shares.values()))

    def embeddings(self) -> Embeddings:
        return self._rank(self._forward()[0])

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        smooth, parts = self._forward()
        for fits in self.separate.fits(parts):
            yield Step(fits, "club")  # moves nothing that `smooth` was made of
        bpr = bpr_loss(*pair_scores(*batch_rows(self._rank(smooth), batch)))
        losses: Losses = {"bpr": bpr / math.log(2) if self.config.bpr_log == "2" else bpr}
        yield Step(losses | self.separate.losses(parts, batch.pos))

    def optimizer_groups(self) -> dict[str, Group]:
        main, clubs = self.separate.apart(self.parameters())
        groups = {"main": Group(main)}
        return groups | {"club": Group(clubs, self.separate.club_options)} if clubs else groups

    def content_codes(self) -> dict[str, Tensor]:
        return dict(zip(self.features.dims, self._contents()[0], strict=True))

    def modality_embeddings(self) -> dict[str, Tensor]:
        items = self._forward()[0][self.n_users :]
        return dict(zip(self.features.dims, items.unbind(dim=1), strict=True))

    def score_parts(self) -> dict[str, Embeddings]:
        names = tuple(self.features.dims)
        users, items = (side.chunk(len(names), dim=1) for side in self.embeddings())
        return {name: Embeddings(*part) for name, *part in zip(names, users, items, strict=True)}

    def _contents(self) -> tuple[Tensor, list[Parts]]:
        """Give what content makes of items, (M, I, D), and what the losses see if features are halved."""
        of_features: list[Parts] = []
        items = []
        for modality, maps, enter in zip(self.features.dims, self.maps, self.enter, strict=True):
            made = maps(self.features.rows(modality))
            if isinstance(maps, ComposedMaps):
                of_features.append({name: part.to(self.preferences.dtype) for name, part in made.items()})
                made = made["content"]
            items.append(enter(made) * self.features.present(modality)[:, None])
        return torch.stack(items).to(self.preferences.dtype), of_features  # autocast maps in bfloat16

    def _forward(self) -> tuple[Tensor, list[Parts]]:
        """Give E_m of users and items, (U+I, M, D), and what the losses of each modality see."""
        contents, of_features = self._contents()
        tables = self.preferences.expand(len(contents), -1, -1)
        nodes = torch.cat([tables, contents], dim=1).transpose(0, 1)  # (U+I, M, D)
        if self.config.normalize_input:
            nodes = unit_rows(nodes)
        skipped = self.config.layer_sum_from  # A (Z + A Z + ...) is the sum of the layers but for the first
        smooth = propagate(self.adj, nodes.flatten(1), self.config.n_layers - skipped, combine="sum")
        smooth = spmm(self.adj, smooth) if skipped else smooth
        smooth = smooth.unflatten(1, nodes.shape[1:])
        return smooth, of_features or [split_halves(rows) for rows in smooth[self.n_users :].unbind(dim=1)]

    def _rank(self, smooth: Tensor) -> Embeddings:
        """Put users and items together, (U+I, M, D)."""
        users, items = smooth.split([self.n_users, self.n_items])
        alike = items = items.flatten(1)
        for _ in range(self.config.n_item_layers):
            alike = spmm(self.item_adj, alike) if self.mixture is None else self.mixture(alike)
        if self.config.user_weights != "none":
            users = users * self.weights[:, :, None]
        return Embeddings(users.flatten(1), items + alike)
