"""The errors this project raises on purpose.

Each message says what was found, what was expected, where, and what to do next; programs print it
as one line (`log.run_program`) and exit with 1. Anything else that escapes is a defect of ours and
keeps its traceback.
"""


class Ndt3DistError(Exception):
    """Parent of every error below."""


class BadInput(Ndt3DistError, ValueError):
    """A recording, recipe, config or argument that cannot be used as it is."""


class Withdrawn(BadInput):
    """A recording that was taken out of a corpus, and is not to come back."""


class NoRoom(BadInput):
    """The disk of an output is full; more work on it would fail alike."""


class StoreFailed(Ndt3DistError):
    """An object store does not answer, however long one waits."""


class ClusterFailed(Ndt3DistError):
    """A Ray cluster cannot be reached, or does not keep the hosts that a task needs."""


class ShardCorrupt(Ndt3DistError):
    """A shard or one of its samples does not have the bytes its index or manifest promises."""


class ShardLost(ShardCorrupt):
    """No window of a shard can be read: it is missing, cut, or out of reach."""


class ManifestMismatch(Ndt3DistError):
    """A corpus is absent, incomplete, of another version, or made by another recipe."""


class CheckpointCorrupt(Ndt3DistError):
    """A checkpoint or an export is absent, incomplete, or does not have its recorded bytes."""


class SaveFailed(Ndt3DistError):
    """Checkpoints of a run cannot be written."""


class ResumeMismatch(Ndt3DistError):
    """A run cannot go on from here: another corpus, another model, or a run that exists already."""


class Unsupported(Ndt3DistError):
    """A feature or a file that this version deliberately does not handle."""


class RankFailed(Ndt3DistError):
    """One process of a run ended by an error that nobody foresaw, or by another's end."""


class Diverged(Ndt3DistError):
    """A training whose loss or gradient is no longer a number."""
