#!/bin/sh
# Prints the Python to make the environment with: beside a sourced ROS 2 that ROS's own, else one that has ROS 2 wheels.
# Where a system tool is missing it prints one line instead, with the command that installs it, and fails.

missing() {
    echo "$1 is missing: sudo apt install $2" >&2
    exit 1
}

if [ -n "$ROS_DISTRO" ] && [ -n "$AMENT_PREFIX_PATH" ]; then
    suitable='import rclpy'
    candidates='python3 /usr/bin/python3'
    remedy="A Python that can import the rclpy of ROS 2 $ROS_DISTRO|ros-$ROS_DISTRO-ros-base"
else
    suitable='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
    candidates='python3 python3.13 python3.12 python3.11 python3.10'
    remedy='Python 3.10 to 3.13|python3 python3-venv python3-dev'
    if [ "$(uname -m)" != x86_64 ]; then
        echo "ROS 2 has no wheels for $(uname -m): install ROS 2, source its setup.bash, and make again" >&2
        exit 1
    fi
fi

for python in $candidates; do
    "$python" -c "$suitable" 2>/dev/null && break
    python=
done
[ -n "$python" ] || missing "${remedy%|*}" "${remedy#*|}"

version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing "The venv module of $version" "$version-venv"
"$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
    missing "The header Python.h of $version" "$version-dev"
command -v "${CXX:-c++}" >/dev/null || missing "A C++ compiler (${CXX:-c++})" "g++"
command -v "${CC:-cc}" >/dev/null || missing "A C compiler (${CC:-cc})" "gcc"

echo "$python"
