-- Recordings are kept as they were received, and it is told how the call of each came about.
--
-- size_bytes stays what it was: bytes of the file in the store. Rows of before are WAV files of linear
-- samples at 8 kHz, mono, 16 bit, with a head of 44 bytes.

-- Which kind of file it is; its name ends by that.
ALTER TABLE messages ADD COLUMN format TEXT NOT NULL DEFAULT 'wav-pcm';

-- What the caller sent, by the names of the RTP registry; several with commas. NULL: not noted.
ALTER TABLE messages ADD COLUMN codec TEXT;

-- Of the WAV that is made of it. samples is the exact length; NULL in rows of before: by size_bytes.
ALTER TABLE messages ADD COLUMN sample_rate INTEGER NOT NULL DEFAULT 8000;
ALTER TABLE messages ADD COLUMN samples INTEGER;

-- What never arrived, and when the stages of the call were reached, as JSON. NULL: nothing, or not noted.
ALTER TABLE messages ADD COLUMN losses TEXT;
ALTER TABLE messages ADD COLUMN setup TEXT;

-- Where the cause is no-media: which stage did not come about.
ALTER TABLE missed_calls ADD COLUMN failed_stage TEXT;
