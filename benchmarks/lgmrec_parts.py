"""How long, and how good by itself, each part of LGMRec's vectors is while it trains: ids, and content.

    python -m benchmarks.lgmrec_parts tiktok --epochs 25 --json FILE

Its ids begin short, and content is added to them in rows of length 1, whatever it is worth. Lengths are means
over users and items, recall@20 is of the validation part; the contrast is left out. No test part is read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy import RECIPES, commit, load_split
from triptych.evaluation.ranking import evaluate_ranking
from triptych.graph.sparse import propagate
from triptych.models.base import ModelInputs
from triptych.models.lgmrec import LGMRec, LGMRecConfig
from triptych.scorer import Embeddings, EmbeddingScorer
from triptych.training.config import TrainConfig
from triptych.training.sampler import TripletSampler
from triptych.training.trainer import LossLog, Trainer, isolated_rng

SEED = 1
SHOWN = (1, 5, 10, 25, 50, 100)


def main() -> None:
    """Train, and look at the parts after some of the epochs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=sorted(RECIPES))
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    split = load_split(options.data).without_test()
    inputs, found = ModelInputs.from_split(split), []
    with isolated_rng(SEED, torch.device("cpu")):
        model = LGMRec(LGMRecConfig(contrast_weight=0.0), inputs)
        sampler = TripletSampler(inputs.user, inputs.item, inputs.n_users, inputs.n_items, seed=SEED)
        trainer = Trainer(model, sampler, lambda _: {}, TrainConfig(), device=torch.device("cpu"))
        for epoch in range(1, options.epochs + 1):
            model.train()
            for batch in sampler.epoch():
                trainer._drive(model.batch_steps(batch), LossLog())
            if epoch in SHOWN:
                parts = parts_of(model.eval())
                measured = {
                    name: {
                        "length": torch.cat(part).norm(dim=1).mean().item(),
                        "recall@20": evaluate_ranking(EmbeddingScorer(part), split, "valid", [20]).mean()[
                            "recall@20"
                        ],
                    }
                    for name, part in parts.items()
                }
                found.append({"epoch": epoch, **measured})
                print(json.dumps(found[-1]), flush=True)
    result: dict[str, Any] = {"data": options.data, "data_hash": split.data.content_hash, "seed": SEED}
    if options.json:
        report = result | {"commit": commit(), "epochs": found}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def parts_of(model: LGMRec) -> dict[str, Embeddings]:
    """Part the vectors into what comes of ids alone and the rest, which content had a part in."""
    whole = model.embeddings()
    ids = model.nodes.split(propagate(model.adj, model.nodes.weight, model.config.n_layers))
    content = Embeddings(whole.users - ids.users, whole.items - ids.items)
    return {"whole": whole, "ids": ids, "content": content}


if __name__ == "__main__":
    main()
