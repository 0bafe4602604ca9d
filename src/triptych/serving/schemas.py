"""What may be asked and what is answered, as types with limits; the service's OpenAPI is made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, model_validator

from triptych.data.conditions import MAX_LENGTH
from triptych.runs.run import Excluded

MOST_ITEMS = 1000
"""The longest list."""
MOST_USERS = 1000
"""Users in one question."""
MOST_PLACES = 100_000
"""Of all lists of an answer together."""
MOST_TEXT = 20_000
"""Characters of a new item's text."""

IdText = Annotated[str, StringConstraints(min_length=1, max_length=500)]
RawId = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | IdText
Length = Annotated[int, Field(ge=1, le=MOST_ITEMS, description="List length.")]
Few = Annotated[int, Field(ge=1, le=MOST_ITEMS, description="Most entries of the answer.")]
RunName = Annotated[str, StringConstraints(max_length=300)] | None
ABOUT_WHERE = (
    "A condition on the item table; only what meets it is listed. Such as: category = 'Shoes' and price < 50"
)
Where = (
    Annotated[
        str,
        StringConstraints(min_length=1, max_length=MAX_LENGTH),
        Field(description=ABOUT_WHERE),
    ]
    | None
)
Diversity = Annotated[
    float, Field(ge=0, le=1, allow_inf_nan=False, description="0: the best items; 1: the least alike.")
]
Search = Annotated[str, StringConstraints(max_length=200)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunQuestion(_Asked):
    """Names a run; by default the first."""

    run: RunName = None


class ListQuestion(RunQuestion):
    """One user's list."""

    user: IdText
    k: Length = 10
    exclude: Excluded = "all"
    where: Where = None
    diversity: Diversity = 0.0


class ListsQuestion(RunQuestion):
    """Lists for many users."""

    users: Annotated[list[RawId], Field(min_length=1, max_length=MOST_USERS)]
    k: Length = 10
    exclude: Excluded = "all"
    where: Where = None
    diversity: Diversity = 0.0

    @model_validator(mode="after")
    def _answer_is_not_too_long(self) -> Self:
        if len(self.users) * self.k > MOST_PLACES:
            raise ValueError(f"users times k should be at most {MOST_PLACES:,}")
        return self


class SimilarQuestion(RunQuestion):
    """Items like an item, by the model's vectors ("behaviour") or by the features of a modality."""

    item: IdText
    k: Length = 10
    by: Annotated[str, StringConstraints(min_length=1, max_length=100)] = "behaviour"
    where: Where = None


class ExplainQuestion(RunQuestion):
    """Why an item suits a user."""

    user: IdText
    item: IdText


class NewUserQuestion(RunQuestion):
    """A list for somebody who is known by a few items only."""

    items: Annotated[list[RawId], Field(max_length=MOST_ITEMS)]
    k: Length = 10
    where: Where = None


class SearchQuestion(RunQuestion):
    """Users or items whose id, or title, holds some letters."""

    query: Search = ""
    limit: Few = 20


class HistoryQuestion(RunQuestion):
    """What a user chose."""

    user: IdText
    limit: Few = 50
    offset: Annotated[int, Field(ge=0, lt=2**31, description="Entries to pass over.")] = 0


class PictureQuestion(RunQuestion):
    """The picture of an item."""

    item: IdText


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Fault(_Answer):
    """What was found, what was wanted, and what to do."""

    found: str
    wanted: str
    fix: str


class Problem(_Answer):
    """An answer that is none."""

    error: Fault


class Health(_Answer):
    """Whether the service answers."""

    status: Literal["ok"]
    runs: int
    seconds: Annotated[float, Field(description="Since the start.")]


class Item(_Answer):
    """An item as people see it; `picture` is a path on this service."""

    item_id: RawId
    title: str | None
    picture: str | None


class ScoredItem(Item):
    """One place of a list."""

    score: float


class ChosenItem(Item):
    """An item of a user's history, and the part of the split that the choice belongs to."""

    part: Literal["train", "valid", "test", "left out"]
    time: Annotated[float | None, Field(description="As the data has it: seconds since 1970, as a rule.")]


class _OfRun(_Answer):
    run: str
    version: Annotated[str, Field(description="Names the run's files; all of an answer is of one version.")]


class UserList(_Answer):
    """One user's list; the basis is "model", "popular", or "fold-in" of a new user."""

    user_id: RawId
    basis: str
    items: list[ScoredItem]


class Lists(_OfRun):
    """Lists by user, in the order asked for."""

    lists: list[UserList]


class NewUserList(_OfRun):
    """The list of a new user."""

    basis: str
    items: list[ScoredItem]


class Similar(_OfRun):
    """Items like an item, nearest first."""

    item_id: RawId
    by: str
    items: list[ScoredItem]


class Explanation(_OfRun):
    """How a score comes about; without `parts` and `shares` where it cannot be taken apart, as `how` says."""

    user_id: RawId
    item: Item
    score: float
    parts: Annotated[dict[str, float], Field(description="What each adds to the score.")]
    shares: Annotated[dict[str, float], Field(description="The parts over the sum of their sizes.")]
    exact: bool
    how: str
    because: Annotated[list[ScoredItem], Field(description="The user's own items nearest to this one.")]


class ScoredUser(_Answer):
    """A user who would like an item."""

    user_id: RawId
    score: float


class NewItem(_OfRun):
    """Where an item that the run does not know would stand."""

    basis: str
    similar: list[ScoredItem]
    audience: list[ScoredUser]


class Users(_OfRun):
    """User ids that match."""

    users: list[RawId]


class Items(_OfRun):
    """Items that match."""

    items: list[Item]


class History(_OfRun):
    """What a user chose, the latest first where times are known."""

    user_id: RawId
    items: list[ChosenItem]


class Epoch(_Answer):
    """Validation figures of one epoch."""

    epoch: int
    valid: dict[str, float]


class RunFacts(_Answer):
    """What is known of a loaded run."""

    name: str
    version: str
    model: str
    data: str
    data_hash: str
    seed: int
    users: int
    items: int
    modalities: Annotated[list[str], Field(description="What `by` of /similar may name beside behaviour.")]
    pictures: bool
    new_items: Annotated[list[str], Field(description="What /items/new takes: text, picture.")]
    split: dict[str, Any]
    protocol: dict[str, Any]
    metrics: Annotated[dict[str, dict[str, float]], Field(description="By part: valid, test.")]
    best_epoch: int
    curve: list[Epoch]
    versions: dict[str, str]


class Runs(_Answer):
    """The loaded runs; the first answers where none is named."""

    runs: list[RunFacts]


class Refreshed(_Answer):
    """What looking at a run's folder again came to."""

    name: str
    version: str
    swapped: bool
    error: Fault | None


class Reloaded(_Answer):
    """One entry per run."""

    runs: list[Refreshed]
