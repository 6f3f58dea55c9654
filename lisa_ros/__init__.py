"""The ROS 2 node around `lisa_core`: cameras, questions, answers; contains no model code."""

from pkgutil import extend_path

# Python that is started in a checkout finds this folder before the installed package, where the generated
# lisa_ros.msg, lisa_ros.srv and lisa_ros.action are.
__path__ = extend_path(__path__, __name__)
