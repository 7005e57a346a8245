"""The decoder as a service: bins come in over a socket or LSL, covariates go out."""
