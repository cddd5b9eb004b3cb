"""The SQL of the hot path, prepared once for each connection.

A batch is one transaction. Each of its statements notes in the writer's own row how many users it
has added, and what became of its operation. So the number of users, the number of the batch and its
results are committed together with what they tell of, and can be read after a lost connection.

Each change leaves an old version of the row behind, and as long as somebody has an old snapshot, as
pg_dump has, none of them goes away. So the row is never searched for: the connection knows where
its newest version is (`pwserver.row`), and a transaction that is rolled back takes that back too.
"""

from workers.storage.postgres.schema import LOCK_KEYS, LOCK_SERVICE

EMPTIED_TOGETHER = 500
"""How many users of removed books are deleted in one transaction."""

_WRITERS_KEPT = "1 day"
"""How long a writer may be away and find its row again. The users of others are taken over."""

_EARLIER = """earlier AS (SELECT user_id, version, fingerprint FROM request
    WHERE book = $2::int AND request_id = $3::bytea),
  gone AS (SELECT 1 FROM application WHERE id = $2::int AND may = 'removed')"""

_FREE = "NOT EXISTS (TABLE earlier) AND NOT EXISTS (TABLE gone)"

_REMEMBERED = """noted AS (INSERT INTO request
      (book, request_id, fingerprint, user_id, version, saved_at_ms)
    SELECT $2::int, $3::bytea, $4::bigint, $5::bigint, $6::int, $7::bigint FROM made
    WHERE $3::bytea IS NOT NULL)"""

_USERS_IN_BOOK = """CASE WHEN $2::int = 0 THEN (SELECT count(*) FROM "user" WHERE book = 0)
            ELSE (SELECT count(*) FROM "user" WHERE book = $2::int AND username IS NOT NULL)
              + (SELECT count(*) FROM "user"
                WHERE book = $2::int AND book <> 0 AND username IS NULL) END"""
"""There is an index for each kind of users of an application, and none for those of guests."""

_SAVED = """(SELECT user_id || ',' || version || ',' || fingerprint FROM earlier),
    CASE WHEN EXISTS (TABLE made) OR EXISTS (TABLE gone) THEN 'D' ELSE {otherwise} END"""

_WRITER = "id, epoch, batch, results, users"
"""What is read of this writer's row."""

_OURS = "ctid = current_setting('pwserver.row')::tid AND id = $1::int"

_NOTED = "set_config('pwserver.row', ctid::text, false)"
"""To be returned by every change of the row."""

