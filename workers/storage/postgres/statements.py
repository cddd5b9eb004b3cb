"""The SQL of the hot path, prepared once for each connection.

A batch is one transaction. Each of its statements notes in the writer's own row how many users it
has added, and what became of its operation. So the number of users, the number of the batch and its
results are committed together with what they tell of, and can be read after a lost connection.
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

_SAVED = """(SELECT user_id || ',' || version || ',' || fingerprint FROM earlier),
    CASE WHEN EXISTS (TABLE made) OR EXISTS (TABLE gone) THEN 'D' ELSE {otherwise} END"""

_WRITER = """batch, results, users, (SELECT coalesce(sum(users), 0)::bigint FROM writer),
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
    (current_setting('synchronous_standby_names') <> '')::int"""
"""What is read of this writer's row, and with it: how many users there are, which server this is,
and whether it waits for standbys."""

COMMITTING = {
    "service": f"SELECT pg_advisory_lock_shared({LOCK_SERVICE})",
    "new": f"""WITH gone AS (DELETE FROM writer
            WHERE at < now() - interval '{_WRITERS_KEPT}' RETURNING users)
        INSERT INTO writer (users) SELECT coalesce(sum(users), 0) FROM gone
        RETURNING id, epoch, {_WRITER}""",
    "about": "UPDATE writer SET host = $2::text, keys = $3::int[] WHERE id = $1::int",
    "fence": f"""UPDATE writer SET epoch = epoch + 1, at = now() WHERE id = $1::int
        RETURNING id, epoch, {_WRITER}""",
    "begin": "BEGIN",
    "commit": "COMMIT",
    "rollback": "ROLLBACK",
    "lock": f"SELECT pg_advisory_xact_lock_shared({LOCK_KEYS})",
    "batch": """WITH ours AS (UPDATE writer SET batch = $2::bigint, results = '', at = now()
            WHERE id = $1::int AND epoch = $3::bigint RETURNING 1)
        SELECT 1 / (SELECT count(*) FROM ours)""",
    "keys": "SELECT 1 / ($1::int[] <@ ARRAY(SELECT id FROM key))::int",
    "rows": """WITH made AS (INSERT INTO "user" (id, book, key_id, sealed, saved_at_ms)
            SELECT t.* FROM unnest($2::bigint[], $3::int[], $4::int[], $5::bytea[], $6::bigint[])
                AS t (id, book, key_id, sealed, saved_at_ms)
            WHERE t.book NOT IN (SELECT id FROM application WHERE may = 'removed') RETURNING 1)
        UPDATE writer SET users = users + (SELECT count(*) FROM made) WHERE id = $1::int""",
    "expire": """DELETE FROM request
        WHERE book = $1::int AND request_id = $2::bytea AND saved_at_ms < $3::bigint""",
    "save": f"""WITH {_EARLIER},
          most AS (SELECT 1 WHERE $12::bigint > 0 AND $12::bigint <=
            (SELECT count(*) FROM "user" WHERE book = $2::int)),
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
        WHERE id = $1::int""",
    "replace": f"""WITH {_EARLIER},
          made AS (UPDATE "user" SET version = $6::int, saved_at_ms = $7::bigint,
              key_id = $8::int, sealed = $9::bytea, labels = $10::text, older = $11::bytea
            WHERE id = $5::bigint AND substr(sealed, 1, 24) = $12::bytea AND {_FREE} RETURNING 1),
          {_REMEMBERED}
        UPDATE writer SET results = results || coalesce({_SAVED.format(otherwise="'S'")}) || ';'
        WHERE id = $1::int""",
    "label": """WITH made AS (UPDATE "user" SET key_id = $2::int, sealed = $3::bytea,
              labels = $4::text, older = $5::bytea
            WHERE id = $6::bigint AND substr(sealed, 1, 24) = $7::bytea RETURNING 1)
        UPDATE writer SET results = results ||
          CASE WHEN EXISTS (TABLE made) THEN 'D;' ELSE 'S;' END WHERE id = $1::int""",
    "delete": """WITH made AS (DELETE FROM "user" WHERE id = $2::bigint RETURNING 1)
        UPDATE writer SET users = users - (SELECT count(*) FROM made), results = results ||
          CASE WHEN EXISTS (TABLE made) THEN 'D;' ELSE 'S;' END WHERE id = $1::int""",
    "forget": """DELETE FROM request WHERE (saved_at_ms < $1::bigint OR saved_at_ms > $2::bigint)
        AND id IN (SELECT id FROM request ORDER BY id LIMIT 64)""",
    "empty": f"""WITH few AS (SELECT id FROM "user" WHERE book IN
            (SELECT id FROM application WHERE may = 'removed' AND id <> 0)
            LIMIT {EMPTIED_TOGETHER} FOR UPDATE SKIP LOCKED),
          made AS (DELETE FROM "user" WHERE id IN (TABLE few) RETURNING 1)
        UPDATE writer SET users = users - (SELECT count(*) FROM made) WHERE id = $1::int
        RETURNING (SELECT count(*) FROM made)""",
    "outcome": f"SELECT id, epoch, {_WRITER} FROM writer WHERE id = $1::int",
    "newest": 'SELECT coalesce(max(id), 0) FROM "user"',
}
