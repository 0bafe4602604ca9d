"""Encoders of pictures: a descriptor without weights, and the vision models of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from triptych.data.content import ContentError
from triptych.data.descriptors import describe_picture
from triptych.data.features import Matrix
from triptych.data.pictures import on_white, open_picture
from triptych.encode.encoder import Encoder, EncoderSpec, Options, require, versions
from triptych.encode.models import Backbone, ModelFolder, find_model, loading, model_spec

if TYPE_CHECKING:
    import torch

MAX_ASPECT = 100  # models bring the short side to some hundred pixels, and the long side grows with it


class Descriptor(Encoder[Matrix]):
    """Colours and edges by place; see `describe_picture`.

    Args:
        options: the batch size.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(
            EncoderSpec("descriptor", versions("triptych", "pillow", "numpy"), {}), options.batch_size
        )

    def load(self, data: bytes) -> Matrix:
        """Describe the picture at once, which is smaller than the picture -> (F,)."""
        return describe_picture(open_picture(data))

    def encode(self, batch: Sequence[Matrix]) -> Matrix:
        """Stack n descriptions -> (n, F) float32."""
        return np.stack(batch)


class PictureModel(Encoder["dict[str, torch.Tensor]"]):
    """A vision model of transformers: CLIP, SigLIP, ViT, DINOv2, ResNet and others.

    A row is the vector that models of pictures and texts have in common, else the model's own pooled
    vector, else the mean over all places. Transparent parts of pictures count as white.

    Args:
        folder: of the model, with its image processor's settings.
        options: where and how to compute.

    Raises:
        ConfigError: an extra, the device or the model is missing.
    """

    def __init__(self, folder: ModelFolder, options: Options) -> None:
        from transformers import AutoImageProcessor

        self._model = Backbone(folder, options, "get_image_features")
        with loading(folder):
            self._processor = AutoImageProcessor.from_pretrained(
                folder.path, backend="pil", local_files_only=True, trust_remote_code=False
            )
        # Earlier versions pooled otherwise; rows that they kept are not taken for these.
        pooling = {} if self._model.has_pooler else {"pooling": "places"}
        super().__init__(model_spec(folder, "transformers", self._model.dtype, **pooling), options.batch_size)

    def load(self, data: bytes) -> dict[str, torch.Tensor]:
        """Bring the picture to the size and colours the model wants."""
        picture = on_white(open_picture(data))
        if max(picture.size) > MAX_ASPECT * min(picture.size):
            raise ContentError(
                f"the picture has {picture.width:,} × {picture.height:,} pixels",
                wanted=f"one at most {MAX_ASPECT} times as long as wide",
                fix="Replace it, or leave it out",
                reason="too narrow",
            )
        return dict(self._processor(images=picture, return_tensors="pt"))

    def encode(self, batch: Sequence[dict[str, torch.Tensor]]) -> Matrix:
        """Encode n pictures -> (n, F) float32, those of one size together: some processors keep sizes."""
        by_size: dict[tuple[torch.Size, ...], list[int]] = {}
        for place, part in enumerate(batch):
            by_size.setdefault(tuple(tensor.shape for tensor in part.values()), []).append(place)
        parts = [self._encode_alike([batch[place] for place in places]) for places in by_size.values()]
        return np.concatenate(parts)[np.argsort([place for places in by_size.values() for place in places])]

    def _encode_alike(self, batch: Sequence[dict[str, torch.Tensor]]) -> Matrix:
        import torch

        output = self._model({name: torch.cat([part[name] for part in batch]) for name in batch[0]})
        pooled = output.get("pooler_output") if self._model.has_pooler else None
        if pooled is None:
            states = output["last_hidden_state"]  # (n, places, F), or maps (n, F, height, width)
            pooled = states.mean(dim=1) if states.ndim == 3 else states.flatten(2).mean(dim=2)
        rows: Matrix = pooled.flatten(1).float().cpu().numpy()
        return rows


def picture_model(name: str, options: Options) -> PictureModel:
    """Make an encoder of a model's folder, or of its name on the hub."""
    require("vision", "transformers")
    return PictureModel(find_model(name), options)
