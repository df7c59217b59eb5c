"""psycopg 3 through transaction pooling, with most of what it can do. Argument: a connection string."""

import sys
import threading

import psycopg
from psycopg import sql

conninfo = sys.argv[1]


def prepared(connection):
    for number in range(20):
        row = connection.execute("SELECT %s::int + 1, %s::text", (number, "x"), prepare=True).fetchone()
        assert row == (number + 1, "x"), row
    assert connection.execute("SELECT %b::int8", (2**40,), binary=True).fetchone() == (2**40,)


def prepared_automatically(connections):
    # psycopg prepares by itself what was run five times, under names that all connections share.
    for _ in range(12):
        for index, connection in enumerate(connections):
            assert connection.execute("SELECT %s::int", (index,)).fetchone() == (index,)
            connection.commit()


def transactions(connection):
    with connection.transaction():
        connection.execute("CREATE TEMP TABLE t (n int) ON COMMIT DROP")
        connection.cursor().executemany("INSERT INTO t VALUES (%s)", [(n,) for n in range(100)])
        try:
            with connection.transaction():
                connection.execute("SELECT 1/0")
        except psycopg.errors.DivisionByZero:
            pass
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (100,)
        with connection.cursor(name="portal") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT n FROM t ORDER BY n")
            assert [row[0] for row in cursor] == list(range(100))


def copies(connection):
    with connection.transaction():
        connection.execute("CREATE TEMP TABLE c (n int, t text) ON COMMIT DROP")
        with connection.cursor().copy("COPY c FROM STDIN") as copy:
            for number in range(5000):
                copy.write_row((number, "x" * 50))
        with connection.cursor().copy("COPY c TO STDOUT (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            rows = list(copy.rows())
        assert len(rows) == 5000 and rows[4999] == (4999, "x" * 50)
        try:
            with connection.transaction(), connection.cursor().copy("COPY c FROM STDIN") as copy:
                copy.write_row((1, "one"))
                raise ValueError("changed my mind")
        except psycopg.errors.QueryCanceled as error:
            assert "changed my mind" in str(error), error
        assert connection.execute("SELECT count(*) FROM c").fetchone() == (5000,)


def pipelines(connection):
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(50)]
    assert [cursor.fetchone()[0] for cursor in cursors] == list(range(50))
    try:
        with connection.pipeline() as pipeline:
            first = connection.execute("SELECT 1")
            connection.execute("SELECT 1/0")
            connection.execute("SELECT 2")
            pipeline.sync()
    except psycopg.errors.DivisionByZero:
        pass
    else:
        raise AssertionError("the error in the pipeline was lost")
    assert first.fetchone() == (1,)
    connection.rollback()
    with connection.pipeline() as pipeline:
        for number in range(10):
            connection.execute("SELECT %s::text", ("x" * 3000,), prepare=True)
            pipeline.sync()
    connection.rollback()


def cancels(connection):
    timer = threading.Timer(0.3, connection.cancel)
    timer.start()
    try:
        connection.execute("SELECT pg_sleep(60)")
    except psycopg.errors.QueryCanceled:
        pass
    else:
        raise AssertionError("the query was not cancelled")
    timer.join()
    connection.rollback()


def notices(connection):
    heard = []
    connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert heard == ["hello"], heard
    connection.commit()


def many_threads():
    failures = []

    def work(number):
        try:
            with psycopg.connect(conninfo) as connection:
                for _ in range(20):
                    assert connection.execute("SELECT %s::int", (number,)).fetchone() == (number,)
                    connection.commit()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


with psycopg.connect(conninfo) as one, psycopg.connect(conninfo) as two, psycopg.connect(conninfo) as three:
    prepared(one)
    one.commit()
    prepared_automatically([one, two, three])
    transactions(two)
    copies(two)
    pipelines(three)
    cancels(one)
    notices(one)
    assert one.info.parameter_status("application_name") is not None
    table = sql.Identifier("no such table")
    try:
        one.execute(sql.SQL("SELECT * FROM {}").format(table))
    except psycopg.errors.UndefinedTable:
        one.rollback()
many_threads()

print("ok")
