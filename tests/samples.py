"""Windows as a corpus gives them."""


def sample_of(spikes, covariates, constraint=None, returns=None) -> dict:
    """Streams by name; those that are None are absent."""
    found = {
        "spikes": spikes,
        "covariates": covariates,
        "constraint": constraint,
        "return": returns,
    }
    return {name: array for name, array in found.items() if array is not None}
