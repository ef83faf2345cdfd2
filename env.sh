# Gives a shell in which `chefmate` and (where a ROS 2 is sourced) `ros2` work:   source env.sh
# Ends with 1 where nothing is set up yet.
if [ -n "${BASH_SOURCE:-}" ]; then
    _chefmate=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
elif [ -n "${ZSH_VERSION:-}" ]; then
    _chefmate=$(cd "$(dirname "$(eval 'echo ${(%):-%x}')")" && pwd)
else
    _chefmate=${CHEFMATE_ROOT:-$(pwd)}
fi
if [ ! -f "$_chefmate/install/local_setup.sh" ]; then
    echo "env.sh: $_chefmate is not set up yet, run: make -C $_chefmate setup" >&2
    unset _chefmate
    return 1
fi
# colcon's and ROS 2's own scripts read variables that are not set and leave conditions that are false; the shell's
# options come back at the end.
_chefmate_options=$-
set +eu
if [ ! -f "$_chefmate/.venv/ros_wheels.sh" ]; then
    # Set up on a sourced ROS 2. `ros2` runs launch files with the system's Python, which has to find what the
    # virtual environment adds. Last, so that ROS 2's own packages win.
    for _packages in "$_chefmate"/.venv/lib/python3*/site-packages; do
        PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$_packages"
    done
    export PYTHONPATH
    unset _packages
elif [ -z "${ROS_DISTRO:-}" ] || [ -n "${_ROS_WHEELS_BOOTSTRAP_COMPLETE:-}" ]; then
    . "$_chefmate/.venv/ros_wheels.sh"
fi
. "$_chefmate/.venv/bin/activate"
COLCON_CURRENT_PREFIX="$_chefmate/install" . "$_chefmate/install/local_setup.sh"
export MUJOCO_GL="${MUJOCO_GL:-egl}"
unset _chefmate
case $_chefmate_options in *u*) set -u ;; esac
case $_chefmate_options in *e*) set -e ;; esac
unset _chefmate_options
