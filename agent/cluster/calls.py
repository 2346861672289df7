"""One question, one answer, between agents: everything they tell each other that is not consensus or gossip.

A question is a struct; its class's name says on the wire what it is. Whoever serves it gives a coroutine for it. What a
handler refuses (`Refusal`) is refused to the one who asked, with the same code, wherever that is.

    question: [number, name, body]      answer: [number, body] or [number, None, refusal]

Nothing is repeated here. An asker learns one of three things: the answer, that nothing was sent ("unreachable"), or
that nobody can know ("no_answer"); what may be asked again is the asker's to know.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

import msgspec

from agent.errors import PrimeError, Refusal
from agent.spec.errors import Problem
from transport.errors import PayloadTooLarge, TransportClosed
from transport.frames import Frame, Lane

log = logging.getLogger(__name__)

ASKED_MAX: Final = 4096  # questions of this agent that wait for their answer (P12)
SERVED_MAX: Final = 4096  # questions of others that are being answered
TIMEOUT_S: Final = 5.0


class Question(msgspec.Struct, array_like=True, frozen=True):
    """Base of what may be asked."""


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """Base of what is answered."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks. node: its number, 0 for an outsider: an agent that belongs to no cluster yet."""

    node: int
    outsider: bool


class _Refused(msgspec.Struct, array_like=True, frozen=True):
    code: str
    message: str
    status: int
    retry_after_s: float | None = None
    problems: tuple[Problem, ...] = ()


class _Asked(msgspec.Struct, array_like=True, frozen=True):
    number: int
    name: str
    body: msgspec.Raw


class _Answered(msgspec.Struct, array_like=True, frozen=True):
    number: int
    body: msgspec.Raw
    refused: _Refused | None = None


QuestionT = TypeVar("QuestionT", bound=Question)
AnswerT = TypeVar("AnswerT", bound=Answer)
Handler = Callable[[Asker, Any], Awaitable[Answer]]

_encode: Final = msgspec.msgpack.Encoder().encode
_asked: Final = msgspec.msgpack.Decoder(_Asked).decode
_answered: Final = msgspec.msgpack.Decoder(_Answered).decode
_NOTHING: Final = msgspec.Raw(_encode(None))
_READ_ERRORS: Final = (msgspec.DecodeError, RecursionError)  # a ValidationError is a DecodeError


class Wire(Protocol):
    """How questions and answers travel (`agent.peers.Peers`)."""

    on_request: Callable[[Frame], None]
    on_answer: Callable[[Frame], None]

    def send_request(self, to: int, lane: Lane, payload: bytes) -> bool:
        """Returns False where it was certainly not sent."""

    def send_answer(self, frame: Frame, payload: bytes) -> bool:
        """By the way the frame came."""


@dataclass(frozen=True, slots=True)
class _Served:
    read: Callable[[msgspec.Raw], Question]
    handler: Handler
    outsiders: bool


