# Owns the folder $1. When its input ends, because the owner let go or died, it kills the processes whose ids lie in $1/pids with
# all that descend from them, and removes the folder.
trap '' HUP INT TERM
umask 022
mkdir "$1" || exit 1
mkdir "$1/pids" || exit 1
echo ready
while read -r _; do :; done

# Again until nobody is left: one may have begun while we looked.
while
    roots=$(cat "$1"/pids/* 2>/dev/null)
    [ -n "$roots" ] && [ -n "$(signal_family KILL $roots)" ]
do :; done
# What is to go from a server that is not ours.
[ ! -f "$1/at-end" ] || . "$1/at-end" >/dev/null 2>&1
# A postmaster that was killed leaves a segment of shared memory; line 7 of its file names it.
for file in "$1"/data/postmaster.* "$1"/disk/data/postmaster.*; do
    segment=$(sed -n '7s/.* //p' "$file" 2>/dev/null)
    [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
done
# A container, with the volume of its data.
if [ -f "$1/container" ]; then
    name=$(cat "$1/container")
    for _ in 1 2 3; do
        docker rm --force --volumes "$name" >/dev/null 2>&1
        docker inspect "$name" >/dev/null 2>&1 || break
        sleep 1
    done
fi
# A disk of its own, where a test asked for one.
[ ! -d "$1/disk" ] || umount "$1/disk" 2>/dev/null || umount -l "$1/disk" 2>/dev/null
rm -rf "$1"
