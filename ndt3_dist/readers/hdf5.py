"""What is refused in any HDF5 file that somebody hands us: data in other files, and bombs.

Nothing is read to find out: links and the headers of datasets are looked at.
"""

from ndt3_dist.errors import BadInput

MOST_BYTES = 64 << 30
"""No array of a recording unpacks to more."""
FREE_BYTES = 1 << 30
MOST_RATIO = 1000
"""Beyond FREE_BYTES, nothing may be so many times larger unpacked than on disk."""


def refuse_bomb(field: str, unpacked: int, stored: int) -> None:
    """Raise BadInput where so much is not to be unpacked from so little."""
    if unpacked > MOST_BYTES or (unpacked > FREE_BYTES and unpacked > MOST_RATIO * stored):
        raise BadInput(
            f"{field} declares {unpacked / 1e9:.1f} GB in {stored / 1e6:.1f} MB of the file; "
            "refused"
        )


def refuse_elsewhere(h5, unread: str = "") -> None:
    """Raise BadInput where an open HDF5 file points outside itself.

    Args:
        unread: Name of a group whose datasets nobody reads.
    """
    from h5py import h5d, h5l, h5o  # pyright: ignore[reportAttributeAccessIssue]

    objects = []

    def look(name: bytes, info) -> bytes | None:
        if info.type == h5l.TYPE_HARD:
            objects.append(name)
        return None if info.type in (h5l.TYPE_HARD, h5l.TYPE_SOFT) else name

    # Each object once, in whatever circles links may lead.
    if (name := h5.id.links.visit(look, info=True)) is not None:
        raise BadInput(f"{name.decode()} is an external link to another file; refused")
    for name in objects:
        if unread and name.startswith(f"{unread}/".encode()):
            continue
        found = h5o.open(h5.id, name)
        if isinstance(found, h5d.DatasetID) and has_foreign_data(found):
            raise BadInput(f"{name.decode()} keeps its data in another file; refused")


def has_foreign_data(dataset) -> bool:
    """Whether a dataset (h5py's DatasetID) has its data in other files, or shows parts of some."""
    from h5py import h5d  # pyright: ignore[reportAttributeAccessIssue]

    made = dataset.get_create_plist()
    if made.get_external_count():
        return True
    if made.get_layout() != h5d.VIRTUAL:
        return False
    return any(made.get_virtual_filename(i) != "." for i in range(made.get_virtual_count()))
