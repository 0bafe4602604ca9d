"""LGMRec: what users and their neighbours chose, and hyperedges through which all users and items meet.

Paper: Guo et al., LGMRec: Local and Global Graph Learning for Multimodal Recommendation, AAAI 2024
(arXiv:2312.16400). Letters: R (U, I) choices, A = D^-1/2 [0 R; R^T 0] D^-1/2, f_m raw features, B batch.

- Behaviour: C = LightGCN([P ; Q]), the mean of its layers.
- Content: X_m = F_m W_m of items, their mean for users; E_m = A^K [R-mean X_m ; X_m], the last layer.
  Local: C + sum_m norm(E_m), norm by rows.
- Hyperedges: logits B_m = F_m V_m of items, R B_m (sums) of users; memberships
  H_m = dropout(softmax((logits + g) / t)) over the hyperedges, g Gumbel noise, new in each step.
  Y_m = H_m,i (H_m,i^T Y_m), n times from Y_m = C_i; users receive H_m,u (H_m,i^T Y_m) of the last step.
- Z = local + global_weight norm(sum_m Y_m), users and items alike.
- Loss: mean BPR, plus the norms of the batch's rows of Z, plus a contrast of each node's Y_m in the first
  modality with that in the second, against all users or all items: the *sum* over the batch, so that what
  its weight means depends on the batch's size.

The authors' code draws noise in evaluation too, for each block of users anew, so that its scores are
random. Here scores are free of noise; `scoring_noise` adds one fixed draw. Its deviation is 1.3, whatever
the features; first logits of rows of length 1 have some sqrt(2 / (A + width)), so that memberships by such
content are mostly noise, and their contrast did harm on Amazon Baby (docs/results.md). `noise` makes it
smaller.

When the published tables were made, the code gave users the text's memberships in image hyperedges, and in
text hyperedges their logits without a softmax. That was mended later, and MMRec has the mended form, as has
this; on Amazon Baby the authors found recall@20 0.0992 with it, after 0.1002 (their repository, issue 2).

Beyond the paper: any modalities by name, with the mean over all pairs in the contrast, and none for a single
one. An item that lacks a modality is zero in X_m, counts in no user's mean, belongs to no hyperedge of it and
takes no part in its contrasts; so does a user none of whose items has it.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from triptych.graph.sparse import SparseGraph, propagate
from triptych.losses import bpr_loss, embedding_norm
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
from triptych.nn.content_maps import ContentMaps, xavier_matrices
from triptych.nn.contrast import contrast_modalities
from triptych.nn.embedding import NodeEmbedding
from triptych.nn.hypergraph import HypergraphSettings, HyperView, SoftHypergraph, unit_sum
from triptych.scorer import Embeddings


class LGMRecConfig(ContentConfig, HypergraphSettings):
    """Settings of LGMRec; the defaults are the authors' best for Amazon Baby."""

    n_layers: int = Field(2, ge=0)
    """Layers of ids over the user–item graph; 0 leaves matrix factorisation. The authors search 1 to 4."""
    n_modality_layers: int = Field(2, ge=0)
    """K, layers of content over the user–item graph; the authors search 1 to 4."""
    global_weight: float = Field(0.3, ge=0)
    """Weight of what comes through the hyperedges; the authors search tenths up to 1."""
    contrast_weight: float = Field(1e-4, ge=0)
    """Weight of the contrast, which is a sum over the batch; the authors search 0 and 1e-6 ... 0.1."""
    reg_weight: float = Field(1e-6, ge=0)
    """Weight of the final vectors' norms; the authors search 0 and 1e-6 ... 0.1."""


@register(
    "lgmrec", LGMRecConfig, paper="Local and Global Graph Learning: LGMRec (arXiv:2312.16400)", year=2024
)
class LGMRec(Recommender):
    """Smoothed ids, content smoothed over the same graph, and what soft hyperedges pass on."""

    config: LGMRecConfig
    adj: SparseGraph

    def __init__(self, config: LGMRecConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        features = FeatureBank(inputs.features, inputs.choose_modalities(config.modalities))
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, config.embedding_dim)
        self.content = ContentMaps(features, config.embedding_dim)
        self.hyperedges = xavier_matrices(config.n_hyperedges, features.dims.values())  # V_m^T
        self.register_graph("adj", inputs.graphs.bipartite("sym"))
        self.chosen = ChosenContent(inputs.graphs.users_from_items("sum"), features)
        self.hypergraph = SoftHypergraph(self.chosen.has, inputs.n_users, config)

    def embeddings(self) -> Embeddings:
        return self._embed()[0]

    def loss(self, batch: Triplets) -> Losses:
        embeddings, view = self._embed()
        rows = batch_rows(embeddings, batch)
        losses = {
            "bpr": bpr_loss(*pair_scores(*rows)),
            "reg": self.config.reg_weight * embedding_norm(*rows),
        }
        if self.config.contrast_weight > 0 and len(self.hyperedges) > 1:
            term = contrast_modalities(view, self.n_users, batch.user, batch.pos, self.config.temperature)
            losses["contrast"] = self.config.contrast_weight * term
        return losses

    def modality_embeddings(self) -> dict[str, Tensor]:
        return self.content.by_modality()

    def _embed(self) -> tuple[Embeddings, HyperView]:
        """Give Z, and what the hyperedges show of all nodes."""
        ids = propagate(self.adj, self.nodes.weight, self.config.n_layers)
        contents, logits = self.content(self.hyperedges)  # (I, M, D), (I, M, A)
        nodes = self.chosen(contents, mean=True)  # (N, M, D)
        spread = propagate(self.adj, nodes.flatten(1), self.config.n_modality_layers, combine="last")
        local = ids + unit_sum(spread.view_as(nodes), 1, each=True)
        view = self.hypergraph(self.chosen(logits, mean=False), self.nodes.split(ids).items)
        passed = unit_sum(view.vectors, 0, each=False)
        return self.nodes.split(local + self.config.global_weight * passed), view
