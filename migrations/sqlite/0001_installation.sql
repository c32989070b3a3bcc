-- What provisioning wrote, the catalog, and the topology of the bus.
-- Everything here is known to sqlite3 3.40, so that the shell of a stable distribution reads and writes this file.
-- Ids are lower-case text. Times are milliseconds since 1970 (UTC) as integers, except in `items`, which people and other
-- programs write: there they are RFC 3339 text. To read the integers in the shell: datetime(created_at / 1000, 'unixepoch').

CREATE TABLE installation (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL,
    secret BLOB NOT NULL CHECK (length(secret) = 32),
    created_at INTEGER NOT NULL,
    -- Raised by every start of a server: a queue's message tells by it how often a start has handed it out again.
    opens INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Filled and emptied by the writer, while writes fail, to see whether there is room again for the largest message.
CREATE TABLE room (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    bytes BLOB NOT NULL
) STRICT;

CREATE TABLE topics (
    name TEXT PRIMARY KEY,
    subject TEXT,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    owner TEXT NOT NULL,
    scopes TEXT NOT NULL,
    topics TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- The topics that stand on the bus, by their full names.
CREATE TABLE bus_topics (
    name TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- One table a queue, so that reading one never passes over another's messages. `opened` is the installation's `opens` when
-- the message was published, less the times that a consumer gave it back by dying.
CREATE TABLE queue_items (
    number INTEGER PRIMARY KEY,
    opened INTEGER NOT NULL,
    topic TEXT,
    native_id TEXT,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE queue_mail (
    number INTEGER PRIMARY KEY,
    opened INTEGER NOT NULL,
    topic TEXT,
    native_id TEXT,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE queue_items_dead (
    number INTEGER PRIMARY KEY,
    opened INTEGER NOT NULL,
    topic TEXT,
    native_id TEXT,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE queue_mail_dead (
    number INTEGER PRIMARY KEY,
    opened INTEGER NOT NULL,
    topic TEXT,
    native_id TEXT,
    headers TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
