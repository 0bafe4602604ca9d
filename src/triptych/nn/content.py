"""Item features as models use them: frozen matrices by modality, and their projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.data.features import ItemFeatures
from triptych.errors import ConfigError
from triptych.nn.embedding import take_rows

FeatureTraining = Literal["frozen", "rows", "all"]


class FeatureBank(nn.Module):
    """The dense features of several modalities, frozen unless asked otherwise.

    Frozen features are no part of a model's state: they come from the data set, which checks them itself.

    Args:
        features: modality -> features.
        modalities: which to take, in this order.
        training: "frozen"; "all", parameters that start from the given values, which costs four times
            their memory: values, gradients and two moments; or "rows", where a step moves only the
            rows it read, so that it costs what its batch does: `rows` is to be told which items, and
            `by_row` goes into the model's `Group`.
        required: refuse modalities that are given as item graphs only, instead of leaving them out.

    Raises:
        ConfigError: such a modality, where dense rows are required.
    """

    def __init__(
        self,
        features: Mapping[str, ItemFeatures],
        modalities: Sequence[str],
        *,
        training: FeatureTraining = "frozen",
        required: bool = True,
    ) -> None:
        super().__init__()
        self.feature_training = training
        self.dims: dict[str, int] = {}
        self._rounded: dict[str, Tensor] = {}
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
            if training == "frozen":
                self.register_buffer(_name(modality), torch.from_numpy(values), persistent=False)
            else:
                self.register_parameter(_name(modality), nn.Parameter(torch.from_numpy(values.copy())))
            present = torch.from_numpy(features[modality].present)
            self.register_buffer(_name(modality) + "_present", present, persistent=False)

    @property
    def by_row(self) -> list[nn.Parameter]:
        """The features that learn row by row, for `Group.by_row`."""
        return list(self.parameters()) if self.feature_training == "rows" else []

    def rows(self, modality: str, items: Tensor | None = None) -> Tensor:
        """Give the raw rows of some items, or of all: (n, F); zero where an item lacks the modality.

        Where features learn row by row, they do so by what is asked for by item alone. Under autocast frozen
        rows come in its number format.
        """
        values = self._values(modality)
        if items is None:
            return values.detach() if self.feature_training == "rows" else values
        if self.feature_training == "rows":
            return F.embedding(items, values, sparse=True)
        return take_rows(values, items)

    def _values(self, modality: str) -> Tensor:
        values: Tensor = getattr(self, _name(modality))
        device = values.device.type
        if self.feature_training != "frozen" or not torch.is_autocast_enabled(device):
            return values
        # Autocast would make this copy anew for each product, which takes longer than the product.
        copy = self._rounded.get(modality)
        if copy is None or copy.device != values.device or copy.dtype != torch.get_autocast_dtype(device):
            copy = self._rounded[modality] = values.to(torch.get_autocast_dtype(device))
        return copy

    def present(self, modality: str, items: Tensor | None = None) -> Tensor:
        """Say which of some items, or of all, have the modality: (n,) bool."""
        present = self.get_buffer(_name(modality) + "_present")
        return present if items is None else present[items]


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
