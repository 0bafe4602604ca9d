import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from triptych.data.dataset import Dataset
from triptych.data.interactions import LEFT_OUT, TEST, TRAIN, VALID, Interactions
from triptych.data.split import Pairs, Split
from triptych.errors import ConfigError, DataError, TrainingError
from triptych.evaluation import ranking
from triptych.evaluation.metrics import METRICS
from triptych.evaluation.ranking import (
    SeenItems,
    check_lengths,
    count_hits,
    evaluate_ranking,
    find_hits,
    rank_lists,
    rank_unseen,
    top_k,
)
from triptych.scorer import Embeddings, EmbeddingScorer


class TableScorer:
    """Scores looked up in a table."""

    def __init__(self, table):
        self.table = torch.as_tensor(table, dtype=torch.float32)
        self.n_users, self.n_items = self.table.shape
        self.asked = []

    def score(self, users):
        self.asked.append(len(users))
        return self.table[users]


def make_split(triples, n_users=None, n_items=None):
    """A split of (user, item, part); with sizes, left-out pairs make sure that every index occurs."""
    known = {(user, item): part for user, item, part in triples}
    for user in range(n_users or 0):
        known.setdefault((user, user % n_items), LEFT_OUT)
    for item in range(n_items or 0):
        known.setdefault((item % n_users, item), LEFT_OUT)
    user, item = np.array(sorted(known)).T
    data = Dataset.from_interactions("toy", Interactions.from_ids(user, item))
    assert n_users is None or (data.n_users, data.n_items) == (n_users, n_items)
    return Split(data, np.array([known[pair] for pair in sorted(known)], dtype=np.int8))


def random_split(seed, n_users=25, n_items=18, density=0.4):
    rng = np.random.default_rng(seed)
    parts = rng.choice([TRAIN, VALID, TEST, LEFT_OUT], p=[0.5, 0.2, 0.2, 0.1], size=(n_users, n_items))
    chosen = rng.random((n_users, n_items)) < density
    chosen[3] = False  # this user has nothing to find
    return make_split(
        [(u, i, int(parts[u, i])) for u, i in zip(*chosen.nonzero(), strict=True)], n_users, n_items
    )


def integer_embeddings(seed, n_users, n_items, dim=3):
    """Embeddings whose products are exact, with many equal scores."""
    rng = np.random.default_rng(seed)
    return EmbeddingScorer(
        Embeddings(
            *(torch.from_numpy(rng.integers(-1, 2, (n, dim))).float() for n in (n_users, n_items)),
        )
    )


def real_embeddings(seed, n_users, n_items, dim=6):
    generator = torch.Generator().manual_seed(seed)
    return EmbeddingScorer(
        Embeddings(*(torch.randn(n, dim, generator=generator) for n in (n_users, n_items)))
    )


def items_of(split, part, user):
    pairs = split.pairs(part)
    return set(pairs.item[pairs.user == user].tolist())


def slow_evaluation(scorer, split, part, lengths, masked):
    """User by user, with a whole stable sort and the metrics as their definitions say."""
    users = scorer.embeddings.users.double().numpy()
    items = scorer.embeddings.items.double().numpy()
    measured, values = [], {f"{name}@{k}": [] for k in lengths for name in METRICS}
    for user in range(split.n_users):
        wanted = items_of(split, part, user)
        if not wanted:
            continue
        known = items_of(split, "train", user)
        if masked == "train+valid" and part == "test":
            known |= items_of(split, "valid", user)
        order = np.argsort(-(items @ users[user]), kind="stable")
        ranked = [item for item in order.tolist() if item not in known]
        measured.append(user)
        for k in lengths:
            places = [place for place, item in enumerate(ranked[:k], start=1) if item in wanted]
            most = min(len(wanted), k)
            ideal = sum(1 / np.log2(place + 1) for place in range(1, most + 1))
            values[f"recall@{k}"].append(len(places) / len(wanted))
            values[f"precision@{k}"].append(len(places) / k)
            values[f"hit@{k}"].append(float(bool(places)))
            values[f"mrr@{k}"].append(1 / places[0] if places else 0.0)
            values[f"ndcg@{k}"].append(sum(1 / np.log2(place + 1) for place in places) / ideal)
            values[f"map@{k}"].append(sum(n / place for n, place in enumerate(places, start=1)) / most)
    return measured, values


