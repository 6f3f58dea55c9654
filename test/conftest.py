"""What every test gets: the installed packages rather than the checkout's."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# `python -m pytest` puts the checkout in front, whose lisa_ros has no messages.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
