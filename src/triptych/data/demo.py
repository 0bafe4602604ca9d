"""The built-in shop: a generated catalogue with drawn pictures, written texts and a planted truth.

Every item has four attributes. Its kind shows in picture and text, its colour and pattern in the picture
only, its theme in the text only; so a model that reads one of the two knows a part, and both together know
all. Users choose by taste and popularity, and most items are bought by few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.random import Generator

from triptych.data.arrays import BoolArray, FloatArray, IntArray
from triptych.data.dataset import Dataset
from triptych.data.descriptors import describe_pictures, describe_texts
from triptych.data.features import ItemFeatures, Matrix
from triptych.data.interactions import Interactions
from triptych.data.pictures import Thumbnails
from triptych.errors import ConfigError
from triptych.files import new_folder

if TYPE_CHECKING:
    from PIL import Image

# Kind of product -> category; two nouns and a detail for texts; usual price; picture, back to front:
# "paint outline numbers; ...", in hundredths of the side, corners or points and then a width or radius.
# In alphabetical order, so that item ids, which begin with the kind, ascend with the item index.
KINDS: Mapping[str, tuple[str, tuple[str, str, str], int, str]] = {
    "backpack": ("Bags", ("rucksack", "daypack", "padded straps"), 69,
        "dark ring 40 10 60 34 5; body box 24 20 76 87 17; trim box 31 55 69 81 5; "
        "light line 36 61 64 61 1.5; dark line 24 46 76 46 2"),
    "chair": ("Furniture", ("chair", "seat", "sturdy legs"), 129,
        "wood line 31 60 25 88 4; wood line 69 60 75 88 4; wood line 35 44 35 62 4; wood line 65 44 65 62 4; "
        "body box 27 12 73 48 10; trim box 23 56 77 67 5"),
    "clock": ("Home", ("wall clock", "timepiece", "silent hands"), 45,
        "body oval 15 15 85 85; light oval 27 27 73 73; dark line 50 50 50 33 3; dark line 50 50 62 57 3; "
        "trim oval 47 47 53 53"),
    "cushion": ("Home", ("cushion", "pillow", "a soft filling"), 29,
        "body outline 13 17 50 22 87 17 83 50 88 84 50 79 12 84 17 50; trim oval 46 46 54 54"),
    "lamp": ("Lighting", ("table lamp", "lamp", "a warm glow"), 79,
        "wood line 50 48 50 84 4; wood oval 33 79 67 89; body outline 36 12 64 12 81 54 19 54; "
        "trim line 19 54 81 54 3.5"),
    "mug": ("Kitchen", ("coffee mug", "cup", "a big handle"), 15,
        "trim ring 57 36 87 70 6; body box 18 26 70 86 10; trim oval 18 20 70 34; dark oval 22 22.5 66 31.5"),
    "sneaker": ("Shoes", ("sneaker", "trainer", "a light sole"), 89,
        "body outline 9 74 11 40 20 35 38 43 47 38 62 52 84 60 92 74; trim outline 9 74 11 40 20 37 26 74; "
        "light box 7 72 94 81 3; light line 44 52 54 43 2; light line 51 57 61 48 2"),
    "teapot": ("Kitchen", ("teapot", "tea maker", "a clean spout"), 49,
        "trim ring 6 42 36 74 5; trim outline 66 52 84 40 93 38 72 72; trim oval 44 21 54 32; "
        "trim oval 35 29 63 42; body oval 20 34 78 87"),
    "umbrella": ("Accessories", ("umbrella", "brolly", "a stormproof frame"), 35,
        "wood line 50 10 50 82 3; wood hook 36 74 53 90 3.5; body dome 8 14 92 94; trim line 8 54 92 54 2.5"),
    "vase": ("Home", ("flower vase", "vessel", "a narrow neck"), 39,
        "body outline 42 14 58 14 57 44 43 44; body oval 27 34 73 88; trim oval 38 10 62 18; "
        "dark oval 42 12 58 16.5"),
}  # fmt: skip
# Outline -> the method of `ImageDraw` that fills it, its options, and what the last number stands for.
OUTLINES: Mapping[str, tuple[str, Mapping[str, float], str | None]] = {
    "box": ("rounded_rectangle", {}, "radius"), "line": ("line", {}, "width"), "oval": ("ellipse", {}, None),
    "ring": ("arc", {"start": 0, "end": 360}, "width"), "hook": ("arc", {"start": 0, "end": 180}, "width"),
    "dome": ("pieslice", {"start": 180, "end": 360}, None), "outline": ("polygon", {}, None),
}  # fmt: skip
COLOURS = {
    "red": (196, 61, 58), "orange": (221, 127, 53), "yellow": (217, 177, 59), "green": (91, 143, 77),
    "teal": (45, 140, 138), "blue": (53, 98, 166), "violet": (123, 86, 163), "rose": (210, 124, 155),
}  # fmt: skip
PATTERNS = ("plain", "stripes", "dots", "checks")
# Theme -> names for titles, materials, occasions.
THEMES = {
    "coastal": (("Harbour", "Tidal", "Reef"), ("rope", "driftwood", "sailcloth"), ("beach days", "sailors")),
    "festive": (("Lantern", "Gala", "Spark"), ("velvet", "brass", "tinsel"), ("parties", "gift giving")),
    "forest": (("Fern", "Timber", "Moss"), ("oak", "cork", "bark"), ("cabin weekends", "woodland walks")),
    "garden": (("Meadow", "Bloom", "Orchard"), ("terracotta", "wicker", "petals"), ("picnics", "the patio")),
    "nordic": (("Fjord", "Birch", "Aurora"), ("felt", "wool", "soapstone"), ("quiet evenings", "winter")),
    "retro": (("Diner", "Jukebox", "Vinyl"), ("chrome", "enamel", "bakelite"), ("record nights", "dancing")),
    "studio": (("Atelier", "Draft", "Grid"), ("concrete", "steel", "resin"), ("desk work", "busy mornings")),
    "trail": (("Summit", "Ridge", "Camp"), ("ripstop", "titanium", "nylon"), ("camping", "mountain trips")),
}
FILLERS = ("Ships in plain paper.", "Easy to clean.", "Made in small batches.", "Free returns.")
MODALITIES = ("image", "text")
SIZES = (len(KINDS), len(COLOURS), len(PATTERNS), len(THEMES))
ITEM_COLUMNS = ("item_id", "title", "description", "category", "price")
NOISE, MISSING = 0.1, 0.08
PIXELS = 96
YEAR_BEGINS, YEAR_SECONDS = 1_704_067_200, 366 * 86_400  # 2024, UTC


@dataclass(frozen=True, eq=False)
class DemoShop:
    """The shop with its planted truth; `dataset()` is what models see of it.

    Args:
        seed: of everything in it.
        noise: modality -> share of items whose picture or text shows random other attributes.
        attributes: (I, 4) int64, true places in `KINDS`, `COLOURS`, `PATTERNS` and `THEMES`.
        shown: modality -> (I, 4) int64, the attributes that its picture or text is made from.
        present: modality -> (I,) bool, which items have it; every item has at least one.
        tastes: (U, L) float64, how much each user likes each of the L = 30 attribute values.
        popularity: (I,) float64, what all users agree on; a user's liking is taste · traits + popularity.
        interactions: what the users chose.
        item_table: `ITEM_COLUMNS`; without a text, a plain title and no description.
    """

    seed: int
    noise: Mapping[str, float]
    attributes: IntArray
    shown: Mapping[str, IntArray]
    present: Mapping[str, BoolArray]
    tastes: FloatArray
    popularity: FloatArray
    interactions: Interactions
    item_table: pl.DataFrame

    @cached_property
    def traits(self) -> Matrix:
        """(I, L) float32, the true attributes as zeros and four ones; columns as in `tastes`."""
        return _one_hot(self.attributes)

    def picture(self, item: int) -> Image.Image | None:
        """Draw the picture of the item at index `item`, the same at every call; None if the shop has none."""
        if not self.present["image"][item]:
            return None
        return _draw(self.shown["image"][item], np.random.default_rng([self.seed, 100 + item]))

    def export(self, folder: Path, *, overwrite: bool = False) -> None:
        """Write the shop as its owner would hand it over: two tables and a folder of pictures.

        `sales.csv` lists customer, sku and date; `products.csv` sku and what the catalogue says;
        `pictures/` holds a PNG named by the sku of each product that has one.

        Raises:
            StorageError: something is at `folder` already, and `overwrite` is false or it holds no sales.csv.
        """
        with new_folder(folder, marker="sales.csv", overwrite=overwrite) as new:
            pairs, ids = self.interactions, self.interactions.items.ids
            assert pairs.timestamp is not None
            dates = pl.Series(pairs.timestamp.astype("int64") * 1000).cast(pl.Datetime("ms"))
            sales = {"customer": pairs.users.ids[pairs.user], "sku": ids[pairs.item], "date": dates}
            pl.DataFrame(sales).sort("date", maintain_order=True).write_csv(
                new / "sales.csv", datetime_format="%Y-%m-%dT%H:%M:%S"
            )
            self.item_table.rename({"item_id": "sku"}).write_csv(new / "products.csv")
            (new / "pictures").mkdir()
            for item, sku in enumerate(ids.tolist()):
                if (picture := self.picture(item)) is not None:
                    picture.save(new / "pictures" / f"{sku}.png")

    def dataset(self) -> Dataset:
        """Put together interactions, item table and the features of pictures and texts."""
        pictures = [self.picture(item) for item in range(len(self.attributes))]
        table = self.item_table
        texts = (table["title"] + " " + table["description"]).to_list()  # null where there is no description
        described = {"image": describe_pictures(pictures), "text": describe_texts(texts, seed=self.seed)}
        features = {
            name: ItemFeatures.dense(values, present, f"built-in shop, noise {self.noise[name]:g}")
            for name, (values, present) in described.items()
        }
        provenance = {"kind": "demo", "seed": self.seed, "noise": dict(self.noise)}
        return Dataset("demo", self.interactions, table, features, provenance, Thumbnails.of(pictures))


def build_shop(
    *, seed: int = 7, noise: float | Mapping[str, float] = NOISE, n_users: int = 600, n_items: int = 360
) -> DemoShop:
    """Stock the shop and let its users choose.

    Args:
        seed: 0 or more. What items are and what users did depends on it alone, not on `noise`.
        noise: share in [0, 1] of items whose picture or text shows random other attributes, for both or
            by modality ("image", "text"; one left out has 0.1). With 1 it tells nothing.
        n_users: 10 to 9,999.
        n_items: 40 to 9,999.

    Raises:
        ConfigError: an argument is out of these ranges, or a modality is unknown.
    """
    shares = _check(noise, seed, n_users, n_items)
    stock, taste, choice, hide, write, *others = np.random.default_rng(seed).spawn(5 + len(MODALITIES))
    attributes = stock.integers(SIZES, size=(n_items, 4))
    attributes[:, 0].sort()
    popularity = stock.normal(0, 0.8, n_items)
    tastes = _tastes(taste, n_users)
    liking = tastes @ _one_hot(attributes).T + popularity  # (U, L) @ (L, I) -> (U, I)
    # One line of all items: pictures are missing at its head and texts at its tail; wrong texts follow
    # on the head, wrong pictures on the tail, so that unless there are many, each item has one right.
    place, n_missing = hide.permutation(n_items), round(MISSING * n_items)
    present = {"image": place >= n_missing, "text": place < n_items - n_missing}
    turn = {"image": (-1 - n_missing - place) % n_items, "text": (place - n_missing) % n_items}
    shown = {}
    for name, rng in zip(MODALITIES, others, strict=True):
        wrong = turn[name] < round(shares[name] * n_items)
        shown[name] = np.where(wrong[:, None], rng.integers(SIZES, size=attributes.shape), attributes)
    item_table = _item_table(attributes[:, 0], shown["text"], present["text"], write)
    interactions = _interactions(liking, item_table["item_id"].to_list(), choice)
    return DemoShop(seed, shares, attributes, shown, present, tastes, popularity, interactions, item_table)


def _check(noise: float | Mapping[str, float], seed: int, n_users: int, n_items: int) -> dict[str, float]:
    """Refuse arguments out of range, and give the noise of each modality."""
    given = noise if isinstance(noise, Mapping) else dict.fromkeys(MODALITIES, noise)
    for name, share in given.items():
        if name not in MODALITIES or not 0 <= share <= 1:
            wanted = "a share from 0 to 1 for image or text"
            raise ConfigError(f"noise {share} for '{name}'", wanted=wanted, fix="Use 0.1")
    if seed < 0 or not 10 <= n_users <= 9999 or not 40 <= n_items <= 9999:
        raise ConfigError(
            f"a shop with seed {seed}, {n_users:,} users and {n_items:,} items",
            wanted="a seed from 0, 10 to 9,999 users, and 40 to 9,999 items",
            fix="Change the one that is out of range",
        )
    return {name: float(given.get(name, NOISE)) for name in MODALITIES}


def _one_hot(attributes: IntArray) -> Matrix:
    """Turn (I, 4) places into (I, L) zeros and ones."""
    columns = zip(SIZES, attributes.T, strict=True)
    return np.hstack([np.eye(size, dtype=np.float32)[column] for size, column in columns])


def _tastes(rng: Generator, n_users: int) -> FloatArray:
    """Give each user two favourites among each attribute's values: (U, L), 0 for all the others."""
    blocks = []
    for size, strength in zip(SIZES, (5, 4, 2.5, 4), strict=True):
        favourite = rng.random((n_users, size)).argsort(axis=1) < 2
        blocks.append(favourite * strength * rng.uniform(0.7, 1.3, (n_users, size)))
    return np.hstack(blocks)


