"""The process of the node, from its arguments to its exit code."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions

from lisa_core.late import Load, load_engine
from lisa_ros import arguments
from lisa_ros.node import LisaNode
from lisa_ros.parameter_docs import as_text
from lisa_ros.parameters import ParameterError
from lisa_ros.shared_memory import make_room

USAGE = """usage: lisa_node --ros-args [-p checkpoint:=FOLDER_OR_HUB_ID] [-p NAME:=VALUE] [--params-file FILE]

Answers questions about what cameras see, with words and masks, by the LISA model.
Parameters and their defaults:
{parameters}"""


def main(argv: Sequence[str] | None = None, load: Load = load_engine) -> int:
    """Run the node until it is told to stop; exits at once if the arguments are wrong.

    Returns:
        0; 1 if the GPU failed for good; 2 if a parameter is invalid.
    """
    argv = sys.argv if argv is None else argv
    arguments.check(argv, USAGE.format(parameters=as_text()))
    make_room()
    try:
        rclpy.init(args=list(argv), signal_handler_options=SignalHandlerOptions.NO)
        node = LisaNode(load)
    except (ParameterError, ParameterException, RuntimeError) as error:  # the last: rcl's, about arguments and files
        get_logger("lisa").fatal(arguments.rcl_says(error))
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with _told_to_end(node.leave):
        try:
            node.begin()
            _spin(executor, node)
        finally:
            node.end()
            rclpy.try_shutdown()
    code = int(node.lost)
    _leave_to_the_system(code)
    return code


@contextmanager
def _told_to_end(act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` on a thread of its own as soon as a signal asks the process to end.

    rclpy's signal handlers would close the context before the clients are told. Python's run only when the main thread
    returns from waiting for messages, but Python writes each signal to a pipe at once: the thread reads that.
    """
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def listen() -> None:
        while os.read(heard, 1):
            act()

    listener = threading.Thread(target=listen, name="lisa_signals")
    listener.start()
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        yield
    finally:  # the handlers stay: launch sends another signal after the terminal's
        signal.set_wakeup_fd(-1)
        os.close(told)
        listener.join()
        os.close(heard)


def _leave_to_the_system(code: int) -> None:
    """Exit at once if a thread is still in the engine: Python's finalisation would abort it inside C++."""
    if any(thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _spin(executor: SingleThreadedExecutor, node: LisaNode) -> None:
    while rclpy.ok():
        try:
            executor.spin()
        except (KeyboardInterrupt, ExternalShutdownException):
            return
        except Exception:  # raised by rclpy, e.g. because a client left while it was answered
            node.get_logger().error(traceback.format_exc())
