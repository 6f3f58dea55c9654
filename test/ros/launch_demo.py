"""A test for `launch_test`: the demo's launch file brings up bag and node, and the node answers.

    launch_test test/ros/launch_demo.py

`test_launch.py` runs it with the others where ROS is installed.
"""

import unittest
from pathlib import Path

import launch_testing.actions
import launch_testing.asserts
import rclpy
from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from lisa_ros.msg import Answer
from rclpy.task import Future

from launch import LaunchDescription

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
QUESTION = "Where is the orange?"
PATIENCE = 120.0


def generate_test_description() -> LaunchDescription:
    """The demo on a bag with the smallest model, without RViz."""
    arguments = {
        "bag": f"{get_package_share_directory('lisa_ros')}/tabletop_bag",
        "checkpoint": str(GOLDENS / "lisa-tiny-v1-vicuna"),
        "vision_tower": str(GOLDENS / "clip-vit-tiny-patch14"),
        "device": "cpu",
        "precision": "fp32",
        "standing_instruction": QUESTION,
        "rviz": "false",
    }
    demo = f"{get_package_share_directory('lisa_ros')}/launch/demo.launch.py"
    included = IncludeLaunchDescription(PythonLaunchDescriptionSource(demo), launch_arguments=arguments.items())
    return LaunchDescription([included, launch_testing.actions.ReadyToTest()])


class AnswersCome(unittest.TestCase):
    """While everything runs."""

    def test_the_node_answers_about_the_bag(self) -> None:
        """The answer has the header of a frame of the bag, and a position from its depth."""
        rclpy.init()
        node = rclpy.create_node("listener")
        heard: Future = Future()
        node.create_subscription(Answer, "/lisa/answer", lambda answer: heard.done() or heard.set_result(answer), 1)
        rclpy.spin_until_future_complete(node, heard, timeout_sec=PATIENCE)
        rclpy.shutdown()
        answer = heard.result()
        assert answer is not None
        assert answer.instruction == QUESTION
        assert answer.header.frame_id == "camera_color_optical_frame"
        assert answer.header.stamp.sec // 10 == 175000000


@launch_testing.post_shutdown_test()
class EverythingEnds(unittest.TestCase):
    """After Ctrl-C."""

    def test_nobody_crashes(self, proc_info: object) -> None:
        """Node and player end by themselves."""
        launch_testing.asserts.assertExitCodes(proc_info)
