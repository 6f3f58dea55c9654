"""Errors are sentences, however large the file is that caused them."""

import pytest

from lisa_core import LisaError
from lisa_core.checkpoint_files import weight_files
from lisa_core.errors import brief
from lisa_core.labelling import sources
from lisa_core.tabletop.dataset import StoredScene

NO_TEXT = b"\xff" * 100_000


def test_an_error_in_brief():
    assert brief(KeyError("text")) == "KeyError: 'text'"
    assert brief(ValueError("one line\nand another")) == "ValueError: one line"
    with pytest.raises(UnicodeDecodeError) as caught:
        NO_TEXT.decode()
    assert brief(caught.value).startswith("UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("pytorch_model.bin.index.json", lambda file: weight_files(file.parent)),
        ("000000.json", lambda file: StoredScene(file.parent, 0).description()),
        ("instances.json", lambda file: sources.from_coco(file, file.parent)),
        ("answers.json", lambda file: sources.from_answers(file, None, 0.0)),
    ],
)
def test_a_file_that_is_no_text_is_not_repeated(tmp_path, name, read):
    file = tmp_path / name
    file.write_bytes(NO_TEXT)
    with pytest.raises(LisaError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < 500
