"""Two collectors of Debian's prometheus-pgbouncer-exporter, asked for one page of metrics.

Its other two want columns that PgBouncer gave up in 1.8 (total_requests of SHOW STATS) and in 1.24 (reserve_pool of
SHOW DATABASES), so that the program as packaged ends at its start before any PgBouncer of today, and before this one.
They are asked as well once they want nothing of the kind.
"""

import sys

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_pgbouncer_exporter import collectors
from prometheus_pgbouncer_exporter.utils import get_connection

connection = get_connection("stats", sys.argv[1], "127.0.0.1")
registry = CollectorRegistry()
registry.register(collectors.ListsCollector(connection=connection))
for kind, gone in [
    (collectors.PoolsCollector, None),
    (collectors.StatsCollector, "total_requests"),
    (collectors.DatabasesCollector, "reserve_pool"),
]:
    if gone not in kind.metrics:
        registry.register(kind(connection=connection, databases=None))
print(generate_latest(registry).decode())
