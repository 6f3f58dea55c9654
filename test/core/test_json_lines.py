"""Lines of JSON come back as they were, wherever a kill cut their file off."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lisa_core.json_lines import JsonLines, decoded, encoded

LINES = [{"name": "où? 🤖"}, {"name": "b\udcffd \\udcff \r\n\x85\u2028", "iou": 1 / 3}, {}]


def written(path, lines):
    file = JsonLines(path)
    for line in lines:
        file.add(line)
        assert path.read_bytes().endswith(encoded(line) + b"\n")  # before it is closed
    file.close()
    return path.read_bytes()


def test_lines_are_good_wherever_the_kill_cut_them_off(tmp_path):
    path = tmp_path / "lines"
    whole = written(path, LINES)
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == len(LINES)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        file = JsonLines(path)
        finished = [json.loads(line) for line in file.lines()]
        file.close()
        assert finished == LINES[: sum(end <= length for end in ends)]
        assert written(path, LINES[len(finished) :]) == whole


def test_a_file_is_empty_until_something_is_added(tmp_path):
    for _ in range(2):
        file = JsonLines(tmp_path / "lines")
        assert file.empty
        assert file.lines() == []
        file.close()
    file = JsonLines(tmp_path / "lines")
    file.add({})
    assert not file.empty
    file.close()
    again = JsonLines(tmp_path / "lines")
    assert not again.empty
    assert again.lines() == [b"{}"]
    again.add({"a": 1})
    assert again.lines() == [b"{}", b'{"a": 1}']
    again.close()


def test_what_is_added_after_all_was_dropped_stands_alone(tmp_path):
    written(tmp_path / "lines", LINES)
    file = JsonLines(tmp_path / "lines")
    file.clear()
    assert file.empty
    file.add({})
    assert file.lines() == [b"{}"]
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"{}\n"


def test_what_is_nested_too_deeply_is_no_json():
    with pytest.raises(ValueError, match="nested too deeply"):
        decoded("[" * 100_000)
    assert decoded(b'{"a": [1]}') == {"a": [1]}


@given(st.text(st.integers(0, sys.maxunicode).map(chr)))
def test_any_text_is_read_as_json_that_is_ascii_would_be(text):
    """Surrogates of names that are no UTF-8, too."""
    line = encoded({"text": text})
    assert b"\n" not in line
    assert len(line.splitlines()) == 1
    assert json.loads(line) == json.loads(json.dumps({"text": text}))
