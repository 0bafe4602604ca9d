"""One version of one run with all that answering needs made ready, so that a question costs little.

Letters: B users of a question, I items, F feature width, K list length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor

from triptych.data.arrays import IntArray, RawId
from triptych.data.conditions import matching_items
from triptych.data.dataset import Dataset
from triptych.data.features import ItemFeatures
from triptych.data.ids import IdMap
from triptych.data.interactions import TEST, TRAIN, VALID, row_offsets
from triptych.errors import ConfigError, UnknownIdError, nearest
from triptych.evaluation.ranking import BLOCK_SIZE, check_lengths, top_k
from triptych.runs import ItemMaker, Run, ScoredItem, explain, fold_in
from triptych.runs.batch import ListMaker
from triptych.runs.run import Excluded, nearness, only
from triptych.serving.contents import NewContents
from triptych.serving.problems import RefusedError

BEHAVIOUR = "behaviour"
"""The word that asks for likeness by the model's vectors."""
MOST_DIVERSE = 100
"""The longest list that is made diverse, which takes the square of its length."""
_REMEMBERED = 64
"""Conditions whose items are kept."""

Answer = dict[str, Any]


class Wish(NamedTuple):
    """What lists should be like; see `ListMaker.make`."""

    k: int = 10
    exclude: Excluded = "all"
    where: str | None = None
    diversity: float = 0.0


