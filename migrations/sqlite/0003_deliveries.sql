-- Who is subscribed, and the queue of mails.

CREATE TABLE subscriptions (
    id TEXT NOT NULL PRIMARY KEY,
    topic TEXT NOT NULL,
    email TEXT NOT NULL,
    filter TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'confirmed', 'unsubscribed')),
    generation INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    requested_at INTEGER NOT NULL,
    confirmed_at INTEGER,
    confirmed_by TEXT,
    unsubscribed_at INTEGER,
    UNIQUE (topic, email)
) STRICT;

CREATE INDEX subscriptions_confirmed ON subscriptions (topic, id) WHERE state = 'confirmed';
CREATE INDEX subscriptions_by_time ON subscriptions (created_at, id);
CREATE INDEX subscriptions_by_email ON subscriptions (email);

-- One row per (item, round), written when the mailer takes the notification.
CREATE TABLE notifications (
    item TEXT NOT NULL,
    round INTEGER NOT NULL,
    topic TEXT NOT NULL,
    replay TEXT,
    captured_at INTEGER NOT NULL,
    published_at INTEGER NOT NULL,
    -- Everyone up to this subscription was looked at.
    cursor TEXT,
    finished INTEGER NOT NULL,
    planned INTEGER NOT NULL,
    PRIMARY KEY (item, round)
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
    about TEXT NOT NULL,
    subscription TEXT NOT NULL,
    round INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('item', 'confirmation')),
    topic TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'sending', 'sent', 'suppressed', 'failed')),
    due_at INTEGER NOT NULL,
    -- When someone is to look at it: the end of the lease where there is one, else when it is due; nothing once it is closed.
    wake_at INTEGER,
    lease_owner TEXT,
    lease_token TEXT,
    attempts INTEGER NOT NULL,
    unknowns INTEGER NOT NULL,
    -- Whether the attempt that stands at `sending` is counted already, since a claim found it with its lease run out.
    counted INTEGER NOT NULL,
    answers TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    sent_at INTEGER,
    traceparent TEXT,
    tracestate TEXT,
    PRIMARY KEY (about, subscription, round),
    CHECK ((wake_at IS NOT NULL) = (state IN ('pending', 'sending')))
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_open ON deliveries (wake_at, state) WHERE wake_at IS NOT NULL;
CREATE INDEX deliveries_given_up ON deliveries (state) WHERE state IN ('suppressed', 'failed');
CREATE INDEX deliveries_confirmations ON deliveries (created_at) WHERE kind = 'confirmation';

-- How many deliveries there are, so that counting by state need not read those that were sent.
CREATE TABLE counters (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO counters (name, value) VALUES ('deliveries', 0);

CREATE TRIGGER deliveries_counted_in AFTER INSERT ON deliveries
BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'deliveries';
END;

CREATE TRIGGER deliveries_counted_out AFTER DELETE ON deliveries
BEGIN
    UPDATE counters SET value = value - 1 WHERE name = 'deliveries';
END;