def _interactions(liking: FloatArray, item_ids: Sequence[str], rng: Generator) -> Interactions:
    """Let each user choose 5 or more items by a softmax of liking without replacement, over one year.

    The largest values of liking plus Gumbel noise are such a draw. So that every item was bought, it also
    goes to the three users who want it most.
    """
    n_users, n_items = liking.shape
    wish = liking + rng.gumbel(size=liking.shape)
    n_choices = np.minimum(4 + rng.geometric(0.5, n_users), n_items // 4)
    rank = (-wish).argsort(axis=1).argsort(axis=1)
    demand = (-wish).argsort(axis=0).argsort(axis=0)
    user, item = np.nonzero((rank < n_choices[:, None]) | (demand < 3))
    user_ids = np.array([f"u{number:04d}" for number in range(1, n_users + 1)])
    timestamp = YEAR_BEGINS + rng.integers(YEAR_SECONDS, size=len(user)).astype(np.float64)
    return Interactions.from_ids(user_ids[user], np.array(item_ids)[item], timestamp=timestamp)


def _item_table(kind: IntArray, shown: IntArray, known: BoolArray, rng: Generator) -> pl.DataFrame:
    """Write the catalogue: what the texts say is `shown`, shelf and price go by the true `kind`."""
    rows = []
    for index, (name, (category, _, usual, _)) in enumerate(list(KINDS.items())[place] for place in kind):
        title, description = _write(shown[index], rng)
        if not known[index]:
            title, description = f"Item {index + 1:04d}", None
        price = round(usual * rng.lognormal(0, 0.3))
        rows.append((f"{name}-{index + 1:04d}", title, description, category, price))
    return pl.DataFrame(rows, schema=list(ITEM_COLUMNS), orient="row")


def _write(shown: IntArray, rng: Generator) -> tuple[str, str | None]:
    """Make up title and description from kind and theme."""
    kind, (_, (noun, other, detail), _, _) = list(KINDS.items())[shown[0]]
    names, materials, occasions = list(THEMES.values())[shown[3]]
    material, second = rng.choice(materials, 2, replace=False)
    use = f"with {detail}, for {rng.choice(occasions)}. {rng.choice(FILLERS)}"
    description = f"{kind.capitalize()} in {material} and {second} {use}"
    return f"{rng.choice(names)} {rng.choice([noun, other])}", description


def _draw(shown: IntArray, rng: Generator) -> Image.Image:
    """Draw an item of the shown kind, colour and pattern: (PIXELS, PIXELS), RGB."""
    from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageOps

    parts, base = list(KINDS.values())[shown[0]][3], list(COLOURS.values())[shown[1]]
    colour = np.clip(base + rng.normal(0, 7, 3), 0, 255)
    side = 2 * PIXELS  # drawn at twice the size, so that edges come out smooth
    layer = Image.new("RGBA", (side, side))
    paints: dict[str, Image.Image | str | tuple[int, ...]] = {
        "body": _cloth(colour, PATTERNS[shown[2]], side, rng),
        "trim": tuple((0.72 * colour).astype(int).tolist()),
        **{"dark": "#352f2c", "light": "#f8f6f0", "wood": "#96704e"},
    }
    for part in parts.split(";"):
        paint, outline, *sizes = part.split()
        numbers = [float(size) * side / 100 for size in sizes]
        method, options, last = OUTLINES[outline]
        named = {last: round(numbers.pop())} if last else {}
        stencil = Image.new("L", layer.size)
        getattr(ImageDraw.Draw(stencil), method)(numbers, fill=255, **options, **named)
        layer.paste(paints[paint], (0, 0, side, side), stencil)
    size = round(PIXELS * rng.uniform(0.88, 0.98))
    layer = layer.resize((size, size), Image.Resampling.BOX)
    layer = layer.rotate(rng.normal(0, 3), Image.Resampling.BICUBIC)
    light = Image.linear_gradient("L").transpose(Image.Transpose.ROTATE_90).resize(layer.size)
    shaded = ImageChops.multiply(layer.convert("RGB"), ImageOps.colorize(light, "#ffffff", "#b9b4b4"))
    tint = str(rng.choice(["#e4e7ea", "#ece5da", "#e3e8e0"]))
    picture = ImageOps.colorize(Image.linear_gradient("L").resize((PIXELS, PIXELS)), "#fbfaf7", tint)
    left, top = ((PIXELS - size) / 2 + rng.uniform(-3, 3, 2)).round().astype(int).tolist()
    shadow, ground = Image.new("L", picture.size), top + 0.88 * size
    ImageDraw.Draw(shadow).ellipse((left + 0.16 * size, ground - 5, left + 0.84 * size, ground + 5), fill=110)
    picture.paste("#4a4540", mask=shadow.filter(ImageFilter.GaussianBlur(3)))
    picture.paste(shaded, (left, top), layer.getchannel("A"))
    return ImageEnhance.Brightness(picture).enhance(rng.uniform(0.95, 1.04))


def _cloth(colour: FloatArray, pattern: str, side: int, rng: Generator) -> Image.Image:
    """Paint a square of cloth in one colour, patterned with a pale tint of it: (side, side), RGB."""
    from PIL import Image

    period, turn = side * rng.uniform(0.105, 0.135), rng.normal(np.pi / 4, 0.15)
    x = np.arange(side, dtype=np.float32) / period
    across = (x * np.cos(turn) + x[:, None] * np.sin(turn)) % 1 - 0.5  # (side, side)
    along = (x * np.sin(turn) - x[:, None] * np.cos(turn)) % 1 - 0.5
    pale = {
        "plain": across > 1,  # nowhere
        "stripes": abs(across) < 0.22,
        "dots": across**2 + along**2 < 0.07,
        "checks": (across > 0) ^ (along > 0),
    }
    dyes = np.array([colour, 0.28 * colour + 0.72 * np.array([255, 252, 243])], dtype=np.uint8)
    return Image.fromarray(dyes[pale[pattern].astype(np.int64)])
