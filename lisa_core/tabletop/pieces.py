"""A piece of a thing: its mesh, its paint, and the part that it belongs to."""

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
        paint: a colour, or `main` for the thing's; `pale` and `deep` are lighter and darker than that.
        part: name of the part that it belongs to; empty if none.
        shine: how strongly it reflects the lights, 0 to 1.
    """

    mesh: Mesh
    paint: Rgb | str = "main"
    part: str = ""
    shine: float = 0.3
