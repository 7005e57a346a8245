"""fMRI encoding: parcel time series of people who watch films, from features of the films."""
