"""A piece of a thing: a mesh, what it is painted with, and the part that it belongs to."""

from dataclasses import dataclass

from lisa_core.tabletop.meshes import Mesh
from lisa_core.tabletop.scene import Rgb

STEEL: Rgb = (0.66, 0.68, 0.71)
RUBBER: Rgb = (0.06, 0.06, 0.065)


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of a thing.

    Attributes:
        mesh: its surface.
        paint: a colour of its own, or `main`, the thing's; `pale` and `deep`, lighter and darker than that.
        part: the name of the part that it belongs to; empty for the rest.
        shine: how much it reflects the lights, 0 to 1.
    """

    mesh: Mesh
    paint: Rgb | str = "main"
    part: str = ""
    shine: float = 0.3
