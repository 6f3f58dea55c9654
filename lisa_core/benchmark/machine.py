"""Facts about the machine: hardware, versions, peak memory."""

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def facts(device: torch.device) -> dict[str, Any]:
    """What results depend on besides the model, as JSON."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu and gpu.name,
        "gpu_multiprocessors": gpu and gpu.multi_processor_count,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


class PeakMemory:
    """The peak memory since `restart`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()

    def restart(self) -> None:
        """Forgets earlier peaks."""
        if self._device.type == "cuda":
            torch.cuda.init()  # which `reset_peak_memory_stats`, of all, does not do by itself
            torch.cuda.reset_peak_memory_stats(self._device)
        try:
            _CLEAR_REFS.write_text("5", encoding="ascii")
        except OSError:  # not Linux, or not allowed: the peak is that since the process began
            return

    def read(self) -> dict[str, int]:
        """Bytes: `host` of the process, and `device` as torch allocates them on a GPU."""
        peaks = {"host": _host_peak()}
        if self._device.type == "cuda":
            peaks["device"] = torch.cuda.max_memory_allocated(self._device)
        return peaks


def _host_peak() -> int:
    try:
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
