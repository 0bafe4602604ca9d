"""MMSSL: modalities guess who chose what, a critic tells guesses from choices, and ids learn of both.

Paper: Wei et al., Multi-Modal Self-Supervised Learning for Recommendation, WWW 2023 (arXiv:2302.10632).
R are the (U, I) training pairs, G = D_u^-1/2 R and G' = D_i^-1/2 R^T, n(x) the rows of x at length 1.

- Content. U_m = G dropout(W_m f_m + b_m),  I_m = G' U_m.
- Guesses. S_m = n(U_m I_m^T), zero at training pairs. Each user's strongest items are a generated graph
  H_m, through which ids P and Q reach the other side: u_m = D_u^-1/2 H_m Q,  i_m = D_i^-1/2 H_m^T P.
- Embeddings. X = P + a n(attention(u_1 ... u_M)),  Y = Q + a n(attention(i_1 ... i_M)), L times X <- G Y,
  then Y <- G' X, the last of each through a softmax over its D entries; the mean of all L + 1, plus
  w sum_m n(U_m) and w sum_m n(I_m). Inner products score.
- Critic. A network over rows minimises mean D(S_m) - mean D(T) + v mean (|grad D| - 1)^2 on a batch's users,
  T = n(softmax_R(0.002 Gumbel) + c S), a softmax over training items, S being the embeddings' own guess.
- All else minimises BPR, half the squares of the batch's rows over B and of all U_m and I_m over I,
  InfoNCE(u_m, users) in the batch, the other u_m being negatives too, and -mean D(S_m).

Defaults are the authors' settings for Baby and what their code does, from which the paper's tables come (on
the split of LATTICE; rows on that of MMRec seem to be of a port). It does less than the paper says:

- `graph_refresh` "official": H_m has the users of an epoch's first batch, in its third batch alone, and is
  empty at all other times, so that attention and contrast have nothing to work on; on Baby it always is, as
  int(1e-4 I) = 0. "epoch" is what the paper means: all users, anew before each epoch.
- `variant` "official": an attention that cannot attend (see `ModalityAttention`), and a critic whose leaky
  ReLU has slope 1. "paper": attention as in the paper, and slope 0.01.

The authors train with `sampler` "users", `batch_size` 1024, `learning_rate` 5.5e-4, `lr_decay` 0.96 and
`patience` 7. Here both steps of a batch share a forward pass; true rows enter the critic once, not M times;
its learning rate decays too; edges need a positive score. Until there are guesses, R replaces H_m, as there.

Beyond the paper: any modalities by name; an item that lacks one has there what its users tell of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call

from triptych.graph.sparse import SparseGraph, spmm
from triptych.losses import bpr_loss, half_squared, info_nce
from triptych.models.base import (
    ContentConfig,
    Group,
    Losses,
    ModelInputs,
    Recommender,
    Step,
    Triplets,
    batch_rows,
    pair_scores,
)
from triptych.models.registry import register
from triptych.nn.adversarial import Critic, GeneratedGraphs, Rows, guess_rows, strongest, true_rows
from triptych.nn.channels import xavier_linear
from triptych.nn.content import FeatureBank
from triptych.nn.embedding import NodeEmbedding, take_rows
from triptych.nn.modality_attention import ModalityAttention
from triptych.scorer import Embeddings
from triptych.unit import unit_rows

Share = Annotated[float, Field(ge=0, lt=1)]


class MMSSLConfig(ContentConfig):
    """Settings of MMSSL."""

    n_layers: int = Field(2, ge=0)
    """L, layers over the user–item graph."""
    dropout: Share = 0.2
    """Share of the projected features' entries dropped in training."""
    content_weight: float = Field(0.55, ge=0)
    """w, weight of each modality's content in the embeddings."""
    attention_weight: float = Field(0.36, ge=0)
    """a, weight of what the generated graphs tell."""
    n_heads: int = Field(4, gt=0)
    """Heads of the attention across modalities."""
    variant: Literal["official", "paper"] = "official"
    """Whether attention and leaky ReLU work as in the "paper", or not, as in the "official" code."""
    graph_refresh: Literal["official", "epoch"] = "official"
    """Whether generated graphs are made before each "epoch", or for a single batch of each, as in the
    "official" code. The published tables come from "official" here and in `variant`."""
    graph_share: float = Field(1e-4, gt=0, le=1)
    """Share of all items that a user has in a generated graph; if refreshed by epoch, one item at least."""
    contrast_weight: float = Field(0.03, ge=0)
    """Weight of each modality's contrast."""
    temperature: float = Field(0.5, gt=0)
    """What cosines are divided by in the contrast."""
    reg_weight: float = Field(1e-5, ge=0)
    """Weight of the squares of the batch's rows, and of the content vectors."""
    weight_decay: float = Field(1e-2, ge=0)
    """Decoupled weight decay (AdamW) of all but the critic."""
    adversarial_weight: float = Field(1e-4, ge=0)
    """Weight of the critic's judgement, from 0 to 100, in what all else minimises."""
    penalty_weight: float = Field(0.3, ge=0)
    """v, weight of the critic's gradient penalty."""
    true_guess_weight: float = Field(100.0, ge=0)
    """c, weight of the embeddings' own guess in a true row."""
    critic_widths: tuple[PositiveInt, PositiveInt] | None = None
    """The critic's hidden widths; by default the authors' I / 4 and I / 8, within `critic_max_width`."""
    critic_max_width: int = Field(6144, gt=0)
    """Bounds the first default width, half of it the second. The critic takes 16 I width bytes (0.2 GB for
    Baby, 2.1 for Clothing, 6.2 for Electronics) and most of the time: without a GPU, 256 is wise."""
    critic_dropout: tuple[Share, Share] = (0.31, 0.5)
    """Shares of the outputs of the critic's hidden layers dropped in training."""
    critic_learning_rate: float = Field(3e-4, gt=0)
    """Adam's step size for the critic."""


