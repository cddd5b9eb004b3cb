"""Stands before psycopg on the path of the servers under test, and is not there.

The load generator needs psycopg, the service does not; but peewee loads it where it finds it, which
would cost each process 5 MiB and the start 70 ms that nobody has who installs the service alone.
"""

raise ImportError("not for the servers under test")
