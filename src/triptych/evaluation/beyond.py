"""What lists of recommendations are like, beside how often they are right.

None of these figures is good or bad by itself: a list of random items covers, surprises and varies most. They
stand beside accuracy, and say what it was bought with.

Letters: n users whose lists are looked at, K list length, I items, F feature width, G groups of items.
Lists are (n, K) int64, best first, each item at most once, -1 where there was no candidate; `rank_lists`
makes them. A user's figure is NaN where there is nothing to measure; means leave such users out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.special import rel_entr

from triptych.data.arrays import FloatArray, IntArray
from triptych.data.features import ItemFeatures, Matrix
from triptych.data.split import Pairs, PartName, Split
from triptych.errors import DataError
from triptych.evaluation.metrics import PerUser, recall
from triptych.evaluation.ranking import Ranking, find_hits

POPULARITY_GROUPS = ("head", "mid", "tail", "cold")
"""Names of the groups that `popularity_groups` numbers."""
_ENDS = 0.2
"""Share of all interactions that the head holds, and the tail."""
_SMOOTHING = 0.01
"""How much of the history's distribution is mixed into the list's, so that no group has a share of 0."""
_BLOCK_ENTRIES = 1 << 22
"""Numbers held at once in float64: 4 million, 32 MiB."""


@dataclass(frozen=True)
class Group:
    """A metric's mean over some users or for some items, in plain JSON values (`dataclasses.asdict`).

    Args:
        name: "head", or a range of degrees such as "5-8".
        n_users: how many users the mean is over.
        mean: "recall@20" and so on -> mean.
    """

    name: str
    n_users: int
    mean: Mapping[str, float]


def measure_lists(
    lists: IntArray,
    users: IntArray,
    split: Split,
    *,
    features: Mapping[str, ItemFeatures] | None = None,
    groups: IntArray | None = None,
) -> dict[str, float]:
    """Measure lists in all ways this module knows that need no relevant items.

    Args:
        lists: (n, K).
        users: (n,) whose lists they are, each user once.
        split: its training part says what users know and how popular items are.
        features: modality -> features to measure diversity by; None takes those of the split's data set.
            A modality given as an item graph alone has no directions to compare and is left out.
        groups: (I,) group of each item, from 0, to compare lists and histories by; None takes
            `popularity_groups`.

    Returns: "coverage@K", "gini@K", "novelty@K", "popularity@K", "popularity_lift@K", "miscalibration@K" and
        "diversity_image@K" and so on by modality, each explained at the function of its name. A figure
        that no user has a value of is left out.

    Raises:
        DataError: there is not one list for each user, a user occurs twice, or all lists are empty.
    """
    _check_lists(lists, users)
    n_taken = np.bincount(split.train.item, minlength=split.n_items)
    history = _history(split, users)
    by_user = {
        "novelty": novelty(lists, n_taken),
        "popularity": popularity(lists, n_taken),
        "miscalibration": miscalibration(
            lists, history, popularity_groups(n_taken) if groups is None else groups
        ),
    }
    for modality, of_items in (split.data.features if features is None else features).items():
        if of_items.values is not None:
            by_user[f"diversity_{modality}"] = diversity(lists, of_items.values)
    figures = {
        "coverage": coverage(lists, split.n_items),
        "gini": gini(exposure(lists, split.n_items)),
        "popularity_lift": popularity_lift(lists, history, n_taken),
        **{name: _mean_of_known(values) for name, values in by_user.items()},
    }
    return {f"{name}@{lists.shape[1]}": figure for name, figure in figures.items() if not np.isnan(figure)}


def accuracy_by_degree(ranking: Ranking, split: Split, n_groups: int = 4) -> list[Group]:
    """Average every metric over users with few, more, many training items.

    Users are cut into groups of about equal size, those with equally many items never apart: where many
    users have few items, there are fewer groups, of less equal size.

    Args:
        ranking: what lists were worth to each user.
        split: what it was measured on.
        n_groups: at most how many groups.

    Returns: groups by rising degree, named by their least and greatest degree.
    """
    degree = np.diff(split.train_offsets)[ranking.users]
    cuts = np.quantile(degree, np.arange(1, n_groups) / n_groups, method="inverted_cdf")
    group = np.searchsorted(cuts, degree)  # the first cut that is not below the degree
    return [
        Group(
            name=_range(degree[group == number]),
            n_users=int((group == number).sum()),
            mean={name: float(values[group == number].mean()) for name, values in ranking.values.items()},
        )
        for number in np.unique(group)
    ]


def recall_by_popularity(
    lists: IntArray, users: IntArray, split: Split, part: PartName = "test"
) -> list[Group]:
    """Measure recall as if only the popular, the less popular, ... items had been looked for.

    Each user's recall is over the relevant items of the group; users without such are left out of its mean.
    Lists are not made anew: all items were candidates.

    Args:
        lists: (n, K).
        users: (n,) whose lists they are, each user once.
        split: what was to find, and how popular items are in training.
        part: "valid" or "test".

    Returns: one group for each of `POPULARITY_GROUPS` that someone looks for; "cold" items occur in no
        training interaction.

    Raises:
        DataError: there is not one list for each user, a user occurs twice, or all lists are empty.
    """
    _check_lists(lists, users)
    group = popularity_groups(np.bincount(split.train.item, minlength=split.n_items))
    wanted = split.pairs(part)
    found = []
    for number, name in enumerate(POPULARITY_GROUPS):
        inside = group[wanted.item] == number
        of_group = Pairs(wanted.user[inside], wanted.item[inside])
        n_relevant = np.bincount(of_group.user, minlength=split.n_users)[users]
        seeking = n_relevant > 0
        if seeking.any():
            hits = find_hits(lists[seeking], users[seeking], of_group, split.n_items)
            mean = float(recall(hits, n_relevant[seeking]).mean())
            found.append(Group(name, int(seeking.sum()), {f"recall@{lists.shape[1]}": mean}))
    return found


def coverage(lists: IntArray, n_items: int) -> float:
    """Give the share of all items that stand in any list, in [0, 1]: it grows with n and K.

    Source: Herlocker, Konstan, Terveen and Riedl (2004), catalog coverage.
    """
    return np.count_nonzero(exposure(lists, n_items)) / n_items


def exposure(lists: IntArray, n_items: int) -> IntArray:
    """Count in how many lists each item stands: (I,)."""
    counts: IntArray = np.bincount(lists[lists >= 0], minlength=n_items)
    return counts


def gini(amounts: IntArray | FloatArray) -> float:
    """Say how unevenly amounts are spread: 0 if all are equal, (I - 1) / I if one has everything.

    sum over i of (2 i - I - 1) x_i / (I sum of x), with x in rising order and i from 1.

    Source: Gini (1912); of recommendations: Fleder and Hosanagar (2009).

    Args:
        amounts: (I,), none below 0, such as `exposure` gives.
    """
    rising = np.sort(amounts)
    total, n = rising.sum(), len(rising)
    if total == 0:
        return 0.0
    return float((np.arange(1 - n, n, 2) * rising).sum() / (n * total))


def novelty(lists: IntArray, n_taken: IntArray) -> PerUser:
    """Average the self-information of a list's items: -log2 of an item's share of all interactions, in bits.

    An item that nobody took counts as if one had, since it has no finite surprise of its own.

    Source: Zhou, Kuscsik, Liu, Medo, Wakeling and Zhang (2010), who take the share of users instead;
    Vargas and Castells (2011).

    Args:
        lists: (n, K).
        n_taken: (I,) training interactions of each item.

    Returns: (n,), at most log2 of the number of interactions.
    """
    return _mean_listed(-np.log2(np.maximum(n_taken, 1) / n_taken.sum()), lists)


def popularity(lists: IntArray, n_taken: IntArray) -> PerUser:
    """Average the number of training interactions (I,) of a list's items: (n,)."""
    return _mean_listed(n_taken, lists)