@pytest.mark.parametrize("embeddings", [integer_embeddings, real_embeddings])
@pytest.mark.parametrize(("part", "masked"), [("test", "train"), ("test", "train+valid"), ("valid", "train")])
@pytest.mark.parametrize("seed", range(4))
def test_the_evaluator_agrees_with_a_slow_one(embeddings, part, masked, seed):
    split = random_split(seed)
    scorer = embeddings(seed, split.n_users, split.n_items)
    lengths = (1, 5, 18)  # up to the whole catalogue, where candidates run out
    ranking = evaluate_ranking(scorer, split, part, lengths, masked=masked, block_size=7)
    users, values = slow_evaluation(scorer, split, part, lengths, masked)
    assert ranking.users.tolist() == users
    assert set(ranking.values) == set(values)
    for name, expected in values.items():
        np.testing.assert_allclose(ranking.values[name], expected, rtol=0, atol=1e-12, err_msg=name)
        assert ranking.mean()[name] == pytest.approx(np.mean(expected), abs=1e-12)


def test_the_integer_embeddings_do_tie():
    scorer = integer_embeddings(0, 25, 18)
    scores = scorer.score(torch.arange(25))
    assert all(len(row.unique()) <= 7 for row in scores)


@pytest.mark.parametrize("embeddings", [integer_embeddings, real_embeddings])
@pytest.mark.parametrize("block_size", [1, 2, 8, 1000])
def test_the_block_size_changes_nothing(embeddings, block_size):
    split = random_split(11)
    scorer = embeddings(11, split.n_users, split.n_items)
    one = evaluate_ranking(scorer, split, k=(3, 10))
    other = evaluate_ranking(scorer, split, k=(3, 10), block_size=block_size)
    assert one.users.tolist() == other.users.tolist()
    assert one.protocol == other.protocol
    assert all(one.values[name].tolist() == other.values[name].tolist() for name in one.values)


