# SPDX-License-Identifier: Apache-2.0
"""Build of the ROS package `chefmate`.

colcon (ament_python) installs through `setup.py develop/install`: every node is an executable in
`lib/chefmate`, where `ros2 run` looks, and `bin/chefmate` is put on PATH. pip installs a wheel, which exposes
only `chefmate`.
"""

import sys
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

NODES = {
    "arm_node": "chefmate_driver.executables:arm",
    "teleop_node": "chefmate_driver.executables:teleop",
    "camera_node": "chefmate_driver.executables:camera",
    "kitchen_node": "chefmate_driver.executables:kitchen",
    "policy_node": "chefmate_policy.executables:policy",
    "perception_node": "chefmate_policy.executables:perception",
    "sequencer_node": "chefmate_policy.executables:sequencer",
    "recorder_node": "chefmate_policy.executables:recorder",
}
FRONT_DOOR = "chefmate = chefmate.cli:main"
AS_WHEEL = any(command in sys.argv for command in ("bdist_wheel", "dist_info", "egg_info")) and not any(
    command in sys.argv for command in ("develop", "install")
)


def shared(folder: str, *patterns: str) -> tuple[str, list[str]]:
    """Files of a folder of the repository, for the same folder of share/chefmate.

    colcon's build folder keeps links to files that are gone from the repository; these are left out.
    """
    target = Path("share/chefmate") / folder
    names = (name for pattern in patterns for name in glob(f"{folder}/{pattern}"))
    return str(target), sorted(name for name in names if Path(name).exists())


setup(
    name="chefmate",
    version="0.1.0",
    description="A SO-ARM 101 that makes sandwiches because it was told to",
    maintainer="ChefMate maintainers",
    maintainer_email="chefmate@example.com",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(
        include=["chefmate", "chefmate.*", "chefmate_driver*", "chefmate_policy*", "chefmate_ros*"]
    ),
    package_data={"": ["py.typed", "*.html"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/chefmate"]),
        ("share/chefmate", ["package.xml"]),
        shared("launch", "*.launch.py"),
        shared("config", "*.yaml", "*.xml", "*.rviz"),
        shared("config/recipes", "*.yaml", "*.yml"),
        shared("config/calibration", "*.json"),
        shared("config/tokenizer", "*.json"),
        shared("config/train", "*.yaml"),
        shared("config/study", "*.yaml"),
        *(
            shared(f"policies/{name}{below}", "*.*")
            for name in sorted(path.name for path in Path("policies").glob("*") if path.is_dir())
            for below in ("", "/experiment_cfg", "/training")
        ),
        *([] if AS_WHEEL else [("bin", ["bin/chefmate"])]),
    ],
    zip_safe=False,
    entry_points={
        "console_scripts": [FRONT_DOOR]
        + ([] if AS_WHEEL else [f"{name} = {function}" for name, function in NODES.items()])
    },
)
