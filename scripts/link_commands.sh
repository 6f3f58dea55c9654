#!/bin/sh
# link_commands.sh PREFIX
# Puts the executables of `ros2 run lisa_ros` into PREFIX/bin, as commands that need no sourcing. Their names begin
# with lisa_ there: `replay` and `play` alone would be anybody's.

for executable in "$1"/lib/lisa_ros/*; do
    name=$(basename "$executable")
    command=$1/bin/lisa_${name#lisa_}
    cat >"$command" <<END
#!/bin/sh
. "$1/share/lisa_ros/local_setup.sh"
exec "$1/bin/python" "$executable" "\$@"
END
    chmod +x "$command"
done
