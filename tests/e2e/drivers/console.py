"""The console through psycopg 3, which speaks the extended protocol. Argument: a connection string."""

import sys

import psycopg
from psycopg.rows import dict_row

SHOWS = "STATS STATS_TOTALS STATS_AVERAGES TOTALS POOLS DATABASES CLIENTS SERVERS SOCKETS USERS LISTS CONFIG VERSION STATE"

with psycopg.connect(sys.argv[1], autocommit=True, row_factory=dict_row) as connection:
    for binary in (False, True):
        for what in SHOWS.split():
            with connection.cursor(binary=binary) as cursor:
                rows = cursor.execute("SHOW " + what).fetchall()
                assert rows, (what, binary)
                assert list(rows[0]) == [column.name for column in cursor.description]
        with connection.cursor(binary=binary) as cursor:
            pools = cursor.execute("SHOW POOLS").fetchall()
            assert any(pool["database"] == "app" and pool["cl_active"] == 1 for pool in pools), pools
            stats = cursor.execute("SHOW STATS").fetchall()
            assert any(line["database"] == "app" and line["total_xact_count"] >= 1 for line in stats), stats
    assert connection.execute("PAUSE app").statusmessage == "PAUSE"
    assert connection.execute("RESUME app").statusmessage == "RESUME"
    for _ in range(10):  # psycopg prepares what is run often
        connection.execute("SHOW STATE").fetchall()
    try:
        connection.execute("FROBNICATE")
    except psycopg.Error as error:
        assert "invalid command" in str(error), error
    else:
        raise AssertionError("an invalid command was accepted")
    connection.execute("SHOW VERSION").fetchall()

print("ok")