def popularity_lift(lists: IntArray, history: Pairs, n_taken: IntArray) -> float:
    """Say by how much lists are more popular than what their users took: 0 as popular, 1 twice as popular.

    mean over users of `popularity` of their list / mean over users of that of their history - 1.

    Source: Abdollahpouri, Mansoury, Burke and Mobasher (2020), "popularity lift".

    Args:
        lists: (n, K).
        history: what users took; `user` is the place of the user's list.
        n_taken: (I,) training interactions of each item.

    Returns: NaN if no user has both a list and a history.
    """
    listed = popularity(lists, n_taken)
    amount = np.bincount(history.user, weights=n_taken[history.item], minlength=len(lists))
    taken = _ratio(amount, np.bincount(history.user, minlength=len(lists)))
    both = ~np.isnan(listed) & ~np.isnan(taken)
    return float(listed[both].mean() / taken[both].mean()) - 1 if both.any() else np.nan


def diversity(lists: IntArray, values: Matrix) -> PerUser:
    """Say how unlike a list's items are: 1 - mean cosine of their pairs, from 0 (all point one way) to 2.

    With m unit vectors u, the cosines of all pairs in both orders sum to |sum of u|^2 - m, so that no
    pair is looked at. Rows of zeros have no direction: items that lack the modality are skipped, and a list
    of fewer than two others has no value.

    Source: Ziegler, McNee, Konstan and Lausen (2005), intra-list similarity; Smyth and McClave (2001).

    Args:
        lists: (n, K).
        values: (I, F), zero where an item lacks the modality, as `ItemFeatures` has them.

    Returns: (n,). Cost: O(n K F), and 32 MiB or one float64 column of users and items.
    """
    norm = np.sqrt(np.einsum("if,if->i", values, values, dtype=np.float64))
    usable = (lists >= 0) & (norm > 0)[lists]
    row, item = usable.nonzero()[0], lists[usable]
    scale = csr_array((1 / norm[item], (row, item)), shape=(len(lists), len(values)))
    width = max(1, _BLOCK_ENTRIES // (len(lists) + len(values)))
    length = np.zeros(len(lists))  # squared, of the sum of unit vectors
    for start in range(0, values.shape[1], width):
        sums = scale @ values[:, start : start + width].astype(np.float64)  # (n, I) @ (I, f) -> (n, f)
        length += np.einsum("nf,nf->n", sums, sums)
    n_usable = usable.sum(axis=1)
    return 1 - _ratio(length - n_usable, n_usable * (n_usable - 1))


def miscalibration(
    lists: IntArray, history: Pairs, groups: IntArray, smoothing: float = _SMOOTHING
) -> PerUser:
    """Say how far a list is from its user's taste: sum over groups of p log(p / q), in nats.

    p is the share of each group in the user's history; q is that in the list, with a little of p mixed in:
    (1 - smoothing) q + smoothing p. 0 if list and history agree; at most -log smoothing.

    Source: Steck, Calibrated Recommendations (RecSys 2018), C_KL with alpha = 0.01.

    Args:
        lists: (n, K).
        history: what users took; `user` is the place of the user's list.
        groups: (I,) group of each item, from 0 to a small G - 1: genres, categories, `popularity_groups`.
        smoothing: above 0, below 1.

    Returns: (n,); NaN without a list or without a history.
    """
    n_groups = int(groups.max()) + 1
    listed = lists >= 0
    taste = _shares(history.user, groups[history.item], len(lists), n_groups)
    found = _shares(listed.nonzero()[0], groups[lists[listed]], len(lists), n_groups)
    divergence: PerUser = rel_entr(taste, (1 - smoothing) * found + smoothing * taste).sum(axis=1)
    return divergence


def popularity_groups(n_taken: IntArray) -> IntArray:
    """Part items by popularity: (I,) of 0 head, 1 mid, 2 tail, 3 cold.

    The head are the most popular items that hold a fifth of all interactions, the tail the least popular ones
    that do, cold those nobody took. Equally popular items are never apart, so that head and tail may hold
    more; an item that would be both is head.

    Source: Abdollahpouri, Mansoury, Burke, Mobasher and Malthouse (arXiv:2103.06364), without "cold".

    Args:
        n_taken: (I,) training interactions of each item.
    """
    level, place, n_items = np.unique(n_taken, return_inverse=True, return_counts=True)
    held = level * n_items  # by all items of a level of popularity
    up_to = held.cumsum()
    enough = _ENDS * up_to[-1]
    group = np.select([level == 0, up_to[-1] - up_to < enough, up_to - held < enough], [3, 0, 2], 1)
    return group[place]


def _check_lists(lists: IntArray, users: IntArray) -> None:
    n_different = len(np.unique(users))
    if lists.ndim != 2 or not len(lists) == len(users) == n_different or not (lists >= 0).any():
        raise DataError(
            f"lists of shape {lists.shape} with {np.count_nonzero(lists >= 0):,} items "
            f"for {len(users):,} users, {n_different:,} of them different",
            wanted="one list for each user, and an item in at least one",
            fix="Make them with rank_lists",
        )


def _history(split: Split, users: IntArray) -> Pairs:
    """Select the training pairs of some users, numbered by the place of their list."""
    place = np.full(split.n_users, -1, dtype=np.int64)
    place[users] = np.arange(len(users))
    of_pair = place[split.train.user]
    return Pairs(of_pair[of_pair >= 0], split.train.item[of_pair >= 0])


def _mean_listed(values: IntArray | FloatArray, lists: IntArray) -> PerUser:
    """Average values (I,) over the items of each list."""
    listed = lists >= 0
    return _ratio(np.where(listed, values[lists], 0).sum(axis=1), listed.sum(axis=1))


def _shares(rows: IntArray, groups: IntArray, n_rows: int, n_groups: int) -> FloatArray:
    """Say how the groups share each row: (n_rows, n_groups), each row with sum 1 or all NaN."""
    counts = np.bincount(rows * n_groups + groups, minlength=n_rows * n_groups).reshape(n_rows, n_groups)
    return _ratio(counts, counts.sum(axis=1, keepdims=True))


def _ratio(amount: IntArray | FloatArray, of: IntArray) -> FloatArray:
    """Divide; NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore"):
        ratio: FloatArray = amount / np.where(of == 0, np.nan, of)
    return ratio


def _mean_of_known(values: PerUser) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _range(numbers: IntArray) -> str:
    least, most = int(numbers.min()), int(numbers.max())
    return str(least) if least == most else f"{least}-{most}"
