"""What must hold when things go wrong, a row for each way they can.

Promised is, whatever happens: (a) a save that was answered "Password saved!" is there afterwards;
(b) a save is whole or absent; (c) one that was not answered may be either, and the client is told
so; (d) nobody else's requests suffer, and within a second the service answers again; (e) no
password, key or token is written or shown in the clear; (f) nothing grows without bound.

| fault | how | where |
| --- | --- | --- |
| a worker is killed | SIGKILL every 200 ms under saves | processes/test_processes_killed.py |
| the writer is killed | SIGKILL in the middle of batches | processes/test_processes_killed.py |
| the listener is killed | SIGKILL | processes/test_processes_killed.py |
| the fork server is killed | SIGKILL | processes/test_fork_server.py |
| everything is killed | SIGKILL to all under saves, restart | processes/test_processes_killed.py |
| a process hangs | SIGSTOP, to each worker, to all | processes/test_processes_hang.py |
| a worker dies with a socket on its way | SIGSTOP, SIGKILL | processes/test_processes_hang.py |
| power loss | every write and sync recorded, every state rebuilt | trials/powerloss/ |
| a sync or a write fails | strace: EIO, ENOSPC and others | storage/test_disk_fails.py |
| disk full | a disk of 2 MiB; RLIMIT_FSIZE | storage/test_disk_full.py |
| no room for a backup | a disk of 2 MiB; RLIMIT_FSIZE | storage/test_backup_fails.py |
| a restore is killed | before each of its steps | storage/test_restore_killed.py |
| a move to another store is killed | after each of its steps | storage/test_move_killed.py |
| the disk is full where a move goes | a small tmpfs | storage/test_move_disk_full.py |
| disk full for the audit record | a disk of 64 KiB; /dev/full | storage/test_audit_unwritten.py |
| slow disk | strace: a sync takes 2 s; a writer that is stopped | storage/test_disk_fails.py |
| a locked or damaged database | mounts, modes, flipped bits | storage/test_database_damaged.py |
| a database that others altered | another file; forged rows | storage/test_database_altered.py |
| a database that cannot be used | each, by all who open one | storage/test_refused_databases.py |
| a database server goes, or refuses | killed, full, cancelling | storage/test_database_server.py |
| database removed, replaced or renamed | under saves and reads | storage/test_database_removed.py |
| the key is missing, wrong, open, or goes | remove, swap, chmod | storage/test_keys_wrong.py |
| too many connections | 64 open files, 500 clients; the limit | peers/test_crowds.py |
| the limit of connections, by the silent | say nothing, or ping | peers/test_crowded_out.py |
| the limit of connections, by the gone | guesses and a reset | peers/test_crowded_out.py |
| the limit of connections, by who has no token | ask, or say nothing | peers/test_crowded_out.py |
| slow senders | a byte now and then | peers/test_slow_peers.py |
| clients that never read, one or hundreds | send and never receive | peers/test_slow_peers.py |
| half-open peers | network namespaces, the cable pulled | peers/test_half_open.py |
| hostile bytes | bombs, other protocols, noise | peers/test_hostile_bytes.py |
| hostile bytes, endlessly | atheris on framing and commands | trials/fuzz/ |
| who watches | scrapes, silent browsers, noise; a killed monitor | peers/test_watchers.py |
| hostile names | escapes, line breaks, bidi marks | peers/test_hostile_names.py |
| planted modules, closed streams, terminals | shells, mounts | processes/test_surroundings.py |
| a canary password | said in every place; and saved under every fault above | test_canary.py |
| a long run | mixed load with random faults | trials/torture/ |

Faults come from outside: nothing in the service knows of them. Where one needs a right or a tool
that is missing, its test says so and is skipped. Every service that `start` gives is a
`WatchedService` (`canary.py`): at its end it has stopped cleanly or was ended by the test, no
process of it is left, no secret is in anything that it wrote, printed or showed, and nothing it
logged is a traceback.
"""