class Calls:
    """Asks and answers for one agent. Belongs to one loop."""

    def __init__(self, wire: Wire) -> None:
        """wire: its `on_request` and `on_answer` are taken."""
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[int, asyncio.Future[_Answered]]] = {}
        self._served: dict[str, _Served] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.malformed = 0
        wire.on_request = self._on_request
        wire.on_answer = self._on_answer

    # -- asking ------------------------------------------------------------------------------------------------------

    async def ask(
        self,
        node: int,
        question: Question,
        answer: type[AnswerT],
        *,
        timeout_s: float = TIMEOUT_S,
        lane: Lane = Lane.CONTROL,
    ) -> AnswerT:
        """Ask the agent with that number. lane: BULK where question or answer may pass 64 KiB.

        Raises Refusal: the handler's; "unreachable", "too_large", "overloaded", "unavailable", where nothing was sent;
        "no_answer", where the outcome is unknown.
        """
        if len(self._waiting) >= ASKED_MAX:
            raise Refusal("overloaded", "too many questions to other agents wait for an answer", 429, retry_after_s=1)
        number = next(self._numbers)
        payload = _encode(_Asked(number, type(question).__name__, msgspec.Raw(_encode(question))))
        future: asyncio.Future[_Answered] = self._loop.create_future()
        self._waiting[number] = (node, future)
        try:
            self._send(node, lane, payload)
            async with asyncio.timeout(timeout_s):
                answered = await future
        except TimeoutError:
            text = f"another agent did not answer within {timeout_s:g} s; whether it acted is not known"
            raise Refusal("no_answer", text, 504) from None
        finally:
            del self._waiting[number]
        return _read_answer(answered, answer)

    def _send(self, node: int, lane: Lane, payload: bytes) -> None:
        try:
            sent = self._wire.send_request(node, lane, payload)
        except PayloadTooLarge as error:
            raise Refusal("too_large", f"this cannot be sent to another agent: {error}", 413) from error
        except TransportClosed as error:
            raise Refusal("unavailable", "the agent is stopping", 503, retry_after_s=1) from error
        if not sent:
            raise Refusal("unreachable", "the agent that has to answer cannot be reached", 503, retry_after_s=1)

    def _on_answer(self, frame: Frame) -> None:
        try:
            answered = _answered(frame.payload)
        except _READ_ERRORS:
            self.malformed += 1
            return
        node, future = self._waiting.get(answered.number, (0, None))
        if future is not None and not future.done() and (node == frame.sender or node < 0):
            future.set_result(answered)

    # -- answering ---------------------------------------------------------------------------------------------------

    def serve(
        self,
        question: type[QuestionT],
        handler: Callable[[Asker, QuestionT], Awaitable[Answer]],
        *,
        outsiders: bool = False,
    ) -> None:
        """Answer questions of this class from now on. outsiders: also those of agents that are in no cluster yet."""
        self._served[question.__name__] = _Served(msgspec.msgpack.Decoder(question).decode, handler, outsiders)

    def _on_request(self, frame: Frame) -> None:
        try:
            asked = _asked(frame.payload)
            served = self._served.get(asked.name)
            question = served.read(asked.body) if served is not None else None
        except _READ_ERRORS as error:
            self.malformed += 1
            log.warning("a question is passed by", extra={"sender": frame.sender, "error": str(error)})
            return
        if question is None or served is None or (frame.outsider and not served.outsiders):
            self._refuse(frame, asked.number, Refusal("unknown_question", f"{asked.name} is not answered here", 501))
        elif len(self._tasks) >= SERVED_MAX:
            text = "the agent that has to answer is busy"
            self._refuse(frame, asked.number, Refusal("overloaded", text, 429, retry_after_s=1))
        else:
            task = self._loop.create_task(self._answer(frame, asked.number, served.handler, question))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, frame: Frame, number: int, handler: Handler, question: Question) -> None:
        try:
            answer = await handler(Asker(frame.sender, frame.outsider), question)
        except Refusal as refusal:
            self._refuse(frame, number, refusal)
        except PrimeError as error:
            self._refuse(frame, number, Refusal("unavailable", str(error), 503))
        except Exception:
            log.exception("a question could not be answered", extra={"sender": frame.sender})
            self._refuse(frame, number, Refusal("internal", "the other agent failed to answer; its log says why", 500))
        else:
            self._send_answer(frame, number, answer)

    def _send_answer(self, frame: Frame, number: int, answer: Answer) -> None:
        try:
            self._wire.send_answer(frame, _encode(_Answered(number, msgspec.Raw(_encode(answer)))))
        except PayloadTooLarge as error:
            log.exception("an answer is too large", extra={"answer": type(answer).__name__})
            self._refuse(frame, number, Refusal("internal", f"the other agent's answer is too large: {error}", 500))

    def _refuse(self, frame: Frame, number: int, refusal: Refusal) -> None:
        refused = _Refused(
            refusal.code, refusal.message, refusal.status, refusal.retry_after_s, tuple(refusal.problems)
        )
        self._wire.send_answer(frame, _encode(_Answered(number, _NOTHING, refused)))

    async def close(self) -> None:
        """Answer nothing more; who waits here is told that nobody can know."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _node, future in self._waiting.values():
            if not future.done():
                future.set_exception(Refusal("no_answer", "the agent is stopping", 504))


def _read_answer(answered: _Answered, answer: type[AnswerT]) -> AnswerT:
    if answered.refused is not None:
        one = answered.refused
        raise Refusal(one.code, one.message, one.status, retry_after_s=one.retry_after_s, problems=one.problems)
    try:
        return msgspec.msgpack.decode(answered.body, type=answer)
    except _READ_ERRORS as error:
        raise Refusal("no_answer", f"another agent's answer cannot be read: {error}", 504) from error
