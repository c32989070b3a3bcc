-- The built-in mail catcher: the newest 10,000 mails. Numbers have no gaps, so that the first one tells how many were dropped.

CREATE TABLE mails (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    subject TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    source BLOB NOT NULL
) STRICT;

CREATE INDEX mails_by_recipient ON mails (recipient, id);
