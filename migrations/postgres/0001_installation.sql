-- What provisioning wrote, and the catalog. Tables lie in the first schema of the search path, without a prefix; a second
-- stack in one database has a schema of its own.
-- Needs PostgreSQL 15 or newer with a database in UTF8.

CREATE TABLE installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Whose the schema is: what prefixes every name outside of it.
    namespace text NOT NULL,
    -- Written last of all, and what every service waits for.
    version integer,
    secret bytea NOT NULL CHECK (octet_length(secret) = 32),
    created_at timestamptz(3) NOT NULL
);

CREATE TABLE topics (
    name text PRIMARY KEY,
    subject text,
    created_at timestamptz(3) NOT NULL
);

CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    hash bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
    owner text NOT NULL,
    scopes json NOT NULL,
    topics json NOT NULL,
    created_at timestamptz(3) NOT NULL
);
