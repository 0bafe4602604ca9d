"""The contrast between modalities against logits spelled out."""

from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from triptych.models.base import Triplets
from triptych.nn.contrast import contrast_modalities
from triptych.nn.hypergraph import HyperView

N_USERS, N_ITEMS, A, D = 5, 7, 3, 6
BATCH = Triplets(torch.tensor([0, 3, 3, 4]), torch.tensor([6, 0, 2, 2]), torch.tensor([1, 1, 1, 1]))


def make_view(n_modalities: int, *, complete: bool = True) -> HyperView:
    torch.manual_seed(0)
    n_nodes = N_USERS + N_ITEMS
    members = torch.rand(n_modalities, n_nodes, A).double()
    has = torch.ones(n_modalities, n_nodes, dtype=torch.bool)
    if not complete:
        has[0, 3] = has[1, 1] = has[0, N_USERS + 5] = has[1, N_USERS + 2] = False
    members = (members * has[:, :, None]).requires_grad_()
    edges = torch.randn(n_modalities, A, D).double().requires_grad_()
    return HyperView(members, edges, members @ edges, has)


def plain(view: HyperView, temperature: float, candidates: str = "all") -> torch.Tensor:
    """Loop over pairs, sides and rows."""
    total = torch.zeros((), dtype=torch.float64)
    pairs = list(combinations(range(len(view.edges)), 2))
    sides = ((slice(N_USERS), BATCH.user), (slice(N_USERS, None), BATCH.pos))
    for a, b in pairs:
        for side, nodes in sides:
            first, second = (F.normalize(view.vectors[m, side], dim=1) for m in (a, b))
            both = view.has[a, side] & view.has[b, side]
            taking_part = [n for n in nodes.tolist() if both[n]]
            others = taking_part if candidates == "batch" else both.nonzero().flatten().tolist()
            for n in taking_part:
                powers = torch.stack([(first[n] @ second[k] / temperature).exp() for k in others])
                total = total - ((first[n] @ second[n] / temperature).exp() / powers.sum()).log()
    return total / len(pairs)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("candidates", ["all", "batch"])
@pytest.mark.parametrize("n_modalities", [2, 3])
def test_equals_the_plain_form_in_value_and_gradient(n_modalities: int, candidates: str, complete: bool):
    view = make_view(n_modalities, complete=complete)
    ours = contrast_modalities(view, N_USERS, BATCH.user, BATCH.pos, 0.3, candidates)
    theirs = plain(view, 0.3, candidates)
    assert ours.item() > 0.1
    torch.testing.assert_close(ours, theirs)
    leaves = (view.members, view.edges)
    found = torch.autograd.grad(ours, leaves, retain_graph=True)
    torch.testing.assert_close(found, torch.autograd.grad(theirs, leaves))


def test_two_modalities_are_the_papers_sum_over_the_batch():
    view = make_view(2)
    users, items = view.split(N_USERS)
    expected = torch.zeros((), dtype=torch.float64)
    for side, nodes in ((users, BATCH.user), (items, BATCH.pos)):
        logits = F.normalize(side.vectors[0], dim=1) @ F.normalize(side.vectors[1], dim=1).T / 0.2
        expected = expected + F.cross_entropy(logits[nodes], nodes, reduction="sum")
    torch.testing.assert_close(contrast_modalities(view, N_USERS, BATCH.user, BATCH.pos, 0.2), expected)


def test_a_batch_without_anybody_to_compare_is_zero_with_a_gradient():
    view = make_view(2)
    nobody = view._replace(has=torch.zeros_like(view.has))
    for candidates in ("all", "batch"):
        loss = contrast_modalities(nobody, N_USERS, BATCH.user, BATCH.pos, 0.2, candidates)
        assert loss.item() == 0.0
        assert not torch.autograd.grad(loss, view.edges, retain_graph=True)[0].any()


def test_node_that_lacks_a_modality_changes_nothing():
    view = make_view(2, complete=False)
    strange = view.vectors.detach().clone()
    members = view.members.detach().clone()
    for m, n in (~view.has).nonzero().tolist():
        strange[m, n], members[m, n] = 9.0, 5.0
    other = view._replace(vectors=strange, members=members)
    torch.testing.assert_close(
        contrast_modalities(other, N_USERS, BATCH.user, BATCH.pos, 0.2),
        contrast_modalities(view, N_USERS, BATCH.user, BATCH.pos, 0.2),
    )
