"""The node: wires the parts together.

    cameras ----newest frame----> subjects ----picture----> answerer ----answer----> publications
                                     |                         |
    service, action, standing --> inference thread ------------+

The executor's thread receives and replies, the inference thread runs the model, and loading has its own thread.
"""

import functools
import threading
import traceback
from collections.abc import Iterable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from std_msgs.msg import String

from lisa_core.errors import DeviceError, DeviceUnusableError
from lisa_core.late import Load, load_engine
from lisa_ros import transforms
from lisa_ros.answering import Answerer
from lisa_ros.cameras import Camera, image_topic
from lisa_ros.declaration import DeclaredParameters
from lisa_ros.diagnostics import Diagnostics, camera_status, idle_camera_status, model_status, questions_status
from lisa_ros.inference import InferenceThread, Ticket
from lisa_ros.lifecycle import SelfStartingNode, TransitionFailed
from lisa_ros.model import Model
from lisa_ros.parameters import Parameters
from lisa_ros.publishing import Publications
from lisa_ros.questions import Code, Outcome, Question, Refused, question_of
from lisa_ros.requests import Requests
from lisa_ros.standing import StandingInstruction
from lisa_ros.statistics import Statistics
from lisa_ros.subjects import Subjects

CLOSING_TIME = 10.0
"""Seconds that cleanup waits for the engine to stop."""

BEAT = 0.05
"""Seconds between two checks whether the standing instruction is due."""

LAST_WORDS, SENDING = 2.0, 0.1
"""Seconds before the node ends: to send the outcomes of open questions, and to send what is already on its way."""


