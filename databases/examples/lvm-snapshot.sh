#!/bin/sh
# Snapshots of a logical volume (LVM), from which understudy reads a dataset.
#
#   [dataset.snapshot]
#   make = ["/usr/local/lib/understudy/lvm-snapshot.sh", "make", "vg0/srv", "/srv", "5G"]
#   remove = ["/usr/local/lib/understudy/lvm-snapshot.sh", "remove", "vg0/srv", "/srv", "5G"]
#
# The words are: the volume, where it is mounted, and how much may be written to it while there is a snapshot: one that is full is of no use, and
# the cycle fails. Whoever runs this is root.
set -eu

volume=$2
mounted=${3%/}
room=$4
name=understudy-$UNDERSTUDY_DATASET
snapshot=${volume%/*}/$name
place=/run/understudy-snapshots/$UNDERSTUDY_DATASET

remove() {
    if mountpoint -q "$place"; then
        umount "$place"
    fi
    if lvs "$snapshot" >/dev/null 2>&1; then
        lvremove --yes "$snapshot" >&2
    fi
}

case $1 in
make)
    # Of somebody who was killed.
    remove
    lvcreate --yes --snapshot --name "$name" --size "$room" "$volume" >&2
    mkdir -p "$place"
    options=ro,nosuid,nodev
    # A snapshot has the UUID of its volume, which XFS refuses to mount twice.
    if [ "$(findmnt -no FSTYPE "$mounted")" = xfs ]; then
        options=$options,nouuid
    fi
    mount -o "$options" "/dev/$snapshot" "$place"
    # Where the dataset is in it: the last line that is printed.
    printf '%s\n' "$place${UNDERSTUDY_PATH#"$mounted"}"
    ;;
remove)
    remove
    ;;
*)
    echo "make or remove" >&2
    exit 2
    ;;
esac
