-- How subscribers come by the operator's identity server, are registered with its core, and leave.
--
-- The number of a subscriber who has left and is not erased yet is '#' and his id in hexadecimal: his
-- number is free for another, no lookup by number finds him, and he sorts before every number.

-- 1 while a row of registrations is his; so that who has none is found without reading everybody.
ALTER TABLE subscribers ADD COLUMN registered INTEGER NOT NULL DEFAULT 0;

CREATE INDEX subscribers_unregistered ON subscribers (number) WHERE registered = 0;

CREATE TABLE accounts (
    issuer        TEXT NOT NULL,
    subject       TEXT NOT NULL,
    subscriber_id BLOB NOT NULL REFERENCES subscribers (id) ON DELETE CASCADE,
    PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX accounts_of_subscriber ON accounts (subscriber_id, issuer);

-- Tokens of the identity server, sealed. The first four bytes name the key.
CREATE TABLE grants (
    subscriber_id BLOB    PRIMARY KEY REFERENCES subscribers (id) ON DELETE CASCADE,
    sealed        BLOB    NOT NULL,
    version       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX grants_by_key ON grants (substr(sealed, 1, 4), subscriber_id);

-- AUTOINCREMENT: who polls for rows after the last one he saw must not miss one, so none is used twice.
CREATE TABLE registrations (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    subscriber_id   BLOB    NOT NULL UNIQUE REFERENCES subscribers (id) ON DELETE CASCADE,
    number          TEXT    NOT NULL,
    sip_uri         TEXT    NOT NULL,
    state           TEXT    NOT NULL,
    expires_at      INTEGER,
    next_attempt_at INTEGER NOT NULL,
    failures        INTEGER NOT NULL DEFAULT 0,
    reason          TEXT,
    wanted_at       INTEGER NOT NULL
) STRICT;

CREATE TABLE sessions (
    hash          BLOB    PRIMARY KEY CHECK (length(hash) = 32),
    subscriber_id BLOB    NOT NULL REFERENCES subscribers (id) ON DELETE CASCADE,
    created_at    INTEGER NOT NULL,
    ends_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_of_subscriber ON sessions (subscriber_id);
CREATE INDEX sessions_by_end ON sessions (ends_at);

-- What is still to be done for who has left: a registration to delete at the core (sip_uri), a grant to
-- revoke, data to erase (erase_at). NULL is: nothing (any more). A row with nothing to do is deleted. It
-- outlives its subscriber, and so does not reference him. next_attempt_at is NULL when there is nothing to
-- do but erase.
CREATE TABLE departures (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    subscriber_id   BLOB    NOT NULL CHECK (length(subscriber_id) = 16),
    number          TEXT    NOT NULL,
    cause           TEXT    NOT NULL,
    left_at         INTEGER NOT NULL,
    erase_at        INTEGER,
    sip_uri         TEXT,
    expires_at      INTEGER,
    sealed          BLOB,
    version         INTEGER,
    next_attempt_at INTEGER,
    failures        INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX departures_of_subscriber ON departures (subscriber_id);
CREATE INDEX departures_of_number ON departures (number);
CREATE INDEX departures_by_attempt ON departures (next_attempt_at) WHERE next_attempt_at IS NOT NULL;
CREATE INDEX departures_by_erasure ON departures (erase_at) WHERE erase_at IS NOT NULL;

-- Hashes of secrets that went away with a browser and may come back once.
CREATE TABLE awaited_returns (
    hash    BLOB    PRIMARY KEY CHECK (length(hash) = 32),
    ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX awaited_returns_by_end ON awaited_returns (ends_at);
