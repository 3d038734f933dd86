"""A run of `bnjax train` and its folder: what is written, read back, and gone on with.

The rooms: `folder` (the files of a run), `config` (config.json), `metrics` (metrics.jsonl),
`checkpoints`, `session` (a run on its way), `processes` (devices and processes that share it),
`networks` (what the options build), `results` (what a run leaves behind), `saved` (`load_run`).
"""
