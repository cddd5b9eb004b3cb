"""Every limit that is not a setting, once, with its reason.

Nobody needs to turn these; but nothing in the service grows without bound, or waits for ever.
"""

RECEIVE_BYTES = 16 * 1024
"""Taken from a socket by one call: a pipelining client's burst, and a millisecond of work."""

LONG_TEXTS_S = 0.001
"""How long a worker does what came in greater quantity, before it looks again for who asks just one
thing. So 200 clients that send without end cost the others milliseconds, and not seconds."""

LINE_BYTES = 8 * 1024
"""Taken at first from a connection that was idle: as a rule it is one line, and a buffer that need
not be cut down from 64 KiB made such saves 1.04 times as fast."""

REPLIES_BYTES_MAX = 1024 * 1024
"""Replies kept for a client that does not read them; past it nothing more is read from it."""

BATCH_BYTES_MAX = 512 * 1024
"""Rows sent to the writer as one batch: about 4,000 short passwords, 5 ms of the writer's time."""

BATCHES_IN_FLIGHT_MAX = 2
"""Batches a worker may have at the writer: one being committed, one waiting for it. More add
latency and nothing else."""

QUEUE_BYTES_MAX = 16 * 1024 * 1024
"""Rows a worker keeps for a writer that is slow or away; past it saves are "Not saved!"."""

CHECKPOINT_PAGES = 500
"""Pages (of 4 KiB) in the write-ahead log before they are copied to the database: 2 MB, half of
SQLite's own default. The writer does nothing else meanwhile, for 2 to 4 milliseconds; the log is
then overwritten in place, which syncs 1.8 times as fast as a file that grows."""

LOG_BYTES_KEPT = 32 * 1024 * 1024
"""How long the file of the log may stay: 16 times what is copied at a time, so that it is cut only
where a reader was in the way for long. SQLite cuts it when it begins the log again; without a limit
it would be as long as it ever was until the service stops."""

COMMIT_AWAITED_S = 0.0003
"""How long a worker that has a batch at the writer looks for the answer before it sleeps: three
times what a sync takes. The processor is not idle then, but anybody else's for the asking."""

BATCH_AWAITED_S = 0.00015
"""How long the writer looks for another batch before it sleeps: what a client, its worker and two
ways over the loopback take to come back with the next request."""

HANDOVERS_MAX = 64
"""Connections accepted in one turn of the listener, so that its other duties are never starved."""

BACKLOG = 4096
"""Connections the kernel keeps while they wait to be accepted (bounded by net.core.somaxconn)."""

RESYNC_S = 1.0
"""How long to wait for the newline behind text that is not JSON before the connection is closed."""

LINGER_S = 1.0
"""How long a connection that is being closed is still read, so that the client gets the last reply
(closing with unread bytes would make the kernel throw it away)."""

TICK_S = 0.25
"""How often every process looks at its deadlines, and the writer at whether its files are there."""

RESTART_PAUSE_S_MAX = 0.5
"""The longest pause before a child that keeps dying is started again."""

LISTING_PAGE = 1000
"""Users the console reads and prints at a time: its memory does not depend on the book."""

PAGE_ROWS_MAX = 2000
"""Rows looked at for one page of `list_users`: about 2 ms, in which a worker does nothing else."""

PAGE_BYTES_MAX = 256 * 1024
"""About how long the reply to one `list_users` may become, whatever its `limit`."""

CHECK_LENGTH_MAX = 64
"""Characters of a password that `check_password` looks at: the time it takes grows steeply, and
what is strong so far does not get weaker."""

CHECKS_MAX = 64
"""Passwords of one worker that wait to be checked; past it more are "Unavailable!"."""

APPLICATIONS_MAX = 1000
"""Applications that may be registered: every worker looks at all of them once a tick."""
