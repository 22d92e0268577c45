"""A small web application with uploads: TREE ENABLED ADDRESS. It answers once what was sent is on the disk, and only while ENABLED is there."""

import fcntl
import http.server
import os
import sys

TREE, ENABLED, ADDRESS = sys.argv[1:4]


def durably(directory, name, content):
    """Writes a file whole: beside its name, then under it."""
    path = os.path.join(TREE, directory)
    os.makedirs(path, exist_ok=True)
    aside = os.path.join(path, "." + name)
    with open(aside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, os.path.join(path, name))
    sync(path)


def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def remove(directory, name):
    path = os.path.join(TREE, directory)
    try:
        os.remove(os.path.join(path, name))
    except FileNotFoundError:
        pass
    sync(path)


def serve(words):
    if words[0] == "put":
        # The file, then the row that refers to it.
        durably("uploads", words[1], words[1].encode() * 50)
        durably("rows", words[1], words[1].encode())
    elif words[0] == "delete":
        remove("rows", words[1])
        remove("uploads", words[1])
    elif words[0] == "slot":
        # In place.
        descriptor = os.open(os.path.join(TREE, "slots"), os.O_RDWR | os.O_CREAT, 0o644)
        os.pwrite(descriptor, words[2].encode().ljust(16), int(words[1]) * 16)
        os.fsync(descriptor)
        os.close(descriptor)


class Application(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open(ENABLED + ".lock", "a") as lock:
            # Whoever stops the application waits for what is under way.
            fcntl.flock(lock, fcntl.LOCK_SH)
            is_enabled = os.path.exists(ENABLED)
            if is_enabled:
                serve(self.path.strip("/").split("/"))
        self.send_response(200 if is_enabled else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer((ADDRESS, 8080), Application).serve_forever()
