"""Questions, checked and with defaults filled in, and their outcomes."""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from sensor_msgs.msg import Image

from lisa_ros.msg import Answer
from lisa_ros.parameters import Parameters
from lisa_ros.srv import ReasonSegment


class Code(IntEnum):
    """How a question ended: the constants of the service and the action."""

    OK = ReasonSegment.Response.OK
    LOADING = ReasonSegment.Response.LOADING
    INACTIVE = ReasonSegment.Response.INACTIVE
    BUSY = ReasonSegment.Response.BUSY
    NO_FRAME = ReasonSegment.Response.NO_FRAME
    BAD_REQUEST = ReasonSegment.Response.BAD_REQUEST
    CANCELED = ReasonSegment.Response.CANCELED
    OUT_OF_MEMORY = ReasonSegment.Response.OUT_OF_MEMORY
    TIMEOUT = ReasonSegment.Response.TIMEOUT
    INTERNAL = ReasonSegment.Response.INTERNAL


@dataclass(frozen=True)
class Outcome:
    """How a question ended: with an answer, or with a code and a sentence for people."""

    code: Code
    message: str = ""
    answer: Answer | None = None

    def fill(self, response: Any) -> Any:
        """Write the outcome into a service's response or an action's result, and return that."""
        response.success = self.code == Code.OK
        response.code = int(self.code)
        response.message = self.message
        if self.answer is not None:
            response.answer = self.answer
        return response


class Refused(Exception):
    """The question cannot be answered; `outcome` has the code and a sentence for people."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.outcome = Outcome(code, message)


@dataclass(frozen=True)
class Question:
    """A question with all defaults filled in.

    Attributes:
        camera: its name; empty: the conversation's camera, else the first.
        max_age: s since the frame's receipt; inf: any age.
        timeout: s for the whole question.
        image: what it is about, instead of a camera's frame; None: a camera's frame.
        standing: whether the node itself asks it, for the standing instruction.
    """

    instruction: str
    camera: str
    conversation: str = ""
    new_frame: bool = False
    max_age: float = math.inf
    timeout: float = math.inf
    include_masks: bool = False
    mask_only: bool = False
    image: Image | None = None
    standing: bool = False

    def goes_with(self, other: "Question") -> bool:
        """Whether the engine may answer both in one batch; the standing question is answered alone."""
        return self.mask_only == other.mask_only and not self.standing and not other.standing


def question_of(request: Any, parameters: Parameters) -> Question:
    """The question in a service's request or an action's goal; raises Refused if the request is invalid."""
    if not request.instruction.strip():
        raise Refused(Code.BAD_REQUEST, "the instruction is empty: say what to find or answer, in words")
    if request.camera not in ("", *parameters.cameras):
        cameras = ", ".join(parameters.cameras)
        raise Refused(Code.BAD_REQUEST, f"there is no camera {request.camera!r}: the cameras are {cameras}")
    if math.isnan(request.max_age):
        raise Refused(Code.BAD_REQUEST, "max_age must be a number of seconds, not NaN")
    if not 0.0 <= request.timeout < math.inf:
        raise Refused(Code.BAD_REQUEST, f"timeout must be a number of seconds, 0 or more, not {request.timeout:g}")
    has_image = bool(request.image.width or request.image.height or request.image.data)
    return Question(
        instruction=request.instruction,
        camera=request.camera,
        conversation=request.conversation,
        new_frame=request.new_frame,
        max_age=math.inf if request.max_age < 0 else request.max_age or parameters.max_frame_age,
        timeout=request.timeout or parameters.question_timeout,
        include_masks=request.include_masks,
        mask_only=request.mask_only,
        image=request.image if has_image else None,
    )
