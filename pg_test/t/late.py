"""Runs a suite as on a machine that does not come to the client for half a second before some of its statements.

    LATE=0.3 $(pg_test/bin/venv) pg_test/t/late.py pg_test/t/attack_end.py [word]...

LATE is the share of the statements (0.1). What fails only so takes it that the server stands still while the client does: that a
token has not ended yet, or that the warden has not ended a connection whose transaction was to go.
"""

import os
import pathlib
import random
import runpy
import socket
import sys
import time

import psycopg

SHARE = float(os.environ.get("LATE", "0.1"))
SECONDS = 0.5


def late(call):
    """The call, after a while or at once."""

    def called(*given, **named):
        if random.random() < SHARE:
            time.sleep(SECONDS)
        return call(*given, **named)

    return called


if __name__ == "__main__":
    for owner in (psycopg.Connection, psycopg.Cursor):
        owner.execute = late(owner.execute)
    # The raw client's messages.
    socket.socket.sendall = late(socket.socket.sendall)
    del sys.argv[0]
    sys.path[0] = str(pathlib.Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
