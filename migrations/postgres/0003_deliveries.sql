-- Who is subscribed, and the queue of mails.
-- The checks keep a hand in the database from writing a row that no server can read; servers pass such a row over.

CREATE TABLE subscriptions (
    id uuid PRIMARY KEY,
    topic text NOT NULL
        CONSTRAINT topic_is_a_topic_name CHECK (topic ~ '^[a-z][a-z0-9-]{0,39}$' COLLATE "C"),
    email text NOT NULL
        CONSTRAINT email_is_one_address_of_at_most_254_bytes CHECK (
            octet_length(email) <= 254 AND email ~ '^[!-?A-~]+@[!-?A-~]+$' COLLATE "C"
        ),
    filter json NOT NULL
        CONSTRAINT filter_is_a_json_object CHECK (json_typeof(filter) = 'object'),
    state text NOT NULL
        CONSTRAINT state_is_one_of_three CHECK (state IN ('pending', 'confirmed', 'unsubscribed')),
    generation integer NOT NULL
        CONSTRAINT generation_is_not_negative CHECK (generation >= 0),
    created_at timestamptz(3) NOT NULL,
    requested_at timestamptz(3) NOT NULL,
    confirmed_at timestamptz(3),
    confirmed_by text,
    unsubscribed_at timestamptz(3),
    -- Raised by every write of a server: one that decided on an older row finds out and decides again.
    revision bigint NOT NULL DEFAULT 0,
    UNIQUE (topic, email)
);

CREATE INDEX subscriptions_confirmed ON subscriptions (topic, id) WHERE state = 'confirmed';
CREATE INDEX subscriptions_by_time ON subscriptions (created_at, id);
CREATE INDEX subscriptions_by_email ON subscriptions (email);

-- One row per (item, round), written when the mailer takes the notification.
CREATE TABLE notifications (
    item uuid NOT NULL,
    round integer NOT NULL,
    topic text NOT NULL,
    replay text,
    captured_at timestamptz(3) NOT NULL,
    published_at timestamptz(3) NOT NULL,
    -- Everyone up to this subscription was looked at.
    cursor uuid,
    finished boolean NOT NULL,
    planned bigint NOT NULL,
    PRIMARY KEY (item, round),
    CONSTRAINT counts_are_not_negative CHECK (round >= 0 AND planned >= 0)
) WITH (fillfactor = 90);

-- A row is written three times: planned, `sending`, settled. Recording `sending` and extending a lease touch no column of an
-- index, so that the new version goes into the room that is left on its page: half of it, since the rows of a page are written
-- at about the same time. The table is no larger for it: what is left takes the settled versions.
CREATE TABLE deliveries (
    about uuid NOT NULL,
    subscription uuid NOT NULL,
    round integer NOT NULL,
    kind text NOT NULL
        CONSTRAINT kind_is_one_of_two CHECK (kind IN ('item', 'confirmation')),
    topic text NOT NULL,
    state text NOT NULL
        CONSTRAINT state_is_one_of_five CHECK (state IN ('pending', 'sending', 'sent', 'suppressed', 'failed')),
    due_at timestamptz(3) NOT NULL,
    lease_owner text,
    -- Stays when the row is closed, so that the same outcome told twice is known for that.
    lease_token uuid,
    -- Only of a row that is open and held.
    lease_until timestamptz(3),
    attempts integer NOT NULL DEFAULT 0,
    unknowns integer NOT NULL DEFAULT 0,
    -- Whether the attempt that stands at `sending` is counted already, since a claim found it with its lease run out.
    counted boolean NOT NULL DEFAULT false,
    -- The newest answers of servers, oldest first.
    answers json[] NOT NULL DEFAULT '{}',
    created_at timestamptz(3) NOT NULL,
    sent_at timestamptz(3),
    traceparent text,
    tracestate text,
    -- Open, and nobody's: to be taken when it is due.
    waiting boolean NOT NULL GENERATED ALWAYS AS (state = 'pending' AND lease_until IS NULL) STORED,
    -- Open, and held by someone.
    leased boolean NOT NULL GENERATED ALWAYS AS (lease_until IS NOT NULL) STORED,
    -- How it was given up, where it was.
    given_up text GENERATED ALWAYS AS (CASE WHEN state IN ('suppressed', 'failed') THEN state END) STORED,
    PRIMARY KEY (about, subscription, round),
    CONSTRAINT counts_are_not_negative CHECK (round >= 0 AND attempts >= 0 AND unknowns >= 0),
    -- No pattern: it would be matched three times for every mail.
    CONSTRAINT topic_is_1_to_40_bytes CHECK (octet_length(topic) BETWEEN 1 AND 40),
    CONSTRAINT sending_is_held_and_closed_is_not CHECK (
        CASE state WHEN 'pending' THEN true WHEN 'sending' THEN lease_until IS NOT NULL ELSE lease_until IS NULL END
    )
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 5000
);

CREATE INDEX deliveries_waiting ON deliveries (due_at) WHERE waiting;
CREATE INDEX deliveries_leased ON deliveries (due_at) WHERE leased;
CREATE INDEX deliveries_given_up ON deliveries (given_up) WHERE given_up IS NOT NULL;
CREATE INDEX deliveries_confirmations ON deliveries (created_at) WHERE kind = 'confirmation';

-- How many deliveries there are, so that counting by state need not read those that were sent. In several parts, so that
-- sessions do not wait for each other: their sum is what counts.
CREATE TABLE delivery_counters (
    part integer PRIMARY KEY,
    value bigint NOT NULL
) WITH (fillfactor = 10);

INSERT INTO delivery_counters (part, value) SELECT part, 0 FROM generate_series(0, 31) AS part;

-- Once a statement, after all of its rows: whoever waits for a part holds none.
CREATE FUNCTION deliveries_are_counted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed bigint;
BEGIN
    SELECT count(*) INTO changed FROM changed_rows;
    IF changed > 0 THEN
        EXECUTE format('UPDATE %I.delivery_counters SET value = value + $1 WHERE part = $2', TG_TABLE_SCHEMA)
        USING CASE TG_OP WHEN 'INSERT' THEN changed ELSE -changed END, pg_backend_pid() % 32;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER deliveries_are_counted_in AFTER INSERT ON deliveries REFERENCING NEW TABLE AS changed_rows
FOR EACH STATEMENT EXECUTE FUNCTION deliveries_are_counted();

CREATE TRIGGER deliveries_are_counted_out AFTER DELETE ON deliveries REFERENCING OLD TABLE AS changed_rows
FOR EACH STATEMENT EXECUTE FUNCTION deliveries_are_counted();
