"""The failover trial (`__main__` is the command): hosts on a cluster of PostgreSQL, and faults.

In the order in which they are to be read: `parts` finds the programs, `configuration` is that of
the cluster, `members` is what Patroni says of it, `cluster` runs it, and `hosts` runs the service
on it. `watch` is what clients note, `load` is the clients, `probe` finds out when the cluster takes
commits, `faults` are what is done, `looking` holds the database against the ledger, `trial` is the
course of a run, and `tally` is what is counted and shown. The ledger and the applications are the
torture's.
"""