def test_blocks_are_as_large_as_asked_for():
    split = random_split(11)
    scorer = TableScorer(torch.rand(split.n_users, split.n_items))
    ranking = evaluate_ranking(scorer, split, k=(3,), block_size=4)
    n_users = len(ranking.users)
    assert scorer.asked == [4] * (n_users // 4) + [n_users % 4] * (n_users % 4 > 0)


def test_users_without_test_items_are_left_out_and_counted():
    split = make_split([(0, 0, TRAIN), (0, 1, TEST), (1, 0, TRAIN), (1, 1, VALID), (2, 2, TRAIN)])
    scorer = TableScorer([[0, 9, 0], [9, 9, 9], [9, 9, 9]])
    ranking = evaluate_ranking(scorer, split, k=(1,))
    assert ranking.users.tolist() == [0]
    assert ranking.values["recall@1"].tolist() == [1.0]
    assert (ranking.protocol["users"], ranking.protocol["users_left_out"]) == (1, 2)
    assert ranking.mean()["recall@1"] == 1.0  # not a third
    assert evaluate_ranking(scorer, split, "valid", k=(1,)).users.tolist() == [1]


def test_the_protocol_says_how_it_was_measured():
    split = random_split(2)
    scorer = real_embeddings(2, split.n_users, split.n_items)
    ranking = evaluate_ranking(scorer, split, k=[10, 5, 10], masked="train+valid")
    measured = len(set(split.test.user.tolist()))
    assert ranking.protocol == {
        "part": "test",
        "k": [5, 10],
        "masked": "train+valid",
        "candidates": "all items",
        "users": measured,
        "users_left_out": split.n_users - measured,
    }
    assert measured < split.n_users
    assert evaluate_ranking(scorer, split, k=(5,)).protocol["masked"] == "train"
    # there is no later part whose items could be masked
    valid = evaluate_ranking(scorer, split, "valid", k=(5,), masked="train+valid")
    assert valid.protocol["masked"] == "train"
    text = str(ranking)
    assert f"{ranking.mean()['recall@5']:.4f}" in text
    assert f"{measured} users" in text


def test_masks_decide_who_stands_in_the_list():
    # items in order of score: 0 (train), 1 (valid), 2 (test), 3
    split = make_split([(0, 0, TRAIN), (0, 1, VALID), (0, 2, TEST), (1, 3, TRAIN)])
    scorer = TableScorer([[4, 3, 2, 1]] * 2)
    assert evaluate_ranking(scorer, split, k=(2,)).values["mrr@2"].tolist() == [1 / 2]
    assert evaluate_ranking(scorer, split, k=(2,), masked="train+valid").values["mrr@2"].tolist() == [1.0]
    for masked in ("train", "train+valid"):  # what is looked for is never masked
        valid = evaluate_ranking(scorer, split, "valid", k=(2,), masked=masked)
        assert valid.values["mrr@2"].tolist() == [1.0]


def test_training_items_of_other_users_are_candidates():
    split = make_split([(0, 0, TRAIN), (0, 1, TEST), (1, 1, TRAIN), (1, 0, TEST)])
    ranking = evaluate_ranking(TableScorer([[9, 1], [1, 9]]), split, k=(1,))
    assert ranking.values["recall@1"].tolist() == [1.0, 1.0]


def test_a_user_who_knows_nearly_everything_finds_the_rest():
    # user 0 can only be offered its test item; user 1's test item must not be counted for user 0 or 2
    triples = [(0, item, TRAIN) for item in range(4)] + [(0, 4, TEST)]
    triples += [(1, 0, TRAIN), (1, 4, TEST), (2, 0, TRAIN), (2, 1, TEST)]
    scorer = TableScorer([[5, 4, 3, 2, -1], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
    ranking = evaluate_ranking(scorer, make_split(triples), k=(1, 5))
    assert ranking.values["recall@1"].tolist() == [1.0, 1.0, 1.0]
    assert ranking.values["precision@5"].tolist() == [0.2, 0.2, 0.2]


def test_a_place_without_an_item_is_never_a_hit():
    # "No item" of user u must not be read as the last item of user u - 1.
    triples = [(0, 0, TRAIN), (0, 2, TEST), (1, 0, TRAIN), (1, 1, TRAIN), (1, 2, TRAIN)]
    ranking = evaluate_ranking(
        TableScorer([[3, 2, 1], [3, 2, 1], [1, 2, 3]]),
        make_split([*triples, (2, 0, TEST), (2, 1, TRAIN), (2, 2, TRAIN)]),
        k=(3,),
    )
    assert ranking.users.tolist() == [0, 2]
    assert ranking.values["precision@3"].tolist() == [1 / 3, 1 / 3]
    # All three items of user 1 known: nothing is left to list.
    seen = SeenItems([Pairs(np.array([1, 1, 1]), np.array([0, 1, 2]))], 3)
    scores, items = rank_unseen(TableScorer([[3, 2, 1]] * 3), torch.tensor([1, 0]), seen, 2)
    assert items.tolist() == [[-1, -1], [0, 1]]
    assert scores.tolist() == [[-torch.inf, -torch.inf], [3.0, 2.0]]


@pytest.mark.parametrize("k", [(0,), (19,), (5, 19), (-1, 5), ()])
def test_impossible_list_lengths_are_refused(k):
    split = random_split(0)
    with pytest.raises(ConfigError, match="1 to 18"):
        evaluate_ranking(real_embeddings(0, split.n_users, split.n_items), split, k=k)


def test_list_lengths_are_sorted_and_distinct():
    assert check_lengths([20, 5, 20], 20) == (5, 20)


@pytest.mark.parametrize("where", ["users", "items"])
def test_scores_that_are_no_numbers_are_refused(where):
    split = random_split(0)
    scorer = real_embeddings(0, split.n_users, split.n_items)
    getattr(scorer.embeddings, where)[int(split.test.user[0])] = torch.nan
    with pytest.raises(TrainingError, match="NaN"):
        evaluate_ranking(scorer, split, k=(5,))


def test_scores_that_are_no_finite_numbers_are_refused_and_large_ones_are_not():
    split = make_split([(0, 0, TRAIN), (0, 1, TEST), (0, 2, VALID)])
    evaluate_ranking(TableScorer([[1, 3e38, 3e38]]), split, k=(1,))  # all finite, though their sum is not
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(TrainingError, match="NaN or infinity"):
            evaluate_ranking(TableScorer([[bad, 1, 2]]), split, k=(1,))


def test_an_empty_part_is_refused():
    split = make_split([(0, 0, TRAIN), (0, 1, VALID)])
    with pytest.raises(DataError, match="test part of 'toy' is empty"):
        evaluate_ranking(TableScorer([[1, 2]]), split, k=(1,))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"part": "train"}, "part = 'train'"),
        ({"part": "tets"}, "test"),
        ({"masked": "none"}, "masked = 'none'"),
    ],
)
def test_parts_and_masks_that_are_none_are_refused(wrong: dict, message: str):
    split = random_split(0)
    with pytest.raises(ConfigError, match=message):
        evaluate_ranking(real_embeddings(0, split.n_users, split.n_items), split, k=(2,), **wrong)


def test_ranking_leaves_the_scorers_own_table_alone():
    split = random_split(0)
    scorer = real_embeddings(0, split.n_users, split.n_items)
    before = [part.clone() for part in scorer.embeddings]
    evaluate_ranking(scorer, split, k=(5,))
    assert all(torch.equal(one, other) for one, other in zip(before, scorer.embeddings, strict=True))


def test_top_k_by_hand():
    none = -torch.inf
    scores = torch.tensor([[1.0, 3.0, 2.0, 3.0], [none, 5.0, none, none], [none] * 4])
    values, items = top_k(scores, 3)
    assert items.tolist() == [[1, 3, 2], [1, -1, -1], [-1, -1, -1]]
    assert values.tolist() == [[3, 3, 2], [5, none, none], [none] * 3]


