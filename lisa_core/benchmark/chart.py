"""Charts of a measurement."""

import io
import math
from collections.abc import Sequence
from typing import Any

from lisa_core.benchmark.seconds import in_words
from lisa_core.errors import check_imports

_OURS, _BASELINE, _INK = "#0f766e", "#cbd5e1", "#334155"


def check_available() -> None:
    """Raises `LisaError` if matplotlib cannot be imported; to call before minutes of measuring."""
    check_imports("matplotlib", "A chart needs", "charts")


def png(report: dict[str, Any]) -> bytes:
    """A PNG with a bar for each case, beside its baseline's if there is one, and for each stage.

    Args:
        report: from `report.summary`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    settings, machine = report["settings"], report["machine"]
    figure.suptitle(
        f"{settings['model']}, {settings['precision']}, {machine['gpu'] or machine['cpu']}", color=_INK, fontsize=13
    )
    _cases(left, report["cases"])
    _stages(right, report["stages"])
    for axes in (left, right):
        axes.invert_yaxis()
        axes.set_xlabel("seconds (logarithmic)", color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _cases(axes: Any, cases: list[dict[str, Any]]) -> None:
    compared = any(case["baseline_seconds"] is not None for case in cases)
    height = 0.38 if compared else 0.7
    shift = height / 2 if compared else 0.0
    rows = range(len(cases))
    times = [case["seconds_p50"] for case in cases]
    axes.barh([row - shift for row in rows], times, height, color=_OURS, label="lisa")
    if compared:
        times = [case["baseline_seconds"] for case in cases]
        bars = axes.barh([row + shift for row in rows], times, height, color=_BASELINE, label="baseline, nothing kept")
        axes.bar_label(bars, [f"{case['ratio']:.1f}x" for case in cases], padding=3, color=_INK, fontsize=9)
        axes.legend(frameon=False, labelcolor=_INK, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    axes.set_yticks(rows, [case["about"] for case in cases])
    axes.margins(x=0.1)
    _from_a_decade(axes, [case["seconds_p50"] for case in cases])
    axes.set_title("questions", color=_INK, loc="left")


def _stages(axes: Any, stages: list[dict[str, Any]]) -> None:
    times = [stage["seconds_p50"] for stage in stages]
    bars = axes.barh(range(len(stages)), times, 0.7, color=_OURS)
    axes.bar_label(bars, [in_words(seconds) for seconds in times], padding=3, color=_INK, fontsize=9)
    axes.set_yticks(range(len(stages)), [stage["name"].replace("_", " ") for stage in stages])
    axes.margins(x=0.2)
    _from_a_decade(axes, times)
    axes.set_title("stages", color=_INK, loc="left")


def _from_a_decade(axes: Any, times: Sequence[float]) -> None:
    """Makes the axis logarithmic and start at a power of ten, so that charts can be compared."""
    axes.set_xscale("log")
    axes.set_xlim(left=10.0 ** math.floor(math.log10(min(times))))
