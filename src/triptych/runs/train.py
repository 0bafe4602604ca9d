"""From a split to a run: model, sampler, loop, evaluator and record, put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from triptych.data.split import Split
from triptych.device import free_memory, resolve_device
from triptych.errors import ConfigError, ModelError, StorageError, kind_of
from triptych.evaluation.ranking import Masked, check_lengths, check_metric, evaluate_ranking, masked_in
from triptych.files import check_room, home_in, only_process
from triptych.memory import limited_to, require_memory, restart_peak
from triptych.models.base import ModelConfig, ModelInputs, Recommender
from triptych.models.plugins.base import PluginConfig, create_plugged_in, make_plugin_configs, named_once
from triptych.models.registry import make_config, model_entry, model_entry_of
from triptych.runs.record import RunRecord, current_versions
from triptych.runs.run import Run, open_test
from triptych.training.config import TrainConfig
from triptych.training.observer import Observer
from triptych.training.sampler import TripletSampler
from triptych.training.trainer import Trainer, isolated_rng


def train(
    model: str | ModelConfig,
    split: Split,
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    plugins: Mapping[str, Mapping[str, Any] | PluginConfig] | None = None,
    config: TrainConfig | None = None,
    device: str = "auto",
    k: int | Sequence[int] = (10, 20),
    masked: Masked = "train",
    graph_cache: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int = 10,
    resume: bool = False,
    memory_limit: int | None = None,
    observer: Observer | None = None,
) -> Run:
    """Train a model on a split, choosing the epoch on its validation part, and measure it once on test.

    What trains and chooses gets the split without its test pairs; these are opened when all is chosen.
    Given a split that has none, the run stays unmeasured, and `open_test` measures it later. On a CPU with
    the same number of threads, the same arguments give the same weights, byte by byte.

    Args:
        model: a registry name, perhaps with plug-ins ("freedom+ksi"), or the settings object of a model.
        split: what to learn, to choose by, and to measure.
        seed: of first weights, batches and all else that is drawn.
        settings: fields of the model's settings, if `model` is a name.
        plugins: what is attached to the model, in the order in which it acts: name -> fields of its
            settings, or the settings object.
        config: how to train.
        device: "auto", "cpu", "cuda", "cuda:N".
        k: list lengths of the figures.
        masked: whose items are no candidates at test time.
        graph_cache: folder that keeps item neighbours between processes.
        checkpoint_dir: where to save on the way; it stays there, to be removed once the run is saved. Ctrl-C
            and SIGTERM are then heard when the epoch is saved; see `Trainer.run`.
        checkpoint_every: epochs between saves.
        resume: go on from the checkpoint in `checkpoint_dir`.
        memory_limit: bytes that this process may take in all; by default what the machine, the control group
            and TRIPTYCH_MEMORY_LIMIT leave. On a GPU, its free memory counts.
        observer: is told of progress.

    Raises:
        ConfigError: a name, a setting or a combination cannot work, or needs more memory than is free.
        TrainingError: a loss is NaN or infinite.
        ModelError: the model's code does not keep to its contract.
        StorageError: the checkpoint to resume from is missing, damaged, or of another experiment; another
            process trains with that folder; or the disk has no room for the checkpoints and the run.
    """
    if checkpoint_every < 1:
        raise ConfigError(
            f"checkpoint_every = {checkpoint_every}",
            wanted="a number of epochs, at least 1",
            fix="Leave checkpoint_dir out to save nothing on the way",
        )
    if not isinstance(split, Split):
        raise ConfigError(
            f"training on {kind_of(split)}",
            wanted="a Split",
            fix="Split the data set first, for example Split.by_ratio(dataset)",
        )
    if of_loop := sorted((settings or {}).keys() & TrainConfig.model_fields.keys()):
        raise ConfigError(
            f"settings holds '{of_loop[0]}', a setting of the training loop",
            wanted="settings of the model",
            fix=f"Give config=TrainConfig({of_loop[0]}=...)",
        )
    checkpoint_dir, graph_cache = (
        None if folder is None else home_in(folder) for folder in (checkpoint_dir, graph_cache)
    )
    seed = index(seed)
    if isinstance(model, str):
        model, *attached = model.split("+")
        plugins = {name: {} for name in named_once(attached)} | dict(plugins or {})
        model_config = make_config(model_entry(model).config, settings or {})
    elif settings:
        raise ConfigError(
            f"settings beside {type(model).__name__}, which holds them",
            wanted="one of them",
            fix="Give the model's name with settings, or the settings object alone",
        )
    else:
        model_config = model
    plugin_configs = make_plugin_configs(plugins or {})
    entry, config, where = model_entry_of(model_config), config or TrainConfig(), resolve_device(device)
    if plugin_configs and entry.model.schedule != "batches":
        raise ConfigError(
            f"the plug-in '{next(iter(plugin_configs))}' on '{entry.name}', which learns from no batches",
            wanted="a model that learns by gradient",
            fix="Leave the plug-in out, or choose another model",
        )
    asked = [k] if isinstance(k, int) else k
    lengths = check_lengths([*asked, check_metric(config.metric, split.n_items)], split.n_items)
    masked_in("test", masked)
    restart_peak()  # what this process did before is not this training's
    whole, split = split, split.without_test()
    inputs = ModelInputs.from_split(split, graph_cache)
    identity = {"model": entry.name, "model settings": model_config.model_dump(mode="json"),
                "plug-ins": _dump(plugin_configs), "training settings": config.model_dump(mode="json"),
                "seed": seed, "data or split": split.content_hash, "device": where.type}  # fmt: skip
    alone = only_process(checkpoint_dir, "training") if checkpoint_dir else nullcontext()
    with limited_to(memory_limit), alone, isolated_rng(seed, where):
        network = create_plugged_in(model_config, plugin_configs, inputs).to(where)
        sampler = TripletSampler(
            inputs.user, inputs.item, inputs.n_users, inputs.n_items,
            batch_size=config.batch_size, negatives=network.negatives, mode=config.sampler, seed=seed,
        )  # fmt: skip
        trainer = Trainer(
            network,
            sampler,
            lambda scorer: evaluate_ranking(scorer, split, "valid", lengths).mean(),
            config,
            device=where,
            checkpoint_dir=checkpoint_dir,
            checkpoint_every=checkpoint_every,
            identity=identity,
            observer=observer,
        )
        require_memory(
            trainer.memory_needed(),
            free_memory(where),
            f"training {entry.name}",
            fix="Train where there is more, or with a smaller embedding_dim or fewer modalities",
        )
        if checkpoint_dir is not None:  # the old checkpoint, the new one, and the run
            check_room(checkpoint_dir, 3 * trainer.state_bytes())
        if resume:
            trainer.restore(_required(checkpoint_dir))
        result = trainer.run()
        scorer = network.scorer()
    valid = result.history[result.best_epoch - 1].valid or {}
    if result.best_epoch < len(result.history):
        again = evaluate_ranking(scorer, split, "valid", lengths).mean()[config.metric]
        _check_restored(network, config.metric, valid[config.metric], again)
    evaluated = [epoch for epoch in result.history if epoch.valid is not None]
    record = RunRecord(
        model=entry.name,
        model_settings=model_config.model_dump(mode="json"),
        plugins=_dump(plugin_configs),
        train_settings=config.model_dump(mode="json"),
        seed=seed,
        device=str(where),
        versions=current_versions(),
        data=split.data.name,
        data_hash=split.data.content_hash,
        split_hash=split.content_hash,
        split=dict(split.protocol),
        best_epoch=result.best_epoch,
        history=result.history,
        valid=valid,
        test={},
        protocol={},
        seconds_per_epoch=float(np.median([epoch.train_seconds for epoch in result.history])),
        seconds_per_evaluation=float(np.median([epoch.eval_seconds for epoch in evaluated])),
        peak_memory_bytes=result.peak_memory_bytes,
        n_parameters=sum(weights.numel() for weights in network.parameters() if weights.requires_grad),
    )
    weights = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    run = Run(record, scorer, split, weights)
    return open_test(run, whole, lengths, masked=masked) if len(whole.test) else run


def _check_restored(network: Recommender, metric: str, measured: float, again: float) -> None:
    """Refuse a model whose best weights do not bring back what was measured with them.

    On one machine figures are the same to the digit; GPUs add up in any order, which may change a few ranks.
    """
    if not math.isclose(measured, again, rel_tol=0.01, abs_tol=1e-4):
        raise ModelError(
            f"{type(network).__qualname__} had {metric} {measured:.4f} at its best, and has {again:.4f} with "
            "the weights of then",
            wanted="all that embeddings() reads in the model's state",
            fix="Hold it by register_graph(), register_buffer() or as a Parameter",
        )


def _dump(configs: Mapping[str, PluginConfig]) -> dict[str, dict[str, Any]]:
    return {name: config.model_dump(mode="json") for name, config in configs.items()}


def _required(checkpoint_dir: Path | None) -> Path:
    if checkpoint_dir is None:
        raise StorageError(
            "there is no folder to resume from", wanted="a checkpoint_dir", fix="Give checkpoint_dir"
        )
    return checkpoint_dir
