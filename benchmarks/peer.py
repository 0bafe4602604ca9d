"""Epochs, evaluation, set-up and memory of the models that enoche/MMRec has too, its own code beside ours.

    git clone https://github.com/enoche/MMRec PEER     # its needs: pandas, pyyaml, torch_geometric, tqdm
    python -m benchmarks.peer PEER                      # on Baby's interactions
    python -m benchmarks.peer PEER lightgcn mgcn --size sports --rounds 3 --json FILE

Each measurement is a process of its own, theirs and ours in turns. Both get the same split and the same
generated features (4,096 columns for images, 384 for texts, the sizes of the real ones), batches of 2,048,
vectors of 64, the settings below; ours once more with `precision` bf16, which MMRec does not have. An epoch
is what it begins with, plus its first batch, plus the median of the next ones times their number: all from
the sampler to the optimiser's step. Evaluation ranks all items for validation and test once each.

MMRec as published does not run on current libraries: calls that numpy and scipy have dropped, and
`.cuda()`, are put back while it is loaded; what it computes stays as it is. Where raw features learn, a row
with `frozen` beside it holds them still in both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.process import NotMeasured, in_process
from benchmarks.timing import Stopwatch, Timed, epoch_of

BATCH_SIZE, DIM = 2_048, 64
LENGTHS = [5, 10, 20, 50]
SIDES = ("theirs", "ours", "bf16")
WHATS, IN_BF16 = ("epoch", "evaluation", "setup", "peak"), ("epoch", "peak")
LATER = 6
"""Batches that are measured after the first."""


@dataclass(frozen=True)
class Pair:
    """One model in both toolboxes.

    Args:
        peer: its name there.
        ours: its name here.
        peer_settings: what is set there.
        our_settings: what is set here, so that both do the same work.
        frozen: hold the peer's feature tables still.
    """

    peer: str
    ours: str
    peer_settings: Mapping[str, Any] = field(default_factory=dict)
    our_settings: Mapping[str, Any] = field(default_factory=dict)
    frozen: bool = False


_FREEDOM = {"dropout": 0.8, "reg_weight": 1e-3}
_BM3 = {"n_layers": 1, "dropout": 0.3, "reg_weight": 0.1}
PAIRS = {
    "mf-bpr": Pair("BPR", "mf-bpr", {"reg_weight": 0.1}, {"reg_weight": 0.1}),
    "lightgcn": Pair("LightGCN", "lightgcn", {"n_layers": 2, "reg_weight": 1e-4}, {"n_layers": 2}),
    "layergcn": Pair(
        "LayerGCN",
        "layergcn",
        {"n_layers": 4, "dropout": 0.1, "reg_weight": 1e-3},
        {"n_layers": 4, "edge_dropout": 0.1},
    ),
    "vbpr": Pair("VBPR", "vbpr", {"reg_weight": 1.0}),
    "bm3": Pair("BM3", "bm3", _BM3, {"n_layers": 1, "dropout": 0.3}),
    "bm3 frozen": Pair(
        "BM3", "bm3", _BM3, {"n_layers": 1, "dropout": 0.3, "feature_training": "frozen"}, frozen=True
    ),
    "freedom": Pair("FREEDOM", "freedom", _FREEDOM, {"feature_loss_weight": 1e-3, "train_features": True}),
    "freedom frozen": Pair("FREEDOM", "freedom", _FREEDOM, {"feature_loss_weight": 1e-3}, frozen=True),
    "slmrec": Pair(
        "SLMRec",
        "slmrec",
        {"learning_rate": 1e-3, "ssl_temp": 0.2, "ssl_alpha": 0.1, "reg": 1e-4},
        {"n_layers": 3},
    ),
    "mgcn": Pair("MGCN", "mgcn", {"cl_loss": 0.01}, {"contrast_weight": 0.01}),
    "mgcn frozen": Pair(
        "MGCN",
        "mgcn",
        {"cl_loss": 0.01},
        {"contrast_weight": 0.01, "feature_training": "frozen"},
        frozen=True,
    ),
    "lattice": Pair("LATTICE", "lattice", {"learning_rate": 5e-4, "reg_weight": 1e-5}),
    "lgmrec": Pair(
        "LGMRec",
        "lgmrec",
        {"n_ui_layers": 2, "n_mm_layers": 2, "n_hyper_layer": 1, "hyper_num": 4, "keep_rate": 0.5}
        | {"alpha": 0.3, "cl_weight": 1e-4, "reg_weight": 1e-6},
    ),
    "dualgnn": Pair(
        "DualGNN", "dualgnn", {"aggr_mode": "add", "reg_weight": 0.1, "learning_rate": 1e-4}
    ),
    "grcn": Pair("GRCN", "grcn", {"reg_weight": 1e-2, "learning_rate": 1e-3}),
    "mmgcn": Pair("MMGCN", "mmgcn", {"reg_weight": 1e-3, "learning_rate": 1e-3}),
}  # fmt: skip


def measure_ours(pair: Pair, folder: Path, precision: str) -> dict[str, float]:
    """Train the first batches of an epoch here, and evaluate."""
    from benchmarks.training import EPOCH, Job, measure

    settings = {"embedding_dim": DIM, "batch_size": BATCH_SIZE, "precision": precision, **pair.our_settings}
    job = Job(pair.ours, settings, batches=LATER, parts=("valid", "test"), lengths=LENGTHS)
    laps = measure(job, folder / "ours")["laps"]
    return {"setup": laps["set-up"].cpu, "epoch": laps[EPOCH].cpu, "evaluation": laps["evaluation"].cpu}


def measure_peer(pair: Pair, folder: Path, peer: Path) -> dict[str, float]:
    """Train the first batches of an epoch with MMRec's loop, and evaluate as it does."""
    import logging

    import torch

    _put_back_what_is_gone()
    os.chdir(peer / "src")
    sys.path.insert(0, str(peer / "src"))
    import common.abstract_recommender  # type: ignore[import-not-found]

    # Where one of its models looks for it.
    sys.modules["models.common.abstract_recommender"] = sys.modules["common.abstract_recommender"]
    sys.modules["models.common"] = common
    from utils.configurator import Config  # type: ignore[import-not-found]
    from utils.dataloader import EvalDataLoader, TrainDataLoader  # type: ignore[import-not-found]
    from utils.dataset import RecDataset  # type: ignore[import-not-found]
    from utils.utils import get_model, get_trainer, init_seed  # type: ignore[import-not-found]

    logging.disable(logging.CRITICAL)
    overrides = {"use_gpu": False, "data_path": f"{folder}/", "train_batch_size": BATCH_SIZE, "seed": 1}
    overrides |= {"inter_file_name": "theirs.inter", "vision_feature_file": "image_feat.npy", "topk": LENGTHS}
    overrides |= {"text_feature_file": "text_feat.npy", "user_graph_dict_file": "user_graph_dict.npy"}
    config = Config(pair.peer, "theirs", overrides | dict(pair.peer_settings), False)
    for name, value in {"USER_ID_FIELD": "userID", "ITEM_ID_FIELD": "itemID"}.items():
        config[name] = value
    parts = RecDataset(config).split()
    for part in parts:
        str(part)  # which is where it counts its rows
    train = TrainDataLoader(config, parts[0], batch_size=BATCH_SIZE, shuffle=True)
    rest = [EvalDataLoader(config, part, additional_dataset=parts[0], batch_size=4096) for part in parts[1:]]
    init_seed(1)
    train.pretrain_setup()
    n_batches = -(-len(parts[0]) // BATCH_SIZE)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # which imports much, once
    watch = Stopwatch()
    model = get_model(pair.peer)(config, train).to("cpu")
    model._parameters.pop("result_embed", None)  # DualGNN's last result: a GPU's copy is no parameter
    if pair.frozen:
        for name in ("image_embedding", "text_embedding"):
            getattr(model, name).weight.requires_grad_(False)
    trainer = get_trainer()(config, model, False)
    setup = watch.lap()
    model.pre_epoch_processing()
    start = watch.lap()
    timed = Timed(train, 1 + LATER)
    trainer._train_epoch(timed, 0)
    watch.lap()
    for part in rest:
        trainer.evaluate(part)
    evaluation = watch.lap()
    return {
        "setup": setup.cpu,
        "epoch": epoch_of(start, timed.laps, n_batches).cpu,
        "evaluation": evaluation.cpu,
    }


def _put_back_what_is_gone() -> None:
    """Give numpy, scipy and torch what MMRec calls, and empty modules for pictures, which it never opens."""
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    import scipy.sparse
    import torch

    def missing(name: str) -> Any:
        raise AttributeError(name)

    for name in ("lmdb", "torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        module: Any = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)  # others look whether it is there
        module.pad = module.resize = missing
        sys.modules[name] = module
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
    vars(np)["float"] = float
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign,assignment]

    def scatter_add(source: Any, index: Any, dim: int = 0, dim_size: int | None = None) -> Any:
        return source.new_zeros(dim_size).index_add(dim, index, source)

    scatter: Any = ModuleType("torch_scatter")
    scatter.scatter_add = scatter_add
    scatter.scatter = missing  # imported there and not called
    sys.modules["torch_scatter"] = scatter

    def update(self: Any, entries: dict[tuple[int, int], float]) -> None:
        self._dict.update(entries)

    scipy.sparse.dok_matrix._update = update


def write_data(folder: Path, size: str) -> dict[str, Any]:
    """Put the split into a folder, once for each toolbox; say what is in it."""
    import scipy.sparse

    from benchmarks.data import sized_split, with_features
    from triptych.data.dataset import Dataset
    from triptych.data.export import export_mmrec
    from triptych.data.split import Split

    sized = sized_split(size)
    split = with_features(sized.split)
    labelled = split.data.interactions.with_label(split.part)
    data = Dataset("theirs", labelled, split.data.item_table, split.data.features)
    data.save(folder / "ours")
    export_mmrec(data, folder / "theirs", split=Split.by_label(data))
    shape, ones = (split.n_users, split.n_items), np.ones(len(split.train))
    pairs = scipy.sparse.csr_matrix((ones, (split.train.user, split.train.item)), shape=shape)
    common = (pairs @ pairs.T).tolil()  # what DualGNN there wants ready: a user's 200 likest users and counts
    common.setdiag(0)
    common = common.tocsr()
    graph = {}
    for user in range(split.n_users):
        row = slice(common.indptr[user], common.indptr[user + 1])
        order = np.argsort(-common.data[row], kind="stable")[:200]
        graph[user] = [common.indices[row][order].tolist(), common.data[row][order].tolist()]
    np.save(folder / "theirs" / "user_graph_dict.npy", np.array(graph, dtype=object), allow_pickle=True)
    return sized.facts()


def main() -> None:
    """Measure in turns and print the ratios, or, in a process of its own, measure once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", type=Path, help="a checkout of MMRec")
    parser.add_argument("pairs", nargs="*", help="of: " + ", ".join(PAIRS))
    parser.add_argument("--size", default="baby", choices=["baby", "sports"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        _measure_once(arguments)
        return
    from benchmarks.machine import machine_facts

    with tempfile.TemporaryDirectory() as name:
        facts = write_data(Path(name), arguments.size)
        measured: dict[str, dict[str, list[dict[str, float]]]] = {}
        for _ in range(arguments.rounds):
            for pair in arguments.pairs or PAIRS:
                for side in SIDES:
                    found = _in_process(arguments, pair, side, Path(name))
                    measured.setdefault(pair, {}).setdefault(side, []).append(found)
                print(_line(pair, measured[pair]), flush=True)
                if arguments.json:
                    report = {"machine": machine_facts(), **facts, "models": measured}
                    arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    columns = [f"{what}: theirs | ours | ratio" for what in WHATS] + [
        f"{what}, bf16 | ratio" for what in IN_BF16
    ]
    print("\n| model | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * (3 * len(WHATS) + 2 * len(IN_BF16)))
    for pair, sides in measured.items():
        print(_line(pair, sides))
    for side, whats in (("ours", WHATS), ("bf16", IN_BF16)):
        for what in whats:
            ratios = [
                _median(sides["theirs"], what) / _median(sides[side], what) for sides in measured.values()
            ]
            told = f"median of {len(ratios)} ratios {median(ratios):.1f}, lowest {min(ratios):.1f}"
            print(f"{what}, {side}: {told}")


def _measure_once(arguments: argparse.Namespace) -> None:
    from benchmarks.machine import resident_bytes

    (name,) = arguments.pairs
    if arguments.once == "theirs":
        found = measure_peer(PAIRS[name], arguments.folder, arguments.peer)
    else:
        from triptych.memory import keep_freed_memory

        keep_freed_memory()  # as the `triptych` command does
        precision = "bf16" if arguments.once == "bf16" else "fp32"
        found = measure_ours(PAIRS[name], arguments.folder, precision)
    print(json.dumps(found | {"peak": resident_bytes("VmHWM") / 2**20}))


def _in_process(arguments: argparse.Namespace, pair: str, side: str, folder: Path) -> dict[str, float]:
    for kept in (folder / "theirs").glob("*.pt"):
        kept.unlink()  # an item graph that MMRec keeps for the next time would be no set-up
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}
    if side != "theirs":
        environment["THP_MEM_ALLOC_ENABLE"] = "1"  # as the `triptych` command does
    found = in_process(
        "benchmarks.peer", str(arguments.peer.resolve()), pair, "--once", side, "--folder", str(folder),
        threads=arguments.threads, environment=environment,
    )  # fmt: skip
    if isinstance(found, NotMeasured):
        sys.exit(f"{pair}, {side}:\n{found.reason}")
    return found


def _median(found: list[dict[str, float]], what: str) -> float:
    return median(entry[what] for entry in found)


def _line(pair: str, sides: Mapping[str, list[dict[str, float]]]) -> str:
    cells = []
    for side, whats in (("ours", WHATS), ("bf16", IN_BF16)):
        for what in whats:
            theirs, ours = (_median(sides[each], what) for each in ("theirs", side))
            shown = "{:,.0f}" if what == "peak" else "{:.2f}"
            both = [shown.format(theirs)] if side == "ours" else []
            cells += [*both, shown.format(ours), f"{theirs / ours:.1f}"]
    return f"| {pair} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
