"""Users of the application: PREFIX WHERE LOG SEED. WHERE is a file with the address that serves; what was tried and what was answered is in LOG."""

import http.client
import random
import sys
import time

PREFIX, WHERE, LOG, SEED = sys.argv[1:5]
random.seed(int(SEED))
log = open(LOG, "a", buffering=1)
kept, number = [], 0

while True:
    number += 1
    name = f"{PREFIX}{number}"
    what = random.choices(["put", "slot", "delete"], [6, 3, 1])[0]
    if what == "put":
        path = f"put/{name}"
    elif what == "slot":
        path = f"slot/{random.randrange(200)}/{name}"
    elif kept:
        path = f"delete/{kept.pop(random.randrange(len(kept)))}"
    else:
        continue
    address = open(WHERE).read().strip()
    log.write(f"tried {time.time()} {address} {path}\n")
    try:
        connection = http.client.HTTPConnection(address, 8080, timeout=1)
        connection.request("POST", "/" + path)
        answer = connection.getresponse().status
        connection.close()
    except OSError:
        answer = 0
    if answer == 200:
        log.write(f"done {time.time()} {address} {path}\n")
        if what == "put":
            kept.append(name)
    time.sleep(0.03)
