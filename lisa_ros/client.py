"""Ask the node from another node, in a few lines.

    class Picker(Node):
        async def on_button(self, _) -> None:
            reply = await ask(self, "the cup that is nearest to the edge")
            self.get_logger().info(reply.text)
            mask = reply.masks[0]

From outside of a callback: `executor.create_task(ask, node, "the cup")` gives a future of the reply.
"""

import math
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lisa_core.errors import LisaError
from lisa_ros.conversions import image_message
from lisa_ros.msg import Answer
from lisa_ros.parameters import Parameters
from lisa_ros.qos import BURST
from lisa_ros.questions import Code
from lisa_ros.srv import ReasonSegment

DISCOVERY = 5.0
"""Seconds to wait for the node to be discovered, and for an answer beyond its timeout."""

SETTLING = 0.2
"""Seconds to wait after that for the node to discover a new client: earlier, its answer would be lost."""

POLL = 0.05
"""Seconds between two checks."""


@dataclass(eq=False)
class _Server:
    """A node's client of one server, and since when that server has been discovered, on the steady clock."""

    client: Client
    found: float = math.inf


_servers: "weakref.WeakKeyDictionary[Node, dict[str, _Server]]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Reply:
    """The node's answer.

    Attributes:
        text: the words, `[SEG]` where a mask belongs.
        masks: one (H, W) bool array per segment of the answer.
        answer: the whole message, with header, boxes, scores and positions.
    """

    text: str
    masks: tuple[NDArray[np.bool_], ...]
    answer: Answer


class AskError(LisaError):
    """The question was not answered; the message is the node's, if it sent one.

    Attributes:
        code: why, one of the service's constants.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


async def ask(
    node: Node,
    instruction: str,
    *,
    camera: str = "",
    conversation: str = "",
    new_frame: bool = False,
    max_age: float = 0.0,
    timeout: float = Parameters.question_timeout,
    mask_only: bool = False,
    image: NDArray[np.uint8] | Image | None = None,
    server: str = "lisa",
) -> Reply:
    """Ask, and await the reply; arguments as in ReasonSegment.srv.

    Args:
        node: the node that asks; it has to be spinning.
        timeout: s for the whole question; 0: the server's parameter. If the server is killed and soon replaced, only a
            timeout given here ends the waiting: the middleware takes the new server for the old one.
        image: (H, W, 3) uint8 RGB, or a message; None: the camera's newest.
        server: name of the node that answers.

    Raises:
        AskError: with the node's code and sentence; TIMEOUT if there is no such node.
    """
    request = ReasonSegment.Request(
        instruction=instruction,
        camera=camera,
        conversation=conversation,
        new_frame=new_frame,
        max_age=float(max_age),  # on Humble, messages refuse whole numbers here
        timeout=float(timeout),
        include_masks=True,
        mask_only=mask_only,
    )
    if isinstance(image, np.ndarray):
        request.image = image_message(image, "rgb8", Header())
    elif image is not None:
        request.image = image
    response = await _call(node, f"{server}/reason_segment", request, timeout)
    if not response.success:
        raise AskError(Code(response.code), response.message)
    masks = tuple(mask_array(segment.mask) for segment in response.answer.segments)
    return Reply(text=response.answer.text, masks=masks, answer=response.answer)


def mask_array(message: Image) -> NDArray[np.bool_]:
    """(H, W) bool from a mono8 mask."""
    rows: NDArray[np.uint8] = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows[:, : message.width] > 0


async def _call(node: Node, service: str, request: Any, timeout: float) -> Any:
    servers = _servers.setdefault(node, {})
    if service not in servers:
        servers[service] = _Server(_client(node, service))
    server = servers[service]
    client = server.client
    if not client.service_is_ready():
        server.found = math.inf  # it may have ended, and the next one has to discover this client again
    await _settled(node, Future(), client.service_is_ready, DISCOVERY)
    if not client.service_is_ready():
        raise AskError(Code.TIMEOUT, f"Nobody serves {client.srv_name}: start the node, or name it in `server`.")
    server.found = min(server.found, time.monotonic())
    if (rest := server.found + SETTLING - time.monotonic()) > 0:
        await _settled(node, Future(), lambda: False, rest)
    response = client.call_async(request)
    limit = timeout + DISCOVERY if timeout else math.inf
    await _settled(node, response, lambda: not client.service_is_ready(), limit)
    if response.done():
        return response.result()
    client.remove_pending_request(response)
    raise AskError(Code.TIMEOUT, f"{client.srv_name} went away, or did not answer in time.")


def _client(node: Node, service: str) -> Client:
    """In a callback group of its own: the node's may be busy until the callback that awaits the reply ends."""
    return node.create_client(ReasonSegment, service, qos_profile=BURST, callback_group=ReentrantCallbackGroup())


async def _settled(node: Node, future: Future, given_up: Callable[[], bool], limit: float) -> None:
    """Return when the future is done, or `given_up` returns true, or after `limit` seconds.

    An executor of several threads may miss it if the future is done just while it looks at the task that awaits it, and
    would then sleep until the next event. So it is woken again and again until that task goes on.
    """
    settled, over = Future(), threading.Event()
    deadline = time.monotonic() + limit

    def settle(_: object = None) -> None:
        settled.set_result(None)
        if node.executor is not None:
            node.executor.wake()

    def watch() -> None:
        with suppress(Exception):  # the client may be destroyed
            while not settled.done() and not given_up() and time.monotonic() < deadline:
                if over.wait(POLL):
                    return
        with suppress(Exception):  # and so may the node
            settle()
            while not over.wait(POLL) and node.executor is not None and node.context.ok():
                node.executor.wake()

    future.add_done_callback(settle)
    # No timer: Humble's executor ends if a timer is destroyed while another of its threads is about to call it.
    threading.Thread(target=watch, name="lisa_ask", daemon=True).start()
    try:
        await settled
    finally:
        over.set()
