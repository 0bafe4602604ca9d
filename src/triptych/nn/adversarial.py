"""Guessed rows of a user–item matrix, a critic that tells them from true ones, and graphs of the guesses.

A row has I entries, and yet none is written out in training: guesses are inner products, but for a few
places, so that the linear map a critic begins with can be taken factor by factor.

Letters: M modalities, U users, I items, D width, B rows at once, H width in the critic, E entries or edges.

Source: MMSSL (arXiv:2302.10632), and its authors' code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.graph.bipartite import side_graph
from triptych.graph.sparse import SparseGraph, spmm
from triptych.graph.weighted import edge_dots, segment_softmax, spmm_weighted
from triptych.scorer import Embeddings


class Rows(NamedTuple):
    """A (B, I) matrix that is not written out: left right^T, to which a few places add something."""

    left: Tensor  # (B, D)
    right: Tensor  # (I, D)
    places: SparseGraph  # (B, I), of E entries
    added: Tensor  # (E,)

    def multiply(self, x: Tensor) -> Tensor:
        """Compute the product with a dense matrix: (I, H) -> (B, H). Cost: O((I D + B D + E) H) time."""
        with torch.autocast(x.device.type, enabled=False):  # what cancels out must do so to the last digit
            return self.left @ (self.right.T @ x) + spmm_weighted(self.places, self.added, x)

    def detach(self) -> Rows:
        """Give the same rows, held still."""
        return Rows(self.left.detach(), self.right.detach(), self.places, self.added.detach())


def guess_rows(users: Tensor, items: Tensor, chosen: SparseGraph) -> Rows:
    """Score all items but those that users chose, which get 0, and scale each row to length 1.

    Args:
        users: (B, D).
        items: (I, D).
        chosen: (B, I), whose entries are the items that users chose.
    """
    with torch.autocast(users.device.type, enabled=False):
        scores = edge_dots(chosen, users, items)  # (E,)
        whole = ((users @ (items.T @ items)) * users).sum(dim=1)  # (B,) squared lengths with these scores
    squares = whole - _row_sums(chosen, scores.square())
    told = squares > 1e-6 * whole  # less is rounding
    scale = torch.where(told, squares, 1.0).rsqrt() * told
    return Rows(users * scale[:, None], items, chosen, -scores * scale[chosen.edges()[0]])


def true_rows(guesses: Rows, guess_weight: float) -> Rows:
    """Make choices look like guesses: shares of what is chosen, with a little noise, and guesses elsewhere.

    A row is softmax(0.002 Gumbel), over what its user chose, plus guess_weight guesses, scaled to length 1.
    The authors' softmax is of (chosen + 1e-5 Gumbel) / 0.005 over all items, but those that are not chosen
    get e^-200 times as much there. Randomness is torch's default generator.

    Args:
        guesses: of the same users.
        guess_weight: how much they count.
    """
    places = guesses.places
    noise = torch.empty_like(guesses.added).exponential_().add_(1e-8).log_()  # Gumbel's, with the sign turned
    shares = segment_softmax(places, -0.002 * noise)
    squares = _row_sums(places, shares.square()) + guess_weight**2 * guesses.left.any(dim=1)
    scale = squares.clamp(min=1e-24).rsqrt()
    added = (shares + guess_weight * guesses.added) * scale[places.edges()[0]]
    return Rows(guess_weight * guesses.left * scale[:, None], guesses.right, places, added)


def _row_sums(graph: SparseGraph, values: Tensor) -> Tensor:
    return spmm_weighted(graph, values, values.new_ones(graph.n_cols, 1)).squeeze(1)  # (E,) -> (R,)


class Critic(nn.Module):
    """Says how true rows look, from 0 to 100.

    Two hidden layers, each linear, leaky ReLU, batch normalisation and dropout; then linear, and a sigmoid.
    Normalisation is always by mean and variance of the rows at hand: true and guessed ones come apart, and
    no running statistics would fit both. Weights start Kaiming-normal, biases at zero.

    Args:
        n_items: I.
        widths: of the hidden layers, the first being H.
        dropout: share of each hidden layer's outputs dropped in training.
        negative_slope: of the leaky ReLU; 1 makes it the identity.
    """

    def __init__(
        self,
        n_items: int,
        widths: tuple[int, int],
        dropout: tuple[float, float],
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.by_item = nn.Parameter(nn.init.kaiming_normal_(torch.empty(n_items, widths[0]), mode="fan_out"))
        first, second = (
            _Activation(width, rate, negative_slope) for width, rate in zip(widths, dropout, strict=True)
        )
        inner, last = nn.Linear(*widths, bias=False), nn.Linear(widths[1], 1)
        for linear in (inner, last):
            nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(last.bias)
        self.rest = nn.Sequential(first, inner, second, last)

    def forward(self, rows: Iterable[Rows]) -> Tensor:
        """Judge rows: several (B, I) one below the other -> (n,)."""
        return self.judge(self.enter(rows))

    def enter(self, rows: Iterable[Rows]) -> Tensor:
        """Take rows through the first linear map: several (B, I) -> (n, H)."""
        return torch.cat([part.multiply(self.by_item) for part in rows])

    def judge(self, entered: Tensor) -> Tensor:
        """Judge rows that have entered: (n, H) -> (n,)."""
        judged: Tensor = self.rest(entered).squeeze(1)
        return 100 * judged.to(entered.dtype).sigmoid()

    def penalty(self, true: Tensor, guesses: Tensor) -> Tensor:
        """Measure how far the slope is from 1 between true rows and guessed ones: mean of (|gradient| - 1)^2.

        The gradient is that of the sum of all scores, at one point of the line between each two rows, drawn
        uniformly. With g the gradient at what has entered through W, it is W g, of length (g W^T W g)^1/2.

        Source: WGAN-GP (arXiv:1704.00028, eq. 3), without its weight.

        Args:
            true: (n, H), entered.
            guesses: (n, H), entered, row by row.
        """
        between = torch.lerp(guesses, true, torch.rand_like(true[:, :1]))
        (gradient,) = torch.autograd.grad(self.judge(between).sum(), between, create_graph=True)
        squares = ((gradient @ (self.by_item.T @ self.by_item)) * gradient).sum(dim=1)
        return (squares.clamp(min=1e-24).sqrt() - 1).square().mean()


class _Activation(nn.Module):
    def __init__(self, width: int, dropout: float, negative_slope: float) -> None:
        super().__init__()
        self.dropout, self.negative_slope = dropout, negative_slope
        self.bias, self.shift = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(x + self.bias, self.negative_slope)
        # torch's batch normalisation refuses a single row, as which a last batch may come.
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        x = (x - mean) * ((variance + 1e-5).rsqrt() * self.scale) + self.shift
        return F.dropout(x, self.dropout, self.training)


class GeneratedGraphs(nn.Module):
    """A user–item graph for each modality, given anew as training goes on, and part of a model's state.

    With H_m the (U, I) 0/1 matrix of modality m's edges, users receive D_u^-1/2 H_m x and items
    D_i^-1/2 H_m^T x. Rows of all modalities are in one matrix, modality after modality, for a single product.

    Args:
        n_modalities: M.
        user: (E,) int64, of the edges that all modalities have at first.
        item: (E,) int64.
        n_users: U.
        n_items: I.
    """

    users: SparseGraph  # (M U, I)
    items: SparseGraph  # (M I, U)

    def __init__(self, n_modalities: int, user: Tensor, item: Tensor, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_modalities, self.n_users, self.n_items = n_modalities, n_users, n_items
        modality = torch.arange(n_modalities).repeat_interleave(len(user))
        self.replace(modality, user.repeat(n_modalities), item.repeat(n_modalities))

    def forward(self, ids: Embeddings) -> Embeddings:
        """Send ids (U, D) and (I, D) over the graphs: users (M, U, D), items (M, I, D)."""
        sides = spmm(self.users, ids.items), spmm(self.items, ids.users)
        return Embeddings(*(side.unflatten(0, (self.n_modalities, -1)) for side in sides))

    def replace(self, modality: Tensor, user: Tensor, item: Tensor) -> None:
        """Take other edges: (E,) int64 each."""
        n_rows = [self.n_modalities * n for n in (self.n_users, self.n_items)]
        users = side_graph(modality * self.n_users + user, item, n_rows[0], self.n_items, "root_row")
        items = side_graph(modality * self.n_items + item, user, n_rows[1], self.n_users, "root_row")
        for name, graph in (("users", users), ("items", items)):
            self.add_module(name, graph.share(persistent=True))

    def refresh(self, content: Embeddings, chosen: SparseGraph, n_items: int, block_size: int = 1024) -> None:
        """Take other edges: what content guesses most of all users; see `strongest`.

        Args:
            content: (M, U, D) and (M, I, D).
            chosen: (U, I), whose entries are 1.
            n_items: edges of a user, at most.
            block_size: users at once; changes memory and speed only.

        Cost: O(M U I D) time, O(M I) memory for each user of a block.
        """
        users = torch.arange(self.n_users, device=content.users.device).split(block_size)
        edges = [strongest(content, chosen, user, n_items) for user in users]
        self.replace(*(torch.cat(part) for part in zip(*edges, strict=True)))


@torch.no_grad()
def strongest(
    content: Embeddings, chosen: SparseGraph, user: Tensor, n_items: int
) -> tuple[Tensor, Tensor, Tensor]:
    """List as edges the items that are guessed most of some users, of those that score above zero.

    Args:
        content: (M, U, D) and (M, I, D).
        chosen: (U, I), whose entries are 1; what users chose is no guess.
        user: (B,) int64.
        n_items: edges of a user in each modality, at most.

    Returns: modality, user and item, (E,) int64 each.
    """
    with torch.autocast(content.users.device.type, enabled=False):  # bfloat16 has many equals among so many
        scores = content.users.index_select(1, user) @ content.items.transpose(1, 2)  # (M, B, I)
    score, item = scores.mul_(1 - chosen.select_rows(user).to_dense()).topk(n_items, dim=2)
    edges = (score > 0).nonzero(as_tuple=True)
    return edges[0], user[edges[1]], item[edges]
