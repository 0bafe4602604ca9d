"""What modalities have in common and what each has of its own, kept apart in two halves of its vectors.

Letters: M modalities, I items, B items of a batch, A width of what is aligned, D width of a half.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.errors import ConfigError
from triptych.losses import info_nce
from triptych.nn.club import ContrastiveUpperBound, Negatives
from triptych.nn.embedding import take_rows
from triptych.unit import unit_rows

AlignLoss = Literal["solosim", "infonce", "positive_only", "literal"]

Parts = Mapping[str, Tensor]
"""Vectors of all items in one modality: "generic" and "unique", (I, D) each, and "aligned", (I, A)."""


class SeparationSettings(BaseModel):
    """Settings of the two losses, for a model and for a plug-in alike."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    use_align: bool = True
    """Whether generic halves are aligned; "w/o Alignment" is without."""
    align_weight: float = Field(0.012, ge=0)
    """alpha, weight of the alignment, the mean over all pairs of modalities."""
    align: AlignLoss = "solosim"
    """"solosim": -log softmax of cosines over the other modality's items at the item itself; "infonce":
    the mean of both ways; "positive_only": -cosine / temperature; "literal": eq. 10 as printed, but for
    cosines in the place of products, whose exp of exp overflows: a softmax over items of
    exp(cosine / temperature), least where all cosines are equal, however small."""
    align_anchor: Literal["first", "second"] = "first"
    """Which modality of a pair, in their order, asks in "solosim" for its partner in the other; and, where
    `club_pairing` is the code's, which of them the other's half is guessed from."""
    align_pool: Literal["all", "batch"] = "all"
    """Which items are aligned, and told apart: "all", or those chosen in the "batch"."""
    align_head: bool = False
    """Whether generic halves are aligned behind a network of three maps, two of them with batch norm."""
    head_dim: int = Field(64, gt=0)
    """Width of the hidden layers of that network."""
    projection_dim: int = Field(32, gt=0)
    """Width of its output, and of all maps of halves."""
    temperature: float = Field(0.2, gt=0)
    """tau, what cosines are divided by."""
    use_distance: bool = True
    """Whether unique halves are driven away from generic ones; "w/o Distancing" is without."""
    distance_weight: float = Field(0.003, ge=0)
    """beta, weight of each modality's distance."""
    distance: Literal["mi", "l2"] = "mi"
    """"mi": what one half tells of the other, as CLUB bounds it; "l2": minus their squared distance."""
    l2_normalize: bool = True
    """Whether "l2" scales halves to length 1, without which it has no lower bound."""
    l2_reduce: Literal["mean", "sum"] = "mean"
    """How "l2" puts items together; the mean over items and columns is "mean" with a smaller weight."""
    club_reads: Literal["unique", "generic"] = "unique"
    """The half from which CLUB's network guesses the other: q(generic | unique), eq. 13, or the reverse."""
    club_negatives: Negatives = "exact"
    """Eq. 13 as it is, at the cost of one random "permutation" in its place."""
    club_clamp: bool = False
    """Whether a bound below 0 is 0, and does not pull."""
    club_shared: bool = False
    """Whether all modalities share one network."""
    club_hidden_dim: int = Field(16, gt=0, multiple_of=2)
    """Neurons of a network, half of them for the mean, half for the variance."""
    club_inner_steps: int = Field(50, gt=0)
    """Steps of the networks for each step of the model."""
    club_rows: int | None = Field(None, ge=2)
    """Items that an inner step is fitted to, by default all, as in the authors' code. Otherwise each takes
    the next ones of an order that is drawn anew for each step of the model."""
    club_learning_rate: float | None = Field(None, gt=0)
    """Adam's step size in these; by default that of the training."""
    club_pairing: Literal["same_modality", "official_bug"] = "same_modality"
    """What networks are fitted to: the halves of a modality, or as in the authors' code one modality's half
    and another's, generic with generic and unique with unique, which is not what they then bound."""


