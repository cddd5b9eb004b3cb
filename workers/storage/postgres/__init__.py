"""PostgreSQL behind the interface of `workers.storage`: one database for any number of hosts."""
