-- One row per message id. `insert into items (topic, message) values ('messages', 'hello')` is enough, by anyone: the rest has
-- defaults, and the row is mailed like every other.
-- The checks hold what the product holds every text to (docs: "On the wire"). A NUL cannot enter a text of PostgreSQL at all.
-- Times are whole milliseconds. `attributes` are json and not jsonb: they stay as they were sent, numbers too.

-- At most 32 names with strings, numbers, booleans or lists of these, without characters that cannot be carried, and without
-- numbers that are none in floating point.
CREATE FUNCTION attributes_are_flat(attributes json) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF pg_catalog.json_typeof(attributes) <> 'object' THEN
        RETURN false;
    END IF;
    IF (SELECT pg_catalog.count(*) FROM pg_catalog.json_object_keys(attributes)) > 32 THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT 1 FROM pg_catalog.json_each(attributes) AS attribute (name, value)
        CROSS JOIN LATERAL (
            SELECT attribute.value WHERE pg_catalog.json_typeof(attribute.value) <> 'array'
            UNION ALL
            SELECT element.value FROM pg_catalog.json_array_elements(
                CASE pg_catalog.json_typeof(attribute.value) WHEN 'array' THEN attribute.value ELSE '[]' END
            ) AS element (value)
        ) AS single (value)
        WHERE attribute.name ~ '[\x01-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]' COLLATE "C"
            OR CASE pg_catalog.json_typeof(single.value)
                WHEN 'string' THEN (single.value #>> '{}') ~ '[\x01-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]' COLLATE "C"
                WHEN 'number' THEN pg_catalog.abs((single.value #>> '{}')::pg_catalog.numeric) >= 1.7976931348623158e308
                WHEN 'boolean' THEN false
                ELSE true
            END
    );
END
$$;

CREATE TABLE items (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    topic text NOT NULL
        CONSTRAINT topic_is_a_topic_name CHECK (topic ~ '^[a-z][a-z0-9-]{0,39}$' COLLATE "C"),
    message text NOT NULL
        CONSTRAINT message_is_1_to_261120_bytes CHECK (octet_length(message) BETWEEN 1 AND 261120)
        CONSTRAINT message_has_no_control_characters_but_tab_cr_lf CHECK (
            message !~ '[\x01-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]' COLLATE "C"
        ),
    subject text
        CONSTRAINT subject_is_1_to_99_characters CHECK (char_length(subject) BETWEEN 1 AND 99)
        CONSTRAINT subject_is_one_line_without_control_characters CHECK (
            subject !~ '[\x01-\x08\x0A-\x1F\u0085\u2028\u2029\uFFFE\uFFFF]' COLLATE "C"
        ),
    content_type text NOT NULL DEFAULT 'text/plain; charset=utf-8'
        CONSTRAINT content_type_is_1_to_255_bytes_without_control_characters CHECK (
            content_type = 'text/plain; charset=utf-8'
            OR (
                octet_length(content_type) BETWEEN 1 AND 255
                AND content_type !~ '[\x01-\x08\x0A-\x1F\uFFFE\uFFFF]' COLLATE "C"
            )
        ),
    attributes json NOT NULL DEFAULT '{}'
        CONSTRAINT attributes_are_at_most_32_strings_numbers_booleans_or_lists CHECK (
            attributes::text = '{}' OR attributes_are_flat(attributes)
        ),
    accepted_at timestamptz(3) NOT NULL DEFAULT date_trunc('milliseconds', now())
        CONSTRAINT accepted_at_is_of_the_years_1970_to_9999 CHECK (
            accepted_at >= '1970-01-01 00:00:00+00' AND accepted_at < '10000-01-01 00:00:00+00'
        ),
    stored_at timestamptz(3) NOT NULL DEFAULT date_trunc('milliseconds', now())
        CONSTRAINT stored_at_is_of_the_years_1970_to_9999 CHECK (
            stored_at >= '1970-01-01 00:00:00+00' AND stored_at < '10000-01-01 00:00:00+00'
        ),
    traceparent text
        CONSTRAINT traceparent_is_55_bytes CHECK (octet_length(traceparent) = 55),
    tracestate text
        CONSTRAINT tracestate_is_1_to_256_bytes CHECK (octet_length(tracestate) BETWEEN 1 AND 256),
    CONSTRAINT message_subject_and_attributes_are_261120_bytes_together CHECK (
        octet_length(message) + coalesce(octet_length(subject), 0)
        + CASE attributes::text WHEN '{}' THEN 0 ELSE octet_length(attributes::text) END <= 261120
    )
);

CREATE INDEX items_by_time ON items (stored_at, id);
CREATE INDEX items_by_topic ON items (topic, stored_at, id);

-- The table stream shows inserts alone: an update would be seen by nobody.
CREATE FUNCTION items_are_never_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = 'items are never updated',
        HINT = 'Insert a row with another id.';
END
$$;

CREATE TRIGGER items_are_never_updated BEFORE UPDATE ON items
FOR EACH ROW EXECUTE FUNCTION items_are_never_updated();
