"""What must hold when things go wrong, a row for each way they can.

Promised is, whatever happens: (a) a save that was answered "Password saved!" is there afterwards;
(b) a save is whole or absent; (c) one that was not answered may be either, and the client is told
so; (d) nobody else's requests suffer, and within a second the service answers again; (e) no
password, key or token is written or shown in the clear; (f) nothing grows without bound.

| fault | how | where |
| --- | --- | --- |
| a worker is killed | SIGKILL every 200 ms under saves | test_processes_killed.py |
| the writer is killed | SIGKILL in the middle of batches | test_processes_killed.py |
| the listener is killed | SIGKILL | test_processes_killed.py |
| the fork server is killed | SIGKILL | test_fork_server.py |
| everything is killed | SIGKILL to the group under saves, restart | test_processes_killed.py |
| a process hangs | SIGSTOP, to a worker, to the writer, to all | test_processes_hang.py |
| a worker dies while a socket is on its way | SIGSTOP, connect, SIGKILL | test_processes_hang.py |
| power loss | every write and sync recorded, every state rebuilt | benchmarks/powerloss.py |
| a sync or a write fails | strace: EIO, ENOSPC and others | test_disk_fails.py |
| disk full | a disk of 2 MiB; RLIMIT_FSIZE | test_disk_full.py |
| disk full for the audit record | a disk of 64 KiB; /dev/full | test_audit_unwritten.py |
| slow disk | strace: a sync takes 2 s; a writer that is stopped | test_disk_fails.py |
| read-only, locked or damaged database | mounts, modes, flipped bits | test_database_damaged.py |
| a database that others altered | another file; forged rows | test_database_altered.py |
| a database that cannot be used | each of them, by all who open one | test_refused_databases.py |
| database removed, replaced or renamed | under saves and reads | test_database_removed.py |
| the key is missing, wrong, open to others, or goes | remove, swap, chmod | test_keys_wrong.py |
| too many connections | 64 open files and 500 clients; the limit of connections | test_crowds.py |
| the limit of connections, reached by the silent | say nothing | test_crowded_out.py |
| slow senders | a byte now and then | test_slow_peers.py |
| clients that never read | send and never receive | test_slow_peers.py |
| half-open peers | network namespaces, the cable pulled | test_half_open.py |
| hostile bytes | bombs, other protocols, noise | test_hostile_bytes.py |
| hostile bytes, endlessly | atheris on framing and commands | benchmarks/fuzz.py |
| hostile names | escapes, line breaks, bidi marks | test_hostile_names.py |
| planted modules, closed streams, a closed terminal | shells, mounts | test_surroundings.py |
| a canary password | said in every place; and saved under every fault above | test_canary.py |
| a long run | mixed load with random faults | benchmarks/torture.py |

Faults come from outside: nothing in the service knows of them. Where one needs a right or a tool
that is missing, its test says so and is skipped. Every service that `start` gives is a
`WatchedService` (`canary.py`): at its end it has stopped cleanly or was ended by the test, no
process of it is left, no secret is in anything that it wrote, printed or showed, and nothing it
logged is a traceback.
"""