COMMITTING = {
    # Without sequential scans an estimate may be large enough for statements to be compiled, which
    # takes a second each time. A statement that is planned anew each time takes four times as long.
    "settings": """SELECT set_config('enable_seqscan', 'off', false),
        set_config('jit', 'off', false),
        set_config('plan_cache_mode', 'force_generic_plan', false)""",
    "service": f"SELECT pg_advisory_lock_shared({LOCK_SERVICE})",
    "new": f"""WITH gone AS (DELETE FROM writer
            WHERE at < now() - interval '{_WRITERS_KEPT}' RETURNING users)
        INSERT INTO writer (users) SELECT coalesce(sum(users), 0) FROM gone
        RETURNING {_WRITER}, {_NOTED}""",
    "about": f"""UPDATE writer SET host = $2::text, keys = $3::int[] WHERE {_OURS}
        RETURNING {_NOTED}""",
    "fence": f"""UPDATE writer SET epoch = epoch + 1, at = now() WHERE id = $1::int
        RETURNING {_WRITER}, {_NOTED}""",
    # How many users there are, which server this is, whether it waits for standbys, whether it
    # waits for all that it should, and how large the table is in which the users were counted.
    "total": """SELECT coalesce(sum(users), 0)::bigint,
        (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
        (current_setting('synchronous_standby_names') <> '')::int,
        (current_setting('synchronous_commit') IN ('on', 'remote_apply'))::int,
        pg_relation_size('writer') FROM writer""",
    "begin": "BEGIN",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "lock": f"SELECT pg_advisory_xact_lock_shared({LOCK_KEYS})",
    "batch": f"""WITH ours AS (UPDATE writer SET batch = $2::bigint, results = '', at = now()
            WHERE {_OURS} AND epoch = $3::bigint AND batch = $2::bigint - 1 RETURNING {_NOTED})
        SELECT 1 / (SELECT count(*) FROM ours)""",
    "keys": "SELECT 1 / ($1::int[] <@ ARRAY(SELECT id FROM key))::int",
    "rows": f"""WITH made AS (INSERT INTO "user" (id, book, key_id, sealed, saved_at_ms)
            SELECT t.* FROM unnest($2::bigint[], $3::int[], $4::int[], $5::bytea[], $6::bigint[])
                AS t (id, book, key_id, sealed, saved_at_ms)
            WHERE t.book NOT IN (SELECT id FROM application WHERE may = 'removed') RETURNING 1)
        UPDATE writer SET users = users + (SELECT count(*) FROM made)
        WHERE {_OURS} RETURNING {_NOTED}""",
    "expire": """DELETE FROM request
        WHERE book = $1::int AND request_id = $2::bytea AND saved_at_ms < $3::bigint""",
    "save": f"""WITH {_EARLIER},
          most AS (SELECT 1 WHERE $12::bigint > 0 AND $12::bigint <= {_USERS_IN_BOOK}),
          made AS (INSERT INTO "user"
              (book, id, version, saved_at_ms, key_id, sealed, username, labels)
            SELECT $2::int, $5::bigint, $6::int, $7::bigint, $8::int, $9::bytea, $10::text,
              $11::text
            WHERE {_FREE} AND NOT EXISTS (TABLE most) ON CONFLICT DO NOTHING RETURNING 1),
          {_REMEMBERED}
        UPDATE writer SET users = users + (SELECT count(*) FROM made),
          results = results || coalesce({
        _SAVED.format(
            otherwise='''
            CASE WHEN EXISTS (TABLE most) AND NOT EXISTS (SELECT 1 FROM "user"
              WHERE book = $2::int AND username = $10::text) THEN 'F' ELSE 'S' END'''
        )
    }) || ';'
        WHERE {_OURS} RETURNING {_NOTED}""",
    "replace": f"""WITH {_EARLIER},
          made AS (UPDATE "user" SET version = $6::int, saved_at_ms = $7::bigint,
              key_id = $8::int, sealed = $9::bytea, labels = $10::text, older = $11::bytea
            WHERE id = $5::bigint AND substr(sealed, 1, 24) = $12::bytea AND {_FREE} RETURNING 1),
          {_REMEMBERED}
        UPDATE writer SET results = results || coalesce({_SAVED.format(otherwise="'S'")}) || ';'
        WHERE {_OURS} RETURNING {_NOTED}""",
    "label": f"""WITH made AS (UPDATE "user" SET key_id = $2::int, sealed = $3::bytea,
              labels = $4::text, older = $5::bytea
            WHERE id = $6::bigint AND substr(sealed, 1, 24) = $7::bytea RETURNING 1)
        UPDATE writer SET results = results ||
          CASE WHEN EXISTS (TABLE made) THEN 'D;' ELSE 'S;' END WHERE {_OURS} RETURNING {_NOTED}""",
    "delete": f"""WITH made AS (DELETE FROM "user" WHERE id = $2::bigint RETURNING 1)
        UPDATE writer SET users = users - (SELECT count(*) FROM made), results = results ||
          CASE WHEN EXISTS (TABLE made) THEN 'D;' ELSE 'S;' END WHERE {_OURS} RETURNING {_NOTED}""",
    "forget": """DELETE FROM request WHERE (saved_at_ms < $1::bigint OR saved_at_ms > $2::bigint)
        AND id IN (SELECT id FROM request ORDER BY id LIMIT 64)""",
    "empty": f"""WITH few AS (SELECT id FROM "user" WHERE book IN
            (SELECT id FROM application WHERE may = 'removed' AND id <> 0)
            LIMIT {EMPTIED_TOGETHER} FOR UPDATE SKIP LOCKED),
          made AS (DELETE FROM "user" WHERE id IN (TABLE few) RETURNING 1)
        UPDATE writer SET users = users - (SELECT count(*) FROM made) WHERE {_OURS}
        RETURNING (SELECT count(*) FROM made), {_NOTED}""",
    "outcome": f"SELECT {_WRITER} FROM writer WHERE {_OURS}",
    "newest": 'SELECT coalesce(max(id), 0) FROM "user"',
}
