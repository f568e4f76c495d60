"""The schema of a checkpoint. Its comments document how a run resumes."""

APPLICATION = 0x736D6967  # "smig", in the file's header: identifies a checkpoint
FORMAT = 7

SCHEMA = """
-- One row. `binding` is JSON: the account, and all else that must not change for any stage.
-- `started` (seconds since the epoch) also decides which lots count as expired, so that a resume agrees.
-- `context` is JSON and changes with each call: the command that resumes, limits, state folder, inputs.
-- `tick` is the number of the newest request; the fence in the state folder holds it, too. Requests are ordered by
-- tick, because the wall clock may be set back. `lost` is "", or JSON: the furthest place that a lost newer copy sent
-- (stage, source, offset, unit, record). A batch with a unit before that place begins as unknown.
CREATE TABLE run (
    id TEXT NOT NULL, version TEXT NOT NULL, started REAL NOT NULL, binding TEXT NOT NULL, context TEXT NOT NULL,
    salt BLOB NOT NULL, tick INTEGER NOT NULL DEFAULT 0, lost TEXT NOT NULL DEFAULT ''
);

-- The files of each stage in reading order. `fingerprint` is JSON: name, size, times of the last change, inode, hash of
-- head, tail and samples. It also has a hash of more samples, for a resume where only the times or the inode changed.
CREATE TABLE source_file (
    stage TEXT NOT NULL, source INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    PRIMARY KEY (stage, source)
) WITHOUT ROWID;

-- A stage and how far it is read. `progress` is JSON (see Progress): its frontier is the first place that is not in a
-- sealed batch, dead letter or filter count yet. Its counters are absolute. They include the units of batches beyond
-- the frontier (bins are sealed out of order), so that read = accepted + dead + filtered + unknown + pending at every
-- moment. A resume reads on from the frontier, and skips the ranges of sealed batches.
-- `shape` is JSON: the settings that shape its batches. Tallies are JSON: [records, units, {key: "decimal"}].
CREATE TABLE stage (
    name TEXT PRIMARY KEY, ordinal INTEGER NOT NULL, shape TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',      -- waiting, running, interrupted, complete, failed
    -- The reason for the state: `code` for programs (of a problem, or `pilot`), `message` for people.
    code TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', started REAL, finished REAL,
    progress TEXT NOT NULL DEFAULT '{}',
    -- The sum over its accepted batches: kept here, so that totals need not read them all.
    accepted TEXT NOT NULL DEFAULT '[0,0,{}]',
    -- `repaired` is the tally of replayed records minus that of their dead letters: a corrected record may hold more or
    -- less. So read + repaired = accepted + dead + filtered + ... `replayed` counts letters that were sealed again.
    repaired TEXT NOT NULL DEFAULT '[0,0,{}]', replayed INTEGER NOT NULL DEFAULT 0,
    -- When the target showed all samples of its sealed batches (0: not yet): then no samples need to be kept.
    seen REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- A batch: what one request carries. `ranges` are the places of its units in the export, packed (see pack_ranges). Its
-- body is in the outbox until it is settled, and has the SHA-256 `digest`. A part of a split batch names its `parent`.
-- state: sealed, sending, accepted, rejected, split, dead, unknown, parked. `nominee`: packed ranges of the one owner
-- that the answer to a rejected batch named. That owner is tried alone at the stage's end.
CREATE TABLE batch (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, state TEXT NOT NULL, parent INTEGER, ranges BLOB NOT NULL,
    tally TEXT NOT NULL, size INTEGER NOT NULL, digest BLOB NOT NULL, sealed REAL NOT NULL, settled REAL,
    attempts INTEGER NOT NULL DEFAULT 0, nominee BLOB,
    -- 1 if it was made of dead letters: its ranges are their places in the export. `note` says how its unknown outcome
    -- was decided.
    retried INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT '',
    -- `ruling` is the operator's word: landed, not-landed, reject or set-aside. `rejects` is a status (403, say) that
    -- since that word rejects this batch and its parts; for other batches the same status stops the run.
    ruling TEXT NOT NULL DEFAULT '', rejects INTEGER NOT NULL DEFAULT 0,
    -- `mapping` is the hash of the mapping's module that made it. `sample` is the byte offset of the samples of an
    -- accepted batch in `<stage>.samples`; NULL if none are kept.
    mapping TEXT NOT NULL DEFAULT '', sample INTEGER,
    -- The end of the batch (see `reach_of`), if it was beyond the frontier at sealing: bins are sealed out of order.
    reach INTEGER, PRIMARY KEY (stage, seq)
) WITHOUT ROWID;
-- In a run of any length only few batches are open: this index finds them without reading the others.
CREATE INDEX batch_open ON batch (stage, state) WHERE state NOT IN ('accepted', 'split', 'dead');
CREATE VIEW open_batch AS
    SELECT * FROM batch INDEXED BY batch_open WHERE state NOT IN ('accepted', 'split', 'dead');

-- One row for each request, written before its first byte leaves; `kind` is NULL until its receipt is durable.
-- `date` is the answer's Date header, `latency` is in seconds. `message` holds no value of a record. `began` is its own
-- tick, `ended` the newest tick when its receipt came. `code` is a stable name of the answer (http-422, says-no,
-- timeout). `stopped` is 1 if the answer is about the run, not about the batch. `in_part` is 1 if the target may have
-- accepted a part of the batch: then a sample proves nothing.
CREATE TABLE attempt (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, number INTEGER NOT NULL, started REAL NOT NULL, kind TEXT,
    status INTEGER, latency REAL, date TEXT, message TEXT, began INTEGER NOT NULL DEFAULT 0,
    ended INTEGER NOT NULL DEFAULT 0, code TEXT NOT NULL DEFAULT '', stopped INTEGER NOT NULL DEFAULT 0,
    in_part INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (stage, seq, number)
) WITHOUT ROWID;

-- Records that were not sent, keyed by place. `batch` is the batch that the target refused, or 0 if the record was
-- never in one. `message` names fields and expectations, never values: the record itself is read from the export.
-- `replayed` is 1 if it is dead no more: a replay has sealed it in a batch, or has filtered it.
-- `units` is how many units the last replay sealed for it. `part` is 1 if other units of its source record were sent.
-- It is 2 if a replay sent more units for it than the target refused: then only the export tells which ones it covers.
CREATE TABLE dead_letter (
    stage TEXT NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    batch INTEGER NOT NULL, length INTEGER NOT NULL, record INTEGER NOT NULL,
    code TEXT NOT NULL, message TEXT NOT NULL, tally TEXT NOT NULL, replayed INTEGER NOT NULL DEFAULT 0,
    units INTEGER NOT NULL DEFAULT 0, part INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (stage, source, offset, unit)
) WITHOUT ROWID;

-- Customers that will not be in the target, by salted 128-bit hash of their id, with the code of the reason. Their
-- events and transactions wait as dead letters.
CREATE TABLE absent_owner (owner BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;

-- Keys (ids and e-mails, by salted hash) of the letters that replays sealed in batch `seq`: no later replay sends them.
-- The row goes if the letter is dead again. For customers, `seen` is 1 after the batch was accepted and read back: then
-- the owner is absent no more.
CREATE TABLE replayed_key (
    stage TEXT NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    owner BLOB NOT NULL, seq INTEGER NOT NULL, seen INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (stage, source, offset, unit, owner)
) WITHOUT ROWID;
CREATE INDEX replayed_owner ON replayed_key (stage, owner);

-- Units of accepted batches with a state of their own: `missing` ones were not found by a verify, `resent` ones are in
-- another batch now, `reverted` ones were taken back. `ranges` are their packed places, `tally` is their tally.
CREATE TABLE unit_state (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, state TEXT NOT NULL, ranges BLOB NOT NULL, tally TEXT NOT NULL,
    PRIMARY KEY (stage, seq, state)
) WITHOUT ROWID;
-- The batches that carry resent units.
CREATE TABLE unit_again (stage TEXT NOT NULL, again INTEGER NOT NULL);

-- The last verify: its time, the tick of the run then, and its summary as JSON. `seen` is when the latest batch was
-- accepted that a verify ever saw at the target: the target's queue has passed it. Each difference is a row of
-- `finding`, which names record and field, and holds no value.
CREATE TABLE verification (at REAL NOT NULL, tick INTEGER NOT NULL, seen REAL NOT NULL, summary TEXT NOT NULL);
CREATE TABLE finding (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    record INTEGER NOT NULL, field TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (stage, source, offset, unit, field)
) WITHOUT ROWID;

-- Requests to revert the run, numbered from 1: the window by the target's clock, and how many customers of this run
-- fall in it. state: sending, accepted, unknown, not-sent, refused, not-landed, done. Another may be made only after
-- one that is not-sent, refused or not-landed (by a read-back). `summary` is JSON: the result of the read-back.
CREATE TABLE revert (
    number INTEGER PRIMARY KEY, state TEXT NOT NULL, start REAL NOT NULL, end REAL NOT NULL, customers INTEGER NOT NULL,
    began REAL NOT NULL, message TEXT NOT NULL DEFAULT '', summary TEXT NOT NULL DEFAULT '{}'
);
"""
