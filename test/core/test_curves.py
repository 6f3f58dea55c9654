"""The plot of a training's losses."""

import json
import os

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from lisa_core.training import curves


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def inked(picture, colour):
    """The rows and columns in which a picture has a colour, as (first, last)."""
    close = np.abs(np.asarray(picture.convert("RGB")) / 255 - to_rgb(colour)).max(axis=2) < 0.02
    return [(where.min(), where.max()) for where in np.nonzero(close)]


def test_each_column_has_a_panel_of_its_own(tmp_path):
    rows = [{"step": step, "loss": 9.0 / step, "ce": float(step)} for step in range(1, 2001)]
    curves.draw(written(tmp_path / "log.jsonl", rows), tmp_path / "a.png")
    picture = Image.open(tmp_path / "a.png")
    (loss_top, loss_bottom), (left, right) = inked(picture, curves._COLOURS[0])
    (ce_top, ce_bottom), _ = inked(picture, curves._COLOURS[1])
    assert loss_top < loss_bottom < ce_top < ce_bottom
    assert right - left > 0.8 * picture.width
    assert not (np.abs(np.asarray(picture.convert("RGB")) / 255 - to_rgb(curves._COLOURS[2])).max(axis=2) < 0.02).any()


def test_a_curve_that_falls_is_drawn_so(tmp_path):
    rows = [{"step": step, "loss": 10.0 - step} for step in range(1, 10)]
    curves.draw(written(tmp_path / "log.jsonl", rows), tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")) / 255
    ys, xs = np.nonzero(np.abs(pixels - to_rgb(curves._COLOURS[0])).max(axis=2) < 0.02)
    assert ys[xs < np.quantile(xs, 0.1)].mean() < ys[xs > np.quantile(xs, 0.9)].mean()


def test_further_measurements_and_columns_that_some_steps_lack(tmp_path):
    log = written(tmp_path / "log.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "words": 0.5}])
    curves.draw(log, tmp_path / "two.png")
    curves.draw(log, tmp_path / "three.png", {"gIoU": {0: 0.1, 2: 0.7}})
    two, three = (Image.open(tmp_path / f"{name}.png") for name in ("two", "three"))
    assert three.height > two.height
    inked(three, curves._COLOURS[2])


def test_a_full_disk_leaves_the_picture_before(tmp_path, monkeypatch):
    log = written(tmp_path / "log.jsonl", [{"step": 1, "loss": 2.0}])
    (tmp_path / "a.png").write_bytes(b"before")

    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"a\.png"):
        curves.draw(log, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == b"before"
