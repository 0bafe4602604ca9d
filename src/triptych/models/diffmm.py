"""DiffMM: user–item graphs that diffusion generates, one for each modality, beside the given one.

Paper: Jiang et al., DiffMM: Multi-Modal Diffusion Model for Recommendation, ACM MM 2024 (arXiv:2406.11781).
P and Q are the ids of users and items, R the (U, I) training pairs, G = (D+I)^-1/2 (A+I) (D+I)^-1/2 of these,
c_m the projected features, n(x) rows of x scaled to length 1. Every epoch has three phases.

- Diffusion. One pass over the users' rows of R, for each modality a denoiser; x_0 is a row, f its guess.
  Loss: w_t mean (x_0 - f)^2 + signal_weight mean (f c_m - x_0 Q)^2, c_m and Q held still; see `nn.diffusion`.
- Graphs. Each user's row runs back through all noise levels; its k strongest items, training items among
  them, are the user's edges in G_m, made as G is; `edge_dropout` of its entries are out until the next epoch.
- Ranking. a_m = G [P ; n(c_m)],  b_m = G [users of a_m ; Q],  e = sum_m s_m (a_m + b_m + g G_m [P ; Q]),
  s a softmax, g `modality_graph_weight`;  Z = e + G e + ... + G^L e + r n(e), r `residual_weight`.
  A modality's view is V_m = (I + G + ... + G^L) G_m [P ; n(c_m)]. Loss: BPR on Z, reg_weight (|P|^2 + |Q|^2)
  over whole tables, and contrast_weight times InfoNCE of views against all users and against all items.

The paper's tables come from the authors' code, which this follows, with the switches `content_map` and
`contrast` for what it does otherwise on other data; but that code picks the epoch on the test part. Its BPR
divides a last, smaller batch by the full batch size, here by its own. Before the first epoch generated
graphs have self-loops alone; they are part of the model's state.

Beyond the paper: any modalities by name. An item that lacks one has c_m = 0 (no bias stands in) and is in
that view what users bring. With one modality, `contrast` "modalities" has nothing to compare: no term.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.errors import ConfigError
from triptych.graph.bipartite import bipartite_graph
from triptych.graph.perturb import drop_entries
from triptych.graph.sparse import SparseGraph, propagate, spmm
from triptych.losses import bpr_loss, info_nce
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
from triptych.nn.content import FeatureBank
from triptych.nn.diffusion import Diffusion, noise_schedule
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.scorer import Embeddings
from triptych.unit import unit_rows


class DiffMMConfig(ContentConfig):
    """Settings of DiffMM; the defaults are those of the authors' command for Baby."""

    n_layers: int = Field(1, ge=0)
    """L, layers over the user–item graph after fusing the modalities, and in their views."""
    content_map: Literal["activated", "linear", "mixed"] = "activated"
    """How features become c_m: "activated" leaky_relu(W f) with slope 0.2, "linear" W f + b, "mixed" the
    first modality activated, the others linear. The authors have "linear" for Sports and TikTok."""
    modality_graph_weight: float = Field(0.2, ge=0)
    """Weight of the ids sent through the generated graphs."""
    residual_weight: float = Field(0.5, ge=0)
    """Weight of the fused vectors, scaled to length 1, added to the last; the authors have 0.1 for Sports."""
    contrast: Literal["modalities", "main"] = "modalities"
    """Which views: those of every two "modalities", or as for TikTok the "main" vectors with each of them."""
    contrast_weight: float = Field(0.1, ge=0)
    """Weight of the contrasts; the authors have 0.01 for Sports and TikTok."""
    temperature: float = Field(0.5, gt=0)
    """What cosines are divided by in the contrasts; the authors have 0.1 for Sports."""
    reg_weight: float = Field(1e-5, ge=0)
    """Weight of the squared entries of all ids; the authors have 1e-6 for Sports and 1e-4 for TikTok."""
    rebuild_k: int = Field(1, gt=0)
    """Edges of each user in a generated graph."""
    edge_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of a generated graph's entries dropped in each epoch; the authors have 0.5 for TikTok."""
    signal_weight: float = Field(0.01, ge=0)
    """Weight of the modality-aware signal in the diffusion; for Sports and TikTok 0.5 and 0.1."""
    n_steps: int = Field(5, gt=0)
    """Noise levels."""
    noise_scale: float = Field(0.1, gt=0, le=1)
    """What noise_min and noise_max are multiplied by."""
    noise_min: float = Field(1e-4, ge=0, lt=1)
    """Variance of the noise at the first level, from which it rises evenly."""
    noise_max: float = Field(0.02, ge=0, lt=1)
    """Variance of the noise at the last level."""
    denoiser_width: int = Field(1000, gt=0)
    """H, width of a denoiser's hidden layer; each modality's denoiser has about 2 I H weights."""
    denoiser_dropout: float = Field(0.5, ge=0, lt=1)
    """Share of a noisy row's entries that its denoiser does not see in training."""
    time_dim: int = Field(10, ge=2)
    """Numbers that tell a denoiser the noise level."""
    user_batch_size: int = Field(1024, gt=0)
    """B, users' rows of I numbers in memory at once, in a step of the diffusion and where graphs are made."""


