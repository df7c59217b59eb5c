"""Sends a statement over each of many connections, has it leave, and goes without waiting for an answer: once with a word
of goodbye, once without."""

import os
import socket
import sys

from psycopg import pq

conninfo, sql, count = sys.argv[1], sys.argv[2].encode(), int(sys.argv[3])
connections = [pq.PGconn.connect(conninfo.encode()) for _ in range(count)]
for number, connection in enumerate(connections):
    assert connection.status == pq.ConnStatus.OK, connection.error_message
    connection.send_query(sql)
    while connection.flush():
        pass
    if number % 2 == 0:
        connection.finish()
    else:
        # As when its process dies.
        own = socket.socket(fileno=os.dup(connection.socket))
        own.shutdown(socket.SHUT_RDWR)
        own.close()
print("ok")
