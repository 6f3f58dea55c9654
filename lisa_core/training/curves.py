"""Plots of the losses in a training's log."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lisa_core import files
from lisa_core.errors import check_imports

NAME = "losses.png"

_INK, _GRID, _COLOURS = "#334155", "#e2e8f0", ("#0f766e", "#c2410c", "#4338ca", "#a16207", "#be185d")
_POINTS = 200
"""Most points of a curve; each is the mean of several steps, as single steps are noisy."""

_SINGLE = 30
"""Curves with fewer points mark each of them."""


def check_available() -> None:
    """Raises `LisaError` if matplotlib cannot be imported; to call before hours of training."""
    check_imports("matplotlib", "The curves need", "train")


def draw(log: Path, out: Path, measured: Mapping[str, Mapping[int, float]] | None = None) -> None:
    """Plots each column of a log against the step, in a panel of its own.

    Args:
        log: at least one line, each a JSON object with `step` and numbers, as `Trainer` writes it.
        out: the PNG to write, atomically.
        measured: more panels, by name: numbers by step.

    Raises:
        OSError: the log cannot be read, or the picture not written.
    """
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    curves: dict[str, Mapping[int, float]] = {
        name.replace("_", " "): {row["step"]: row[name] for row in rows if name in row} for name in names
    }
    curves |= measured or {}
    figure = Figure(figsize=(10, 2.1 * len(curves) + 0.6), layout="constrained", facecolor="white")
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for number, (axes, (name, curve)) in enumerate(zip(panels, curves.items(), strict=True)):
        _panel(axes, name, curve, _COLOURS[number % len(_COLOURS)])
    panels[-1].set_xlabel("step", color=_INK)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    files.write_whole({out: file.getvalue()})


def _panel(axes: Any, name: str, curve: Mapping[int, float], colour: str) -> None:
    """Plots means of neighbouring steps, and a band from their lowest to their highest value."""
    steps, values = np.array(list(curve), float), np.array(list(curve.values()), float)
    width = -(-len(values) // _POINTS)
    starts = np.arange(0, len(values), width)
    counts = np.diff(np.append(starts, len(values)))
    means, middles = (np.add.reduceat(numbers, starts) / counts for numbers in (values, steps))
    if width > 1:
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        axes.fill_between(middles, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(middles, means, color=colour, linewidth=1.5, marker="." if len(means) < _SINGLE else None)
    axes.set_title(f"{name}: {means[-1]:.4g}", color=_INK, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_GRID)
    axes.tick_params(colors=_INK)
