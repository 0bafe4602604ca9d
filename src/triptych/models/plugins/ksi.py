"""KSI: items take in the ids of alike items, are kept from redundancy, and are asked for their content.

Paper: Ouyang et al., Breaking the Curse of Knowledge: Towards Effective Multimodal Recommendation using
Knowledge Soft Integration (arXiv:2305.07419). Letters: X_U, X_I the host's ids, D wide; u and i its final
vectors; f_m raw features of modality m, K neighbours, L item layers.

- Item graphs: S_m has the K largest cosines of each row of f_m, itself included, and none below 0;
  G_m = D^-1/2 S_m D^-1/2, D the row sums, once (eq. 1-3). H_m^0 = X_I, H_m^l = G_m H_m^(l-1) (4, 9).
- Redundancy: RR(H) = |C - 1|_F^2 with C the covariance of H's columns, rows scaled to length 1 (5-8).
  With a the softmax of one logit per modality, L_I = 1/(L+1) sum_m a_m sum_l RR(H_m^l), l = 0 ... L (10), and
  L_U = RR(X_U) (11). As rows have length 1, variances sum to 1 at most, and RR cannot fall below about
  (D - 1)^2 / D: 62.02 of D = 64, for users as for items.
- Semantics: c_m are the first D principal components of f_m (12). L_q is the mean over the batch's chosen
  items of sum_m a_m times -log softmax(H_m^L . c_m / temperature) at the item's own c_m, among those of
  n_negatives other items, drawn before each epoch for each item and modality (13-15).
- Fusion: h = sum_m a_m H_m^L; items are i + h / |h|, scores their products with u (16-18).
- Loss: BPR of these + alpha L_q + beta (L_U + L_I) (19, 20).

SEI is `use_structure`, SSI `use_semantics`, alpha `semantic_weight`, beta `redundancy_weight`. No code of the
authors is known. Where the print is silent or cannot be meant, this follows LATTICE (arXiv:2104.09036), on
which the paper builds. H / max(|H|) in eq. 5 and 17 is read as x / max(|x|, tiny) by rows, as LATTICE fuses.
Eq. 15 and 19 are sums over all items and all pairs, in which L_q would drown BPR: here both are means over
the batch. SSI without SEI has neither graph nor RR nor fusion, and L_q sees X_I. In figure 2a L_r^M is read
as L_U, and KSI-LightGCN, -GCN and -GAT as `item_gnn` without both terms of RR; see `ItemEncoder`.

Beyond the paper: any host with ids of its own, whose term "bpr" gives way to the BPR above, of what its
`embeddings()` are in training. Where these are wider than its ids, scores are u . i + X_u . h / |h|, the
products of [u | X_u] and [i | h / |h|]. Any modalities by name: an item that lacks one has no neighbours in
it and is nobody's, and counts neither in RR(H_m^l), l > 0, nor in L_q. There the mean of each modality is
over the chosen items that have it, and only modalities that any of them has are weighed, by their shares a
divided by the sum of these: else a would learn which modality asks least. A modality given as an item graph
only has no L_q. Where features vary in fewer than D directions, the components left over are zero.

For items without an image the paper has "mean imputation across the feature dimension" (IV-A). Here they lack
it, unless `triptych train --missing mean` fills in the mean of the images that are there, column by column.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from triptych.data.features import ItemFeatures
from triptych.errors import ConfigError
from triptych.graph.sparse import combine_layers
from triptych.losses import bpr_loss
from triptych.models.base import Losses, ModelInputs, Recommender, Step, Triplets, batch_rows, pair_scores
from triptych.models.plugins.base import Plugin, PluginConfig, register_plugin, way_out
from triptych.nn.correlation import Scaling, identity_loss
from triptych.nn.item_encoder import ItemEncoder, ItemGNN
from triptych.nn.principal import principal_components
from triptych.nn.retrieval import ContentRetrieval
from triptych.scorer import Embeddings
from triptych.unit import unit_rows


class KSIPluginConfig(PluginConfig):
    """Settings of KSI."""

    modalities: tuple[str, ...] | None = Field(None, min_length=1)
    """Which modalities to use, by name; by default all that the data set has."""
    use_structure: bool = True
    """SEI: whether there are item graphs, what they bring to items, and terms against redundancy."""
    use_semantics: bool = True
    """SSI: whether items are asked for their content."""
    fuse_without_structure: bool = False
    """Whether items without item graphs are still fused, with the directions of their own ids."""
    n_neighbors: int = Field(10, gt=0)
    """K of the item graphs, the item itself included."""
    n_item_layers: int = Field(1, ge=0)
    """L, layers over the item graphs; the paper searches 1 to 4."""
    item_gnn: ItemGNN = "rgnn"
    """What these layers are: "rgnn" is the paper's own, the others are what it is compared with."""
    redundancy_weight: float = Field(1.0, ge=0)
    """beta, weight of the terms against redundancy; 0 leaves them out. The paper searches 0.1 to 10."""
    item_redundancy: bool = True
    """Whether there is one of items."""
    user_redundancy: bool = True
    """Whether there is one of users."""
    redundancy_scaling: Scaling = "row"
    """What precedes the covariance: each "row" is scaled to length 1; all are divided by the length of the
    "largest"; or each "column" is scaled to mean 0 and variance 1, with which RR can become 0."""
    semantic_weight: float = Field(0.1, ge=0)
    """alpha, weight of L_q; 0 leaves it out. The paper searches 0.01 to 1."""
    temperature: float = Field(0.1, gt=0)
    """What products with content are divided by; the paper searches 0.01 to 1."""
    n_negatives: int | None = Field(None, gt=0)
    """Among how many others an item has to find its content; by default I / 512 rounded down, at least 1."""
    semantic_items: Literal["batch", "all"] = "batch"
    """Which items are asked in a step: those chosen in the batch, or all."""
    semantic_reduction: Literal["mean", "sum"] = "mean"
    """How items make one term; the "sum", their mean times their number, is over "all" eq. 15 as printed."""
    semantic_cosine: bool = False
    """Whether directions are compared instead of plain products."""
    whiten: bool = False
    """Whether principal components are scaled to variance 1."""
    detach_shares: bool = False
    """Whether the modalities' shares a are constants in L_q and L_I."""


