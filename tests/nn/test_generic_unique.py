"""Alignment and distance of halves against rows, pairs and sums spelled out."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from pydantic import ValidationError

from triptych.errors import ConfigError
from triptych.nn.generic_unique import (
    Separation,
    SeparationSettings,
    align_loss,
    negative_distance,
    split_halves,
)

N, D = 9, 3
ITEMS = torch.tensor([0, 7, 3, 3, 4, 8, 1])
LACKING = {0: [0, 5], 1: [5, 7], 2: [2, 5]}


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def dense_align(a: torch.Tensor, b: torch.Tensor, tau: float, kind: str) -> torch.Tensor:
    """From the matrix of all cosines."""
    cosines = torch.stack([torch.stack([cosine(x, y) for y in b]) for x in a]) / tau
    one_way, other_way = (-(m.exp().diag() / m.exp().sum(1)).log().mean() for m in (cosines, cosines.T))
    scores = cosines.diag().exp()
    return {
        "solosim": one_way,
        "infonce": (one_way + other_way) / 2,
        "positive_only": -cosines.diag().mean(),
        "literal": -(scores.exp() / scores.exp().sum()).log().mean(),
    }[kind]


def dense_bound(club, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Eq. 13 over all pairs of rows."""
    mean, log_variance = club(x)
    mean, log_variance = mean[:, None], log_variance[:, None]
    log_q = (-((y[None] - mean) ** 2) / (2 * log_variance.exp()) - log_variance / 2).sum(2)  # (n, n)
    return log_q.diag().mean() - log_q.mean()


def make(n_modalities: int = 2, *, complete: bool = False, **settings) -> tuple[Separation, list[dict]]:
    """Losses of some modalities, and parts whose gradient can be had."""
    names = ("image", "text", "audio")[:n_modalities]
    present = [torch.tensor([complete or i not in LACKING[m] for i in range(N)]) for m in range(n_modalities)]
    separation = Separation(SeparationSettings(**settings), names, present, [D] * n_modalities).double()
    rows = [torch.randn(N, 2 * D, dtype=torch.float64, requires_grad=True) for _ in names]
    return separation, [dict(split_halves(part), rows=part) for part in rows]


def leaves(parts: list[dict]) -> list[torch.Tensor]:
    return [part["rows"] for part in parts]


def having(*modalities: int, pool: list[int] | None = None) -> torch.Tensor:
    wanted = range(N) if pool is None else sorted(set(pool))
    return torch.tensor([i for i in wanted if not any(i in LACKING[m] for m in modalities)])


