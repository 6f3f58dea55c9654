"""The live tabletop, as `ros2 run lisa_ros tabletop` starts it."""

from lisa_ros.tabletop import main

if __name__ == "__main__":
    main()