@register("diffmm", DiffMMConfig, paper="Multi-Modal Diffusion Model: DiffMM (arXiv:2406.11781)", year=2024)
class DiffMM(Recommender):
    """Ids and content smoothed over the given graph and over those that diffusion generates."""

    config: DiffMMConfig
    adj: SparseGraph

    def __init__(self, config: DiffMMConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        if config.rebuild_k > inputs.n_items:
            raise ConfigError(
                f"rebuild_k = {config.rebuild_k}, but there are only {inputs.n_items:,} items",
                wanted=f"a number from 1 to {inputs.n_items:,}",
                fix="Set a smaller rebuild_k",
            )
        self.features = FeatureBank(inputs.features, inputs.choose_modalities(config.modalities))
        self.modalities = tuple(self.features.dims)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        self.maps, self.diffusions = nn.ModuleList(), nn.ModuleList()
        betas = noise_schedule(config.n_steps, config.noise_scale, config.noise_min, config.noise_max)
        denoiser = config.denoiser_width, config.time_dim, config.denoiser_dropout
        for place, width in enumerate(self.features.dims.values()):
            activated = config.content_map == "activated" or (config.content_map == "mixed" and place == 0)
            self.maps.append(content_map(width, config.embedding_dim, activated))
            self.diffusions.append(Diffusion(betas, inputs.n_items, *denoiser))
        self.modality_weights = nn.Parameter(torch.full((len(self.maps),), 1 / len(self.maps)))
        self.register_graph("adj", inputs.graphs.bipartite("sym_loop"))
        self.chosen = inputs.graphs.users_from_items("sum")  # R
        for modality in self.modalities:
            self._set_generated(modality, inputs.user[:0], inputs.item[:0], edge_dropout=0.0)

    def epoch_steps(self, epoch: int) -> Iterator[Step]:
        yield from self._diffusion_steps()
        for modality, diffusion in zip(self.modalities, self.diffusions, strict=True):
            top_items = cast(Diffusion, diffusion).top_items
            items = top_items(self.chosen, self.config.rebuild_k, self.config.user_batch_size)
            users = torch.arange(self.n_users, device=items.device)[:, None].expand_as(items)
            self._set_generated(modality, users.flatten(), items.flatten(), self.config.edge_dropout)

    def embeddings(self) -> Embeddings:
        return self._embed(with_views=False)[0]

    def loss(self, batch: Triplets) -> Losses:
        of_modalities = self.config.contrast == "modalities"
        contrasted = self.config.contrast_weight > 0 and not (of_modalities and len(self.modalities) == 1)
        main, *views = self._embed(with_views=contrasted)
        losses = {
            "bpr": bpr_loss(*pair_scores(*batch_rows(main, batch))),
            "reg": self.config.reg_weight * self.nodes.weight.square().sum(),
        }
        if contrasted:
            pairs = combinations(views, 2) if of_modalities else ((main, view) for view in views)
            terms = [self._contrast(anchors, others, batch) for anchors, others in pairs]
            losses["contrast"] = self.config.contrast_weight * torch.stack(terms).sum()
        return losses

    def optimizer_groups(self) -> dict[str, Group]:
        main = [self.nodes.weight, self.modality_weights, *self.maps.parameters()]
        return {"main": Group(main), "diffusion": Group(list(self.diffusions.parameters()))}

    def modality_embeddings(self) -> dict[str, Tensor]:
        return dict(zip(self.modalities, unit_rows(self._contents()), strict=True))

    def _diffusion_steps(self) -> Iterator[Step]:
        with torch.no_grad():  # neither changes during this phase
            contents = self._contents()
            wanted = self.chosen.multiply(self.nodes.ego.items)  # R Q, (U, D)
        for users in torch.randperm(self.n_users, device=wanted.device).split(self.config.user_batch_size):
            rows = self.chosen.select_rows(users).to_dense()  # (B, I)
            losses = {}
            for modality, diffusion, content in zip(self.modalities, self.diffusions, contents, strict=True):
                guess, losses[f"denoise_{modality}"] = diffusion(rows)
                signal = F.mse_loss(guess @ content, wanted[users])
                losses[f"signal_{modality}"] = self.config.signal_weight * signal
            yield Step(losses, "diffusion")

    def _set_generated(self, modality: str, user: Tensor, item: Tensor, edge_dropout: float) -> None:
        graph = bipartite_graph(user, item, self.n_users, self.n_items, "sym_loop")
        # Never taken to be symmetric, so that the state of any epoch fits the graph of any other.
        self.register_graph(f"generated_{modality}", drop_entries(graph, edge_dropout))

    def _embed(self, *, with_views: bool) -> list[Embeddings]:
        """Give Z, and V_m of every modality if they are wanted."""
        items, dim = self.nodes.ego.items, self.config.embedding_dim
        contents = unit_rows(self._contents())  # (M, I, D)
        shares = self.modality_weights.softmax(dim=0)
        # As s sums to one, the sums of s_m a_m and s_m b_m are one product each with the mean content.
        told = spmm(self.adj, self._below_users((shares[:, None, None] * contents).sum(dim=0)))
        main = told + spmm(self.adj, torch.cat([told[: self.n_users], items]))
        views: list[Tensor] = []
        for share, modality, content in zip(shares, self.modalities, contents, strict=True):
            graph = cast(SparseGraph, self.get_submodule(f"generated_{modality}"))
            columns = [items, content] if with_views else [items]
            ids, *view = spmm(graph, self._below_users(*columns)).split(dim, dim=1)
            main = main + self.config.modality_graph_weight * share * ids
            views += view
        smooth = propagate(self.adj, torch.cat([main, *views], dim=1), self.config.n_layers, combine="sum")
        last, *views = smooth.split(dim, dim=1)
        last = last + self.config.residual_weight * unit_rows(main)
        return [self.nodes.split(nodes) for nodes in (last, *views)]

    def _below_users(self, *columns: Tensor) -> Tensor:
        """Put the users' ids above each of C item matrices (I, D), side by side: (N, C D)."""
        users = self.nodes.ego.users.repeat(1, len(columns))
        return torch.cat([users, torch.cat(columns, dim=1)])

    def _contents(self) -> Tensor:
        """Give c_m of every modality: (M, I, D), zero where an item lacks it."""
        contents = [
            project(self.features.rows(modality)) * self.features.present(modality)[:, None]
            for modality, project in zip(self.modalities, self.maps, strict=True)
        ]
        return torch.stack(contents).to(self.nodes.weight.dtype)  # autocast projects in bfloat16

    def _contrast(self, anchors: Embeddings, others: Embeddings, batch: Triplets) -> Tensor:
        """Tell each user and each chosen item of a batch, in one view, from all of their kind in another."""
        tau, user, pos = self.config.temperature, batch.user, batch.pos
        users = info_nce(take_rows(anchors.users, user), others.users, tau, partner=user)
        return users + info_nce(take_rows(anchors.items, pos), others.items, tau, partner=pos)


def content_map(width: int, dim: int, activated: bool) -> nn.Module:
    """Make a map from features to content: leaky_relu(W f) if it is to be activated, otherwise W f + b."""
    linear = nn.Linear(width, dim, bias=not activated)
    if activated:
        nn.init.xavier_uniform_(linear.weight)
    return nn.Sequential(linear, nn.LeakyReLU(0.2)) if activated else linear
