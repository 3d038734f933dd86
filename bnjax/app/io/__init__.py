"""Files, folders, messages: where the application meets the disk, the terminal and signals.

The rooms: `files` (the one way to write a file, JSON), `folder` (a folder that is ours, and its
lock), `arrays` (npz under a digest), `terminal` (messages
and progress), `signals` (Ctrl-C and SIGTERM), `programs` (compiled ones, kept for the next run).
"""
