-- One row per message id. `insert into items (topic, message) values ('messages', 'hello')` is enough, by anyone: the rest has
-- defaults, and the row is mailed like every other.
-- The checks hold what the product holds every text to (docs: "On the wire"). SQLite's text functions stop at a NUL, so
-- that lengths are taken of the bytes; and its patterns read U+FFFE and U+FFFF as U+FFFD, which is a character like any
-- other, so that these two are looked for by their bytes.
-- A time's date is counted through (`+0 days`): 30 February and 24 o'clock come out as another day, 25 o'clock as none.

CREATE TABLE items (
    id TEXT NOT NULL PRIMARY KEY
        DEFAULT (lower(
            hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
            || substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))
        ))
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
    message TEXT NOT NULL
        CONSTRAINT message_is_1_to_261120_bytes CHECK (length(CAST(message AS BLOB)) BETWEEN 1 AND 261120)
        CONSTRAINT message_has_no_control_characters_but_tab_cr_lf CHECK (
            instr(message, char(0)) = 0 AND instr(message, char(65534)) = 0 AND instr(message, char(65535)) = 0
            AND message NOT GLOB '*[' || char(1) || '-' || char(8, 11, 12, 14) || '-' || char(31) || ']*'
        ),
    subject TEXT
        CONSTRAINT subject_is_1_to_99_characters CHECK (length(subject) BETWEEN 1 AND 99)
        CONSTRAINT subject_is_one_line_without_control_characters CHECK (
            instr(subject, char(0)) = 0 AND instr(subject, char(65534)) = 0 AND instr(subject, char(65535)) = 0
            AND subject NOT GLOB '*[' || char(1) || '-' || char(8, 10) || '-' || char(31, 133, 8232, 8233) || ']*'
        ),
    content_type TEXT NOT NULL DEFAULT 'text/plain; charset=utf-8'
        CONSTRAINT content_type_is_1_to_255_bytes_without_control_characters CHECK (
            content_type = 'text/plain; charset=utf-8'
            OR (
                length(CAST(content_type AS BLOB)) BETWEEN 1 AND 255
                AND instr(content_type, char(0)) = 0
                AND instr(content_type, char(65534)) = 0 AND instr(content_type, char(65535)) = 0
                AND content_type NOT GLOB '*[' || char(1) || '-' || char(8, 10) || '-' || char(31) || ']*'
            )
        ),
    attributes TEXT NOT NULL DEFAULT '{}'
        CONSTRAINT attributes_are_a_json_object CHECK (
            attributes = '{}' OR CASE json_valid(attributes) WHEN 1 THEN json_type(attributes) = 'object' ELSE 0 END
        ),
    accepted_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
        CONSTRAINT accepted_at_is_utc_with_milliseconds CHECK (
            length(CAST(accepted_at AS BLOB)) = 24 AND accepted_at >= '1970'
            AND accepted_at GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'
            AND date(accepted_at, '+0 days') IS substr(accepted_at, 1, 10)
        ),
    stored_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
        CONSTRAINT stored_at_is_utc_with_milliseconds CHECK (
            length(CAST(stored_at AS BLOB)) = 24 AND stored_at >= '1970'
            AND stored_at GLOB '[0-9][0-9][0-9][0-9]-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].[0-9][0-9][0-9]Z'
            AND date(stored_at, '+0 days') IS substr(stored_at, 1, 10)
        ),
    traceparent TEXT
        CONSTRAINT traceparent_is_55_bytes CHECK (length(CAST(traceparent AS BLOB)) = 55),
    tracestate TEXT
        CONSTRAINT tracestate_is_1_to_256_bytes CHECK (length(CAST(tracestate AS BLOB)) BETWEEN 1 AND 256),
    CONSTRAINT message_subject_and_attributes_are_261120_bytes_together CHECK (
        length(CAST(message AS BLOB)) + ifnull(length(CAST(subject AS BLOB)), 0)
        + CASE attributes WHEN '{}' THEN 0 ELSE length(CAST(attributes AS BLOB)) END <= 261120
    )
) STRICT;

CREATE INDEX items_by_time ON items (stored_at, id);
CREATE INDEX items_by_topic ON items (topic, stored_at, id);

-- The table stream. A row stays until its change was published and confirmed.
CREATE TABLE changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL
) STRICT;

CREATE TRIGGER items_are_changes AFTER INSERT ON items
BEGIN
    INSERT INTO changes (id) VALUES (NEW.id);
END;

-- An update would come back through the table stream; INSERT OR REPLACE is one in disguise.
CREATE TRIGGER items_are_never_updated BEFORE UPDATE ON items
BEGIN
    SELECT RAISE(ABORT, 'items are never updated');
END;

CREATE TRIGGER items_are_never_replaced BEFORE INSERT ON items
WHEN EXISTS (SELECT 1 FROM items WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'there is an item with this id, and items are never replaced');
END;

CREATE TRIGGER attributes_are_flat BEFORE INSERT ON items
WHEN NEW.attributes <> '{}' AND json_valid(NEW.attributes)
BEGIN
    SELECT RAISE(ABORT, 'attributes are at most 32 strings, numbers, booleans or lists of these')
    WHERE (SELECT count(*) FROM json_each(NEW.attributes)) > 32
        OR EXISTS (
            SELECT 1 FROM json_tree(NEW.attributes)
            WHERE type = 'null' OR (type = 'object' AND parent IS NOT NULL)
                OR (type = 'array' AND path <> '$')
        );
END;
