-- Who is subscribed, and the queue of mails.
-- The checks keep a hand in the file from writing a row that no server can read; servers pass such a row over.

CREATE TABLE subscriptions (
    id TEXT NOT NULL PRIMARY KEY
        CONSTRAINT id_is_a_lower_case_uuid CHECK (
            length(CAST(id AS BLOB)) = 36
            AND id GLOB '????????-????-????-????-????????????'
            AND id NOT GLOB '*[^0-9a-f-]*'
            AND length(replace(id, '-', '')) = 32
        ),
    topic TEXT NOT NULL
        CONSTRAINT topic_is_a_topic_name CHECK (
            length(CAST(topic AS BLOB)) BETWEEN 1 AND 40
            AND length(topic) = length(CAST(topic AS BLOB))
            AND topic GLOB '[a-z]*'
            AND topic NOT GLOB '*[^a-z0-9-]*'
        ),
    email TEXT NOT NULL
        CONSTRAINT email_is_one_address_of_at_most_254_bytes CHECK (
            length(CAST(email AS BLOB)) <= 254
            AND length(email) = length(CAST(email AS BLOB))
            AND email GLOB '?*@?*.?*'
            AND length(replace(email, '@', '')) = length(email) - 1
            AND email NOT GLOB '*[^!-~]*'
        ),
    filter TEXT NOT NULL
        CONSTRAINT filter_is_empty_or_a_json_object CHECK (
            filter IN ('', '{}') OR CASE json_valid(filter) WHEN 1 THEN json_type(filter) = 'object' ELSE 0 END
        ),
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