class LoadedRun:
    """Answers questions by one version of a run.

    Args:
        name: of the run's folder, by which it is asked for.
        version: names the content of its files.
        run: as it was loaded.
        data: the data set with features and pictures, if it is at hand; of the same users and items.
        contents: the encoders of that data set.

    Raises:
        ConfigError: the data set holds other users or items.
    """

    def __init__(
        self, name: str, version: str, run: Run, data: Dataset | None, contents: NewContents | None
    ) -> None:
        self.name, self.version, self.run, self.data, self._contents = name, version, run, data, contents
        split = run.split
        if data is not None:
            _check_same(name, split.data, data)
        self.n_users, self.n_items = split.n_users, split.n_items
        self._known = split.data
        self._user_ids: list[RawId] = split.data.users.ids.tolist()
        self._item_ids: list[RawId] = split.data.items.ids.tolist()
        self._titles: Sequence[str | None] = split.data.titles or [None] * self.n_items
        self._thumbnails = (data or split.data).thumbnails or split.data.thumbnails
        self._maker_of_lists = ListMaker(run)
        self._lock = Lock()
        self._features: dict[str, ItemFeatures] = {} if data is None else dict(data.features)
        # of no method: a run that its own cache refers to would stay in memory after it was replaced
        self._masks = lru_cache(_REMEMBERED)(
            partial(matching_items, table=split.data.item_table, n_items=self.n_items)
        )
        self._lengths = lru_cache(None)(partial(_feature_lengths, self._features))
        for ids in (split.data.users, split.data.items):
            ids.find(ids.ids[:1].tolist())  # now, not at the first question, which would hold up all others

    def recommend(self, users: Sequence[RawId], wish: Wish) -> Answer:
        """List the best items of each user."""
        index = self.find_users(users)
        blocks = range(0, len(index), BLOCK_SIZE)
        lists = [one for start in blocks for one in self.lists(index[start : start + BLOCK_SIZE], wish)]
        return self.answer(lists=lists)

    def lists(self, index: IntArray, wish: Wish) -> list[Answer]:
        """List the best items of a block of users, given by index."""
        check_lengths([wish.k], self.n_items)
        if wish.diversity and wish.k > MOST_DIVERSE:
            raise ConfigError(
                f"a diverse list of {wish.k:,} items",
                wanted=f"at most {MOST_DIVERSE}",
                fix="Choose a smaller k",
            )
        made = self._maker_of_lists.make(
            index, wish.k, exclude=wish.exclude, allowed=self._masks(wish.where), diversity=wish.diversity
        )
        rows = zip(made.users.tolist(), made.by_model.tolist(), made.scores, made.items, strict=True)
        return [
            {
                "user_id": self._user_ids[user],
                "basis": "model" if by_model else "popular",
                "items": self._scored(items, scores),
            }
            for user, by_model, scores, items in rows
        ]

    def similar(self, item: RawId, k: int, by: str = BEHAVIOUR, where: str | None = None) -> Answer:
        """List the items nearest to one, by the model's vectors or by features."""
        check_lengths([k], self.n_items - 1, "the number of other items")
        at = self._index_of_item(item)
        near = nearness(self.run.scorer, at) if by == BEHAVIOUR else self._feature_similarities(at, by)
        near[at] = -torch.inf
        scores, items = top_k(only(near[None], self._masks(where)), k)
        return self.answer(item_id=self._item_ids[at], by=by, items=self._scored(items[0], scores[0]))

    def explain(self, user: RawId, item: RawId) -> Answer:
        """Take a score apart."""
        of_user, at = int(self.find_users([user])[0]), self._index_of_item(item)
        why = explain(self.run, self._user_ids[of_user], self._item_ids[at], self.data)
        return self.answer(
            user_id=self._user_ids[of_user],
            item=self._item(at),
            score=why.score,
            parts=why.parts,
            shares=why.shares,
            exact=why.exact,
            how=why.how,
            because=self._named(why.because),
        )

    def new_user(self, items: Sequence[RawId], k: int, where: str | None = None) -> Answer:
        """List the best items for somebody who chose some items."""
        check_lengths([k], self.n_items)
        index = self._find(self._known.items, items)
        (entry,) = fold_in(self.run, [[self._item_ids[at] for at in index]], k, where=self._masks(where))
        return self.answer(basis=entry.basis, items=self._named(entry.items))

    def new_item(self, text: str | None, picture: bytes | None, k: int, where: str | None = None) -> Answer:
        """Find what an item is like, and whom it would suit, by its content."""
        check_lengths([k], self.n_items)
        allowed = self._masks(where)
        contents = self._contents
        if contents is None:
            raise RefusedError(
                409,
                "this service was started without a data set",
                wanted="the features that new items are compared with",
                fix="Start it with --data DATA",
            )
        rows = contents.encode(text, picture)
        new = self._maker.embed({modality: row.astype(np.float64) for modality, row in rows.items()})
        return self.answer(
            basis=" ".join([new.basis, *contents.remarks]),
            similar=self._named(new.similar(k, where=allowed)[0]),
            audience=[
                {"user_id": one.user_id, "score": one.score} for one in new.audience(min(k, self.n_users))[0]
            ],
        )

    def users(self, query: str, limit: int) -> Answer:
        """Find users by letters of their ids."""
        return self.answer(users=[self._user_ids[at] for at in _matches(self._user_words, query, limit)])

    def items(self, query: str, limit: int) -> Answer:
        """Find items by letters of their ids or titles."""
        return self.answer(items=[self._item(at) for at in _matches(self._item_words, query, limit)])

    def history(self, user: RawId, limit: int, offset: int = 0) -> Answer:
        """List what a user chose, the latest first where times are known, from a place on."""
        at = int(self.find_users([user])[0])
        order, offsets = self._choices
        chosen = order[offsets[at] : offsets[at + 1]][offset : offset + limit]
        interactions = self._known.interactions
        times = None if interactions.timestamp is None else interactions.timestamp[chosen]
        items = [
            {
                **self._item(int(interactions.item[place])),
                "part": _PART_NAMES.get(int(self.run.split.part[place]), "left out"),
                "time": None if times is None or not np.isfinite(times[row]) else float(times[row]),
            }
            for row, place in enumerate(chosen)
        ]
        return self.answer(user_id=self._user_ids[at], items=items)

    def picture(self, item: RawId) -> bytes:
        """Give the JPEG of an item.

        Raises:
            RefusedError: there is none.
        """
        at = self._index_of_item(item)
        jpeg = None if self._thumbnails is None else self._thumbnails.jpeg(at)
        if jpeg is None:
            raise RefusedError(
                404,
                f"there is no picture of item {item!r}",
                wanted="an item with a picture",
                fix="Ask only for pictures that an answer names",
            )
        return jpeg

    def facts(self) -> Answer:
        """Tell what is known of the run."""
        record = self.run.record
        return {
            "name": self.name,
            "version": self.version,
            "model": record.name,
            "data": record.data,
            "data_hash": record.data_hash,
            "seed": record.seed,
            "users": self.n_users,
            "items": self.n_items,
            "modalities": sorted(self._features),
            "pictures": self._thumbnails is not None,
            "new_items": [] if self._contents is None else self._contents.takes,
            "split": record.split,
            "protocol": record.protocol,
            "metrics": {"valid": record.valid, "test": record.test},
            "best_epoch": record.best_epoch,
            "curve": [
                {"epoch": epoch.epoch, "valid": epoch.valid} for epoch in record.history if epoch.valid
            ],
            "versions": record.versions,
        }

    def _feature_similarities(self, item: int, modality: str) -> Tensor:
        """Give the cosine of an item's features with all others', -inf where an item has none: (I,)."""
        features = self._features.get(modality)
        if features is None:
            known = [BEHAVIOUR, *self._features]
            raise ConfigError(
                f"likeness by '{modality}'",
                wanted=" or ".join(known),
                fix=nearest(modality, known) if self.data else "Start the service with --data DATA",
            )
        if not features.present[item]:
            raise RefusedError(
                409,
                f"item {self._item_ids[item]!r} has no {modality}",
                wanted=f"an item with {modality} features",
                fix=f"Ask by {BEHAVIOUR}, or for another item",
            )
        if features.values is None:
            near = torch.full((self.n_items,), -torch.inf)
            graph = features.graph
            assert graph is not None
            begin, end = np.searchsorted(graph.row, [item, item + 1])
            near[torch.from_numpy(graph.col[begin:end])] = torch.from_numpy(graph.weight[begin:end])
            return near
        values, lengths = torch.from_numpy(features.values), self._lengths(modality)
        cosine: Tensor = values @ (values[item] / lengths[item]) / lengths
        return cosine.masked_fill_(torch.from_numpy(~features.present), -torch.inf)

    @property
    def _maker(self) -> ItemMaker:
        with self._lock:
            return self._item_maker

    @cached_property
    def _item_maker(self) -> ItemMaker:
        assert self.data is not None
        return ItemMaker(self.run, self.data)

    @cached_property
    def _choices(self) -> tuple[IntArray, IntArray]:
        """Order interactions by user, the latest first, and say where each user's begin."""
        interactions = self._known.interactions
        late = np.zeros(len(interactions)) if interactions.timestamp is None else -interactions.timestamp
        order = np.lexsort((late, interactions.user))
        return order, row_offsets(interactions.user[order], self.n_users)

    @cached_property
    def _user_words(self) -> list[str]:
        return [str(raw).casefold() for raw in self._user_ids]

    @cached_property
    def _item_words(self) -> list[str]:
        pairs = zip(self._item_ids, self._titles, strict=True)
        return [f"{raw}\n{title or ''}".casefold() for raw, title in pairs]

    def find_users(self, raw_ids: Sequence[RawId]) -> IntArray:
        """Look up users.

        Raises:
            UnknownIdError: one is not known.
        """
        return self._find(self._known.users, raw_ids)

    def _find(self, ids: IdMap, raw_ids: Sequence[RawId]) -> IntArray:
        """Look up ids; no spelling is proposed, since that takes seconds in a large catalogue."""
        index = ids.find(raw_ids)
        if len(unknown := np.flatnonzero(index < 0)):
            raise UnknownIdError(
                f"{ids.kind} id {raw_ids[int(unknown[0])]!r} is not known to the run '{self.name}'",
                wanted=f"one of its {len(ids):,} {ids.kind} ids",
                fix=f"Look ids up with /{ids.kind}s?query=",
            )
        return index

    def _index_of_item(self, item: RawId) -> int:
        return int(self._find(self._known.items, [item])[0])

    def answer(self, **parts: Any) -> Answer:
        """Say whose answer it is."""
        return {"run": self.name, "version": self.version, **parts}

    def _item(self, at: int) -> Answer:
        raw = self._item_ids[at]
        picture = None
        if self._thumbnails is not None and self._thumbnails.offsets[at] < self._thumbnails.offsets[at + 1]:
            picture = f"/pictures?item={_quoted(str(raw))}&run={_quoted(self.name)}"
        return {"item_id": raw, "title": self._titles[at], "picture": picture}

    def _scored(self, items: Tensor, scores: Tensor) -> list[Answer]:
        pairs = zip(items.tolist(), scores.tolist(), strict=True)
        return [{**self._item(at), "score": score} for at, score in pairs if at >= 0]

    def _named(self, listed: Iterable[ScoredItem]) -> list[Answer]:
        return [{**self._item(self._index_of_item(one.item_id)), "score": one.score} for one in listed]


