"""A lifecycle node that starts by itself, and keeps the reason if a transition fails.

rclpy's own lifecycle node blocks its services while a transition runs, crashes at an illegal transition and swallows
exceptions. Here slow transitions run on a thread of their own, and illegal ones are refused.
"""

import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import CallbackGroup, ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.task import Future

from lisa_core.errors import LisaError

T = TypeVar("T")

TRANSITIONS: dict[int, tuple[str, str]] = {
    Transition.TRANSITION_CONFIGURE: ("configure", "unconfigured"),
    Transition.TRANSITION_CLEANUP: ("cleanup", "inactive"),
    Transition.TRANSITION_ACTIVATE: ("activate", "inactive"),
    Transition.TRANSITION_DEACTIVATE: ("deactivate", "active"),
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: ("shutdown", "unconfigured"),
    Transition.TRANSITION_INACTIVE_SHUTDOWN: ("shutdown", "inactive"),
    Transition.TRANSITION_ACTIVE_SHUTDOWN: ("shutdown", "active"),
}
"""Label and start state of each transition, by id."""

SLOW = ("configure", "cleanup", "shutdown")
"""Transitions on a thread of their own; the others create and destroy subscriptions, on the executor's thread."""


class TransitionFailed(LisaError):
    """A transition failed; the message says why, and the node stays in its state."""


class SelfStartingNode(LifecycleNodeMixin, Node):
    """A lifecycle node; subclasses implement `configure`, `activate`, `deactivate` and `cleanup`.

    A transition fails if they raise: a LisaError's message becomes the reason, any other exception is also logged with
    its traceback. All callbacks are in one reentrant group; to be spun by a `SingleThreadedExecutor`.

    Attributes:
        starting: whether it is starting by itself.
        reason: why the last transition failed; empty if it succeeded.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.group = ReentrantCallbackGroup()
        self.starting = False
        self.reason = ""
        self._transition = threading.Lock()
        Node.__init__(self, name, **options)
        LifecycleNodeMixin.__init__(self, callback_group=self.group)
        self._service_change_state.callback = self._on_change_state  # type: ignore[assignment] # a coroutine will do

    @property
    def default_callback_group(self) -> CallbackGroup:
        """The reentrant group, so that a callback that awaits does not block others."""
        return self.group

    @property
    def state(self) -> str:
        """The label of the lifecycle state, such as `active` or `configuring`."""
        return str(self._state_machine.current_state[1])

    def configure(self) -> None:
        """Acquire resources, which may take long; called on a thread of its own."""

    def activate(self) -> None:
        """Start to serve; called on the executor's thread."""

    def deactivate(self) -> None:
        """Stop serving; called on the executor's thread."""

    def cleanup(self) -> None:
        """Release what `configure` acquired; called on a thread of its own."""

    def wake_executor(self) -> None:
        """Wake the executor, which a future completed by another thread does not do."""
        if self.executor is not None:
            self.executor.wake()

    def start(self) -> None:
        """Configure and activate as soon as the executor spins."""
        self.starting = True
        assert self.executor is not None, "add the node to an executor first"
        self.executor.create_task(self._start)

    async def _start(self) -> None:
        try:
            if await self.change_state("configure"):
                await self.change_state("activate")
        finally:
            self.starting = False

    async def change_state(self, label: str) -> bool:
        """Do a transition; False, with the reason in the log, if it is illegal in this state or fails."""
        if not self._transition.acquire(blocking=False):
            self.get_logger().warning(f"cannot {label}: the node is {self.state}")
            return False
        try:
            if (label, self.state) not in TRANSITIONS.values():
                self.get_logger().warning(f"cannot {label}: the node is {self.state}")
                return False
            if (label, self.state) == ("shutdown", "active"):
                self._attempt(self.deactivate)
            trigger = getattr(self, f"trigger_{label}")
            result = await self._in_thread(trigger) if label in SLOW else trigger()
            return bool(result == TransitionCallbackReturn.SUCCESS)
        except Exception:
            self.get_logger().error(f"cannot {label}:\n{traceback.format_exc()}")
            return False
        finally:
            self._transition.release()

    async def _in_thread(self, function: Callable[[], T]) -> T:
        future = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            self.wake_executor()

        threading.Thread(target=run, name="lisa_transition", daemon=True).start()
        return await future

    async def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        label, start = TRANSITIONS.get(request.transition.id, ("", ""))
        if request.transition.label:
            label, start = request.transition.label, self.state
        if start != self.state or not label:
            wanted = label or f"do transition {request.transition.id}"
            self.get_logger().warning(f"cannot {wanted}: the node is {self.state}")
            response.success = False
        else:
            response.success = await self.change_state(label)
        return response

    def _attempt(self, action: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            action()
        except LisaError as error:
            self.reason = str(error)
        except BaseException as error:
            self.get_logger().error(traceback.format_exc())
            self.reason = f"{type(error).__name__}: {error}"
        else:
            self.reason = ""
            return TransitionCallbackReturn.SUCCESS
        self.get_logger().error(f"cannot {action.__name__}: {self.reason}")
        return TransitionCallbackReturn.FAILURE

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        return self._attempt(self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        return self._attempt(self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        return self._attempt(self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy."""
        return self._attempt(self.cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by rclpy; an active node has been deactivated before."""
        return self._attempt(self.cleanup)
