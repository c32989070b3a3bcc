# Sends the signal $1 to the processes $2... and to all that descend from them; after KILL waits until all of them are gone, for what
# they held is theirs until then. Prints whom it reached.
# They are stopped first, so that none forks unseen; a process that is dead already (a zombie) does not count.
family() {
    ps -A -o pid= -o ppid= -o stat= | awk -v roots="$*" '
        BEGIN { count = split(roots, root, " "); for (i = 1; i <= count; i++) found[root[i]] = 1 }
        $3 !~ /^Z/ { parent[$1] = $2 }
        END {
            do {
                grew = 0
                for (pid in parent) if (!(pid in found) && (parent[pid] in found)) { found[pid] = 1; grew = 1 }
            } while (grew)
            for (pid in found) if (pid in parent) print pid
        }'
}

signal_family() {
    signal=$1
    shift
    if [ "$signal" != CONT ]; then
        before=
        members=$(family "$@")
        while [ "$members" != "$before" ]; do
            before=$members
            kill -STOP $members 2>/dev/null
            members=$(family "$@")
        done
    fi
    members=$(family "$@")
    if [ -n "$members" ] && [ "$signal" != STOP ]; then kill "-$signal" $members 2>/dev/null; fi
    if [ "$signal" = KILL ]; then
        tries=0
        while [ "$tries" -lt 600 ] && [ -n "$(family $members)" ]; do
            tries=$((tries + 1))
            sleep 0.05
        done
    fi
    echo $members
}
