"""Runs a statement, waits to be thrown out and asks again: what comes must be of the class that programs catch in order
to connect anew."""

import select
import sys

import psycopg

conninfo, sql = sys.argv[1:3]
connection = psycopg.connect(conninfo, autocommit=True)
try:
    connection.execute(sql)
    # Readable without having been asked anything: that is the error.
    select.select([connection.pgconn.socket], [], [], 30)
    connection.execute("SELECT 1")
except psycopg.OperationalError:
    assert connection.closed, "a FATAL error ends the connection"
    print("OperationalError")
