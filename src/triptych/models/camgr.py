"""CAmgr: purified modalities that question each other, beside ids that attend over the user–item graph.

Paper: Li et al., A Multimodal Graph Recommendation Method Based on Cross-Attention Fusion, Mathematics 2024,
12(15), 2353 (doi 10.3390/math12152353); no code was found. It builds on MGCN (arXiv:2308.03588), whose
customs fill its gaps. Letters: P, Q learned vectors of users and items, f_m raw features, N nodes, D width.

- Purifier (eq. 1–6): g_m = (Q + U) * sigmoid(W2_m (W1_m f_m + b1_m) + b2_m), U the mean of an item's users.
- Ids (7–9): H is the mean of [P ; Q] and L layers of graph attention over neighbours, without self-loops.
- Item view (10–14): T_m of items is D^-1 S g_m, S the K largest cosines of raw features, the item's own
  among them, D its row sums; T_m of users is the mean of their items', those that lack m being zero.
- Fusion (15–26): text asks, images answer. `CrossAttention` gives what is common and what is distinct;
  M = (common * sigmoid(W_c H + b_c) + distinct * sigmoid(W_d H + b_d)) / 2; final vectors are H + M (27).
- Loss (29–31): BPR, plus a contrast of M with H within the batch, users and chosen items each by
  themselves, plus half the squares of the batch's final rows over its size.

What is printed leaves open, and what is done here; a setting where it may matter:
- eq. 4 is the reciprocal of what its text calls an average; the average.
- eq. 12 calls D "the diagonal matrix" and says Laplacian; D^-1 as printed (`item_normalisation`).
- eq. 18, 21: see `CrossAttention`. The shapes printed, D x N, make Q K^T attention among D channels;
  among N nodes one matrix would be 2.6 GiB on Baby and 14.5 GiB on Clothing (`attention`). d_k is the
  length of the axis summed over: by the root of D alone, channels would start with one-hot attention
  (`attention_scale`).
- eq. 30 has only the pairs' own products in its denominator, so that equal products of any size are
  its least; as in MGCN, each M is to find its own H among the batch's, by InfoNCE of cosines (`contrast`).
- Not printed are the heads of eq. 7 and 8 (one), their slope (0.2), whether layers share weights (they do
  not), and how wide the MLPs of eq. 20 are (D).
- "the temperature alpha2 = 0.2" is tau, as alpha2 weighs the squares; the layers and the rate are MGCN's.
  The rest follows the text: "all parameters" in the squares are the batch's rows; features stay frozen.
- No switch have self-loops and shared vectors in eq. 7, graphs of projected content in 10, attention within a
  batch, maps of their own in 21, wider MLPs in 20 and 23, and candidates beyond the batch in 30: nothing
  printed speaks for them.
Of its figures, Recall@20 and NDCG@20 on Baby can hardly both be right.

As printed, M is much the same for all nodes at first: to content in rows of length 0.02 the maps of eq. 15-23
add biases of length 0.6 (of which nothing is printed), and LN hides how little is left. With MGCN's alpha2 of
1e-4 the best epoch on Tiktok and Baby is then hardly better than a ranking by popularity, on Tiktok with
either `refinement`. With 0.1, which validation prefers on both, more is learned (docs/results.md).

Beyond the paper: any modalities by name. The one that asks is `query_modality`; each of the others answers
in an attention of its own, and results are averaged; one alone asks itself. What a node lacks is zero
throughout; a node that lacks all is its H, and as the zero vector moves nothing in the contrast.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.errors import ConfigError, nearest
from triptych.graph.sparse import SparseGraph, combine_layers, propagate, spmm
from triptych.losses import bpr_loss, half_squared, info_nce
from triptych.models.base import ContentConfig, Losses, ModelInputs, Recommender, Triplets, pair_scores
from triptych.models.registry import register
from triptych.nn.attention import AttentionAxis, AttentionScale, CrossAttention, GraphAttention
from triptych.nn.content import FeatureBank
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.nn.gate import Gate, Purifier
from triptych.nn.item_view import ItemView
from triptych.scorer import Embeddings


class CAmgrConfig(ContentConfig):
    """Settings of CAmgr."""

    query_modality: str | None = None
    """The modality that asks the others; by default "text" if there is one, else the last."""
    feature_training: Literal["frozen", "all"] = "frozen"
    """Whether the raw features learn, as MGCN's do, for four times their memory."""
    purifier: bool = True
    """Whether content gates ids; if not, items are their projected content (the paper's "w/o IUD")."""
    id_encoder: Literal["gat", "lightgcn"] = "gat"
    """What ids pass through: graph attention, or LightGCN's linear layers as in MGCN."""
    n_layers: int = Field(2, ge=0)
    """L, layers over the user–item graph; the paper does not say how many, MGCN has 2."""
    n_neighbors: int = Field(15, gt=0)
    """K of the item graphs, the item itself included; of 5 ... 25 the paper finds 20 best on Baby and 15 on
    Sports and Clothing."""
    item_normalisation: Literal["rw", "sym"] = "rw"
    """Cosines are divided by their row's sum, eq. 12, or by the roots of both ends' sums, as in MGCN."""
    user_aggregation: Literal["mean", "sym"] = "mean"
    """Users are the mean of their items, eq. 14, or their sum over the roots of both degrees, as in MGCN."""
    fusion: Literal["cross_attention", "mean"] = "cross_attention"
    """How modalities are fused; "mean" is without attention and gates (the paper's "w/o CAFF")."""
    attention: AttentionAxis = "channel"
    """What attends: channels, summed over nodes, or nodes, in time that grows with their square."""
    attention_scale: AttentionScale = "contracted"
    """Whether channels' products are divided by the root of the number of nodes, or by that of the width."""
    refinement: Literal["printed", "unscaled"] = "printed"
    """Of eq. 20 and 23; "unscaled" has no LN, and all biases begin at zero: content keeps its length."""
    contrast: Literal["cross", "literal"] = "cross"
    """Candidates of the contrast: the others' ids by cosines, as in MGCN, or eq. 30 as printed."""
    contrast_weight: float = Field(0.01, ge=0)
    """alpha1; of 0.001 ... 0.1 the paper finds 0.01 best everywhere."""
    temperature: float = Field(0.2, gt=0)
    """tau, what similarities are divided by in the contrast."""
    reg_weight: float = Field(0.1, ge=0)
    """alpha2, of half the squares of the batch's final vectors, per training pair; not given in the paper."""


