"""MSI: modalities squeezed to what they share, each on a graph of its own; no negatives are drawn.

Paper: Li et al., MSI: Multi-modal Recommendation via Superfluous Semantics Discarding and Interaction
Preserving, ICMR 2024 (doi 10.1145/3652583.3658043); no code of the authors is known. Each modality m has
a Gaussian encoder p_m(z | F_m), and what is drawn from two of them is to have much in common:

    L_ssd = -I(z_m; z_n) + beta / 2 [KL(p_m || p_n) + KL(p_n || p_m)]                           (11)-(13)

Means e_m go on, each into a LightGCN in which they take the place of the item ids Q (14)-(17):

    [Z_U ; G] = LightGCN([P ; Q]), Z_I = G + Q;   [. ; G_m] = LightGCN([P ; e_m]), Z_m = G_m + e_m

As in BM3, each vector x has two views: online q(x), with one linear map q for all, and target x~, x after
dropout, without gradient (18). With C(a, b) the mean of 1 - cos over a batch's pairs (u, i), the loss is

    C(q(Z_U), Z~_I) + C(q(Z_I), Z~_U) + c sum_m [C(q(Z_m), Z~_I) + C(q(Z_m), Z~_m)]
        + alpha L_ssd + gamma (|Z_U| + |Z_I| + sum_m |Z_m|)                                     (19)-(23)

and scores are q(Z_U) . q(Z_I) (24). Without both modules this is BM3, as the authors say.
Where the paper is open or contradicts itself:

- p and the estimator of I are not named. (13) is MIB's (arXiv:2002.07017), so MIB's code decides: diagonal
  Gaussians, and a bound by a critic that learns along (`encoder`, `mi_estimator`), on a batch's items.
- Means go on, so that nothing is drawn without L_ssd (`z_flow`). In (5) and (6) lambda_2 is meant beside
  lambda_1; beta is 2 over their sum. (16) has no self-loops, as (15) has, and its exponent lacks a sign.
- (17) adds the residual to the mean, as BM3's code does; of three graphs' users the ids' are kept. (18) p is
  what is dropped. (21) z^l is z^i; like (22) it is summed over m. c is 1 as printed, 2 in BM3's code.
- Nothing is said of raw features; they learn, as in BM3's code, here those that a step reads
  (`feature_training`).
- No switch have users that are the mean of all graphs' in (17), a predictor for each modality in (18), and
  items that count in L_ssd as often as a batch has them: nothing printed asks for these.
- (23) whose norms? Whole tables', over I, as in BM3's code (`reg_norm`), and no Z_m's without its graph.

Cost: a modality's graph differs from the ids' by d = e_m - Q alone, so by linearity Z_m = Z_I + d + the
items' part of LightGCN([0 ; d]), to which only even layers lead. With one layer, the paper's best, two sparse
products serve all graphs, and a step reads its own items' contents alone, which stand for the table in |Z_m|.
Each further two layers take a product there and back for all modalities, and the contents of all items.

Beyond the paper: any modalities by name. L_ssd is averaged over their pairs, and one alone has none. An item
that lacks a modality is zero in its graph, has there what users send it, and takes no part in its terms.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from triptych.errors import ConfigError
from triptych.graph.sparse import SparseGraph, propagate, spmm
from triptych.losses import cosine_distance
from triptych.models.base import ContentConfig, Group, Losses, ModelInputs, Recommender, Triplets
from triptych.models.registry import register
from triptych.nn.content import FeatureBank, FeatureTraining
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.nn.gaussian import Bottleneck, GaussianEncoders, InfoNCEBound, JensenShannonBound
from triptych.nn.views import Predictor, mutual_losses
from triptych.scorer import Embeddings


class MSIConfig(ContentConfig):
    """Settings of MSI."""

    n_layers: int = Field(1, ge=0)
    """L, layers over each graph; the authors search 1 to 4 and find 1 best."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Share of a target's entries that are set to zero; the authors search 0.3 and 0.5."""
    cl_weight: float = Field(1.0, ge=0)
    """c, weight of the modalities' terms: 1 as printed, 2 as in BM3's code."""
    ssd_weight: float = Field(0.1, ge=0)
    """alpha, weight of L_ssd; the authors search 1e-1 ... 1e-4."""
    kl_weight: float = Field(1e-4, ge=0)
    """beta, weight of the divergence in L_ssd; the authors search 1e-1 ... 1e-4."""
    reg_weight: float = Field(0.1, ge=0)
    """gamma, weight of the norms; the authors search 0.1 and 0.01."""
    use_ssd: bool = True
    """Whether superfluous semantics are discarded by L_ssd; "w/o S" of the paper is without."""
    use_interaction_graph: bool = True
    """Whether modalities have graphs; Z_m is z_m where not, the paper's "w/o I"."""
    use_align: bool = True
    """Whether modalities predict the ids' target (21); the paper's "w/o a" is without."""
    use_mask: bool = True
    """Whether modalities predict their own target (22); the paper's "w/o m" is without."""
    encoder: Literal["gaussian", "unit_var"] = "gaussian"
    """"gaussian" learns the scales of p; with "unit_var" they are 1, and means stand for what is drawn."""
    initial_scale: float = Field(0.69, gt=0)
    """What scales begin with. Beside 0.69 the means of unit rows are small: the critic hears noise alone, and
    L_ssd does nothing for the first dozen epochs or more; with 0.1 it acts at once."""
    z_flow: Literal["mean", "sample"] = "mean"
    """What goes on from the encoders in training: means, or what L_ssd has drawn, if it draws."""
    mi_estimator: Literal["jsd", "infonce"] = "jsd"
    """I by a critic, between -log 4 and 0, or by InfoNCE, up to log B: alpha means another thing then."""
    critic_width: int = Field(256, gt=0)
    """Width of the critic of "jsd"; MIB has 1024."""
    temperature: float = Field(0.2, gt=0)
    """What cosines of "infonce" are divided by."""
    reg_norm: Literal["table", "row"] = "table"
    """"table": norms of whole tables over I, which is next to nothing; "row": mean norms of a batch's
    vectors, which is (23) for each sample, as algorithm 1 has it, and pulls far harder."""
    score_with: str = "ids"
    """What ranks items, as in the paper's table 1 and figure 3: Z_I of the "ids", Z_m of a modality, or
    "all", the sum of these scores."""
    feature_training: FeatureTraining = "rows"
    """Which raw features learn: "rows" those that a step reads, which with one layer are a batch's items' and
    with more layers all; "all" as in BM3's code, with untouched rows moved by momentum; "frozen" none."""

    @field_validator("score_with", mode="before")
    @classmethod
    def _as_once_recorded(cls, value: object) -> object:
        return "ids" if value is None else value


