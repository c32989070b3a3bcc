# Owns the folder $1. When its input ends, because the owner let go or died, it kills the processes whose ids lie in $1/pids with
# all that descend from them, and removes the folder.
trap '' HUP INT TERM
umask 022
mkdir "$1" || exit 1
mkdir "$1/pids" || exit 1
echo ready
while read -r _; do :; done

tries=0
while [ "$tries" -lt 100 ]; do
    tries=$((tries + 1))
    roots=$(cat "$1"/pids/* 2>/dev/null)
    [ -n "$roots$left" ] || break
    left=$(signal_family KILL $roots $left)
    [ -n "$left" ] || break
    sleep 0.05
done
# A postmaster that was killed leaves a segment of shared memory; line 7 of its file names it.
if [ -f "$1/data/postmaster.pid" ]; then
    segment=$(sed -n '7s/.* //p' "$1/data/postmaster.pid")
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
fi
# A disk of its own, where a test asked for one.
[ ! -d "$1/disk" ] || umount "$1/disk" 2>/dev/null
rm -rf "$1"
