"""Models stay on the device they are on: shown on a pretended one, as a GPU is not always at hand."""

from __future__ import annotations

import pytest
import torch
from pretended import DeviceMismatchError, Pretended, pretended_device

import triptych.graph.weighted as weighted
from triptych.data.split import Split
from triptych.experiments.plans import shipped_ablation
from triptych.models.base import ModelInputs, Triplets
from triptych.models.plugins.base import create_plugged_in, make_plugin_configs, plugin_entry
from triptych.models.registry import make_config, model_entry, models
from triptych.testing import toy_dataset
from triptych.training.config import TrainConfig
from triptych.training.sampler import TripletSampler

SMALL = {"embedding_dim": 4, "n_neighbors": 3, "club_inner_steps": 2, "feature_training": "frozen"}
"""Features that learn by row have sparse gradients, which the pretended device does not know."""


def ablations() -> list[tuple[str, dict]]:
    """List models with the variants that come with them."""
    found = []
    for entry in models():
        for settings in shipped_ablation(entry.name).variants.values():
            of_model = {key: value for key, value in settings.items() if key not in TrainConfig.model_fields}
            if not of_model.get("train_features"):
                found.append((entry.name, of_model))
    return found


def dots(ctx, rows, cols, graph):
    """What torch's sampled product gives, whose sparse tensor the pretended device does not know."""
    ctx.graph = graph
    ctx.save_for_backward(rows, cols)
    row, col, _ = graph.edges()
    return (rows[row] * cols[col]).sum(dim=1)


def train_an_epoch(monkeypatch: pytest.MonkeyPatch, name: str, settings: dict, plugged: dict) -> None:
    torch.manual_seed(0)
    kind = model_entry(name).config
    small = {field: value for field, value in SMALL.items() if field in kind.model_fields}
    if model_entry(name).model.schedule == "once":
        small.pop("embedding_dim")  # which is fixed
    inputs = ModelInputs.from_split(Split.by_ratio(toy_dataset(), rng=0))
    monkeypatch.setattr(weighted._EdgeDots, "forward", staticmethod(dots))
    with pretended_device(monkeypatch) as device:
        config = make_config(kind, small | settings)
        model = create_plugged_in(config, make_plugin_configs(plugged), inputs).to(device).train()
        sampler = TripletSampler(
            inputs.user, inputs.item, inputs.n_users, inputs.n_items, batch_size=16, negatives=model.negatives
        )
        steps = [model.epoch_steps(1)]
        if type(model).schedule == "batches":
            batches = [Triplets(*(part.to(device) for part in batch)) for batch in sampler.epoch()]
            steps += [model.batch_steps(batch) for batch in batches]
        for stream in steps:
            for step in stream:
                torch.stack(list(step.losses.values())).sum().backward()
        for where, tensor in model.state_dict().items():
            assert isinstance(tensor, Pretended), where
        for where, parameter in model.named_parameters():
            assert parameter.grad is None or isinstance(parameter.grad, Pretended), where
        model.scorer()


@pytest.mark.parametrize("name", [entry.name for entry in models()])
def test_models_stay_on_their_device(monkeypatch: pytest.MonkeyPatch, name: str):
    train_an_epoch(monkeypatch, name, {}, {})


@pytest.mark.long
@pytest.mark.parametrize(("name", "settings"), ablations(), ids=str)
def test_variants_stay_on_their_device(monkeypatch: pytest.MonkeyPatch, name: str, settings: dict):
    train_an_epoch(monkeypatch, name, settings, {})


@pytest.mark.parametrize(
    ("plugin", "name"), [("ksi", "ngcf"), ("ksi", "lattice"), ("sand", "vbpr"), ("sand", "micro")]
)
def test_plug_ins_stay_on_the_device_of_their_host(monkeypatch: pytest.MonkeyPatch, plugin: str, name: str):
    own = plugin_entry(plugin).config.model_fields
    small = {field: value for field, value in SMALL.items() if field in own}
    train_an_epoch(monkeypatch, name, {}, {plugin: small})


def test_the_pretended_device_refuses_what_a_gpu_refuses(monkeypatch: pytest.MonkeyPatch):
    with pretended_device(monkeypatch) as device:
        here, there = torch.ones(3, 3), torch.ones(3, 3).to(device)
        with pytest.raises(DeviceMismatchError):
            here @ there
        with pytest.raises(DeviceMismatchError):
            there + here
        with pytest.raises(DeviceMismatchError):
            here[torch.tensor([0]).to(device)]
        assert (there + 1).sum().item() == 18
        assert there[torch.tensor([0])].tolist() == [[1.0, 1.0, 1.0]]
        assert torch.equal((there @ here.to(device)).cpu(), here @ here)
