#!/usr/bin/env bash
# Takes a MongoDB replica set (one with a single member will do), as a program of a database of the kind `command`:
#
#     command = ["/etc/understudy/mongodb.sh", "/etc/understudy/mongodb.conf", "/etc/understudy/mongodb.js"]
#
# The first file is for mongodump and mongorestore (--config) and has a line `uri: mongodb://user:password@host/`; the second is for mongosh, and
# has `db = connect("mongodb://user:password@host/admin")`. Both are readable by their owner only: a password is in them, and not in an argument.
#
# NOT TESTED by this project, for want of a MongoDB server: a place to begin. Load a dump and look at it before you rely on it.
#
# `--oplog` makes it one moment, and takes all databases of the server: it cannot be limited to one.
set -euo pipefail

if (($# != 2)); then
    echo "usage: mongodb.sh TOOLS_CONFIG SHELL_SCRIPT" >&2
    exit 1
fi
config=$1
shell=$2

ask() {
    mongosh --quiet --norc --nodb --file "$shell" --eval "$1"
}

# The time of the last operation of the replica set: writes of any database move it. A set that is idle writes a no-op every ten seconds, which
# moves it as well, so the entries of the last minutes are searched for the last that is none.
probe() {
    # The dollars are MongoDB's.
    # shellcheck disable=SC2016
    ask 'const last = db.getSiblingDB("local").oplog.rs.find({op: {$ne: "n"}}).sort({$natural: -1}).limit(1).toArray()[0];
        if (last) print(db.hello().setName, EJSON.stringify(last.ts));'
}

dump() {
    mongodump --config="$config" --oplog --out="$UNDERSTUDY_OUT" --quiet
    [[ -e $UNDERSTUDY_OUT/oplog.bson ]] || {
        echo "mongodump has written no oplog.bson, so the dump is not of one moment: is the server a member of a replica set?" >&2
        exit 1
    }
}

check() {
    ask 'if (!db.hello().setName) print("the server is in no replica set, and a dump would not be of one moment: start it with --replSet, and rs.initiate()");'
}

# Collections that are in the dump are replaced one after another: nobody may use the server meanwhile.
load() {
    mongorestore --config="$config" --oplogReplay --drop --dir="$UNDERSTUDY_IN" --quiet
}

case $UNDERSTUDY_PHASE in
probe | dump | check | load) "$UNDERSTUDY_PHASE" ;;
*) exit 64 ;;
esac
