"""A model trained for a few batches in a process of its own: set-up, epoch, evaluation, memory, products.

An epoch is what it begins with, plus its first batch, plus the median of the next ones times their number:
all from the sampler to the optimiser's step. Of a closed form it is the solution, of one that sweeps over all
pairs a sweep. An evaluation is from the weights to the metrics of one part of the split, all items ranked.

Products are those of one more epoch under the profiler, put together from its beginning, its first batch and
two more; see `benchmarks.profiling`. What an epoch would take if it were nothing but these is the limit that
it is held against.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.data import SEED
from benchmarks.machine import resident_bytes
from benchmarks.options import Options
from benchmarks.process import REFUSED, UNLIMITED, Most, NotMeasured, in_process, take_turns
from benchmarks.profiling import PRODUCTS, PRODUCTS_DEFINITION, MarkedSampler, Profiled
from benchmarks.report import Case
from benchmarks.timing import Lap, Stopwatch, Timed, Timing, epoch_of, ratio, typical
from triptych.data.dataset import Dataset
from triptych.data.split import Split
from triptych.device import resolve_device
from triptych.errors import TriptychError
from triptych.evaluation.ranking import evaluate_ranking
from triptych.memory import keep_freed_memory
from triptych.models.base import ModelInputs, Triplets
from triptych.models.plugins.base import create_plugged_in
from triptych.training.recipe import Configs, find_recipe
from triptych.training.trainer import LossLog, Trainer, isolated_rng

EPOCH, LIMIT = "epoch", "products alone"
FORMS = ("set-up", EPOCH, "evaluation", LIMIT, "epoch start", "first batch", "later batch")
BUILT, PEAK, NOT_MEASURED = "memory before the data, MB", "peak memory of the process, MB", "not measured"
SHARE = "share that is no product"
_PROFILED = 2
_SCHEDULES = {
    "batches": "{batches:,} batches of {batch size:,}, of which {measured:,} were measured",
    "sweeps": "a sweep over all pairs",
    "once": "the solution",
}


@dataclass(frozen=True)
class Job:
    """What to measure.

    Args:
        recipe: a model, or a recipe.
        settings: beside the recipe's.
        batches: measured after the first.
        parts: of the split, to be evaluated; none for no evaluation.
        lengths: of the lists then.
        profiled: whether to tell products from all else.
        device: "cpu" or a CUDA device.
        cache: folder where neighbours of raw features are kept; None for finding them as part of the set-up.
    """

    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    batches: int = 6
    parts: Sequence[Any] = ("valid",)
    lengths: Sequence[int] = (10, 20)
    profiled: bool = False
    device: str = "cpu"
    cache: str | None = None


class Trial:
    """A model, ready to be trained a little.

    Args:
        job: what is to be measured.
        configs: the settings of its recipe.
        split: with its test part, which training does not see.
    """

    def __init__(self, job: Job, configs: Configs, split: Split) -> None:
        self.device = resolve_device(job.device)
        self.configs, training = configs, configs.training
        cache = None if job.cache is None else Path(job.cache)
        inputs = ModelInputs.from_split(split.without_test(), cache)
        self.model = create_plugged_in(configs.model, configs.plugins, inputs).to(self.device)
        self.sampler = MarkedSampler(
            inputs.user, inputs.item, inputs.n_users, inputs.n_items,
            batch_size=training.batch_size, negatives=self.model.negatives, mode=training.sampler, seed=SEED,
        )  # fmt: skip
        self.n_batches = self.sampler.n_batches if self.model.schedule == "batches" else 0
        self._trainer = Trainer(self.model, self.sampler, lambda _: {}, training, device=self.device)

    def begin(self, epoch: int) -> None:
        """Do what an epoch begins with."""
        self.model.train()
        self._trainer._drive(self.model.epoch_steps(epoch), LossLog())

    def step(self, batch: Triplets) -> None:
        """Train on a batch."""
        moved = Triplets(*(part.to(self.device, non_blocking=True) for part in batch))
        self._trainer._drive(self.model.batch_steps(moved), LossLog())

    def time_epoch(self, n: int) -> tuple[dict[str, Lap], int]:
        """Time the first epoch by `n` of its batches at most; say how many there were."""
        watch = Stopwatch(self.device.type)
        self.begin(1)
        start = watch.lap()
        timed = Timed(self.sampler.epoch(), min(self.n_batches, n), self.device.type)
        for batch in timed:
            self.step(batch)
        laps = {EPOCH: epoch_of(start, timed.laps, self.n_batches), "epoch start": start}
        if timed.laps:
            laps |= {"first batch": timed.laps[0], "later batch": typical(timed.laps[1:] or timed.laps)}
        return laps, len(timed.laps)

    def profile_epoch(self) -> tuple[Lap, dict[str, float]]:
        """Profile the second epoch by a few of its batches: seconds of products, and shares of all places.

        Of the CPU seconds of a piece products have as large a part as of its wall seconds.
        """
        start, first, later = (Profiled(self.configs.model.embedding_dim) for _ in range(3))
        pieces = [(start, 1.0)]
        with start:
            self.begin(2)
        n = min(self.n_batches, 1 + _PROFILED)
        batches = islice(self.sampler.epoch(), n)
        if n > 0:
            with first:
                self.step(next(batches))
            pieces.append((first, 1.0))
        if n > 1:
            with later:
                for batch in batches:
                    self.step(batch)
            pieces.append((later, (self.n_batches - 1) / (n - 1)))
        products, seconds = Lap(0.0, 0.0), defaultdict[str, float](float)
        for piece, times in pieces:
            places = piece.seconds()
            products += piece.lap * (times * sum(places[place] for place in PRODUCTS) / piece.lap.wall)
            for place, spent in places.items():
                seconds[place] += times * spent
        whole = sum(seconds.values())
        return products, {place: spent / whole for place, spent in seconds.items()}


def measure(job: Job, folder: Path) -> dict[str, Any]:
    """Measure in this process, with the labelled data set that is kept in a folder."""
    configs = find_recipe(job.recipe).with_settings(job.settings).configs()  # which imports much, once
    libraries = resident_bytes()
    split = Split.by_label(Dataset.load(folder))
    device = resolve_device(job.device)
    shares: dict[str, float] = {}
    with isolated_rng(SEED, device):
        watch = Stopwatch(device.type)
        trial = Trial(job, configs, split)
        laps = {"set-up": watch.lap()}
        epoch, measured = trial.time_epoch(1 + job.batches)
        laps |= epoch
        if job.parts:
            watch.lap()
            scorer = trial.model.scorer()
            for part in job.parts:
                evaluate_ranking(scorer, split, part, job.lengths)
            laps["evaluation"] = watch.lap()
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident_bytes("VmHWM")
        if job.profiled and device.type == "cpu":
            laps[LIMIT], shares = trial.profile_epoch()
    return {
        "laps": laps,
        "shares": shares,
        "batches": trial.n_batches,
        "measured": measured,
        "settings": configs.model.model_dump(mode="json"),
        "batch size": configs.training.batch_size,
        "schedule": trial.model.schedule,
        "libraries": libraries,
        "peak": peak,
    }


def jobs_in_turns(
    jobs: Mapping[str, Job], folder: Path, options: Options
) -> dict[str, list[dict[str, Any]] | NotMeasured]:
    """Measure each job in a process of its own, round after round; one that fails is not tried again."""
    failed: dict[str, NotMeasured] = {}

    def once(name: str, job: Job) -> dict[str, Any] | None:
        if name in failed:
            return None
        found = in_own_process(job, folder, threads=options.threads, most=options.most)
        if isinstance(found, NotMeasured):
            failed[name] = found
            return None
        return found

    found = take_turns({name: partial(once, name, job) for name, job in jobs.items()}, options.rounds)
    return {
        name: failed[name] if name in failed else [each for each in rounds if each is not None]
        for name, rounds in found.items()
    }


def in_own_process(
    job: Job, folder: Path, *, threads: int, most: Most = UNLIMITED
) -> dict[str, Any] | NotMeasured:
    """Measure one job, once."""
    return in_process(
        "benchmarks.training", json.dumps(asdict(job)), str(folder.resolve()), threads=threads, most=most
    )


def case_of(
    benchmark: str,
    size: str,
    found: Sequence[Mapping[str, Any]] | NotMeasured,
    facts: Mapping[str, Any],
) -> Case:
    """Put the rounds of one job together."""
    if isinstance(found, NotMeasured):
        return Case(benchmark, size, {**facts, NOT_MEASURED: found.reason, "crashed": found.crashed})
    one = found[0]
    timings = {
        form: Timing(
            1, *(list(seconds) for seconds in zip(*(each["laps"][form] for each in found), strict=True))
        )
        for form in FORMS
        if form in one["laps"]
    }
    facts = {
        **facts,
        "settings": one["settings"],
        "an epoch is": _SCHEDULES[one["schedule"]].format(**one),
        "rounds": len(found),
        BUILT: median(each["libraries"] for each in found) / 1e6,
        PEAK: median(each["peak"] for each in found) / 1e6,
    }
    ratios = []
    if LIMIT in timings:
        shares = {place: median(each["shares"].get(place, 0.0) for each in found) for place in one["shares"]}
        facts |= {
            "share of a profiled epoch": shares,
            # Of the epoch as it was timed: the profiler slows down what is no product far more.
            SHARE: max(0.0, 1 - timings[LIMIT].cpu_median / timings[EPOCH].cpu_median),
            "definition": PRODUCTS_DEFINITION,
        }
        if min(timings[LIMIT].cpu) > 0:
            ratios.append(ratio(timings, EPOCH, LIMIT))
    return Case(benchmark, size, facts, timings, ratios)


def main() -> None:
    """Measure the job of the command line, and print what was found as one line of JSON."""
    keep_freed_memory()  # as the `triptych` command does
    job, folder = Job(**json.loads(sys.argv[1])), Path(sys.argv[2])
    try:
        found = measure(job, folder)
    except TriptychError as error:
        found = {REFUSED: str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