@pytest.mark.parametrize("kind", ["solosim", "infonce", "positive_only", "literal"])
def test_alignment_is_the_dense_form_in_value_and_gradient(kind):
    a, b = (torch.randn(6, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found, plain = align_loss(a, b, 0.4, kind), dense_align(a, b, 0.4, kind)
    torch.testing.assert_close(found, plain)
    fast = torch.autograd.grad(found, (a, b))
    torch.testing.assert_close(fast, torch.autograd.grad(plain, (a, b)))
    assert all(grad.abs().max() > 1e-4 for grad in fast)


def test_only_the_literal_form_is_content_with_equal_opposites():
    a = torch.randn(8, 4, dtype=torch.float64)
    for kind in ("solosim", "infonce", "positive_only"):
        assert align_loss(a, a, 0.2, kind) < align_loss(a, -a, 0.2, kind) - 1
    floor = torch.tensor(8.0, dtype=torch.float64).log()
    torch.testing.assert_close(align_loss(a, -a, 0.2, "literal"), floor)
    torch.testing.assert_close(align_loss(a, a, 0.2, "literal"), floor)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_negative_distance_row_by_row(normalize, reduce):
    a, b = (torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    squares = []
    for pair in zip(a, b, strict=True):
        x, y = (row / row.pow(2).sum().sqrt() if normalize else row for row in pair)
        squares.append((x - y).pow(2).sum())
    plain = -sum(squares) / (5 if reduce == "mean" else 1)
    found = negative_distance(a, b, normalize=normalize, reduce=reduce)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(torch.autograd.grad(found, (a, b)), torch.autograd.grad(plain, (a, b)))
    if normalize and reduce == "mean":
        assert -4 <= found <= 0
        assert negative_distance(a, -a).item() == pytest.approx(-4)


def test_the_first_half_is_generic():
    parts = split_halves(torch.arange(8.0).view(2, 4))
    assert parts["generic"].tolist() == parts["aligned"].tolist() == [[0, 1], [4, 5]]
    assert parts["unique"].tolist() == [[2, 3], [6, 7]]


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
@pytest.mark.parametrize("anchor", ["first", "second"])
@pytest.mark.parametrize("pool", ["all", "batch"])
@pytest.mark.parametrize("kind", ["solosim", "infonce"])
def test_alignment_is_the_mean_over_pairs_of_items_that_have_both(n_modalities, anchor, pool, kind):
    separation, parts = make(
        n_modalities,
        align=kind,
        align_anchor=anchor,
        align_pool=pool,
        align_weight=0.7,
        temperature=0.5,
        use_distance=False,
    )
    losses = separation.losses(parts, ITEMS)
    if n_modalities == 1:
        assert losses == {}
        return
    assert list(losses) == ["align"]
    terms = []
    for a, b in combinations(range(n_modalities), 2):
        rows = having(a, b, pool=ITEMS.tolist() if pool == "batch" else None)
        pair = (parts[a]["rows"][rows, :D], parts[b]["rows"][rows, :D])
        terms.append(dense_align(*(pair if anchor == "first" else pair[::-1]), 0.5, kind))
    plain = 0.7 * sum(terms) / len(terms)
    torch.testing.assert_close(losses["align"], plain)
    fast = torch.autograd.grad(losses["align"], leaves(parts))
    torch.testing.assert_close(fast, torch.autograd.grad(plain, leaves(parts)))
    for m, grad in enumerate(fast):
        assert grad[:, :D].any()
        assert not grad[:, D:].any()  # unique halves are not aligned
        assert not grad[LACKING[m]].any()


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("reads", ["unique", "generic"])
@pytest.mark.parametrize("clamp", [False, True])
def test_information_of_each_modalitys_halves(n_modalities, shared, reads, clamp):
    separation, parts = make(
        n_modalities,
        use_align=False,
        distance_weight=0.7,
        club_shared=shared,
        club_reads=reads,
        club_clamp=clamp,
    )
    assert len(separation.clubs) == (1 if shared else n_modalities)
    losses = separation.losses(parts, ITEMS)
    assert list(losses) == ["distance_image", "distance_text", "distance_audio"][:n_modalities]
    for m, (name, loss) in enumerate(losses.items()):
        known = parts[m]["rows"][having(m)]
        generic, unique = known.split(D, dim=1)
        pair = (unique, generic) if reads == "unique" else (generic, unique)
        plain = 0.7 * dense_bound(separation.clubs[0 if shared else m], *pair)
        if clamp:
            plain = plain * (plain > 0)
        torch.testing.assert_close(loss, plain, msg=name)
        fast, slow = (
            torch.autograd.grad(term, parts[m]["rows"], retain_graph=True)[0] for term in (loss, plain)
        )
        torch.testing.assert_close(fast, slow)
        assert not fast[LACKING[m]].any()
        assert clamp or (fast[:, :D].any() and fast[:, D:].any())


def test_a_clamped_bound_below_zero_does_not_pull():
    separation, parts = make(1, complete=True, club_clamp=True)
    free, _ = make(1, complete=True)
    free.load_state_dict(separation.state_dict())
    found = []
    for sign in (1, -1):  # below zero for one of them
        with torch.no_grad():
            for linear in (separation.clubs[0].mean, free.clubs[0].mean):
                linear.weight.mul_(sign)
        bound = free.losses(parts, ITEMS)["distance_image"]
        (grad,) = torch.autograd.grad(separation.losses(parts, ITEMS)["distance_image"], leaves(parts))
        found.append((bound.item() > 0, bool(grad.any())))
    assert all(above == pulls for above, pulls in found)
    assert {above for above, _ in found} == {True, False}


def test_random_negatives_are_one_permutation():
    separation, parts = make(1, complete=True, club_negatives="permutation", distance_weight=1.0)
    torch.manual_seed(3)
    found = separation.losses(parts, ITEMS)["distance_image"]
    torch.manual_seed(3)
    other = parts[0]["generic"][torch.randperm(N)]
    mean, log_variance = separation.clubs[0](parts[0]["unique"])
    far, near = ((y - mean) ** 2 for y in (other, parts[0]["generic"]))
    torch.testing.assert_close(found, ((far - near) / (2 * log_variance.exp())).sum(1).mean())


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_distance_in_place_of_information(normalize, reduce):
    separation, parts = make(
        2, use_align=False, distance="l2", l2_normalize=normalize, l2_reduce=reduce, distance_weight=0.7
    )
    assert not list(separation.parameters())
    for m, loss in enumerate(separation.losses(parts, ITEMS).values()):
        halves = parts[m]["rows"][having(m)].split(D, dim=1)
        torch.testing.assert_close(loss, 0.7 * negative_distance(*halves, normalize=normalize, reduce=reduce))


def test_ablations_leave_out_their_terms_and_what_they_learn():
    for align in (True, False):
        for distance in (True, False):
            separation, parts = make(2, use_align=align, use_distance=distance, align_head=True)
            wanted = ["align"] * align + ["distance_image", "distance_text"] * distance
            assert list(separation.losses(parts, ITEMS)) == wanted
            assert bool(separation.heads) == align
            assert bool(separation.clubs) == distance
            assert bool(list(separation.fits(parts))) == distance


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("pool", ["all", "batch"])
def test_heads_have_batch_norm_over_the_items_that_have_the_modality(mapped: bool, pool: str):
    settings = SeparationSettings(
        align_head=True, head_dim=4, projection_dim=5, align_weight=1.0, use_distance=False, align_pool=pool
    )
    present = [torch.tensor([i not in LACKING[m] for i in range(N)]) for m in range(2)]
    separation = Separation(settings, ("a", "b"), present, [D, 2], mapped=mapped).double().train()
    parts = [
        {"aligned": torch.randn(N, 4 if mapped else w, dtype=torch.float64, requires_grad=True)}
        for w in (D, 2)
    ]
    vectors = []
    asked = ITEMS.tolist() if pool == "batch" else None
    for m in range(2):
        x = parts[m]["aligned"][having(m, pool=asked)]
        linears = [layer for layer in separation.heads[m] if isinstance(layer, torch.nn.Linear)]
        assert len(linears) == (2 if mapped else 3)
        for n, linear in enumerate(linears if not mapped else [None, *linears]):
            x = x if linear is None else x @ linear.weight.T + linear.bias
            if n < 2:
                x = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()
                x = x.clamp(min=0)
        full = torch.zeros(N, 5, dtype=torch.float64)
        vectors.append(full.index_copy(0, having(m, pool=asked), x))
    both = having(0, 1, pool=asked)
    plain = dense_align(vectors[0][both], vectors[1][both], 0.2, "solosim")
    found = separation.losses(parts, ITEMS)["align"]
    torch.testing.assert_close(found, plain)
    at = [*(part["aligned"] for part in parts), *separation.heads.parameters()]
    plain_grads = torch.autograd.grad(plain, at, allow_unused=True)
    for fast, slow in zip(torch.autograd.grad(found, at), plain_grads, strict=True):
        # What batch norm scales and shifts by is 1 and 0 above, where nothing else reads it.
        assert slow is None or torch.allclose(fast, slow)


def test_fitting_is_the_likelihood_of_halves_as_they_were():
    separation, parts = make(2, club_inner_steps=3)
    steps = separation.fits(parts)
    first = next(steps)
    assert list(first) == ["fit_image", "fit_text"]
    for m, loss in enumerate(first.values()):
        generic, unique = parts[m]["rows"][having(m)].detach().split(D, dim=1)
        mean, log_variance = separation.clubs[m](unique)
        plain = ((generic - mean) ** 2 / log_variance.exp() + log_variance).sum(1).mean() / 2
        torch.testing.assert_close(loss, plain)
    sum(first.values()).backward()
    assert all(parameter.grad.any() for parameter in separation.clubs.parameters())
    assert all(rows.grad is None for rows in leaves(parts))
    with torch.no_grad():
        for rows in leaves(parts):
            rows.mul_(100)  # what comes later is not seen
    second = next(steps)
    assert second["fit_image"].item() == first["fit_image"].item()
    assert len(list(steps)) == 1


def test_fits_to_some_rows_take_turns_in_an_order_of_chance():
    separation, parts = make(1, club_rows=3, club_inner_steps=5)
    generic, unique = (
        parts[0]["rows"][having(0)].detach().split(D, dim=1)
    )  # 7 rows: two shares, one left over
    mean, log_variance = separation.clubs[0](unique)
    of_rows = (((generic - mean) ** 2 / log_variance.exp() + log_variance).sum(1) / 2).tolist()
    means = {rows: sum(of_rows[i] for i in rows) / 3 for rows in combinations(range(len(of_rows)), 3)}

    def rows_of(loss: torch.Tensor) -> set[int]:
        (rows,) = (rows for rows, mean in means.items() if abs(mean - loss.item()) < 1e-9)
        return set(rows)

    turns = [rows_of(step["fit_image"]) for step in separation.fits(parts)]
    assert turns[0].isdisjoint(turns[1])
    assert turns == [turns[0], turns[1]] * 2 + [turns[0]]
    orders = {frozenset(rows_of(next(separation.fits(parts))["fit_image"])) for _ in range(20)}
    assert len(orders) > 5


def test_fits_to_no_fewer_rows_than_there_are_take_all():
    few, parts = make(2, club_rows=7, club_inner_steps=2)
    every = Separation(SeparationSettings(), few.names, list(few.present), [D] * 2).double()
    every.load_state_dict(few.state_dict())
    torch.testing.assert_close(next(few.fits(parts)), next(every.fits(parts)))


@pytest.mark.parametrize("anchor", ["first", "second"])
@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_the_official_error_fits_other_pairs_than_are_bounded(n_modalities: int, anchor):
    separation, parts = make(
        n_modalities, club_pairing="official_bug", club_shared=True, align_anchor=anchor, club_inner_steps=1
    )
    (found,) = separation.fits(parts)
    if n_modalities == 1:  # nothing to mix up
        assert list(found) == ["fit_image"]
        return
    names, expected = separation.names, {}
    for pair in combinations(range(n_modalities), 2):
        a, b = pair if anchor == "first" else pair[::-1]
        rows = having(a, b)
        for half, columns in (("generic", slice(D)), ("unique", slice(D, None))):
            x, y = (parts[m]["rows"][rows, columns].detach() for m in (a, b))
            mean, log_variance = separation.clubs[0](x)
            plain = ((y - mean) ** 2 / log_variance.exp() + log_variance).sum(1).mean() / 2
            expected[f"fit_{half}_{names[a]}_{names[b]}"] = plain
    assert list(found) == list(expected)
    torch.testing.assert_close(list(found.values()), list(expected.values()))


def test_what_items_that_lack_a_modality_have_there_changes_nothing():
    for settings in ({}, {"align_head": True}, {"distance": "l2", "align_pool": "batch"}):
        separation, parts = make(3, **settings)
        strange = []
        for m, part in enumerate(parts):
            rows = part["rows"].detach().clone()
            rows[LACKING[m]] = 1e3
            strange.append(split_halves(rows))
        usual, other = separation.losses(parts, ITEMS), separation.losses(strange, ITEMS)
        torch.testing.assert_close(usual, other)
        torch.testing.assert_close(*(next(separation.fits(p), {}) for p in (parts, strange)))


def test_terms_of_fewer_than_two_items_are_zero_with_a_gradient():
    few = [torch.arange(N) < 1, torch.arange(N) < 5]
    for settings in ({}, {"align_head": True}, {"distance": "l2"}):
        separation = Separation(SeparationSettings(**settings), ("a", "b"), few, [D, D])
        rows = [torch.randn(N, 2 * D, requires_grad=True) for _ in range(2)]
        parts = [split_halves(part) for part in rows]
        losses = separation.losses(parts, ITEMS)
        assert losses["align"].item() == losses["distance_a"].item() == 0
        assert losses["distance_b"].item() != 0
        grads = torch.autograd.grad(losses["align"] + losses["distance_a"], rows)
        assert not any(grad.any() for grad in grads)
        assert all(list(step) == ["fit_b"] for step in separation.fits(parts))


def test_a_batch_of_one_item_has_nothing_to_align():
    separation, parts = make(2, align_pool="batch", align_head=True)
    assert separation.losses(parts, torch.tensor([3, 3]))["align"].item() == 0


def test_parameters_of_clubs_are_apart_and_have_their_own_rate():
    separation, _ = make(2, align_head=True, club_learning_rate=0.1)
    others, clubs = separation.apart(separation.parameters())
    assert {id(p) for p in clubs} == {id(p) for p in separation.clubs.parameters()}
    assert {id(p) for p in others} == {id(p) for p in separation.heads.parameters()}
    assert separation.club_options == {"lr": 0.1}
    assert make(2)[0].club_options == {}


def test_parts_that_are_needed_and_what_they_are_made_of():
    settings = {"head_dim": 7, "projection_dim": 5}
    first, rest = slice(4), slice(4, 9)
    halves = {"generic": (first, 5), "unique": (rest, 5)}
    assert make(2, **settings)[0].consumers(9) == {"aligned": (first, 5), **halves}
    assert make(2, align_head=True, **settings)[0].consumers(9) == {"aligned": (first, 7), **halves}
    assert make(2, use_align=False, **settings)[0].consumers(9) == halves
    assert make(1, **settings)[0].consumers(9) == halves
    assert make(2, use_distance=False, **settings)[0].consumers(9) == {"aligned": (first, 5)}


def test_halves_of_different_widths_are_compared_through_heads_only():
    present = [torch.ones(N, dtype=torch.bool)] * 2
    for settings in ({}, {"align_head": True, "club_shared": True}):
        with pytest.raises(ConfigError, match="different widths: 6, 4"):
            Separation(SeparationSettings(**settings), ("a", "b"), present, [3, 2])
    fit = Separation(SeparationSettings(align_head=True), ("a", "b"), present, [3, 2])
    parts = [split_halves(torch.randn(N, width)) for width in (6, 4)]
    assert all(term.isfinite() for term in fit.losses(parts, ITEMS).values())
    Separation(SeparationSettings(use_align=False), ("a", "b"), present, [3, 2])


def test_the_official_error_needs_a_network_that_all_share():
    with pytest.raises(ConfigError, match="a network of its own"):
        make(2, club_pairing="official_bug")


def test_networks_of_an_odd_number_of_neurons_are_refused():
    with pytest.raises(ValidationError, match="multiple of 2"):
        SeparationSettings(club_hidden_dim=5)


def test_runs_in_mixed_precision():
    separation, parts = make(2, align_head=True, align_pool="batch")
    separation = separation.float()
    parts = [{name: part.detach().float().requires_grad_() for name, part in half.items()} for half in parts]
    exact = separation.losses(parts, ITEMS)
    with torch.autocast("cpu", torch.bfloat16):
        losses = separation.losses(parts, ITEMS)
        fit = next(separation.fits(parts))
    assert all(term.dtype == torch.float32 for term in (*losses.values(), *fit.values()))
    assert losses["align"].item() == pytest.approx(exact["align"].item(), rel=0.1)
    sum([*losses.values(), *fit.values()]).backward()
    assert all(part["unique"].grad.isfinite().all() for part in parts)