@register("msi", MSIConfig, paper="Superfluous Semantics Discarding: MSI (ICMR 2024)", year=2024)
class MSI(Recommender):
    """LightGCN, and compressed contents that are smoothed over its users, drawn towards each other."""

    config: MSIConfig
    adj: SparseGraph
    to_users: SparseGraph
    to_items: SparseGraph
    negatives = 0

    def __init__(self, config: MSIConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        modalities, dim = inputs.choose_modalities(config.modalities), config.embedding_dim
        if config.score_with not in ("ids", "all", *modalities):
            raise ConfigError(
                f"score_with is '{config.score_with}'",
                wanted="ids, all, or one of the modalities in use: " + ", ".join(modalities),
                fix="Leave it out to rank by the ids' vectors",
            )
        self.features = FeatureBank(inputs.features, modalities, training=config.feature_training)
        self.nodes = NodeEmbedding(inputs.n_users, inputs.n_items, dim)
        self.draws = config.use_ssd and len(modalities) > 1 and config.encoder == "gaussian"
        self.encode = GaussianEncoders(self.features.dims, dim, config.initial_scale if self.draws else None)
        self.predict = Predictor(dim, config.dropout)
        self.bottleneck = Bottleneck(modalities if config.use_ssd else (), self._bound)
        self.register_graph("adj", inputs.graphs.bipartite("sym"))
        self.far = config.use_interaction_graph and config.n_layers > 1  # contents reach other items
        if self.far:
            self.register_graph("to_users", inputs.graphs.users_from_items("sym"))
            self.register_graph("to_items", inputs.graphs.items_from_users("sym"))

    def embeddings(self) -> Embeddings:
        wanted, (users, items) = self.config.score_with, self._nodes()
        vectors = {"ids": items} | ({} if wanted == "ids" else self.modality_embeddings())
        ranked = [self.predict(rows) for name, rows in vectors.items() if wanted in (name, "all")]
        return Embeddings(self.predict(users), torch.stack(ranked).sum(dim=0))

    def content_codes(self) -> dict[str, Tensor]:
        return dict(zip(self.features.dims, (code.mean for code in self.encode(self.features)), strict=True))

    def modality_embeddings(self) -> dict[str, Tensor]:
        vectors = self._preserve([code.mean for code in self.encode(self.features)], self._nodes())
        return dict(zip(self.features.dims, vectors, strict=True))

    def loss(self, batch: Triplets) -> Losses:
        config, nodes = self.config, self._nodes()
        user, user_at = batch.user.unique(return_inverse=True)
        item, item_at = batch.pos.unique(return_inverse=True)
        if self.far:  # what reaches a batch's items may come from any
            item, item_at = torch.arange(self.n_items, device=item.device), batch.pos
        users = self.predict.views(take_rows(nodes.users, user), user_at)
        items = self.predict.views(take_rows(nodes.items, item), item_at)
        losses = mutual_losses(users, items)
        codes = self.encode(self.features, item)
        means = [code.mean for code in codes]
        drawn = [code.draw() for code in codes] if self.draws else means
        known = [self.features.present(modality, batch.pos) for modality in self.features.dims]  # (B,) each
        for (a, b), information, divergence in self.bottleneck(codes, drawn, [item_at[has] for has in known]):
            weight = config.ssd_weight / len(self.bottleneck.pairs)
            losses[f"shared_{a}_{b}"] = -weight * information
            losses[f"apart_{a}_{b}"] = weight * config.kl_weight * divergence
        vectors = self._preserve(drawn if config.z_flow == "sample" else means, nodes, item)
        norms = [self._norm(nodes.users, batch.user), self._norm(nodes.items, batch.pos)]
        for modality, rows, has in zip(self.features.dims, vectors, known, strict=True):
            online, target = self.predict.views(rows, item_at[has])
            if config.use_align:
                losses[f"align_{modality}"] = config.cl_weight * cosine_distance(online, items.target[has])
            if config.use_mask:
                losses[f"mask_{modality}"] = config.cl_weight * cosine_distance(online, target)
            if config.use_interaction_graph:
                norms.append(self._norm(rows, item_at[has], self.features.present(modality)))
        losses["reg"] = config.reg_weight * torch.stack(norms).sum()
        return losses

    def optimizer_groups(self) -> dict[str, Group]:
        return {"main": Group(list(self.parameters()), by_row=self.features.by_row)}

    def _nodes(self) -> Embeddings:
        """Give Z_U and Z_I."""
        users, items = self.nodes.split(propagate(self.adj, self.nodes.weight, self.config.n_layers))
        return Embeddings(users, items + self.nodes.ego.items)

    def _bound(self) -> nn.Module:
        if self.config.mi_estimator == "jsd":
            return JensenShannonBound(self.config.embedding_dim, self.config.critic_width)
        return InfoNCEBound(self.config.temperature)

    def _preserve(self, codes: list[Tensor], nodes: Embeddings, item: Tensor | None = None) -> list[Tensor]:
        """Put the contents of n items, or of all, on their graphs: e_m -> Z_m, (n, D) each."""
        ids, items = self.nodes.ego.items, nodes.items
        if item is not None:
            ids, items = take_rows(ids, item), take_rows(items, item)
        present = [self.features.present(modality, item)[:, None] for modality in self.features.dims]
        codes = [rows * has for rows, has in zip(codes, present, strict=True)]
        if not self.config.use_interaction_graph:
            return codes
        apart = torch.cat([rows - ids for rows in codes], dim=1)  # (n, M D)
        total = apart
        for _ in range(self.config.n_layers // 2):
            total = apart + spmm(self.to_items, spmm(self.to_users, total))
        apart = apart + total / (self.config.n_layers + 1)
        return [items + part for part in apart.chunk(len(codes), dim=1)]

    def _norm(self, rows: Tensor, at: Tensor, known: Tensor | None = None) -> Tensor:
        """Measure what is to stay short: a table, of the known items (I,), for which those `at` may stand."""
        if self.config.reg_norm == "row":
            lengths: Tensor = take_rows(rows, at).norm(dim=1)
            return lengths.sum() / max(1, len(at))
        if known is not None:
            rows = take_rows(rows, known.nonzero().squeeze(1) if len(rows) == self.n_items else at.unique())
        norm: Tensor = rows.norm() / self.n_items
        return norm if known is None else norm * (known.sum() / max(1, len(rows))).sqrt()
