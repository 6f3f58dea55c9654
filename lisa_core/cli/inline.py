"""Shows pictures in terminals that can: the graphics protocols of kitty and iTerm2.

Sources: https://sw.kovidgoyal.net/kitty/graphics-protocol/, https://iterm2.com/documentation-images.html
"""

import base64
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_core import files

Encode = Callable[[NDArray[np.uint8]], str]
"""(H, W, 3) RGB -> the escape sequences that show it."""

LARGEST = 1024
"""Longest side of a picture that is sent, px."""
COLUMNS = 60
"""Width of a picture, in characters."""
CHUNK = 4096
"""Characters of data that kitty takes at once."""


def encoder(environment: Mapping[str, str]) -> Encode | None:
    """The encoder for the terminal of that environment; None if it is not known to show pictures."""
    if "TMUX" in environment or environment.get("TERM", "").startswith(("screen", "tmux", "dumb")):
        return None  # terminal multiplexers do not forward pictures
    program = environment.get("TERM_PROGRAM", "")
    if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
        return as_iterm
    if program == "ghostty" or environment.get("TERM") == "xterm-kitty" or "KITTY_WINDOW_ID" in environment:
        return as_kitty
    return None


def as_kitty(rgb: NDArray[np.uint8]) -> str:
    """In kitty's protocol: a PNG in chunks; `q=2` keeps the terminal from replying on stdin."""
    data = _data(rgb)
    chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    sequences = []
    for number, chunk in enumerate(chunks):
        keys = f"a=T,f=100,q=2,c={COLUMNS}," if number == 0 else ""
        more = int(number < len(chunks) - 1)
        sequences.append(f"\x1b_G{keys}m={more};{chunk}\x1b\\")
    return "".join(sequences) + "\n"


def as_iterm(rgb: NDArray[np.uint8]) -> str:
    """In iTerm2's protocol."""
    return f"\x1b]1337;File=inline=1;width={COLUMNS}:{_data(rgb)}\x07\n"


def _data(rgb: NDArray[np.uint8]) -> str:
    picture = Image.fromarray(rgb)
    picture.thumbnail((LARGEST, LARGEST))
    return base64.b64encode(files.png(np.asarray(picture))).decode("ascii")
