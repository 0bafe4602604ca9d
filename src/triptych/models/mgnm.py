"""MGNM: LGMRec whose hyperedges see ids that content has filtered, and whose layers are kept from redundancy.

Paper: Mo et al., Multimodal Graph Neural Network for Recommendation with Dynamic De-redundancy and
Modality-Guided Feature De-noisy, 2024 (arXiv:2411.01561). Letters: P, Q learned vectors of users and items,
R (U, I) choices, A = D^-1/2 [0 R; R^T 0] D^-1/2, f_m raw features.

- Behaviour: layers E^l = A^l [P ; Q], C their mean (eq. 2, 3). Content: X_m = F_m W_m of items, their mean
  for users, layers A^j [R-mean X_m ; X_m], E_m the last (4-7). Local: C + norm(sum_m E_m) by rows (8).
- Filter: G_m = Q * sigmoid(W2_m (W1_m f_m + b1_m) + b2_m), 4 D wide between the maps (9, 10).
- Hyperedges: logits B_m = G_m T_m^T of items (11), R B_m (sums) of users (12); memberships
  H_m = dropout(softmax((logits + g) / t)) over the hyperedges, g Gumbel noise, new in each step.
  Y_m = H_m,i (H_m,i^T Y_m), n times from Y_m = C_i; users receive H_m,u (H_m,i^T Y_m) (13, 14).
- Z = local + global_weight norm(sum_m Y_m) (15, 17).
- Loss: mean BPR and the norms of the batch's rows of Z (19); LGMRec's contrast of Y_m between modalities, a
  sum over the batch (16); and for ids and for each modality, users and items by themselves,
  sum_l mu_l p(layer l), p the norm of all correlations of two columns, mu_l ~ 1 / p (20-25).

No code of the authors is known. Where the print is silent or cannot be meant, this follows LGMRec
(arXiv:2312.16400), on which the paper builds. Comb of eq. 3 is not defined: the mean, as in LightGCN. T_m
has D columns, not F, as it multiplies filtered vectors, and b1_m 4 D entries. Eq. 10 multiplies ids of
users too. Eq. 12, A T_m^T, has no items in it. Eq. 13 drops entries of the I x I matrix H H^T, here those
of H, by which on the mean only its diagonal differs, as 1 / keep times too large; there is no other way, as
that matrix is never made. It names neither noise nor the first Y_m. Eq. 16 has one term above and below:
below, the second vector runs over all nodes. Eq. 17 adds one term once for each modality; here it is added
once, and as printed with `global_norm` "printed". Eq. 19 is a sum, and does not say what it regularises.
AFDGCF (arXiv:2403.17416), where the decorrelation is from, takes mu_l as constants, as this does, but
leaves out layer 0. Not printed are alpha (`global_weight`), omega (`contrast_weight`), lambda
(`reg_weight`), n and the dropout: they are LGMRec's for Amazon Baby.

Beyond the paper: any modalities by name, with the mean over all pairs in the contrast, and none for a single
one. An item that lacks a modality is zero in X_m and G_m, counts in no user's mean, belongs to no hyperedge
of it and takes no part in its contrasts and correlations; so does a user none of whose items has it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from triptych.graph.sparse import Combine, SparseGraph, combine_layers, propagate_layers
from triptych.losses import bpr_loss, embedding_norm, half_squared
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
from triptych.nn.chosen import ChosenContent
from triptych.nn.content import FeatureBank
from triptych.nn.content_filter import ContentFilter
from triptych.nn.content_maps import ContentMaps, xavier_matrices
from triptych.nn.contrast import Candidates, contrast_modalities
from triptych.nn.correlation import decorrelation_loss
from triptych.nn.embedding import NodeEmbedding
from triptych.nn.hypergraph import HypergraphSettings, HyperView, SoftHypergraph, unit_sum
from triptych.scorer import Embeddings
from triptych.unit import unit_rows


class MGNMConfig(ContentConfig, HypergraphSettings):
    """Settings of MGNM."""

    n_layers: int = Field(2, ge=0)
    """L, layers of ids over the user–item graph."""
    n_modality_layers: int = Field(2, ge=0)
    """Layers of content over the user–item graph."""
    combine: Combine = "mean"
    """How the layers of ids make one vector."""
    local_norm: Literal["sum", "each", "with_ids"] = "sum"
    """What is normalised in local vectors: the modalities' "sum" as in eq. 8, "each" modality as in
    LGMRec, or their sum and, by themselves, ids as in the text."""
    filter: Literal["linear", "leaky_relu", "off"] = "linear"
    """What stands between the filter's maps, nothing or a leaky ReLU; "off" has hyperedges see raw
    features, as in LGMRec."""
    filter_ids: Literal["raw", "propagated"] = "raw"
    """Which ids of items are filtered: learned vectors, or what propagation made of them."""
    use_global: bool = True
    """Whether there are hyperedges; without, there is neither a filter nor a contrast."""
    hyper_start: Literal["propagated", "raw", "filtered"] = "propagated"
    """What items first send through the hyperedges: propagated ids, learned ids, or filtered ones."""
    user_logits: Literal["sum", "mean"] = "sum"
    """How users' logits come of their items'."""
    global_weight: float = Field(0.3, ge=0)
    """alpha, weight of what comes through the hyperedges."""
    global_norm: Literal["sum", "each", "printed"] = "sum"
    """What is normalised of it: the modalities' "sum", or "each" by itself; "printed" is eq. 17 as it
    stands, the normalised sum times the number of modalities."""
    contrast_weight: float = Field(1e-4, ge=0)
    """omega, weight of the contrast, which is a sum over the batch; 0 leaves it out."""
    contrast_candidates: Candidates = "all"
    """What nodes are told from: all of their side, or those in the batch."""
    id_decorrelation: float = Field(1e-4, ge=0)
    """beta, weight of the ids' correlations; the paper searches 1e-1 ... 1e-5, and 0 leaves them out."""
    modality_decorrelation: float = Field(1e-4, ge=0)
    """delta, weight of the modalities' correlations; the paper searches 1e-2 ... 1e-6."""
    first_decorrelated: Literal[0, 1] = 0
    """The first layer that counts: 0 in the paper, 1 in AFDGCF."""
    detach_shares: bool = True
    """Whether the layers' shares mu_l are constants."""
    regulariser: Literal["norm", "half_squared"] = "norm"
    """Of the batch's final rows: their norms, or half their squares over the batch's size."""
    reg_weight: float = Field(1e-6, ge=0)
    """lambda, weight of the regulariser."""

    @model_validator(mode="after")
    def _filters_are_there(self) -> MGNMConfig:
        if self.hyper_start == "filtered" and (self.filter == "off" or not self.use_global):
            raise ValueError('hyper_start = "filtered" without a filter; choose "propagated" or "raw"')
        return self


