"""Pictures and tables of a run, and what it holds for the report of `bnjax explain`.

The rooms: `pictures` and `tables` (of `bnjax train` and `sweep`), `evidence` (what a run folder
holds that explains it), `subjects` (recordings of it), `weight` (one weight), `sphere` (its
picture).
"""