_PART_NAMES = {TRAIN: "train", VALID: "valid", TEST: "test"}


def _feature_lengths(features: Mapping[str, ItemFeatures], modality: str) -> Tensor:
    values = features[modality].values
    assert values is not None
    lengths: Tensor = torch.from_numpy(values).norm(dim=1)
    return lengths.clamp_(min=torch.finfo(torch.float32).tiny)


def _check_same(name: str, known: Dataset, data: Dataset) -> None:
    """Refuse a data set of other users or items than a run's."""
    for kind, of_run, of_data in (("users", known.users, data.users), ("items", known.items, data.items)):
        if not np.array_equal(of_run.ids, of_data.ids):
            raise ConfigError(
                f"the run '{name}' has {len(of_run):,} {kind}, and the data set '{data.name}' has others",
                wanted="the data set that the run was trained on",
                fix="Name it with --data, or serve the run without",
            )


def _matches(words: Sequence[str], query: str, limit: int) -> list[int]:
    """Find the first places whose text holds the query's; those that begin with it come first."""
    wanted = query.casefold()
    begin = [at for at, text in enumerate(words) if text.startswith(wanted)][:limit]
    if len(begin) < limit:
        first = set(begin)
        inside = (at for at, text in enumerate(words) if wanted in text and at not in first)
        begin += [at for at, _ in zip(inside, range(limit - len(begin)), strict=False)]
    return begin


def _quoted(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")
