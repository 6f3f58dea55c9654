"""The service and the action; both take the same path from a request to its outcome.

Whatever happens, the caller gets a code and a sentence; no callback raises.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rclpy.action import ActionServer, CancelResponse
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

from lisa_ros.action import ReasonSegment as Action
from lisa_ros.inference import Ticket
from lisa_ros.lifecycle import SelfStartingNode
from lisa_ros.qos import BURST
from lisa_ros.questions import Code, Outcome, Question, Refused
from lisa_ros.srv import ReasonSegment as Service

RESULT_KEPT = 10
"""Seconds for which a result, and the goal with its image, are kept for a client that has not fetched it yet.

They count from the goal's end; by Humble's rcl from its acceptance, so a client that is late to request the result of a
long answer finds none there.
"""


class Desk(Protocol):
    """Turns requests into questions and queues them; the node."""

    def question(self, request: Any) -> Question:
        """The question in a request; raises Refused if it is invalid, or cannot be asked in the node's state."""

    def submit(self, ticket: Ticket) -> None:
        """Queue the question; raises Refused."""

    def cancel(self, ticket: Ticket) -> None:
        """Cancel the question."""

    def ended(self, question: Question | None, outcome: Outcome) -> None:
        """Called when a question has ended; None for a request from which no question could be made."""


class Requests:
    """Serves `~/reason_segment` as a service and as an action."""

    def __init__(self, node: SelfStartingNode, desk: Desk) -> None:
        self._node = node
        self._desk = desk
        self._tickets: dict[bytes, Ticket] = {}  # by goal id
        node.create_service(Service, "~/reason_segment", self._on_service, qos_profile=BURST)
        # By the clock of a bag that stands still, or loops, results would be kept for ever. The clock has to live as
        # long as the server: rcl keeps a pointer to it.
        with _system_clock(node) as self._clock:
            self._server = ActionServer(
                node,
                Action,
                "~/reason_segment",
                execute_callback=self._on_goal,
                cancel_callback=self._on_cancel,
                goal_service_qos_profile=BURST,
                result_service_qos_profile=BURST,
                cancel_service_qos_profile=BURST,
                result_timeout=RESULT_KEPT,
            )

    def close(self) -> None:
        """Stop serving the action."""
        self._server.destroy()

    async def _on_service(self, request: Service.Request, response: Service.Response) -> Service.Response:
        outcome = await self._outcome(request)
        return outcome.fill(response)

    async def _on_goal(self, goal: Any) -> Action.Result:
        def on_progress(stage: str, text: str) -> None:
            try:
                goal.publish_feedback(Action.Feedback(stage=stage, partial_text=text))
            except Exception as error:
                self._node.get_logger().warning(f"feedback: {error}", throttle_duration_sec=5.0)

        def on_ticket(ticket: Ticket) -> None:
            self._tickets[goal_id] = ticket
            ticket.enter("waiting")
            if goal.is_cancel_requested:  # it came before there was a ticket to cancel
                raise Refused(Code.CANCELED, "canceled before it waited")

        goal_id = bytes(goal.goal_id.uuid)
        outcome = await self._outcome(goal.request, on_ticket, on_progress)
        self._tickets.pop(goal_id, None)
        try:
            self._end_goal(goal, outcome)
        except Exception as error:  # the client is gone, or the node is shutting down
            self._node.get_logger().warning(f"ending a goal: {error}")
        return outcome.fill(Action.Result())

    @staticmethod
    def _end_goal(goal: Any, outcome: Outcome) -> None:
        if outcome.code == Code.OK:
            goal.succeed()
        elif outcome.code == Code.CANCELED and goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()

    def _on_cancel(self, goal: Any) -> CancelResponse:
        ticket = self._tickets.get(bytes(goal.goal_id.uuid))
        if ticket is not None:
            self._desk.cancel(ticket)
        return CancelResponse.ACCEPT

    async def _outcome(
        self,
        request: Any,
        on_ticket: Callable[[Ticket], None] | None = None,
        on_progress: Callable[[str, str], None] | None = None,
    ) -> Outcome:
        ended = Future()

        def on_done(outcome: Outcome) -> None:
            ended.set_result(outcome)
            self._node.wake_executor()  # a future that another thread completes does not wake it

        question = None
        try:
            question = self._desk.question(request)
            ticket = Ticket(question, on_done, on_progress)
            if on_ticket is not None:
                on_ticket(ticket)
            self._desk.submit(ticket)
            outcome = await ended
        except Refused as refused:
            outcome = refused.outcome
        except Exception as error:
            self._node.get_logger().error(traceback.format_exc())
            outcome = Outcome(Code.INTERNAL, f"internal error, the node's log has more: {error}")
        try:
            self._desk.ended(question, outcome)
        except Exception:  # counting must not keep the outcome from the caller
            self._node.get_logger().error(traceback.format_exc())
        return outcome


@contextmanager
def _system_clock(node: Node) -> Iterator[Clock]:
    """Makes `node.get_clock` return a clock of system time within the block."""
    system = Clock(clock_type=ClockType.SYSTEM_TIME)
    node.get_clock = lambda: system  # type: ignore[method-assign]
    try:
        yield system
    finally:
        del node.get_clock  # the attribute of the instance; the method of the class is back
