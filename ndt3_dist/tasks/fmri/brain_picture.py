"""A value of each parcel on a brain, by nilearn, from the parcellation that comes with the data."""

from pathlib import Path

import numpy as np

from ndt3_dist.errors import BadInput


def save_brain(values: np.ndarray, atlas: str | Path, path: Path, title: str) -> None:
    """Draw a glass brain; nothing is downloaded.

    Args:
        values: (parcels,).
        atlas: The subject's ..._dseg_parcellation.nii.gz: whole numbers, 0 = outside, 1 = the first
            parcel.
        path: Its suffix decides the format.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from nilearn import image, plotting
    except ImportError as e:
        raise BadInput(f"a brain is drawn by nilearn; pip install 'ndt3_dist[fmri]' ({e})") from e
    try:
        found = image.load_img(str(atlas))
        labels = np.asarray(found.dataobj).round().astype(int)  # type: ignore[union-attr]
    except (OSError, ValueError) as e:
        raise BadInput(f"{atlas}: not a readable image ({e}); fetch its content") from e
    if labels.max() != len(values) or labels.min() < 0:
        raise BadInput(
            f"{atlas}: labels {labels.min()} to {labels.max()}; expected 0 to {len(values)}, as "
            "many parcels as there are values"
        )
    shown = np.concatenate([[0.0], values])[labels].astype(np.float32)
    picture = image.new_img_like(found, shown)
    most = float(np.nanmax(values)) or 1.0
    told = {"display_mode": "lyrz", "colorbar": True, "threshold": most * 1e-6, "cmap": "inferno"}
    told |= {
        "plot_abs": False,
        "symmetric_cbar": False,
        "vmin": 0.0,
        "vmax": most,
    }  # r below 0: not
    plotting.plot_glass_brain(picture, output_file=str(path), title=title, **told)
