"""The journal's tables, as the steps that make them: a journal of version N has had the first N.

A step that was released is never edited; a change is a new step at the end, and older journals are migrated.
"""

from __future__ import annotations

STEPS = (
    """
CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    record TEXT NOT NULL,           -- canonical JSON, with its own seq inside
    hash TEXT NOT NULL              -- SHA-256 of the previous hash and the record
);
CREATE TABLE standing (             -- what each watcher believes of each peer
    watcher TEXT NOT NULL,
    peer TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (watcher, peer)
);
CREATE TABLE peer (                 -- what the mesh knows of each peer
    name TEXT PRIMARY KEY,
    episode INTEGER NOT NULL DEFAULT 0,
    episode_open INTEGER NOT NULL DEFAULT 0,
    episode_since TEXT,
    severity TEXT,                  -- the loudest that people were told of the episode; NULL: nothing yet
    restart_count INTEGER NOT NULL DEFAULT 0,
    last_restart TEXT
);
CREATE TABLE observation (          -- who suspects whom; a row only while it does
    watcher TEXT NOT NULL,
    peer TEXT NOT NULL,
    missed_count INTEGER NOT NULL,
    seen_s REAL NOT NULL,
    boot TEXT NOT NULL,
    PRIMARY KEY (watcher, peer)
);
CREATE TABLE orders (
    token INTEGER PRIMARY KEY AUTOINCREMENT,
    peer TEXT NOT NULL,
    episode INTEGER NOT NULL,
    action TEXT NOT NULL,
    watcher TEXT NOT NULL,
    reason TEXT NOT NULL,
    at TEXT NOT NULL,
    ordered_s REAL NOT NULL,
    expires_s REAL NOT NULL,
    boot TEXT NOT NULL,
    state TEXT NOT NULL,            -- open, begun, done, failed, void (ended without having been begun)
    outcome TEXT NOT NULL DEFAULT '',
    ended TEXT
);
CREATE INDEX orders_by_peer ON orders (peer, token);
CREATE INDEX orders_under_way ON orders (action) WHERE state IN ('open', 'begun');
CREATE TABLE silence (
    peer TEXT PRIMARY KEY,
    until TEXT NOT NULL,            -- what people read, and what counts after a reboot
    until_s REAL NOT NULL,          -- what counts on this boot: no clock step moves it
    boot TEXT NOT NULL,
    reason TEXT NOT NULL,
    by TEXT NOT NULL
);
CREATE TABLE isolation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    peer TEXT,                      -- NULL for a target that is no configured peer
    target TEXT NOT NULL,           -- JSON: unit, cgroup path, cgroup id
    state TEXT NOT NULL,            -- isolating, isolated, releasing, released, failed
    body TEXT NOT NULL,             -- JSON: level, reason, incident, slot, program ids, who
    since TEXT NOT NULL,
    changed TEXT NOT NULL
);
CREATE INDEX isolation_by_state ON isolation (state);
CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,        -- the webhook-id, the same for every receiver and try
    key TEXT NOT NULL UNIQUE,       -- what makes it one event, however many watchers saw it
    at TEXT NOT NULL,
    severity TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE delivery (
    receiver TEXT NOT NULL,
    event_seq INTEGER NOT NULL REFERENCES event (seq),
    state TEXT NOT NULL,            -- pending, delivered, expired, refused
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at TEXT NOT NULL,          -- wall clock: it must mean the same after a reboot
    last_error TEXT NOT NULL DEFAULT '',
    settled_at TEXT,
    PRIMARY KEY (receiver, event_seq)
);
CREATE INDEX delivery_pending ON delivery (receiver, event_seq) WHERE state = 'pending';
CREATE INDEX delivery_by_event ON delivery (event_seq);
CREATE TABLE gone (                 -- receivers that answered 410, until their URL changes or a test arrives
    receiver TEXT PRIMARY KEY,
    url_hash TEXT NOT NULL,         -- a URL's path may be a secret
    at TEXT NOT NULL,
    why TEXT NOT NULL
);
""",
    """
CREATE TABLE watcher (              -- who watches, and what each last said of itself
    name TEXT PRIMARY KEY,
    self_doubt TEXT NOT NULL,       -- why it acts on nobody; empty while it trusts itself
    seen_s REAL NOT NULL,
    boot TEXT NOT NULL
);
ALTER TABLE orders ADD COLUMN begun_s REAL; -- NULL: not begun
""",
    """
-- host: where the peer's agent runs, empty for the only one; voters: JSON, the watchers whose votes it rests on
ALTER TABLE orders ADD COLUMN host TEXT NOT NULL DEFAULT '';
ALTER TABLE orders ADD COLUMN voters TEXT NOT NULL DEFAULT '[]';
""",
    """
-- what actions have told the mesh; until this step the mesh read it from their intents
ALTER TABLE peer ADD COLUMN isolated_since TEXT;
INSERT OR IGNORE INTO peer (name)
    SELECT peer FROM isolation WHERE peer IS NOT NULL AND state IN ('isolated', 'releasing');
UPDATE peer SET isolated_since = (
    SELECT since FROM isolation
    WHERE isolation.peer = peer.name AND state IN ('isolated', 'releasing') ORDER BY id DESC LIMIT 1
);
""",
    """
-- missing: JSON, whom it did not hear last; released_token: the newest order of all when the peer was last let back
ALTER TABLE watcher ADD COLUMN missing TEXT NOT NULL DEFAULT '[]';
ALTER TABLE peer ADD COLUMN released_token INTEGER NOT NULL DEFAULT 0;
""",
    """
-- seconds that a voter's word counts; 0: an order of before this step that rests on votes is not begun after it
ALTER TABLE orders ADD COLUMN fresh_s REAL NOT NULL DEFAULT 0;
""",
    """
-- JSON: how often in a row it missed each peer, 0 for one that it heard; `missing` is not used any more
ALTER TABLE watcher ADD COLUMN misses TEXT NOT NULL DEFAULT '{}';
""",
)
VERSION = len(STEPS)


def statements_after(version: int) -> list[str]:
    """What brings a journal of that version to ours, in order."""
    return [statement for step in STEPS[version:] for statement in step.split(";\n") if statement.strip()]
