#!/bin/sh
# Snapshots of a btrfs subvolume, from which understudy reads a dataset.
#
#   [dataset.snapshot]
#   make = ["/usr/local/lib/understudy/btrfs-snapshot.sh", "make"]
#   remove = ["/usr/local/lib/understudy/btrfs-snapshot.sh", "remove"]
#
# Further words in both: the subvolume that the dataset is in, if it is none itself, and a directory on the same file system for snapshots, if
# that is not the one that the subvolume is in (it is not where the subvolume is mounted by itself).
#
# A subvolume below the subvolume is not in the snapshot: give it a dataset of its own, and exclude it.
# Whoever runs this owns the subvolume and has the file system mounted with user_subvol_rm_allowed, or is root or has CAP_SYS_ADMIN.
set -eu

subvolume=${2:-$UNDERSTUDY_PATH}
place=${3:-$(dirname "$subvolume")}
snapshot=$place/.understudy-$UNDERSTUDY_DATASET

remove() {
    if [ -e "$snapshot" ]; then
        btrfs subvolume delete "$snapshot" >&2
    fi
}

case $1 in
make)
    # Of somebody who was killed.
    remove
    btrfs subvolume snapshot -r "$subvolume" "$snapshot" >&2
    # Where the dataset is in it: the last line that is printed.
    printf '%s\n' "$snapshot${UNDERSTUDY_PATH#"$subvolume"}"
    ;;
remove)
    remove
    ;;
*)
    echo "make or remove" >&2
    exit 2
    ;;
esac
