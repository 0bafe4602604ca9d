"""SAND attached to another model: the halves of its modality vectors are aligned, or driven apart.

Paper: He et al., Boosting Multimedia Recommendation via Separate Generic and Unique Awareness, 2024
(arXiv:2406.08270), section 4.5 and table 3, where VBPR and FREEDOM are the hosts. Items' vectors in each
modality, as the host's `modality_embeddings()` gives them, have a generic first half and a unique second.
Losses and settings are those of the model SAND: the generic halves of modalities are aligned, each unique
half is driven away from its generic one, and CLUB's networks have an optimiser of their own, with steps
before those of the host. What ranks is the host.

The authors' code for this is not public. By their logs for Baby, both hosts had `align_head`, and VBPR
`align_weight` 0.1 and `temperature` 0.1; there the vectors are of maps beside the one that ranks.

Not every host ranks by these vectors. FREEDOM's are maps that its loss on features alone reads: what ranks
learns of SAND through that loss, whose weight is 0.001 at most, and can hardly be told from FREEDOM.

An item that lacks a modality takes no part in its losses, whatever vector the host gives it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from triptych.errors import ConfigError
from triptych.models.base import Group, Losses, ModelInputs, Recommender, Step, Triplets
from triptych.models.plugins.base import Plugin, PluginConfig, register_plugin, way_out
from triptych.nn.generic_unique import Parts, Separation, SeparationSettings, split_halves


class SANDPluginConfig(PluginConfig, SeparationSettings):
    """Settings of SAND as a plug-in."""


@register_plugin(
    "sand",
    SANDPluginConfig,
    paper="Separate Generic and Unique Awareness: SAND (arXiv:2406.08270)",
    year=2024,
)
class SANDPlugin(Plugin):
    """Losses on the halves of the host's modality vectors."""

    config: SANDPluginConfig

    def __init__(self, config: SANDPluginConfig, inputs: ModelInputs, host: Recommender) -> None:
        super().__init__(config, inputs, host)
        widths = {modality: rows.shape[1] for modality, rows in _vectors(host).items()}
        name = type(host).__name__
        if not widths:
            raise ConfigError(
                f"{name} with these settings gives no vectors of modalities",
                wanted="vectors to split",
                fix=way_out(host, "modality_embeddings", "Choose a model of content, such as VBPR"),
            )
        for modality, width in widths.items():
            if width % 2:
                raise ConfigError(
                    f"{name} gives vectors of {width} columns for '{modality}'",
                    wanted="an even number, to be halved",
                    fix="Set an even embedding_dim",
                )
        present = [torch.from_numpy(inputs.features[modality].present) for modality in widths]
        self.separate = Separation(config, tuple(widths), present, [width // 2 for width in widths.values()])

    def losses(self, host: Recommender, batch: Triplets) -> Losses:
        terms = self.separate.losses(self._parts(host.modality_embeddings()), batch.pos)
        return {f"sand_{name}": term for name, term in terms.items()}

    def batch_steps(self, host: Recommender, batch: Triplets) -> Iterator[Step]:
        if self.separate.clubs:
            with torch.no_grad():
                parts = self._parts(host.modality_embeddings())
            for fits in self.separate.fits(parts):
                yield Step(fits, "club")

    def optimizer_groups(self) -> dict[str, Group]:
        main, clubs = self.separate.apart(self.parameters())
        groups = {"main": Group(main)}
        return groups | {"club": Group(clubs, self.separate.club_options)} if clubs else groups

    def _parts(self, vectors: dict[str, Tensor]) -> list[Parts]:
        rows = [vectors[modality] for modality in self.separate.names]
        # Autocast may have made them in bfloat16.
        return [split_halves(part.to(torch.promote_types(part.dtype, torch.float32))) for part in rows]


def _vectors(host: Recommender) -> dict[str, Tensor]:
    """Ask the host for its modality vectors, and leave it as it was."""
    training = host.training
    host.eval()
    with torch.no_grad():
        vectors = host.modality_embeddings()
    host.train(training)
    return vectors
