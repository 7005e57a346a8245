"""What a rank does at any moment, by name; `phases` clocks it. Known without torch."""

DATA, FORWARD, BACKWARD, OPTIMISER = "data", "forward", "backward", "optimiser"
COMMUNICATION, CHECKPOINT, COMMIT, OTHER = "communication", "checkpoint", "commit", "other"
OWN: tuple[str, ...] = DATA, FORWARD, BACKWARD, OPTIMISER, CHECKPOINT
"""Phases that are work of every rank alike. The first rank alone makes a checkpoint exist and
deletes old ones, in `commit`, and writes metrics, in `other`."""
PHASES = *OWN, COMMUNICATION, COMMIT, OTHER
