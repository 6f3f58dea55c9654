"""The messages, the service and the action have the fields that users and their recordings rely on."""

import pytest
from lisa_ros.action import ReasonSegment as Action
from lisa_ros.msg import Answer, Segment
from lisa_ros.srv import ReasonSegment as Service

GOAL = {
    "instruction": "string",
    "camera": "string",
    "conversation": "string",
    "new_frame": "boolean",
    "max_age": "float",
    "timeout": "float",
    "include_masks": "boolean",
    "mask_only": "boolean",
    "image": "sensor_msgs/Image",
}
RESULT = {"success": "boolean", "code": "uint8", "message": "string", "answer": "lisa_ros/Answer"}
CODES = {
    "OK": 0,
    "LOADING": 1,
    "INACTIVE": 2,
    "BUSY": 3,
    "NO_FRAME": 4,
    "BAD_REQUEST": 5,
    "CANCELED": 6,
    "OUT_OF_MEMORY": 7,
    "TIMEOUT": 8,
    "INTERNAL": 9,
}
ANSWER = {
    "header": "std_msgs/Header",
    "camera": "string",
    "conversation": "string",
    "instruction": "string",
    "text": "string",
    "segments": "sequence<lisa_ros/Segment>",
    "duration": "float",
}
SEGMENT = {
    "roi": "sensor_msgs/RegionOfInterest",
    "area": "uint32",
    "score": "float",
    "mask": "sensor_msgs/Image",
    "has_position": "boolean",
    "position": "geometry_msgs/Point",
    "size": "geometry_msgs/Vector3",
}


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (Segment, SEGMENT),
        (Answer, ANSWER),
        (Service.Request, GOAL),
        (Service.Response, RESULT),
        (Action.Goal, GOAL),
        (Action.Result, RESULT),
        (Action.Feedback, {"stage": "string", "partial_text": "string"}),
    ],
)
def test_fields_in_their_order(message: type, fields: dict[str, str]) -> None:
    assert list(message.get_fields_and_field_types().items()) == list(fields.items())


@pytest.mark.parametrize("message", [Service.Response, Action.Result])
def test_codes(message: type) -> None:
    assert {name: getattr(message, name) for name in CODES} == CODES
