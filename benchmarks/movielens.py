r"""MovieLens-100k as files an owner would hand over: ratings, movies with plots, and a folder of posters.

    python -m benchmarks.movielens FOLDER
    triptych prepare FOLDER --min-rating 4 --core 5 --out data/movielens \
        --text "{title}. {genres}. Directed by {director}, with {actors}. {plot}"

The data are looked for at $TRIPTYCH_DATA, else at ../shared/data; nothing of them is part of this repository.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from triptych.data.dataset import Dataset
from triptych.data.filters import Filters
from triptych.preparation import prepare

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TRIPTYCH_DATA", ROOT.parent / "shared" / "data")) / "movielens-100k"
TEXT = "{title}. {genres}. Directed by {director}, with {actors}. {plot}"


def write_files(folder: Path) -> None:
    """Write `ratings.csv`, `movies.csv` and `posters/ITEM.png` below a folder."""
    posters = folder / "posters"
    posters.mkdir(parents=True, exist_ok=True)
    ratings = pl.read_parquet(DATA / "interactions.parquet")
    ratings.select(user_id="userID", item_id="itemID", rating="rating", timestamp="timestamp").write_csv(
        folder / "ratings.csv"
    )
    movies = pl.read_parquet(DATA / "item_text.parquet").with_row_index("item_id")
    movies.select(
        "item_id", "title", "genres", "plot", "director", "actors", description="imdb_description"
    ).write_csv(folder / "movies.csv")
    for item, poster in enumerate(np.load(DATA / "poster_thumbs.npy", allow_pickle=False)):
        if poster.any():  # black is what the items without a poster have
            Image.fromarray(poster).save(posters / f"{item}.png")


def prepare_movielens(folder: Path) -> Dataset:
    """Prepare the files below a folder as the command above does: liked is what has 4 or 5 stars."""
    return prepare(
        folder,
        name="movielens",
        filters=Filters(min_rating=4, core=5),
        text=TEXT,
        encoders={"text": "minilm", "image": "descriptor"},
        cache_dir=folder / "encoded",
    )


if __name__ == "__main__":
    write_files(Path(sys.argv[1]))
