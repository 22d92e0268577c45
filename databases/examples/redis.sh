#!/usr/bin/env bash
# Takes a Redis server, as a program of a database of the kind `command`:
#
#     command = ["/etc/understudy/redis.sh", "/run/redis/redis.sock", "/etc/understudy/redis.auth", "systemctl", "start", "redis-server"]
#
# The words are the server's socket, a file with the line `AUTH password` or `AUTH user password` (or /dev/null), and what starts the server,
# which is for loading only. Who runs this has to read the directory of the server's dump.rdb.
#
# In redis.conf: `rdbcompression no`, so that a small change of the data is a small change of the file. After a restart of Redis the file
# has another order and is sent whole once.
#
# A Redis server is one database: it is loaded into the server behind the socket, and the name is not used. With `appendonly yes` Redis does
# not read dump.rdb when it starts, so it is taken but not loaded.
set -euo pipefail

if (($# < 1)); then
    echo "usage: redis.sh SOCKET [AUTH_FILE [START_COMMAND...]]" >&2
    exit 1
fi
socket=$1
auth=${2:-/dev/null}
start=("${@:3}")

fail() {
    echo "$1" >&2
    exit "${2:-1}"
}

# Sends the commands of its standard input, one a line. The password goes through a pipe, for everybody sees arguments.
redis() {
    local said
    said=$({ cat "$auth" && echo "ECHO ---answers---" && cat; } | redis-cli -s "$socket" 2>&1 | tr -d '\r') || true
    case $said in
    *---answers---*) awk 'answers; /^---answers---$/ { answers = 1 }' <<<"$said" ;;
    *"Could not connect"*) fail "Redis does not answer on $socket: start it (systemctl start redis-server), or correct the socket" ;;
    *) fail "Redis does not let this in: ${said:0:200}. If it wants a password, write the line \`AUTH password\` to $auth" ;;
    esac
}

answers() {
    [[ -n $(redis <<<PING 2>/dev/null || true) ]]
}

info=
look() {
    info=$(redis <<<$'INFO server\nINFO persistence')
    [[ -n $(value run_id) ]] || fail "Redis does not say how it is: ${info:0:200}"
    [[ $(value loading) == 0 ]] || fail "Redis is still loading its data" 75
}

value() {
    sed -n "s/^$1://p" <<<"$info"
}

setting() {
    redis <<<"CONFIG GET $1" | sed -n 2p
}

file() {
    local directory name
    directory=$(setting dir)
    name=$(setting dbfilename)
    [[ -n $directory && -n $name ]] || fail "Redis does not say where its dump is: allow CONFIG GET"
    echo "$directory/$name"
}

is_saving() {
    [[ $(value rdb_bgsave_in_progress) != 0 || $(value aof_rewrite_in_progress) != 0 ]]
}

wait_for_savers() {
    look
    while is_saving; do
        sleep 0.1
        look
    done
}

# The changes since the last save, and when that was. The second of a save that is not over yet could see another one, so nothing is
# printed then; the server's time is read first for that reason.
probe() {
    local now
    now=$(redis <<<TIME | sed -n 1p)
    look
    if ((now > $(value rdb_last_save_time))); then
        echo "$(value run_id) $(value rdb_changes_since_last_save) $(value rdb_last_save_time)"
    fi
}

# Whether the file has all data as they are now. One from before the server was started proves nothing: it may have read its append-only file.
is_saved() {
    [[ $(value rdb_changes_since_last_save) == 0 && $(value rdb_last_bgsave_time_sec) != -1 && $(value rdb_last_bgsave_status) == ok && -e $1 ]] &&
        (($(value rdb_last_save_time) - $(stat -c %Y "$1") < 60))
}

dump() {
    local file answer
    wait_for_savers
    file=$(file)
    # A save that is not needed would give the same data another time, and the next probe another token.
    if ! is_saved "$file"; then
        answer=$(redis <<<BGSAVE)
        [[ $answer == *started* ]] || fail "Redis does not begin to save: $answer" 75
        wait_for_savers
        [[ $(value rdb_last_bgsave_status) == ok ]] || fail "Redis could not save: see its log. Its disk may be full, or vm.overcommit_memory be 0"
    fi
    cp -- "$file" "$UNDERSTUDY_OUT/dump.rdb"
    verify "$UNDERSTUDY_OUT/dump.rdb"
}

verify() {
    local said
    said=$(redis-check-rdb "$1" 2>&1) || fail "the file $1 is damaged: ${said: -300}"
}

check() {
    local file
    look
    file=$(file)
    if [[ $(setting rdbcompression) != no ]]; then
        echo "rdbcompression is on, so every change is sent as the whole file: set \`rdbcompression no\` in redis.conf"
    fi
    if [[ -e $file && ! -r $file ]] || [[ ! -x $(dirname "$file") ]]; then
        echo "$file cannot be read: let who runs this read it (usermod -aG redis USER)"
    fi
    if [[ $(value rdb_last_bgsave_status) != ok ]]; then
        echo "Redis could not save last time: see its log. Its disk may be full, or vm.overcommit_memory be 0"
    fi
}

load() {
    local file before
    ((${#start[@]} > 0)) || fail "nothing says how Redis is started: add that to the words of the command" 64
    verify "$UNDERSTUDY_IN/dump.rdb"
    # One that was stopped by a load that did not end.
    answers || "${start[@]}"
    wait_for_savers
    before=$(value run_id)
    [[ $(setting appendonly) == no ]] || fail "with \`appendonly yes\` Redis does not read dump.rdb: set it to no, load, and set it again"
    file=$(file)
    cp -- "$UNDERSTUDY_IN/dump.rdb" "$file.next"
    chown --reference="$(dirname "$file")" "$file.next"
    chmod 640 "$file.next"
    # From here on it does not write the file itself, until it is started again, when it has its own settings.
    redis <<<'CONFIG SET save ""' >/dev/null
    wait_for_savers
    if [[ -e $file ]]; then
        mv -- "$file" "$file.previous"
    fi
    mv -- "$file.next" "$file"
    redis <<<'SHUTDOWN NOSAVE' >/dev/null 2>&1 || true
    # Whatever watches over it may have started it already.
    for _ in {1..20}; do
        if answers; then
            break
        fi
        "${start[@]}" || true
        sleep 0.1
    done
    for _ in {1..36000}; do
        if (look) 2>/dev/null; then
            look
            [[ $(value run_id) != "$before" ]] || fail "Redis was not stopped, and has not read the file"
            return
        fi
        sleep 0.1
    done
    fail "Redis does not answer after it was started: see its log. What it had before is $file.previous"
}

count() {
    look
    redis <<<'INFO keyspace' | sed -n 's/^\(db[0-9]*\):keys=\([0-9]*\),.*/\1\t\2/p'
}

case $UNDERSTUDY_PHASE in
probe | dump | check | load | count) "$UNDERSTUDY_PHASE" ;;
*) exit 64 ;;
esac
