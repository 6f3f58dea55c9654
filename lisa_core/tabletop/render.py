"""Renders scenes off-screen with MuJoCo: colours, depth and labels.

One MuJoCo model holds all meshes and textures and is compiled once; a scene is a list of geoms that use them.
"""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_core.tabletop import offscreen
from lisa_core.tabletop.kinds import KIND_BY_NAME
from lisa_core.tabletop.meshes import Mesh, block, rotation
from lisa_core.tabletop.models import model
from lisa_core.tabletop.palette import rgb
from lisa_core.tabletop.sampling import HEIGHT, WIDTH
from lisa_core.tabletop.scene import Scene, Thing, View
from lisa_core.tabletop.textures import TEXTURES, texture

_NEAR, _FAR = 0.1, 6.0
_TABLE = (1.7, 1.3, 0.04)
_ROOM = ((0.0, 0.0, -0.75), (0.0, 2.2, 0.0))  # floor and wall, m
_PARTS = 8  # numbers per thing: more than any kind has parts, plus one for the rest
_BACKGROUND = 1  # number of the table and the room; 0 is nothing
_MATT, _GLOSS = 0.35, 0.75


class Renderer:
    """Renders scenes; one per process and thread, because of OpenGL.

    Args:
        width, height: of the pictures, px.

    Raises:
        LisaError: MuJoCo is missing, or this machine cannot render off-screen.
    """

    def __init__(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        self._size = width, height
        self._gl = offscreen.context(width, height)
        self._mujoco: Any = importlib.import_module("mujoco")
        self._meshes: dict[tuple[str, int], int] = {}
        self._model = self._compile()
        self._context = self._mujoco.MjrContext(self._model, self._mujoco.mjtFontScale.mjFONTSCALE_50)
        self._mujoco.mjr_setBuffer(self._mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = self._mujoco.MjvScene(self._model, maxgeom=400)
        self._viewport = self._mujoco.MjrRect(0, 0, width, height)

    def render(self, scene: Scene) -> View:
        """Renders picture and ground truth; the same scene gives the same bytes."""
        self._gl.make_current()
        self._furnish(scene)
        self._aim(scene)
        rgb_picture = np.empty((self._size[1], self._size[0], 3), np.uint8)
        depth_buffer = np.empty((self._size[1], self._size[0]), np.float32)
        ids = np.empty_like(rgb_picture)
        self._draw(segments=False)
        self._mujoco.mjr_readPixels(rgb_picture, None, self._viewport, self._context)
        self._draw(segments=True)
        self._mujoco.mjr_readPixels(ids, depth_buffer, self._viewport, self._context)
        number = ids[..., 0].astype(np.int32) + (ids[..., 1].astype(np.int32) << 8)
        # part j of thing i has the number (i + 1) * _PARTS + j
        owner, part = np.divmod(without_mixtures(number[::-1], _drawn(scene)), _PARTS)
        return View(
            rgb=rgb_picture[::-1].copy(),
            depth=_NEAR / (1 - depth_buffer[::-1] * np.float32(1 - _NEAR / _FAR)),
            owner=owner.astype(np.uint8),
            part=np.where(owner > 0, part, 0).astype(np.uint8),
            intrinsics=scene.viewpoint.intrinsics(*self._size),
            camera=scene.viewpoint.pose(),
            things=scene.things,
        )

    def _compile(self) -> Any:
        spec = self._mujoco.MjSpec()
        spec.visual.global_.offwidth, spec.visual.global_.offheight = self._size
        spec.visual.quality.offsamples = 8
        spec.visual.quality.shadowsize = 4096
        spec.visual.map.shadowclip = 1.1
        spec.stat.extent = 1.0
        spec.stat.center = np.zeros(3)
        for name in TEXTURES:
            self._add_texture(spec, name)
        self._add_mesh(spec, "table", block(*_TABLE, 0.03, 0.004).moved(z=-_TABLE[2]), ("", 0), flat_texture=True)
        for kind in KIND_BY_NAME:
            for index, piece in enumerate(model(kind).pieces):
                self._add_mesh(spec, f"{kind} {index}", piece.mesh, (kind, index))
        spec.worldbody.add_geom(type=self._mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.1, 0, 0])
        compiled = spec.compile()
        for start, count in zip(compiled.mesh_faceadr, compiled.mesh_facenum, strict=True):
            # MuJoCo stores a normal for each corner, but indexes one for each vertex.
            compiled.mesh_facenormal[start : start + count] = np.arange(3 * count).reshape(-1, 3)
        return compiled

    def _add_texture(self, spec: Any, name: str) -> None:
        image = texture(name)
        added = spec.add_texture(name=name, type=self._mujoco.mjtTexture.mjTEXTURE_2D, nchannel=3)
        added.width, added.height, added.data = image.shape[1], image.shape[0], image.tobytes()
        material = spec.add_material(name=name)
        material.textures[self._mujoco.mjtTextureRole.mjTEXROLE_RGB] = name

    def _add_mesh(self, spec: Any, name: str, mesh: Mesh, key: tuple[str, int], *, flat_texture: bool = False) -> None:
        added = spec.add_mesh(name=name, inertia=self._mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
        added.uservert = mesh.vertices.astype(np.float32).ravel()
        added.userface = mesh.faces.astype(np.int32).ravel()
        added.usernormal = mesh.corner_normals().astype(np.float32).ravel()
        if flat_texture:
            added.usertexcoord = (mesh.vertices[:, :2] / 0.85).astype(np.float32).ravel()
            added.userfacetexcoord = mesh.faces.astype(np.int32).ravel()
        self._meshes[key] = len(self._meshes)

    def _furnish(self, scene: Scene) -> None:
        around = scene.surroundings
        self._scene.ngeom = 0
        for place, colour, axis in zip(_ROOM, (around.floor, around.wall), ("z", "x"), strict=True):
            turned = rotation("x", np.pi / 2) if axis == "x" else np.eye(3)
            self._add(self._mujoco.mjtGeom.mjGEOM_PLANE, np.array(place), turned, colour, _BACKGROUND, (4.0, 4.0, 0.1))
        top = self._add_piece(("", 0), np.zeros(3), rotation("z", around.yaw), around.tint, _BACKGROUND)
        top.matid, top.texcoord = TEXTURES.index(around.texture), 1
        top.specular = 0.15
        for number, thing in enumerate(scene.things, 1):
            self._add_thing(thing, number * _PARTS)
        self._light(scene)

    def _add_thing(self, thing: Thing, number: int) -> None:
        parts = ("", *KIND_BY_NAME[thing.kind].parts)
        shape = rotation("z", thing.yaw) * thing.scale * (1, 1, thing.stretch)
        for index, piece in enumerate(model(thing.kind).pieces):
            segment = number + parts.index(piece.part)
            geom = self._add_piece((thing.kind, index), np.array(thing.position), shape, rgb(thing, piece), segment)
            geom.specular, geom.shininess = _GLOSS * piece.shine, _MATT + 0.5 * piece.shine

    def _add_piece(
        self, key: tuple[str, int], place: NDArray[np.float64], shape: NDArray[np.float64], colour: Any, segment: int
    ) -> Any:
        """Adds a mesh transformed by any (3, 3) matrix; MuJoCo has moved its vertices into the frame of its inertia."""
        mesh = self._meshes[key]
        own = np.empty(9)
        self._mujoco.mju_quat2Mat(own, self._model.mesh_quat[mesh])
        place = place + shape @ self._model.mesh_pos[mesh]
        geom = self._add(self._mujoco.mjtGeom.mjGEOM_MESH, place, shape @ own.reshape(3, 3), colour, segment)
        geom.dataid = 2 * mesh  # the odd ones are convex hulls
        return geom

    def _add(
        self,
        kind: Any,
        place: NDArray[np.float64],
        shape: NDArray[np.float64],
        colour: Any,
        segment: int,
        size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> Any:
        geom = self._scene.geoms[self._scene.ngeom]
        self._scene.ngeom += 1
        self._mujoco.mjv_initGeom(geom, kind, np.array(size), place, shape.ravel(), np.array([*colour, 1], np.float32))
        geom.segid = segment - 1  # MuJoCo draws segid + 1, and nothing for -1
        geom.specular, geom.reflectance, geom.matid, geom.texcoord = 0.0, 0.0, -1, 0
        return geom

    def _light(self, scene: Scene) -> None:
        """The lamp, and a soft light from above the camera in place of reflections by walls and ceiling."""
        light = scene.light
        fill = scene.viewpoint.pose()[:3, 2] - [0.0, 0.0, 0.6]
        self._scene.nlight = 2
        for lamp, direction, colour in zip(
            self._scene.lights, (np.array(light.direction), fill), (light.colour, light.ambient), strict=False
        ):
            lamp.type = self._mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
            lamp.pos, lamp.dir = -2.0 * direction, direction / np.linalg.norm(direction)
            lamp.diffuse, lamp.ambient, lamp.specular = colour, (0, 0, 0), (0, 0, 0)
            lamp.attenuation, lamp.cutoff, lamp.exponent = (1, 0, 0), 180, 0
            lamp.castshadow, lamp.headlight, lamp.texid = 0, 0, -1
        lamp, fill_lamp = self._scene.lights[0], self._scene.lights[1]
        lamp.specular, lamp.castshadow = [0.8 * each for each in light.colour], light.shadows
        fill_lamp.ambient, fill_lamp.diffuse = light.ambient, [0.8 * each for each in light.ambient]

    def _aim(self, scene: Scene) -> None:
        pose = scene.viewpoint.pose()
        for camera in self._scene.camera:
            camera.pos, camera.forward, camera.up = pose[:3, 3], pose[:3, 2], -pose[:3, 1]
            camera.orthographic, camera.frustum_center = 0, 0
            camera.frustum_near, camera.frustum_far = _NEAR, _FAR
            camera.frustum_top = _NEAR * np.tan(scene.viewpoint.fovy / 2)
            camera.frustum_bottom = -camera.frustum_top
            camera.frustum_width = camera.frustum_top * self._size[0] / self._size[1]

    def _draw(self, *, segments: bool) -> None:
        flags = self._mujoco.mjtRndFlag
        for flag, on in self._flags(segments=segments):
            self._scene.flags[flag] = on
        self._scene.flags[flags.mjRND_CULL_FACE] = 1
        self._mujoco.mjr_render(self._viewport, self._scene, self._context)

    def _flags(self, *, segments: bool) -> Iterator[tuple[int, int]]:
        flags = self._mujoco.mjtRndFlag
        for flag in (flags.mjRND_SEGMENT, flags.mjRND_IDCOLOR):
            yield flag, int(segments)
        yield flags.mjRND_SHADOW, int(not segments)
        for flag in (flags.mjRND_SKYBOX, flags.mjRND_FOG, flags.mjRND_HAZE, flags.mjRND_REFLECTION):
            yield flag, 0


def _drawn(scene: Scene) -> NDArray[np.int32]:
    """All numbers in the labels of a scene."""
    things = [
        number * _PARTS + part
        for number, thing in enumerate(scene.things, 1)
        for part in range(1 + len(KIND_BY_NAME[thing.kind].parts))
    ]
    return np.array([0, _BACKGROUND, *things], np.int32)


def without_mixtures(numbers: NDArray[np.int32], drawn: NDArray[np.int32]) -> NDArray[np.int32]:
    """(H, W) with only the numbers that were drawn; others are replaced by a neighbour's, or by the background.

    Some GPUs blend colours at edges, and so the numbers that are drawn as colours.
    """
    known = np.isin(numbers, drawn)
    for axis, shift in ((1, 1), (1, -1), (0, 1), (0, -1)):
        if known.all():
            break
        beside = np.roll(known, shift, axis)
        np.moveaxis(beside, axis, 0)[0 if shift > 0 else -1] = False  # border pixels have no neighbour there
        beside &= ~known
        numbers = np.where(beside, np.roll(numbers, shift, axis), numbers)
        known |= beside
    return np.where(known, numbers, np.int32(_BACKGROUND))
