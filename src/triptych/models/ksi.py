"""KSI on one of the backbones of its paper: matrix factorisation, NGCF or LightGCN.

Paper: Ouyang et al., Breaking the Curse of Knowledge: Towards Effective Multimodal Recommendation using
Knowledge Soft Integration (arXiv:2305.07419). Equations, letters and readings are told in
`triptych.models.plugins.ksi`, which does all of it: the model "ksi" of backbone "lightgcn" is the model
"lightgcn" without a regulariser and with the plug-in "ksi".

The paper says "LightGCN" and "NGCF", prints figures of them that are LATTICE's (arXiv:2104.09036), and
builds on LATTICE. Its code runs LightGCN over (D + I)^-1 (A + I), and takes the mean of NGCF's layers, of
slope 0.01, instead of setting them side by side. Here NGCF is LATTICE's, and LightGCN is by default the
original, as printed: `normalisation`. NGCF's first values are not LATTICE's, whose linear layers start as
torch's nn.Linear does: here they are Xavier-uniform, biases included, as in NGCF's own code. Users and items
start Xavier-uniform with "ngcf" and "lightgcn". With "mf" they start Xavier-normal, of the same variance, as
in the model "mf-bpr": so "ksi" with it is, to the bit, "mf-bpr+ksi", beside the same baseline.
The paper prints no regulariser either, where LATTICE has one of 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from triptych.losses import bpr_loss, half_squared
from triptych.models.base import (
    ContentConfig,
    Losses,
    ModelConfig,
    ModelInputs,
    Recommender,
    Step,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.plugins.ksi import KSIPlugin, KSIPluginConfig
from triptych.models.registry import create_model, make_config, model_entry, register
from triptych.scorer import Embeddings


class KSIConfig(ContentConfig, KSIPluginConfig):
    """Settings of KSI with a backbone."""

    backbone: Literal["mf", "ngcf", "lightgcn"] = "lightgcn"
    """The model that KSI adds to."""
    n_layers: int = Field(2, ge=0)
    """Layers of NGCF or LightGCN over the user–item graph, which "mf" has none of."""
    normalisation: Literal["sym", "rw_loop"] = "sym"
    """Of LightGCN's graph: "sym" as it is defined, "rw_loop" as in LATTICE's code; NGCF always has that,
    and "mf" no graph."""
    reg_weight: float = Field(0.0, ge=0)
    """Weight of half the squares of the batch's final vectors, per training pair; LATTICE has 1e-5."""


@register("ksi", KSIConfig, paper="Breaking the Curse of Knowledge: KSI (arXiv:2305.07419)", year=2023)
class KSI(Recommender):
    """A collaborative model whose items take in what those alike are, and are asked for their content."""

    item_graphs = True
    ways_out: ClassVar = {"modality_embeddings": "Leave use_structure on: they are those of item graphs"}
    config: KSIConfig

    def __init__(self, config: KSIConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        self.backbone = create_model(backbone_config(config), inputs)
        self.plugin = KSIPlugin(config, inputs, self.backbone)

    def epoch_steps(self, epoch: int) -> Iterator[Step]:
        yield from self.backbone.epoch_steps(epoch)
        yield from self.plugin.epoch_steps(self.backbone, epoch)

    def embeddings(self) -> Embeddings:
        return self.plugin.refine(self.backbone, self.backbone.embeddings())

    def loss(self, batch: Triplets) -> Losses:
        seen = self.plugin.look(self.backbone)
        rows = batch_rows(self.plugin.fuse(seen, self.backbone.embeddings()), batch)
        losses = {"bpr": bpr_loss(*pair_scores(*rows)), **self.plugin.terms(seen, batch)}
        if self.config.reg_weight > 0:
            losses["reg"] = self.config.reg_weight * half_squared(*rows) / len(batch.user)
        return losses

    def id_embeddings(self) -> Embeddings | None:
        return self.backbone.id_embeddings()

    def modality_embeddings(self) -> dict[str, Tensor]:
        return self.plugin.by_modality(self.backbone)


def backbone_config(config: KSIConfig) -> ModelConfig:
    """Make the settings of the backbone."""
    own: dict[str, tuple[str, dict[str, Any]]] = {
        "mf": ("mf-bpr", {}),
        "ngcf": ("ngcf", {"n_layers": config.n_layers, "combine": "mean", "negative_slope": 0.01}),
        "lightgcn": ("lightgcn", {"n_layers": config.n_layers, "normalisation": config.normalisation}),
    }
    name, settings = own[config.backbone]
    shared = {"embedding_dim": config.embedding_dim, "reg_weight": 0.0}
    made: ModelConfig = make_config(model_entry(name).config, {**shared, **settings})
    return made