class Pass(NamedTuple):
    """What one pass computes."""

    embeddings: Embeddings  # Z
    ids: list[Tensor]  # layers (N, 1, D)
    contents: list[Tensor]  # layers (N, M, D)
    view: HyperView | None


@register("mgnm", MGNMConfig, paper="Multimodal Graph Neural Network: MGNM (arXiv:2411.01561)", year=2024)
class MGNM(Recommender):
    """Smoothed ids, content smoothed over the same graph, and what hyperedges of filtered ids pass on."""

    config: MGNMConfig
    adj: SparseGraph

    def __init__(self, config: MGNMConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        features = FeatureBank(inputs.features, inputs.choose_modalities(config.modalities))
        widths = list(features.dims.values())
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        self.content = ContentMaps(features, config.embedding_dim)
        self.register_graph("adj", inputs.graphs.bipartite("sym"))
        self.chosen = ChosenContent(inputs.graphs.users_from_items("sum"), features)
        self.has_all = bool(self.chosen.has.all())
        filtered = config.use_global and config.filter != "off"
        self.filters = nn.ModuleList(
            ContentFilter(width, config.embedding_dim, linear=config.filter == "linear")
            for width in (widths if filtered else ())
        )
        seen = [config.embedding_dim] * len(widths) if filtered else widths
        self.hyperedges = xavier_matrices(config.n_hyperedges, seen if config.use_global else ())  # T_m
        self.hypergraph = SoftHypergraph(self.chosen.has, inputs.n_users, config)

    def embeddings(self) -> Embeddings:
        return self._pass().embeddings

    def loss(self, batch: Triplets) -> Losses:
        config, made = self.config, self._pass()
        rows = batch_rows(made.embeddings, batch)
        norm = embedding_norm(*rows) if config.regulariser == "norm" else half_squared(*rows) / len(rows[0])
        losses = {"bpr": bpr_loss(*pair_scores(*rows)), "reg": config.reg_weight * norm}
        if made.view is not None and len(made.view.edges) > 1 and config.contrast_weight > 0:
            compared = made.view, self.n_users, batch.user, batch.pos
            term = contrast_modalities(*compared, config.temperature, config.contrast_candidates)
            losses["contrast"] = config.contrast_weight * term
        if config.id_decorrelation > 0:
            losses["id_decorrelation"] = config.id_decorrelation * self._redundancy(made.ids)
        if config.modality_decorrelation > 0:
            term = self._redundancy(made.contents, None if self.has_all else self.chosen.has)
            losses["modality_decorrelation"] = config.modality_decorrelation * term
        return losses

    def modality_embeddings(self) -> dict[str, Tensor]:
        return self.content.by_modality()

    def _pass(self) -> Pass:
        config = self.config
        first = [part.first for part in self.filters] or list(self.hyperedges)
        contents, seen = self.content(first)  # (I, M, D), (I, M, D or 4 D or A)
        ids = self._spread(self.nodes.weight[:, None], config.n_layers)
        spread = self._spread(self.chosen(contents, mean=True), config.n_modality_layers)
        smooth = combine_layers(ids, config.combine).squeeze(1)  # C (N, D)
        local = unit_sum(spread[-1], 1, each=config.local_norm == "each")
        local = local + (unit_rows(smooth) if config.local_norm == "with_ids" else smooth)
        if not config.use_global:
            return Pass(self.nodes.split(local), ids, spread, None)
        view = self.hypergraph(*self._attach(seen, self.nodes.split(smooth).items))
        passed = unit_sum(view.vectors, 0, each=config.global_norm == "each")
        if config.global_norm == "printed":
            passed = passed * len(view.vectors)
        return Pass(self.nodes.split(local + config.global_weight * passed), ids, spread, view)

    def _attach(self, seen: Tensor, smooth: Tensor) -> tuple[Tensor, Tensor]:
        """Give logits (N, M, A) and what items send first, of what is seen of features and C of items."""
        config = self.config
        ids = {"raw": self.nodes.ego.items, "propagated": smooth}
        filtered, logits = ids[config.filter_ids], seen
        if self.filters:
            masks = [part(products) for part, products in zip(self.filters, seen.unbind(1), strict=True)]
            filtered = filtered * torch.stack(masks)  # (M, I, D)
            logits = (filtered @ torch.stack(list(self.hyperedges)).mT).transpose(0, 1)  # (I, M, A)
        nodes = self.chosen(logits.to(smooth.dtype), mean=config.user_logits == "mean")
        start = filtered if config.hyper_start == "filtered" else ids[config.hyper_start]
        return nodes, start

    def _spread(self, nodes: Tensor, n_layers: int) -> list[Tensor]:
        """Send (N, C, D) through the user–item graph: L + 1 layers."""
        return [layer.view_as(nodes) for layer in propagate_layers(self.adj, nodes.flatten(1), n_layers)]

    def _redundancy(self, layers: list[Tensor], has: Tensor | None = None) -> Tensor:
        """Sum the layers' correlations over C channels and both sides: layers (N, C, D), has (N, C)."""
        layers = layers[min(self.config.first_decorrelated, len(layers) - 1) :]
        counted = (None, None) if has is None else self.nodes.split(has)
        terms = []
        for side, of in zip(zip(*map(self.nodes.split, layers), strict=True), counted, strict=True):
            parts = [layer.transpose(0, 1) for layer in side]  # (C, n, D)
            rows = None if of is None else of.T
            terms.append(decorrelation_loss(parts, rows, detach_weights=self.config.detach_shares))
        return torch.stack(terms).sum()
