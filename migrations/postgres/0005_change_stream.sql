-- What this installation knows of its replication slot: one row, written by provisioning, and from then on by the watcher
-- that holds the slot. The slot of the server moves only after this row has: a slot that stands further than `confirmed` was
-- made anew or moved by somebody else, and then changes are missing.

CREATE TABLE change_stream (
    slot text NOT NULL PRIMARY KEY,
    -- Absent while the slot is being made: then nobody has read from it yet.
    made_at timestamptz,
    -- Of which cluster, and of which branch of its history.
    system_id text NOT NULL,
    timeline bigint NOT NULL,
    -- The publication and the table's place in it. One that was dropped and made again has another number, and what was
    -- inserted in between is not in the stream.
    publication oid NOT NULL,
    published_table oid NOT NULL,
    -- Who reads the slot: a token, made anew each time it is opened.
    holder uuid,
    -- The end of the last transaction of which everything is confirmed.
    confirmed pg_lsn NOT NULL,
    -- Inside of the next transaction: its commit, its id, and how many of its changes are confirmed.
    within_commit pg_lsn,
    within_xid bigint,
    within_ordinal bigint,
    -- The latest time of storing among what is confirmed.
    confirmed_stored_at timestamptz,
    CONSTRAINT within_is_whole CHECK (num_nulls(within_commit, within_xid, within_ordinal) IN (0, 3))
-- Updated all the time: what is left of the page keeps the old versions, without touching the index.
) WITH (fillfactor = 20);