def test_a_tie_across_the_end_of_the_list_goes_to_the_lower_index():
    scores = torch.zeros(1, 4000)
    scores[0, 17] = 1.0
    assert top_k(scores, 5)[1].tolist() == [[17, 0, 1, 2, 3]]
    assert top_k(scores, 1)[1].tolist() == [[17]]
    assert top_k(torch.zeros(2, 4000), 1)[1].tolist() == [[0], [0]]


def test_zeros_of_both_signs_are_equal():
    assert top_k(torch.tensor([[-0.0, 0.0, -0.0, -1.0]]), 3)[1].tolist() == [[0, 1, 2]]


score_values = st.sampled_from([-np.inf, -2.0, -0.5, 0.0, 0.5, 1.0, 7.0])


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
        elements=st.one_of(score_values, st.floats(-10, 10, width=32)),
    ),
    st.data(),
)
def test_top_k_is_a_sort_by_falling_score_and_index(scores, data):
    k = data.draw(st.integers(1, scores.shape[1]))
    values, items = top_k(torch.from_numpy(scores.copy()), k)
    for row in range(len(scores)):
        order = np.lexsort((np.arange(scores.shape[1]), -scores[row]))[:k]
        expected = np.where(scores[row][order] == -np.inf, -1, order)
        assert items[row].tolist() == expected.tolist()
        assert values[row].tolist() == scores[row][order].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 10**6), st.data())
def test_masking_hides_the_seen_items_of_each_user(n_users, n_items, seed, data):
    rng = np.random.default_rng(seed)
    tables = rng.random((2, n_users, n_items)) < 0.4
    parts = [Pairs(*(ends.astype(np.int64) for ends in table.nonzero())) for table in tables]
    users = np.array(data.draw(st.lists(st.integers(0, n_users - 1), min_size=1, max_size=10)))
    scores = torch.from_numpy(rng.normal(size=(len(users), n_items))).float()
    masked = SeenItems(parts, n_users).mask(scores.clone(), torch.from_numpy(users))
    expected = np.where((tables[0] | tables[1])[users], -np.inf, scores.numpy())
    assert masked.numpy().tolist() == expected.tolist()


def test_masking_works_in_half_precision():
    seen = SeenItems([Pairs(np.array([0]), np.array([1]))], 1)
    scores = seen.mask(torch.ones(1, 3, dtype=torch.float16), torch.tensor([0]))
    assert scores.tolist() == [[1, -torch.inf, 1]]


def test_the_scorer_is_frozen_and_single_precision():
    users = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    scorer = EmbeddingScorer(Embeddings(users, torch.rand(5, 2, dtype=torch.float64)))
    assert (scorer.n_users, scorer.n_items) == (3, 5)
    scores = scorer.score(torch.tensor([2, 0]))
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    torch.testing.assert_close(scores, (users[[2, 0]] @ scorer.embeddings.items.double().T).float().detach())


@pytest.mark.parametrize("masked", ["train", "train+valid"])
@pytest.mark.parametrize("seed", range(8))
def test_places_that_are_counted_are_those_of_the_lists(seed, masked):
    split = random_split(seed, density=0.1 + 0.1 * seed)
    scorer = integer_embeddings(seed, split.n_users, split.n_items)  # full of equal scores
    wanted = split.pairs("test")
    users = np.unique(wanted.user)
    lists = rank_lists(scorer, split, users, 9, masked=masked)
    by_list = find_hits(lists, users, wanted, split.n_items)
    for block_size in (1, 4, 64):
        counted = count_hits(scorer, split, wanted, 9, masked=masked, block_size=block_size)
        np.testing.assert_array_equal(counted, by_list)
    assert by_list.any()


def test_what_is_masked_and_wanted_at_once_is_not_found():
    split = make_split([(0, 0, TRAIN), (0, 1, TEST)], 1, 3)
    wanted = Pairs(np.array([0, 0]), np.array([0, 1]))
    hits = count_hits(TableScorer([[9.0, 5.0, 7.0]]), split, wanted, 3, masked="train")
    assert hits.tolist() == [[False, True, False]]  # item 2 is better than item 1; item 0 is no candidate


def test_many_wanted_items_are_found_in_lists_and_few_by_counting(monkeypatch):
    split = random_split(3)
    scorer = integer_embeddings(3, split.n_users, split.n_items)
    counted = evaluate_ranking(scorer, split, "test", (2, 9))
    monkeypatch.setattr(ranking, "count_hits", None)  # cannot be called
    monkeypatch.setattr(ranking, "MOST_COUNTED", 0)
    listed = evaluate_ranking(scorer, split, "test", (2, 9))
    for name, values in counted.values.items():
        np.testing.assert_array_equal(values, listed.values[name])
