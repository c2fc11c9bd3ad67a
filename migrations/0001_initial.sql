-- Ids are the sixteen bytes of a UUID version 7 and so sort by the time they were made. Times are
-- milliseconds since 1970 in UTC. Numbers are E.164 with the plus. Flags are 0 or 1.

CREATE TABLE subscribers (
    id               BLOB    PRIMARY KEY CHECK (length(id) = 16),
    number           TEXT    NOT NULL UNIQUE,
    name             TEXT,
    time_zone        TEXT    NOT NULL,
    language         TEXT    NOT NULL,
    max_message_secs INTEGER,
    notify           INTEGER NOT NULL DEFAULT 1,
    greeting         TEXT,
    created_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE messages (
    id            BLOB    PRIMARY KEY CHECK (length(id) = 16),
    subscriber_id BLOB    NOT NULL REFERENCES subscribers (id) ON DELETE CASCADE,
    to_number     TEXT    NOT NULL,
    caller_number TEXT,
    caller_name   TEXT,
    reason        TEXT    NOT NULL,
    received_at   INTEGER NOT NULL,
    duration_ms   INTEGER NOT NULL,
    size_bytes    INTEGER NOT NULL,
    sha256        BLOB    NOT NULL CHECK (length(sha256) = 32),
    ended_by      TEXT    NOT NULL,
    read          INTEGER NOT NULL DEFAULT 0,
    version       INTEGER NOT NULL DEFAULT 1
) STRICT, WITHOUT ROWID;

-- Lists a box in order, and holds all that its counts need.
CREATE INDEX messages_of_subscriber ON messages (subscriber_id, id, read, size_bytes);
CREATE INDEX messages_by_age ON messages (received_at);

-- Ids of messages that were here once, so that a recording found on disk after a crash does not
-- bring a deleted message back. Swept with the messages of the same age.
CREATE TABLE deleted_messages (
    id         BLOB    PRIMARY KEY CHECK (length(id) = 16),
    deleted_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX deleted_messages_by_age ON deleted_messages (deleted_at);

CREATE TABLE missed_calls (
    id            BLOB    PRIMARY KEY CHECK (length(id) = 16),
    subscriber_id BLOB    NOT NULL REFERENCES subscribers (id) ON DELETE CASCADE,
    caller_number TEXT,
    caller_name   TEXT,
    reason        TEXT    NOT NULL,
    received_at   INTEGER NOT NULL,
    cause         TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX missed_calls_of_subscriber ON missed_calls (subscriber_id, id);
CREATE INDEX missed_calls_by_age ON missed_calls (received_at);

CREATE TABLE api_tokens (
    id            BLOB    PRIMARY KEY CHECK (length(id) = 16),
    subscriber_id BLOB    NOT NULL REFERENCES subscribers (id) ON DELETE CASCADE,
    name          TEXT    NOT NULL,
    hash          BLOB    NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_at    INTEGER NOT NULL,
    expires_at    INTEGER,
    last_used_at  INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX api_tokens_of_subscriber ON api_tokens (subscriber_id, id);
CREATE INDEX api_tokens_by_end ON api_tokens (expires_at) WHERE expires_at IS NOT NULL;

-- AUTOINCREMENT: the id also tells a receiver which notification is a repeat, so none is used twice.
CREATE TABLE outbox (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id BLOB    NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    kind       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX outbox_of_message ON outbox (message_id);

-- Recordings and greetings that no row names, to be deleted when they are due: at once, or, where a row
-- may yet come to name them, later.
CREATE TABLE blob_deletions (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    key    TEXT    NOT NULL UNIQUE,
    due_at INTEGER NOT NULL
) STRICT;

-- One row, written to prove that the database can be written.
CREATE TABLE probe (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    writes INTEGER NOT NULL
) STRICT;

INSERT INTO probe (id, writes) VALUES (1, 0);