class _Views(NamedTuple):
    final: Embeddings  # (U, D), (I, D)
    content: Embeddings  # U_m, (M, U, D), and I_m, (M, I, D)
    generated: Tensor  # u_m, (M, U, D)


@register("mmssl", MMSSLConfig, paper="Multi-Modal Self-Supervised Learning (arXiv:2302.10632)", year=2023)
class MMSSL(Recommender):
    """Ids over given and generated graphs, beside content that a critic judges."""

    config: MMSSLConfig
    users_adj: SparseGraph
    items_adj: SparseGraph

    def __init__(self, config: MMSSLConfig, inputs: ModelInputs) -> None:
        super().__init__(config, inputs)
        n_users, n_items, dim = self.n_users, self.n_items, config.embedding_dim
        self.features = FeatureBank(inputs.features, inputs.choose_modalities(config.modalities))
        self.maps = nn.ModuleList([xavier_linear(width, dim) for width in self.features.dims.values()])
        self.nodes = NodeEmbedding(n_users, n_items, dim)
        works = config.variant == "paper"
        self.attention = ModalityAttention(dim, config.n_heads, attend=works)
        width = min(n_items // 4, config.critic_max_width)
        widths = config.critic_widths or (max(1, width), max(1, width // 2))
        self.critic = Critic(n_items, widths, config.critic_dropout, 0.01 if works else 1.0)
        self.chosen = inputs.graphs.users_from_items("sum")  # R
        self.register_graph("users_adj", inputs.graphs.users_from_items("root_row"))
        self.register_graph("items_adj", inputs.graphs.items_from_users("root_row"))
        self.generated = GeneratedGraphs(len(self.maps), inputs.user, inputs.item, n_users, n_items)
        self.n_guessed = int(config.graph_share * n_items)
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None  # edges, from one batch for the next

    def embeddings(self) -> Embeddings:
        return self._forward().final

    def modality_embeddings(self) -> dict[str, Tensor]:
        return dict(zip(self.features.dims, self._content(dropout=False).items, strict=True))

    def optimizer_groups(self) -> dict[str, Group]:
        others = [*self.maps.parameters(), self.nodes.weight, *self.attention.parameters()]
        decay = {"weight_decay": self.config.weight_decay, "decoupled_weight_decay": True}
        rate = {"lr": self.config.critic_learning_rate, "betas": (0.5, 0.9)}
        return {"main": Group(others, decay), "critic": Group(list(self.critic.parameters()), rate)}

    def epoch_steps(self, epoch: int) -> Iterable[Step]:
        self._kept = None
        if self.config.graph_refresh == "epoch" and epoch > 1:
            with torch.no_grad():
                content = self._content(dropout=False)
            self.generated.refresh(content, self.chosen, max(1, self.n_guessed))
        return ()

    def batch_steps(self, batch: Triplets) -> Iterator[Step]:
        views = self._forward()
        chosen = self.chosen.select_rows(batch.user)
        chosen = SparseGraph.from_edges(*chosen.edges(), len(batch.user), self.n_items)  # with its transpose
        sides = [*zip(*views.content, strict=True), views.final]
        *guesses, own = (guess_rows(take_rows(users, batch.user), items, chosen) for users, items in sides)
        yield Step(self._critic_losses(own.detach(), [rows.detach() for rows in guesses]), "critic")
        yield Step(self._losses(views, guesses, batch))
        if self.config.graph_refresh == "official":
            if self._kept is None:  # the first batch
                users = batch.user.unique()
                self._kept = strongest(views.content, self.chosen, users, self.n_guessed)
            else:
                self.generated.replace(*self._kept)
                self._kept = (batch.user[:0],) * 3

    def _forward(self) -> _Views:
        content, generated = self._content(dropout=self.training), self.generated(self.nodes.ego)
        attended = (self.config.attention_weight * unit_rows(self.attention(told)) for told in generated)
        users, items = (ids + told for ids, told in zip(self.nodes.ego, attended, strict=True))
        layers = [(users, items)]
        for n_left in reversed(range(self.config.n_layers)):
            users = spmm(self.users_adj, items)
            users = users if n_left else users.softmax(dim=1)
            items = spmm(self.items_adj, users)
            items = items if n_left else items.softmax(dim=1)
            layers.append((users, items))
        final = (
            torch.stack(side).mean(dim=0) + self.config.content_weight * unit_rows(told).sum(dim=0)
            for side, told in zip(zip(*layers, strict=True), content, strict=True)
        )
        return _Views(Embeddings(*final), content, generated.users)

    def _content(self, *, dropout: bool) -> Embeddings:
        """Give U_m, (M, U, D), and I_m, (M, I, D)."""
        projected = []
        for modality, linear in zip(self.features.dims, self.maps, strict=True):
            rows = linear(self.features.rows(modality)).to(self.nodes.weight.dtype)  # bfloat16 under autocast
            rows = nn.functional.dropout(rows, self.config.dropout, dropout)
            projected.append(rows * self.features.present(modality)[:, None])
        users = spmm(self.users_adj, torch.cat(projected, dim=1))  # (U, M D): one product for all modalities
        sides = (users, spmm(self.items_adj, users))
        return Embeddings(*(side.unflatten(1, (len(projected), -1)).transpose(0, 1) for side in sides))

    def _critic_losses(self, own: Rows, guesses: Sequence[Rows]) -> Losses:
        guessed = self.critic.enter(guesses)  # (M B, H)
        true = self.critic.enter([true_rows(own, self.config.true_guess_weight)])  # (B, H)
        penalty = self.critic.penalty(true.repeat(len(guesses), 1), guessed)
        judged = self.critic.judge(guessed).mean() - self.critic.judge(true).mean()
        return {"critic": judged, "penalty": self.config.penalty_weight * penalty}

    def _losses(self, views: _Views, guesses: Sequence[Rows], batch: Triplets) -> Losses:
        config = self.config
        users, pos, neg = batch_rows(views.final, batch)
        squares = half_squared(users, pos, neg) / len(users) + half_squared(*views.content) / self.n_items
        held = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        judged = functional_call(self.critic, held, (guesses,))  # moves the guesses alone
        losses = {
            "bpr": bpr_loss(*pair_scores(users, pos, neg)),
            "reg": config.reg_weight * squares,
            "adversarial": -config.adversarial_weight * judged.mean(),
        }
        for modality, told in zip(self.features.dims, views.generated, strict=True):
            term = info_nce(take_rows(told, batch.user), users, config.temperature, within=True)
            losses[f"contrast_{modality}"] = config.contrast_weight * term
        return losses
