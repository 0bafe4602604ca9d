"""Questions that come at the same time, answered together: one product for all of them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

Kind = TypeVar("Kind", bound=Hashable)
Question = TypeVar("Question")
Reply = TypeVar("Reply")


class Together(Generic[Kind, Question, Reply]):
    """Answers the first question of a kind at once, and those that come meanwhile together after it.

    Nobody waits for others to come, so that a lone question takes no longer than it would anyhow, and the
    busier the service is, the more it answers with one call.

    Args:
        answer: gives the replies to some questions of one kind, in their order.
        most: questions answered by one call.
    """

    def __init__(
        self, answer: Callable[[Kind, Sequence[Question]], Awaitable[Sequence[Reply]]], most: int
    ) -> None:
        self._answer, self._most = answer, most
        self._waiting: dict[Kind, list[tuple[Question, asyncio.Future[Reply]]]] = defaultdict(list)
        self._running: dict[Kind, asyncio.Task[None]] = {}

    async def ask(self, kind: Kind, question: Question) -> Reply:
        """Give the reply to a question; what goes wrong with its call goes wrong for all of it."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[kind].append((question, reply))
        if kind not in self._running:
            self._running[kind] = asyncio.create_task(self._run(kind))
        return await reply

    async def _run(self, kind: Kind) -> None:
        waiting = self._waiting[kind]
        try:
            while waiting:
                batch, waiting[:] = waiting[: self._most], waiting[self._most :]
                asked = [(question, reply) for question, reply in batch if not reply.done()]
                if not asked:  # all have given up
                    continue
                try:
                    answers = await self._answer(kind, [question for question, _ in asked])
                except Exception as error:
                    for _, reply in asked:
                        if not reply.done():
                            reply.set_exception(error)
                else:
                    for (_, reply), answer in zip(asked, answers, strict=True):
                        if not reply.done():
                            reply.set_result(answer)
        finally:
            del self._running[kind], self._waiting[kind]
