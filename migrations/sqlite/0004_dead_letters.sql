-- What cannot go on, with its reason.

CREATE TABLE dead_letters (
    id TEXT NOT NULL PRIMARY KEY,
    source TEXT NOT NULL CHECK (source IN ('items', 'changes', 'mail', 'deliveries')),
    topic TEXT,
    message_id TEXT,
    -- The delivery's key, where it is one.
    about TEXT,
    subscription TEXT,
    round INTEGER,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    marked_at INTEGER,
    lease_token TEXT,
    lease_until INTEGER,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE INDEX dead_letters_by_time ON dead_letters (created_at, id);
CREATE INDEX dead_letters_by_message ON dead_letters (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX dead_letters_marked ON dead_letters (source, marked_at) WHERE marked_at IS NOT NULL;