class Pass(NamedTuple):
    """What item graphs make of a host's ids."""

    ids: Embeddings  # X_U, X_I
    layers: list[list[Tensor]]  # of each modality H_m^0 ... H_m^L, (I, D) each
    vectors: list[Tensor]  # of each modality (I, D), what of these is fused and asked


@register_plugin(
    "ksi", KSIPluginConfig, paper="Breaking the Curse of Knowledge: KSI (arXiv:2305.07419)", year=2023
)
class KSIPlugin(Plugin):
    """Adds to items what alike items are, and asks them for their content."""

    config: KSIPluginConfig

    def __init__(self, config: KSIPluginConfig, inputs: ModelInputs, host: Recommender) -> None:
        super().__init__(config, inputs, host)
        ids = host.id_embeddings()
        if ids is None:
            raise ConfigError(
                f"{type(host).__name__} with these settings learns no vectors of users and items themselves",
                wanted="ids, which KSI sends over item graphs",
                fix=way_out(host, "id_embeddings", "Choose another model, such as LightGCN"),
            )
        self.fuses = config.use_structure or config.fuse_without_structure
        if self.fuses and host.negatives == 0:
            raise ConfigError(
                f"{type(host).__name__} samples no items to rank below the chosen ones",
                wanted="a model that does, as fused vectors learn by BPR",
                fix="Choose another model, such as LightGCN, or set use_structure to false",
            )
        self.modalities, dim = inputs.choose_modalities(config.modalities), ids.items.shape[1]
        self.modality_logits = nn.Parameter(torch.zeros(len(self.modalities)))
        graphs = [
            inputs.graphs.items(modality, config.n_neighbors, "positive")
            for modality in (self.modalities if config.use_structure else ())
        ]
        self.encoders = nn.ModuleList(
            ItemEncoder(graph, config.item_gnn, config.n_item_layers, dim) for graph in graphs
        )
        features = [inputs.features[modality] for modality in self.modalities]
        self.asked = [m for m, part in enumerate(features) if part.values is not None]
        self.retrieval: ContentRetrieval | None = None
        if config.use_semantics and config.semantic_weight > 0:
            self.retrieval = make_retrieval(config, [features[m] for m in self.asked], dim)

    @property
    def refines(self) -> bool:
        return self.fuses

    def epoch_steps(self, host: Recommender, epoch: int) -> Iterable[Step]:
        if self.retrieval is not None:
            self.retrieval.draw()
        return ()

    def refine(self, host: Recommender, embeddings: Embeddings) -> Embeddings:
        return self.fuse(self.look(host), embeddings) if self.fuses else embeddings

    def losses(self, host: Recommender, batch: Triplets) -> Losses:
        seen = self.look(host)
        if not self.fuses:
            return self.terms(seen, batch)
        rows = batch_rows(self.fuse(seen, host.embeddings()), batch)
        return {"bpr": bpr_loss(*pair_scores(*rows)), **self.terms(seen, batch)}

    def look(self, host: Recommender) -> Pass:
        """Send a host's ids of items over the item graphs."""
        ids = host.id_embeddings()
        assert ids is not None  # __init__ has seen to it
        if not self.config.use_structure:
            return Pass(ids, [], [ids.items] * len(self.modalities))
        layers = [encoder(ids.items) for encoder in self._encoders()]
        vectors = [encoder.result(part) for encoder, part in zip(self._encoders(), layers, strict=True)]
        return Pass(ids, layers, vectors)

    def fuse(self, seen: Pass, embeddings: Embeddings) -> Embeddings:
        """Add the directions of h to vectors of the host, if anything is fused."""
        if not self.fuses:
            return embeddings
        users, items = embeddings
        shares = self.modality_logits.softmax(dim=0)
        weighted = [share * vectors for share, vectors in zip(shares, seen.vectors, strict=True)]
        fused = unit_rows(combine_layers(weighted, "sum"))  # (I, D)
        if items.shape[1] == fused.shape[1]:
            return Embeddings(users, items + fused)
        return Embeddings(torch.cat([users, seen.ids.users], dim=1), torch.cat([items, fused], dim=1))

    def terms(self, seen: Pass, batch: Triplets) -> Losses:
        """Name what is minimised beside BPR."""
        config, losses = self.config, {}
        shares = self.modality_logits.softmax(dim=0)  # a
        if config.detach_shares:
            shares = shares.detach()
        if self.retrieval is not None:
            term = self._semantic(self.retrieval, seen, shares, batch)
            losses["ksi_semantic"] = config.semantic_weight * term
        redundant = config.use_structure and (config.item_redundancy or config.user_redundancy)
        if redundant and config.redundancy_weight > 0:
            losses["ksi_redundancy"] = config.redundancy_weight * self._redundancy(seen, shares)
        return losses

    def by_modality(self, host: Recommender) -> dict[str, Tensor]:
        """Give H_m^L of each item graph, zero where an item has no neighbours: modality -> (I, D)."""
        if not self.config.use_structure:
            return {}
        parts = zip(self.modalities, self._encoders(), self.look(host).vectors, strict=True)
        return {modality: vectors * encoder.linked()[:, None] for modality, encoder, vectors in parts}

    def _encoders(self) -> list[ItemEncoder]:
        return cast("list[ItemEncoder]", list(self.encoders))

    def _semantic(self, retrieval: ContentRetrieval, seen: Pass, shares: Tensor, batch: Triplets) -> Tensor:
        """Compute L_q of shares (M,); the mean of each modality is over the asked items that have it."""
        items = batch.pos
        if self.config.semantic_items == "all":
            items = torch.arange(len(seen.ids.items), device=items.device)
        owners = retrieval.has[:, items].sum(dim=1)  # of each modality with features, among those asked
        kept = torch.stack([shares[m] for m in self.asked]) * (owners > 0)
        # Where all modalities ask, shares sum to 1 as they are. None may ask, and then all terms are 0.
        whole = (owners > 0).all() & (len(self.asked) == len(self.modalities))
        kept = kept / torch.where(whole, 1.0, kept.sum().clamp(min=1e-30))
        terms = []
        for place, m in enumerate(self.asked):
            losses = retrieval(place, seen.vectors[m], items)
            scale = len(items) / owners[place].clamp(min=1).to(losses.dtype)  # 1 where nothing is missing
            terms.append(kept[place] * (losses.sum() * scale))
        total = torch.stack(terms).sum()
        return total if self.config.semantic_reduction == "sum" else total / len(items)

    def _redundancy(self, seen: Pass, shares: Tensor) -> Tensor:
        """Compute L_U + L_I, or the one of them that is wanted."""
        config, terms = self.config, []
        if config.user_redundancy:
            terms.append(identity_loss(seen.ids.users, scaling=config.redundancy_scaling))
        if config.item_redundancy:
            # Layer 0 is the same in all modalities, whose shares sum to 1.
            found = [identity_loss(seen.ids.items, scaling=config.redundancy_scaling)]
            for share, encoder, layers in zip(shares, self._encoders(), seen.layers, strict=True):
                linked = encoder.linked()
                found += [share * identity_loss(x, linked, config.redundancy_scaling) for x in layers[1:]]
            terms.append(torch.stack(found).sum() / (config.n_item_layers + 1))
        return torch.stack(terms).sum()


def make_retrieval(config: KSIPluginConfig, features: list[ItemFeatures], dim: int) -> ContentRetrieval:
    """Set the task of finding an item's principal components, which features are given for."""
    if not features:
        raise ConfigError(
            "use_semantics is on, but the modalities are given as item graphs only",
            wanted="dense features, whose principal components items are asked for",
            fix="Set use_semantics to false, or prepare the data set with a features file",
        )
    content, has = [], []
    for part in features:
        rows = torch.from_numpy(part.values)
        has.append(torch.from_numpy(part.present) & rows.any(dim=1))  # zeros say nothing
        content.append(principal_components(rows, dim, has[-1], whiten=config.whiten))
    n_negatives = config.n_negatives or max(1, len(has[0]) // 512)
    return ContentRetrieval(
        torch.stack(content),
        torch.stack(has),
        n_negatives,
        config.temperature,
        cosine=config.semantic_cosine,
    )