@register("camgr", CAmgrConfig, paper="Cross-Attention Fusion: CAmgr (Mathematics 2024, 12, 2353)", year=2024)
class CAmgr(Recommender):
    """Ids by graph attention, plus what modalities have in common and what sets them apart."""

    config: CAmgrConfig
    adj: SparseGraph
    mean_user: SparseGraph

    def __init__(self, config: CAmgrConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities = inputs.choose_modalities(config.modalities)
        graphs, dim = inputs.graphs, config.embedding_dim
        features = FeatureBank(inputs.features, modalities, training=config.feature_training)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, dim)
        self.purify = Purifier(features, dim, gated=config.purifier)
        self.register_graph("adj", graphs.bipartite("sym"))
        self.register_graph("mean_user", graphs.items_from_users("mean"))
        self.item_view = ItemView(
            [graphs.items(m, config.n_neighbors, "cosine", config.item_normalisation) for m in modalities],
            torch.stack([features.present(modality) for modality in modalities]),
            graphs.users_from_items(config.user_aggregation),
        )
        asking = choose_query(modalities, config.query_modality)
        self.pairs = [(asking, place) for place in range(len(modalities)) if place != asking] or [(0, 0)]
        if config.fusion == "cross_attention":
            self.attend = nn.ModuleList(
                CrossAttention(
                    dim, config.attention, config.attention_scale, normalise=config.refinement == "printed"
                )
                for _ in self.pairs
            )
            self.gate_common, self.gate_distinct = Gate(dim), Gate(dim)
        n_attended = config.n_layers if config.id_encoder == "gat" else 0
        self.layers = nn.ModuleList(GraphAttention(dim) for _ in range(n_attended))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if config.refinement == "unscaled" and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embeddings(self) -> Embeddings:
        ids, views = self._views()
        every = torch.arange(len(ids), device=ids.device)
        return self.nodes.split(ids + self._fuse(ids, views, every))

    def loss(self, batch: Triplets) -> Losses:
        # All nodes take part in the views and the attention, but only the batch's need the rest.
        rows = torch.cat([batch.user, self.n_users + batch.pos, self.n_users + batch.neg])
        ids, views = self._views()
        ids = take_rows(ids, rows)
        fused = self._fuse(ids, views, rows)
        nodes = (ids + fused).chunk(3)  # users, chosen and sampled items: (B, D) each
        contrasts = [self._contrast(*pair) for pair in zip(fused.chunk(3)[:2], ids.chunk(3)[:2], strict=True)]
        return {
            "bpr": bpr_loss(*pair_scores(*nodes)),
            "contrast": self.config.contrast_weight * torch.stack(contrasts).sum(),
            "reg": self.config.reg_weight * half_squared(*nodes) / len(batch.user),
        }

    def content_codes(self) -> dict[str, Tensor]:
        return dict(zip(self.purify.features.dims, self.purify.contents(), strict=True))

    def modality_embeddings(self) -> dict[str, Tensor]:
        return dict(zip(self.purify.features.dims, self._purified(), strict=True))

    def _purified(self) -> list[Tensor]:
        """Give g_m of all items, (I, D) each."""
        users, items = self.nodes.ego
        purified: list[Tensor] = self.purify(items + spmm(self.mean_user, users))
        return purified

    def _views(self) -> tuple[Tensor, Tensor]:
        """Give H (N, D) and T (N, M, D) of all nodes."""
        ids: Tensor = self.nodes.weight
        if self.config.id_encoder == "lightgcn":
            ids = propagate(self.adj, ids, self.config.n_layers)
        else:
            layers = [ids]
            for layer in self.layers:
                layers.append(layer(self.adj, layers[-1]))
            ids = combine_layers(layers, "mean")
        return ids, self.item_view(self._purified())

    def _fuse(self, ids: Tensor, views: Tensor, rows: Tensor) -> Tensor:
        """Make M of some nodes, whose H is (n, D), from T of all, (N, M, D): (n, D)."""
        has = self.item_view.has  # (N, M)
        if self.config.fusion == "mean":
            views, has = take_rows(views, rows), has[rows]
            return views.sum(dim=1) / has.sum(dim=1, keepdim=True).clamp(min=1)
        view = views.unbind(dim=1)
        answers = [
            attend(view[asking], view[other], has[:, [asking, other]], rows)
            for attend, (asking, other) in zip(self.attend, self.pairs, strict=True)
        ]
        common, distinct = (torch.stack(parts).mean(dim=0) for parts in zip(*answers, strict=True))
        gated: Tensor = self.gate_common(common, ids) + self.gate_distinct(distinct, ids)
        return gated / 2

    def _contrast(self, fused: Tensor, ids: Tensor) -> Tensor:
        """Contrast M with H of the same B nodes, (B, D) each."""
        if self.config.contrast == "cross":
            return info_nce(fused, ids, self.config.temperature)
        products = (fused * ids).sum(dim=1) / self.config.temperature
        return products.logsumexp(dim=0) - products.mean()


def choose_query(modalities: tuple[str, ...], wanted: str | None) -> int:
    """Say which of the modalities asks the others, by its place.

    Raises:
        ConfigError: the one that was wanted is none of them.
    """
    if wanted is None:
        return modalities.index("text") if "text" in modalities else len(modalities) - 1
    if wanted not in modalities:
        raise ConfigError(
            f"query_modality '{wanted}' is none of the model's modalities",
            wanted="one of: " + ", ".join(modalities),
            fix=nearest(wanted, modalities),
        )
    return modalities.index(wanted)