class LisaNode(SelfStartingNode):
    """Answers questions about what cameras see; raises ParameterError if a parameter is invalid.

    Attributes:
        lost: whether the GPU failed for good, so that the node is about to end.
    """

    def __init__(self, load: Load = load_engine) -> None:
        super().__init__("lisa")
        self.lost = False
        self._leaving = False
        self._declared = DeclaredParameters(
            self, is_unconfigured=lambda: self.state == "unconfigured", on_change=self._on_parameters
        )
        self._cameras: dict[str, Camera] = {}
        self._model = Model(load, wanted=self.context.ok, logger=self.get_logger())
        self._inference: InferenceThread | None = None  # read it once: cleanup drops it on a thread of its own
        self._subjects: Subjects | None = None
        self._statistics = Statistics()
        self._publications = Publications(self)
        self._standing = StandingInstruction(self._settings, self._cameras, self.submit, self.cancel, self.ended)
        self._requests = Requests(self, self)
        self._diagnostics = Diagnostics(self, self._statuses)
        self.create_subscription(String, "~/instruction", self._on_instruction, 1)
        self._declared.warn_of_unknown()
        self.create_timer(BEAT, self._standing.beat, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy's, which its services call; a whole number is taken for a double where one is declared."""
        return super().set_parameters_atomically(self._declared.as_declared(parameter_list))

    def _give_up(self, reason: str) -> None:
        """End the process with an error once all questions have their outcome; a launch file may restart it."""
        if not self.lost:
            self.lost = True
            self.get_logger().fatal(reason)
            self._end_in(LAST_WORDS, f"the node is about to end: {reason}")

    def leave(self) -> None:
        """End the process once all questions have their outcome; may be called on any thread, and repeatedly."""
        inference = self._inference
        if not self._leaving:
            waited_for = inference is not None and inference.ahead
            self._end_in(LAST_WORDS if waited_for else SENDING, "the node is about to end")

    def _end_in(self, seconds: float, why: str) -> None:
        self._leaving = True
        threading.Timer(seconds, self.context.try_shutdown).start()
        if (inference := self._inference) is not None:
            inference.refuse_all(Outcome(Code.INACTIVE, why))

    def _settings(self) -> Parameters:
        return self._declared.value

    def begin(self) -> None:
        """Start if the parameter `autostart` is set; the node has to be in an executor."""
        if self._settings().autostart:
            self.start()

    def end(self) -> None:
        """Stop the engine, if it stops within a second, and leave the graph."""
        self.deactivate()
        if (inference := self._inference) is not None:
            inference.close(timeout=1.0)
        self._requests.close()
        self.destroy_node()
        self._state_machine.destroy_when_not_in_use()  # as long as it exists it keeps the node in the graph

    # Lifecycle

    def configure(self) -> None:
        """Load the model and start the thread that owns it."""
        frame = self._settings().target_frame
        if frame and not transforms.is_installed():
            raise TransitionFailed(f"target_frame is {frame!r}, which takes tf2_ros: install tf2_ros_py.")
        try:
            self._model.load(self._settings())
        except DeviceError as error:
            never_worked = isinstance(error, DeviceUnusableError) and not self._model.gpu_worked
            if not never_worked:  # else a new process would fail in the same way, again and again
                self._give_up(str(error))
            raise
        self._subjects = Subjects(self._cameras, self._settings, self._conversations)
        outputs = self._publications, self._statistics
        answerer = Answerer(self, self._model, self._subjects, self._settings, *outputs, self._give_up)
        self._inference = InferenceThread(answerer, self._subjects)

    def activate(self) -> None:
        """Listen to the cameras."""
        if self._inference is None or self._inference.closed:
            raise TransitionFailed("the model is half cleaned up: clean up again, when the engine has come to its end.")
        try:
            frame = self._settings().target_frame
            self._publications.open(transforms.TargetFrame(self, frame) if frame else None)
            self._inference.accept()
            for name, view in self._settings().views.items():
                self._cameras[name] = Camera(self, name, view, functools.partial(self._on_image, name))
                self.get_logger().info(f"camera {name}: listening to {self._cameras[name].topics}")
        except BaseException:
            self.deactivate()
            raise

    def deactivate(self) -> None:
        """End all questions, publish nothing any more, and close the cameras."""
        if (inference := self._inference) is not None:
            inference.refuse_all(Outcome(Code.INACTIVE, "the node was deactivated"))
        self._publications.close()
        for camera in self._cameras.values():
            camera.close()
        self._cameras.clear()

    def cleanup(self) -> None:
        """End the inference thread and free the model's memory."""
        if self._inference is not None and not self._inference.close(CLOSING_TIME):
            raise TransitionFailed("the engine is still at work and does not stop; try again later.")
        self._inference = self._subjects = None
        try:
            self._model.close()
        except DeviceError as error:
            self._give_up(str(error))
        except Exception:  # what it has not freed cannot be freed a second time either
            self.get_logger().error(traceback.format_exc())

    # Questions

    def question(self, request: Any) -> Question:
        """The question in a request; raises Refused if it is invalid, or the node is not active."""
        if self.state == "configuring" or self.starting:
            raise Refused(Code.LOADING, f"the model is being loaded ({self._model.progress or 'starting'})")
        if self.state != "active":
            step = {"unconfigured": "configure", "inactive": "activate"}.get(self.state)
            remedy = f"; ros2 lifecycle set {self.get_fully_qualified_name()} {step}" if step else ""
            why = f": {self.reason}" if self.reason else remedy
            raise Refused(Code.INACTIVE, f"the node is {self.state}{why}")
        return question_of(request, self._settings())

    def submit(self, ticket: Ticket) -> None:
        """Queue a question; raises Refused."""
        if self._leaving:
            raise Refused(Code.INACTIVE, "the node is about to end")
        inference, subjects = self._inference, self._subjects
        if inference is None or subjects is None:
            raise Refused(Code.INACTIVE, f"the node is {self.state}")
        subjects.expire()  # before the question's conversation is in use
        inference.submit(ticket, self._settings().queue_size)

    def cancel(self, ticket: Ticket) -> None:
        """Cancel a question."""
        if (inference := self._inference) is not None:
            inference.cancel(ticket)

    def _conversations(self) -> set[str]:
        """Those with a question that waits or is answered."""
        inference = self._inference
        return inference.conversations if inference is not None else set()

    def ended(self, question: Question | None, outcome: Outcome) -> None:
        """Count the end of a question."""
        self._statistics.add_outcome(question, outcome)

    # What comes in

    def _on_image(self, camera: str) -> None:
        if (inference := self._inference) is not None:
            inference.look_again()
            self._standing.frame_arrived(camera)

    def _on_instruction(self, message: String) -> None:
        """Set the parameter, so that the instruction is kept and checked in one place."""
        result = self.set_parameters([Parameter("standing_instruction", value=message.data)])[0]
        if not result.successful:
            self.get_logger().warning(f"~/instruction: {result.reason}")

    def _on_parameters(self) -> None:
        self._standing.follow_parameters()
        self._statistics.forget_standing_failure()  # after it: what was asked until then may have failed meanwhile
        if (inference := self._inference) is not None:
            inference.look_again()

    # What goes out

    def _statuses(self) -> Iterable[DiagnosticStatus]:
        if (subjects := self._subjects) is not None:
            subjects.expire()  # also while nobody asks, for their pictures take memory
        yield model_status(self.state, self.reason, self._model)
        for name, view in self._settings().views.items():
            if camera := self._cameras.get(name):
                camera.ask_for_latched()
                camera.warn_if_silent()
                yield camera_status(camera)
            else:
                yield idle_camera_status(name, image_topic(self, view), self.state)
        inference = self._inference
        yield questions_status(self._statistics, inference.ahead if inference is not None else 0)
