"""The schema of a checkpoint: its comments are the documentation of how a run resumes."""

APPLICATION = 0x736D6967  # "smig", in the file's header: tells a checkpoint from any other database
FORMAT = 7

SCHEMA = """
-- One row: what this checkpoint is bound to. `binding` is JSON: the account and whatever else holds for all stages.
-- `started` (seconds since the epoch) is also the "now" by which lots count as expired, so that a resume agrees.
-- `context` is JSON and changes with each call: the command that goes on from here, limits, state folder, inputs.
-- `tick` is the number of the newest request. It orders requests, for the wall clock may be set back, and the fence in
-- the state folder holds it too. `lost` is "", or JSON: how far requests had come (stage, source, offset, unit,
-- record) in a newer copy that is lost; a batch with a unit before that place begins as unknown.
CREATE TABLE run (
    id TEXT NOT NULL, version TEXT NOT NULL, started REAL NOT NULL, binding TEXT NOT NULL, context TEXT NOT NULL,
    salt BLOB NOT NULL, tick INTEGER NOT NULL DEFAULT 0, lost TEXT NOT NULL DEFAULT ''
);

-- The files of each stage in reading order. `fingerprint` is JSON: name, size, times of the last change, inode, hash of
-- head, tail and samples; and a hash of all of it, for where only times or inode are others on a resume.
CREATE TABLE source_file (
    stage TEXT NOT NULL, source INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    PRIMARY KEY (stage, source)
) WITHOUT ROWID;

-- A stage and how far it is read. `progress` is JSON (see Progress): its frontier is the first place not yet in a
-- sealed batch, dead letter or filter count. Its counters are absolute, and include what batches hold beyond the
-- frontier (bins that were sealed out of order), so that read = accepted + dead + filtered + unknown + pending at every
-- moment. A resume reads on from the frontier and passes over the ranges of sealed batches.
-- `shape` is JSON: the settings that shape its batches. Tallies are JSON: [records, units, {key: "decimal"}].
CREATE TABLE stage (
    name TEXT PRIMARY KEY, ordinal INTEGER NOT NULL, shape TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',      -- waiting, running, interrupted, complete, failed
    -- Why it is in that state: `code` for programs (a problem's, or `pilot`), `message` for people.
    code TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', started REAL, finished REAL,
    progress TEXT NOT NULL DEFAULT '{}',
    -- The sum over its accepted batches: a state that no batch leaves, and that most of them are in.
    accepted TEXT NOT NULL DEFAULT '[0,0,{}]',
    -- `repaired` is what replayed records hold more (or less) than the dead letters that they were, for a corrected one
    -- may hold something else: read + repaired = accepted + dead + filtered + ... `replayed` counts letters sent again.
    repaired TEXT NOT NULL DEFAULT '[0,0,{}]', replayed INTEGER NOT NULL DEFAULT 0,
    -- When all samples of what is sealed of it were seen at the target: then none need to be kept. 0: not yet.
    seen REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- What one request carries. `ranges` are the places of its units in the export, packed (see pack_ranges); its
-- body lies in the outbox until it is settled, and has the SHA-256 `digest`. A batch that replaces (part of) another
-- names its `parent`.
-- state: sealed, sending, accepted, rejected, split, dead, unknown, parked. `nominee` are the ranges of the one owner
-- that the answer to a rejected batch named, packed like `ranges`: tried alone at the stage's end, also after a resume.
CREATE TABLE batch (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, state TEXT NOT NULL, parent INTEGER, ranges BLOB NOT NULL,
    tally TEXT NOT NULL, size INTEGER NOT NULL, digest BLOB NOT NULL, sealed REAL NOT NULL, settled REAL,
    attempts INTEGER NOT NULL DEFAULT 0, nominee BLOB,
    -- 1 where it was made of dead letters: its ranges are their places in the export. `note` says how its unknown
    -- outcome was decided, and by what.
    retried INTEGER NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT '',
    -- `ruling` is the operator's word: landed, not-landed, reject or set-aside. `rejects` is the status (403, say) that
    -- rejects this batch for its records since that word, as it does the parts of it; elsewhere it stops the run.
    ruling TEXT NOT NULL DEFAULT '', rejects INTEGER NOT NULL DEFAULT 0,
    -- `mapping` is the hash of the mapping's module that made it. `sample` is where samples of an accepted batch stand
    -- in `<stage>.samples`, in bytes; NULL where none are kept.
    mapping TEXT NOT NULL DEFAULT '', sample INTEGER,
    -- Where it ends (see `reach_of`), if that was beyond the frontier when it was sealed: bins are sealed out of order.
    reach INTEGER, PRIMARY KEY (stage, seq)
) WITHOUT ROWID;
-- Few batches are not settled, whatever the length of the run: they are found without reading the others.
CREATE INDEX batch_open ON batch (stage, state) WHERE state NOT IN ('accepted', 'split', 'dead');
CREATE VIEW open_batch AS
    SELECT * FROM batch INDEXED BY batch_open WHERE state NOT IN ('accepted', 'split', 'dead');

-- One row a request, written before its first byte leaves; `kind` stays NULL until its receipt is durable.
-- `date` is the answer's Date header, `latency` seconds. `message` holds no value of a record. `began` is its own tick,
-- `ended` the tick of the newest request when its receipt came. `code` names what came in a stable way (http-422,
-- says-no, timeout). `stopped` is 1 where the answer is about the run, not about the batch; `in_part` where a part may
-- have been taken: a sample proves nothing.
CREATE TABLE attempt (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, number INTEGER NOT NULL, started REAL NOT NULL, kind TEXT,
    status INTEGER, latency REAL, date TEXT, message TEXT, began INTEGER NOT NULL DEFAULT 0,
    ended INTEGER NOT NULL DEFAULT 0, code TEXT NOT NULL DEFAULT '', stopped INTEGER NOT NULL DEFAULT 0,
    in_part INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (stage, seq, number)
) WITHOUT ROWID;

-- Records that were not sent, keyed by position. `batch` is 0 for those that were never packed, else the batch that the
-- target refused. `message` names fields and expectations, never values: the record is read from the export.
-- `replayed` is 1 where it is dead no more: a replay has sealed it in a batch, or found that it is filtered.
-- `units` is how many units the last replay sealed for it. `part` is 1 where others of its source record were sent, and
-- 2 where a replay sent more for it than the target refused: then only the export tells which units it stands for.
CREATE TABLE dead_letter (
    stage TEXT NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    batch INTEGER NOT NULL, length INTEGER NOT NULL, record INTEGER NOT NULL,
    code TEXT NOT NULL, message TEXT NOT NULL, tally TEXT NOT NULL, replayed INTEGER NOT NULL DEFAULT 0,
    units INTEGER NOT NULL DEFAULT 0, part INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (stage, source, offset, unit)
) WITHOUT ROWID;

-- Customers that will not be in the target, by salted 128-bit hash of their id, with the code of the reason: what
-- belongs to them waits as dead letters.
CREATE TABLE absent_owner (owner BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;

-- Keys (ids and e-mails, by salted hash) of what replays sealed in batch `seq`, unless it is dead again: no later
-- replay sends them. Of customers, `seen` is 1 once it was accepted and read back: its owner is absent no more.
CREATE TABLE replayed_key (
    stage TEXT NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    owner BLOB NOT NULL, seq INTEGER NOT NULL, seen INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (stage, source, offset, unit, owner)
) WITHOUT ROWID;
CREATE INDEX replayed_owner ON replayed_key (stage, owner);

-- Units of accepted batches that are not where the batch has them: `missing` ones were not found by a verify, `resent`
-- ones are in another batch now, `reverted` ones were taken back. `ranges` are packed, `tally` says what they hold.
CREATE TABLE unit_state (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, state TEXT NOT NULL, ranges BLOB NOT NULL, tally TEXT NOT NULL,
    PRIMARY KEY (stage, seq, state)
) WITHOUT ROWID;
-- The batches that carry what was resent.
CREATE TABLE unit_again (stage TEXT NOT NULL, again INTEGER NOT NULL);

-- What the last verify found: when, at which tick of the run, and its summary as JSON; then one row a difference. A
-- finding names record and field, and holds no value. `seen` is when the last batch was accepted of which a verify ever
-- saw anything: the target's queue has passed it.
CREATE TABLE verification (at REAL NOT NULL, tick INTEGER NOT NULL, seen REAL NOT NULL, summary TEXT NOT NULL);
CREATE TABLE finding (
    stage TEXT NOT NULL, seq INTEGER NOT NULL, source INTEGER NOT NULL, offset INTEGER NOT NULL, unit INTEGER NOT NULL,
    record INTEGER NOT NULL, field TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (stage, source, offset, unit, field)
) WITHOUT ROWID;

-- Requests to revert the run, numbered from 1: the window by the target's clock, and how many customers of ours fall in
-- it. state: sending, accepted, unknown, not-sent, refused, not-landed, done. Only behind one that is not-sent, refused
-- or not-landed (by a read-back) may another be made. `summary` is JSON: what was read back.
CREATE TABLE revert (
    number INTEGER PRIMARY KEY, state TEXT NOT NULL, start REAL NOT NULL, end REAL NOT NULL, customers INTEGER NOT NULL,
    began REAL NOT NULL, message TEXT NOT NULL DEFAULT '', summary TEXT NOT NULL DEFAULT '{}'
);
"""
