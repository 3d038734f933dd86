"""What a run shows of how its networks learnt, for a person to read.

The rooms: `evidence` (what the run folder holds), `words` (numbers as one says them), `findings`
(what the figures say), `weight` (one weight and its triangle), `panels` (pictures), `page` (HTML).
"""
