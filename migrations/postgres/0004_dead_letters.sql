-- What cannot go on, with its reason.
-- No check asks more than what every letter of a server holds to: one that were refused would be written again without end.
-- A text that holds a NUL, which PostgreSQL's texts cannot, begins with U+0001; after it U+0001 followed by `0` stands for a
-- NUL, and U+0001 twice for U+0001 (crates/postgres, rows.rs). Headers are json, which keeps a NUL as it is written there.

CREATE TABLE dead_letters (
    id uuid PRIMARY KEY,
    source text NOT NULL
        CONSTRAINT source_is_one_of_four CHECK (source IN ('items', 'changes', 'mail', 'deliveries')),
    topic text,
    message_id uuid,
    -- The delivery's key, where it is one.
    about uuid,
    subscription uuid,
    round integer,
    reason text NOT NULL,
    detail text NOT NULL,
    attempts integer NOT NULL,
    created_at timestamptz(3) NOT NULL,
    marked_at timestamptz(3),
    lease_token uuid,
    lease_until timestamptz(3),
    headers json NOT NULL,
    body bytea NOT NULL,
    CONSTRAINT counts_are_not_negative CHECK (round >= 0 AND attempts >= 0),
    CONSTRAINT the_key_is_whole CHECK (num_nulls(about, subscription, round) IN (0, 3)),
    CONSTRAINT headers_are_a_json_object CHECK (json_typeof(headers) = 'object')
);

CREATE INDEX dead_letters_by_time ON dead_letters (created_at, id);
CREATE INDEX dead_letters_by_message ON dead_letters (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX dead_letters_marked ON dead_letters (source, marked_at) WHERE marked_at IS NOT NULL;
