#!/bin/sh
# quietly.sh LOG WHAT COMMAND...
# Runs a command with its output in LOG. Says WHAT it is and how long it took, on a terminal also what it is at;
# if it fails, shows the end of LOG.

log=$1 what=$2
shift 2
started=$(date +%s)
printf '%s\n' "$what"

"$@" >"$log" 2>&1 </dev/null &
command=$!
trap 'kill $command; wait $command; exit 130' INT TERM
if [ -t 1 ]; then
    while kill -0 $command 2>/dev/null; do
        printf '\r\033[K  %.76s' "$(tail -n 1 "$log" | tr -cd '[:print:]')"
        sleep 0.3
    done
    printf '\r\033[K'
fi

if wait $command; then
    printf '  done in %s s\n' $(($(date +%s) - started))
else
    status=$?
    tail -n 30 "$log" >&2
    printf '%s: failed (the whole output: %s)\n' "$what" "$log" >&2
    exit $status
fi
