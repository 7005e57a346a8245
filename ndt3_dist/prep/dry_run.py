"""What a preparation would do, without doing it."""

from collections.abc import Collection

from ndt3_dist import log, storage
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.binning import num_bins
from ndt3_dist.prep.output import withdrawn
from ndt3_dist.prep.privacy import clean, key_of, pseudonym, source_label
from ndt3_dist.prep.reading import check_calls, read
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.prep.recordings import RecordingFile, find_recordings
from ndt3_dist.prep.windows import label_intervals
from ndt3_dist.readers.on_disk import sha256_of
from ndt3_dist.shards.manifest import session_id

TAKEN_OUT = "was taken out of this corpus"


def dry_rows(recipe: Recipe) -> list[dict]:
    """A row for each recording: session, size, hours, windows at most; or what is wrong with it.

    Recordings in a store are listed with their size alone: to look into them is to fetch them.
    """
    check_calls(recipe)
    key, sources = key_of(recipe), find_recordings(recipe)
    gone = withdrawn(recipe.out)["recordings"] if recipe.out else []
    return [row_of(recipe, key, source, gone) for source in log.progress(sources, "plan")]


def row_of(recipe: Recipe, key: bytes, source: RecordingFile, gone: Collection[str] = ()) -> dict:
    row = {"recording": source_label(key, source.name), "MB": f"{source.bytes / 1e6:.1f}"}
    row |= {"session": "", "hours": "", "windows": "", "problem": ""}
    if storage.is_remote(source.path):
        return row
    try:
        if gone and sha256_of(source.path) in gone:
            raise BadInput(TAKEN_OUT)
        recording = read(source.path, recipe)
        subject = pseudonym(key, "subject", recording.subject)
        name = session_id(recipe.dataset, subject, pseudonym(key, "session", recording.session))
        seconds = recording.stop_s - recording.start_s
        bins = num_bins(recording, recipe.bin_size_ms / 1000)
        spans = label_intervals(name, bins, recipe)
        windows = sum((i.stop_bin - i.start_bin) // recipe.window_bins for i in spans)
        row |= {"session": name, "hours": f"{seconds / 3600:.2f}", "windows": str(windows)}
    except BadInput as e:
        text = " ".join(str(e).split()).removeprefix(f"{source.path}: ")
        row["problem"] = clean(text, key, source.name)[:120]
    return row


def dry_line(rows: list[dict]) -> str:
    """Sums over all rows."""
    windows = sum(int(row["windows"] or 0) for row in rows)
    megabytes = sum(float(row["MB"]) for row in rows)
    return (
        f"{len(rows)} recordings, {megabytes:.0f} MB, at most {windows} windows, "
        f"{num_broken(rows)} broken"
    )


def num_broken(rows: list[dict]) -> int:
    """Recordings that would fail; one that was taken out is passed over."""
    return sum(row["problem"] not in ("", TAKEN_OUT) for row in rows)
