"""Item features as models use them: frozen matrices by modality, and their projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from triptych.data.features import ItemFeatures
from triptych.errors import ConfigError
from triptych.nn.embedding import take_rows


class FeatureBank(nn.Module):
    """The dense features of several modalities, frozen unless asked otherwise.

    Frozen features are no part of a model's state: they come from the data set, which checks them itself.

    Args:
        features: modality -> features.
        modalities: which to take, in this order.
        trainable: hold them as parameters that start from the given values. Costs four times
            their memory in training: values, gradients and two moments.
        required: refuse modalities that are given as item graphs only, instead of leaving them out.

    Raises:
        ConfigError: such a modality, where dense rows are required.
    """

    def __init__(
        self,
        features: Mapping[str, ItemFeatures],
        modalities: Sequence[str],
        *,
        trainable: bool = False,
        required: bool = True,
    ) -> None:
        super().__init__()
        self.dims: dict[str, int] = {}
        for modality in modalities:
            values = features[modality].values
            if values is None and required:
                raise ConfigError(
                    f"modality '{modality}' is given as an item graph only",
                    wanted="dense features of each modality this model uses",
                    fix="Prepare the data set with a features file, leave it out of 'modalities', "
                    "or choose FREEDOM",
                )
            if values is None:
                continue
            self.dims[modality] = values.shape[1]
            if trainable:
                self.register_parameter(_name(modality), nn.Parameter(torch.from_numpy(values.copy())))
            else:
                self.register_buffer(_name(modality), torch.from_numpy(values), persistent=False)
            present = torch.from_numpy(features[modality].present)
            self.register_buffer(_name(modality) + "_present", present, persistent=False)

    def rows(self, modality: str, items: Tensor | None = None) -> Tensor:
        """Give the raw rows of some items, or of all: (n, F); zero where an item lacks the modality."""
        values: Tensor = getattr(self, _name(modality))
        return values if items is None else take_rows(values, items)

    def present(self, modality: str, items: Tensor | None = None) -> Tensor:
        """Say which of some items, or of all, have the modality: (n,) bool."""
        present = self.get_buffer(_name(modality) + "_present")
        return present if items is None else present[items]

    def concatenated(self, items: Tensor | None = None) -> Tensor:
        """Give the raw rows of all modalities side by side: (n, sum of F)."""
        return torch.cat([self.rows(modality, items) for modality in self.dims], dim=1)


class Projector(nn.Module):
    """A linear map per modality from its raw features to a common width.

    Args:
        dims: modality -> F.
        dim: D.
    """

    def __init__(self, dims: Mapping[str, int], dim: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict(
            {_name(modality): nn.Linear(width, dim) for modality, width in dims.items()}
        )

    def forward(self, modality: str, rows: Tensor) -> Tensor:
        """Project raw rows: (n, F) -> (n, D)."""
        projected: Tensor = self.maps[_name(modality)](rows)
        return projected


def _name(modality: str) -> str:
    # A modality may be called what a method of a module is called, such as "forward".
    return "of_" + modality
