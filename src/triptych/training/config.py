"""How to train, whatever the model."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from triptych.evaluation.metrics import parse_metric


class TrainConfig(BaseModel):
    """Settings of the training loop; the defaults are MMRec's, with which most figures were published.

    What belongs to the machine (device, threads, how often to save) is no setting: it does not name
    the experiment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    epochs: int = Field(1000, gt=0)
    """At most this many passes over the training pairs."""
    batch_size: int = Field(2048, gt=0)
    """Training pairs per step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Adam's step size."""
    lr_decay: float = Field(1.0, gt=0, le=1)
    """The step size is multiplied by this factor every 50 epochs, smoothly: lr * lr_decay^(epoch / 50)."""
    metric: str = "recall@20"
    """What is watched on the validation part."""
    metric_decimals: int | None = Field(None, ge=1)
    """Round it to so many places before it is compared; MMRec has 4. None compares it as it is."""
    patience: int = Field(20, ge=0)
    """Training stops once more than this many evaluations in a row were no better than the best."""
    eval_every: int = Field(1, gt=0)
    """Epochs between evaluations."""
    sampler: Literal["pairs", "users"] = "pairs"
    """"pairs" visits every training pair once an epoch; "users" draws users first, as LATTICE does."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """"bf16" runs dense products in bfloat16 (autocast); embeddings and sums stay in float32."""
    zero_missing_grads: bool = False
    """Let Adam also move parameters that got no gradient in a step, as torch before 2.0 did."""

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, metric: str) -> str:
        parse_metric(metric)
        return metric