class Separation(nn.Module):
    """The losses that align the generic halves of modalities and drive unique halves away from generic ones.

    An item that lacks a modality takes no part in its terms. A term of fewer than two items is zero.

    Source: SAND (arXiv:2406.08270), section 3.2.

    Args:
        settings: which losses, and how.
        names: of the modalities.
        present: (I,) bool each, which items have them.
        widths: of their halves.
        mapped: "aligned" has been through the first map of the head already.

    Raises:
        ConfigError: halves of different widths cannot be compared.
    """

    present: Tensor  # (M, I) bool

    def __init__(
        self,
        settings: SeparationSettings,
        names: Sequence[str],
        present: Sequence[Tensor],
        widths: Sequence[int],
        *,
        mapped: bool = False,
    ) -> None:
        super().__init__()
        self.settings, self.names = settings, tuple(names)
        pairs = list(combinations(range(len(names)), 2))
        self.pairs = pairs if settings.align_anchor == "first" else [(b, a) for a, b in pairs]
        self.aligns = settings.use_align and bool(pairs)
        self.register_buffer("present", torch.stack(list(present)), persistent=False)
        self.heads, self.clubs = nn.ModuleList(), nn.ModuleList()
        if self.aligns and settings.align_head:
            self.heads.extend(_head(None if mapped else width, settings) for width in widths)
        if settings.use_distance and settings.distance == "mi":
            clubs = [ContrastiveUpperBound(width, width, settings.club_hidden_dim) for width in widths]
            self.clubs.extend(clubs[:1] if settings.club_shared else clubs)
        if len(set(widths)) > 1 and ((self.aligns and not self.heads) or len(self.clubs) == 1):
            raise ConfigError(
                "the modalities' vectors have different widths: "
                + ", ".join(str(2 * width) for width in widths),
                wanted="one width, where halves are aligned as they are or share a network",
                fix="Set align_head = true and club_shared = false",
            )
        self.mixes_up = settings.club_pairing == "official_bug" and bool(pairs)
        if self.clubs and self.mixes_up and not settings.club_shared:
            raise ConfigError(
                "club_pairing is 'official_bug', and each modality has a network of its own",
                wanted="one network, to be fitted to what it does not bound",
                fix="Set club_shared = true",
            )

    def consumers(self, width: int) -> dict[str, tuple[slice, int]]:
        """Say which parts are needed, and if they are maps of `width` columns, of which and how wide."""
        generic, unique = slice(width // 2), slice(width // 2, width)
        settings, found = self.settings, {}
        if self.aligns:
            found["aligned"] = (generic, settings.head_dim if self.heads else settings.projection_dim)
        if settings.use_distance:
            found |= {
                "generic": (generic, settings.projection_dim),
                "unique": (unique, settings.projection_dim),
            }
        return found

    def apart(self, parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Part a model's parameters into its others, and those of CLUB, which have steps of their own."""
        clubs = list(self.clubs.parameters())
        known = {id(parameter) for parameter in clubs}
        return [parameter for parameter in parameters if id(parameter) not in known], clubs

    @property
    def club_options(self) -> dict[str, float]:
        """What CLUB's optimiser does otherwise than the model's."""
        rate = self.settings.club_learning_rate
        return {} if rate is None else {"lr": rate}

    def fits(self, parts: Sequence[Parts]) -> Iterator[dict[str, Tensor]]:
        """Name what fits CLUB's networks to the halves as they are now, once for each inner step."""
        pairs = self._fitted(parts) if self.clubs else {}
        for step in range(self.settings.club_inner_steps if pairs else 0):
            shares = {
                name: _share(len(x), self.settings.club_rows, step) for name, (_, x, _) in pairs.items()
            }
            yield {
                f"fit_{name}": club.misfit(x[shares[name]], y[shares[name]])
                for name, (club, x, y) in pairs.items()
            }

    def losses(self, parts: Sequence[Parts], items: Tensor) -> dict[str, Tensor]:
        """Name the weighted terms, none of which moves CLUB's networks.

        Args:
            parts: of each modality.
            items: (B,) int64, those chosen in the batch, however often.
        """
        settings, losses = self.settings, {}
        if self.aligns:
            losses["align"] = settings.align_weight * self._align(parts, items)
        if settings.use_distance:
            for place, name in enumerate(self.names):
                losses[f"distance_{name}"] = settings.distance_weight * self._distance(place, parts[place])
        return losses

    def _align(self, parts: Sequence[Parts], items: Tensor) -> Tensor:
        everyone = torch.arange(self.present.shape[1], device=items.device)
        pool = everyone if self.settings.align_pool == "all" else items.unique()
        has = self.present[:, pool]  # (M, n)
        place = has.cumsum(dim=1) - 1  # where an item of the pool is among those that have the modality
        vectors = [take_rows(part["aligned"], pool[has[m]]) for m, part in enumerate(parts)]
        for m, head in enumerate(self.heads):
            if len(vectors[m]) > 1:  # batch norm needs two
                vectors[m] = head(vectors[m]).to(parts[m]["aligned"].dtype)
        terms = []
        for pair in self.pairs:
            both = has[pair[0]] & has[pair[1]]
            if both.sum() < 2:
                terms.append(torch.stack([parts[m]["aligned"].sum() for m in pair]).sum() * 0.0)
                continue
            anchor, other = (take_rows(vectors[m], place[m][both]) for m in pair)
            terms.append(align_loss(anchor, other, self.settings.temperature, self.settings.align))
        return torch.stack(terms).mean()

    def _distance(self, m: int, part: Parts) -> Tensor:
        generic, unique = self._halves(m, part)
        if len(generic) < 2:
            return (part["generic"].sum() + part["unique"].sum()) * 0.0
        if self.settings.distance == "l2":
            return negative_distance(
                generic, unique, normalize=self.settings.l2_normalize, reduce=self.settings.l2_reduce
            )
        x, y = self._read_and_guessed(generic, unique)
        bound = self._club(m).bound(x, y, self.settings.club_negatives)
        return bound.clamp(min=0) if self.settings.club_clamp else bound

    def _fitted(self, parts: Sequence[Parts]) -> dict[str, tuple[ContrastiveUpperBound, Tensor, Tensor]]:
        """Say which network learns from what to guess what, (n, D) each."""
        found = {}
        if self.mixes_up:
            for a, b in self.pairs:
                both = (self.present[a] & self.present[b]).nonzero().squeeze(1)
                for half in ("generic", "unique"):
                    x, y = (take_rows(parts[m][half], both) for m in (a, b))
                    found[f"{half}_{self.names[a]}_{self.names[b]}"] = (self._club(a), x, y)
        else:
            for m, name in enumerate(self.names):
                x, y = self._read_and_guessed(*self._halves(m, parts[m]))
                found[name] = (self._club(m), x, y)
        return {name: (club, *self._to_fit(x, y)) for name, (club, x, y) in found.items() if len(x) > 1}

    def _to_fit(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Copy both without gradients, with contiguous columns, and if fits go to some of them, shuffled."""
        if self.settings.club_rows is not None:
            order = torch.randperm(len(x), device=x.device)
            x, y = x[order], y[order]
        return x.detach().T.contiguous().T, y.detach().T.contiguous().T

    def _halves(self, m: int, part: Parts) -> tuple[Tensor, Tensor]:
        """Give the halves of those items that have modality m."""
        known = self.present[m].nonzero().squeeze(1)
        return take_rows(part["generic"], known), take_rows(part["unique"], known)

    def _read_and_guessed(self, generic: Tensor, unique: Tensor) -> tuple[Tensor, Tensor]:
        return (unique, generic) if self.settings.club_reads == "unique" else (generic, unique)

    def _club(self, m: int) -> ContrastiveUpperBound:
        return cast(ContrastiveUpperBound, self.clubs[0 if self.settings.club_shared else m])


def split_halves(rows: Tensor) -> dict[str, Tensor]:
    """Take the first half of the columns as generic, and as what is aligned, the second as unique."""
    generic, unique = rows.chunk(2, dim=1)
    return {"aligned": generic, "generic": generic, "unique": unique}


def align_loss(anchor: Tensor, other: Tensor, temperature: float, kind: AlignLoss = "solosim") -> Tensor:
    """Draw rows that belong together to each other, by the cosines of all pairs or of these alone.

    Source: SAND (arXiv:2406.08270), eq. 10; the names are those of `SeparationSettings.align`.

    Args:
        anchor: (n, A).
        other: (n, A), row by row the partners.
        temperature: what cosines are divided by.
        kind: which loss.
    """
    if kind == "solosim":
        return info_nce(anchor, other, temperature)
    if kind == "infonce":
        return (info_nce(anchor, other, temperature) + info_nce(other, anchor, temperature)) / 2
    cosines = F.cosine_similarity(anchor, other, dim=1) / temperature
    if kind == "positive_only":
        return -cosines.mean()
    return cosines.exp().logsumexp(dim=0) - cosines.exp().mean()


def negative_distance(
    a: Tensor, b: Tensor, *, normalize: bool = True, reduce: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Drive rows apart: minus the squared distances, (n, D) twice -> scalar.

    Source: SAND (arXiv:2406.08270), eq. 14.

    Args:
        a: one half.
        b: the other.
        normalize: scale rows to length 1, so that no distance is above 4.
        reduce: over rows.
    """
    if normalize:
        a, b = unit_rows(a), unit_rows(b)
    squares = (a - b).square().sum(dim=1)
    return -(squares.mean() if reduce == "mean" else squares.sum())


def _share(n_rows: int, size: int | None, step: int) -> slice:
    """Cut whole shares of rows, and take them in turns; what is left over waits for another order."""
    if size is None or size >= n_rows:
        return slice(0, n_rows)
    start = size * (step % (n_rows // size))
    return slice(start, start + size)


def _head(n_in: int | None, settings: SeparationSettings) -> nn.Sequential:
    """Make the network behind which halves are aligned, or without `n_in` all but its first map."""
    hidden = settings.head_dim
    first = [] if n_in is None else [nn.Linear(n_in, hidden)]
    return nn.Sequential(
        *first,
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, settings.projection_dim),
    )
