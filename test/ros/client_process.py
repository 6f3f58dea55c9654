"""A client that asks one question and prints the answer; to be killed before that."""

import sys

import rclpy

from lisa_ros.client import ask

if __name__ == "__main__":
    rclpy.init()
    node = rclpy.create_node("client")
    executor = rclpy.get_global_executor()
    executor.add_node(node)
    sys.stdout.write("asking\n")
    reply = executor.create_task(ask, node, sys.argv[1])
    executor.spin_until_future_complete(reply)
    sys.stdout.write(reply.result().text)
