"""The limits of the service that are not settings, each with its reason.

Nobody needs to change these. They exist so that nothing in the service grows without bound or waits
for ever. A limit that one file alone uses is in that file.
"""

RECEIVE_BYTES = 16 * 1024
"""Read from a socket by one call: a pipelining client's burst, and a millisecond of work."""

LONG_TEXTS_S = 0.001
"""How long a worker serves clients that sent many requests, before it looks again for those that
sent one. So 200 clients that send without end delay the others by milliseconds, not by seconds. It
is also looked at between two requests of one client."""

SINGLE_LINES_S = 0.005
"""The same for single requests that came together, where nobody is waiting for a plain save: each
client has one, so all are served in turn as it is. The more of them a turn answers, the fewer
commits and writes of the audit record they cost: of 64 gets a millisecond is enough for 20."""

PIECE_S = 0.00025
"""The same while others ask one thing at a time: they wait for such a piece, and for its commit,
each time they ask. They wait for one buffer at least, which then has `LINE_BYTES`."""

QUEUE_PART = 0.25
"""The part of the time that such pieces may take meanwhile. A piece may take much longer than it
should, for example the page of a listing; then the next one comes later."""

SINGLES_LATELY_S = 0.01
"""For so long after a single request, another is expected."""

LINE_BYTES = 4 * 1024
"""Read at first from a connection that was idle. That is one line as a rule, and a buffer that need
not be cut down from 64 KiB made such saves 1.04 times as fast."""

REPLIES_BYTES_MAX = 1024 * 1024
"""Replies kept for a client that does not read them. Beyond that nothing is read from it."""

HELD_BYTES_MAX = 1024 * 1024
"""Requests of one client that wait for their turn. Beyond that nothing is read from it."""

KEPT_BYTES_MAX = 32 * 1024 * 1024
"""Replies and requests of all clients of a worker that are kept beyond a turn: 32 clients that do
not read may have what each of them may have. Beyond that, connections end (`serving/kept.py`)."""

AWAITED_BYTES = 512
"""The approximate memory that a reply takes which stands behind one that is not known yet."""

UNANSWERED_FEW = 64
"""So many unanswered requests of a client are not worth being counted as kept bytes."""

PLACES_RESERVED = 8
"""One in so many places of a worker is for clients that show a token (`serving/places.py`). With
fewer places than that, none is."""

HURRY_S = 2.0
"""The longest time for a TLS handshake, and for a PROXY header, while few places are left."""

BATCH_BYTES_MAX = 512 * 1024
"""Rows sent to the writer as one batch: about 4,000 short passwords, 5 ms of the writer's time."""

BATCHES_IN_FLIGHT_MAX = 2
"""Batches a worker may have at the writer: one being committed, one waiting. More would only add
latency."""

QUEUE_BYTES_MAX = 16 * 1024 * 1024
"""Rows a worker keeps for a writer that is slow or away, and as much of operations on names. A
caller may have as much of it as is free (`workers/serving/shares.py`): half, if there is no other.
Beyond that its saves are "Not saved!"."""

NAME_BYTES_MAX = 2 * 1024 * 1024
"""Operations that wait for one name: about 2,000 short ones, twice what a connection may have in
flight. One of them is done with each commit, so more would wait until it is too late."""

CHECKPOINT_PAGES = 500
"""Pages (of 4 KiB) in the write-ahead log before they are copied to the database: 2 MB, half of
SQLite's own default. The copy takes the writer 2 to 4 milliseconds. After it the log is overwritten
in place, which syncs 1.8 times as fast as a file that grows."""

LOG_BYTES_KEPT = 32 * 1024 * 1024
"""The size to which SQLite truncates the log's file when it begins the log again: 16 times what is
copied at a time, so that it truncates only after a reader was in the way for long. Without a limit
the file would keep its greatest size until the service stops."""

COMMIT_AWAITED_S = 0.0003
"""How long a worker that has a batch at the writer polls for the answer before it sleeps: three
times what a sync takes. Between two polls it yields the processor to others."""

BATCH_AWAITED_S = 0.00015
"""How long the worker that writes polls for more after a small commit, before it sleeps: the time
in which a client, or another worker for it, comes back with the next request over the loopback."""

HANDOVERS_MAX = 64
"""Connections accepted in one turn of the listener, so that its other duties are never starved."""

BACKLOG = 4096
"""Connections the kernel keeps while they wait to be accepted (bounded by net.core.somaxconn)."""

RESYNC_S = 1.0
"""How long to wait for the newline after text that is not JSON before the connection is closed."""

LINGER_S = 1.0
"""How long a connection that is being closed is still read, so that the client gets the last reply
(closing with unread bytes would make the kernel throw it away)."""

TICK_S = 0.25
"""How often every process looks at its deadlines, and the writer at whether its files are there."""

RESTART_PAUSE_S_MAX = 0.5
"""The longest pause before a child that keeps dying is started again."""

LISTING_PAGE = 1000
"""Users the console reads and prints at a time, so that its memory is bounded."""

PAGE_ROWS_MAX = 2000
"""Rows examined for one page of `list_users`: about 2 ms, in which a worker does nothing else."""

PAGE_BYTES_MAX = 256 * 1024
"""About how long the reply to one `list_users` may become, whatever its `limit`, together with the
labels that are read in the search for one label: reading 2,000 users with 16 long labels each would
take 30 ms."""

CHECK_LENGTH_MAX = 64
"""Characters of a password that `check_password` examines. The time it takes grows steeply with
them, and a password that is strong so far does not get weaker by what follows."""

CHECK_S_MAX = 0.2
"""Seconds of a processor that a check may take: a hundred times what most take. A text of the
checked length that is made to take long takes two seconds."""

CHECK_BEGINNING = 16
"""Characters of a password that are examined if the check of more takes too long. The time grows
with their square: 16 take a sixteenth of what 64 take. Random characters need no more for the
greatest strength."""

CHECKS_MAX = 128
"""Passwords of one worker that may wait to be checked. A caller may have as many as are free
(`workers/serving/shares.py`): half, if there is no other. Beyond that it is "Unavailable!"."""

APPLICATIONS_MAX = 1000
"""Applications that may be registered. Every worker examines all of them once a tick."""
