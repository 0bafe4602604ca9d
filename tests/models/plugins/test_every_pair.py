"""Each plug-in on each model: it learns a batch, or is refused for what the host lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from triptych.data.split import Split
from triptych.errors import ConfigError
from triptych.models.base import ModelInputs, Recommender, Triplets
from triptych.models.plugins.base import PluggedIn, create_plugged_in, make_plugin_configs, plugins
from triptych.models.registry import create_model, make_config, models
from triptych.testing import toy_dataset

OWN = [
    [entry.name for entry in entries if entry.code.__module__.startswith("triptych.")]
    for entries in (models(), plugins())
]


@pytest.fixture(scope="module")
def inputs() -> ModelInputs:
    return ModelInputs.from_split(Split.by_ratio(toy_dataset(), rng=0))


def small_config(name: str) -> Any:
    kind = next(entry.config for entry in models() if entry.name == name)
    small = {"n_neighbors": 3} | ({"embedding_dim": 8} if kind().embedding_dim == 64 else {})
    return make_config(kind, {field: value for field, value in small.items() if field in kind.model_fields})


def reason_against(plugin: str, host: Recommender) -> str | None:
    """What the guide's table asks of a host, and this one lacks."""
    if type(host).scorer is not Recommender.scorer:
        return "a scorer of its own"
    if plugin == "sand":
        return None if host.modality_embeddings() else "gives no vectors of modalities"
    if host.id_embeddings() is None:
        return "learns no vectors of users and items"
    if host.negatives == 0:
        return "samples no items"
    return "'ksi' in it already" if type(host).__name__ == "KSI" else None


def entries_of(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


@pytest.mark.parametrize("plugin", OWN[1])
@pytest.mark.parametrize("name", OWN[0])
def test_a_pair_learns_or_is_refused_with_the_reason(name: str, plugin: str, inputs: ModelInputs):
    settings = {"sand": {"club_inner_steps": 2}, "ksi": {"n_neighbors": 3}}[plugin]
    config, attached = small_config(name), make_plugin_configs({plugin: settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reason = reason_against(plugin, create_model(config, inputs))
        if reason is not None:
            with pytest.raises(ConfigError, match=reason):
                create_plugged_in(config, attached, inputs)
            return
        model = create_plugged_in(config, attached, inputs).train()
        assert isinstance(model, PluggedIn)
        batch = Triplets(inputs.user[:8], inputs.item[:8], inputs.item[8 : 16 if model.negatives else 8])
        for step in [*model.epoch_steps(1), *model.batch_steps(batch)]:
            assert step.group in model.optimizer_groups()
            assert all(term.isfinite() for term in step.losses.values()), step.losses
            torch.stack(list(step.losses.values())).sum().backward()
    learned = {part: p.grad for part, p in model.named_parameters() if p.grad is not None}
    assert learned.keys() == dict(model.named_parameters()).keys()
    assert all(entries_of(gradient).isfinite().all() for gradient in learned.values())
    assert any(
        entries_of(gradient).any() for part, gradient in learned.items() if part.startswith("plugins.")
    )
    assert all(side.isfinite().all() for side in model.eval().embeddings())
