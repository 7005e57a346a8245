"""What comes of a fit: the export of its weights, with a readout of each session."""

from pathlib import Path

from ndt3_dist import log
from ndt3_dist.checkpoint import lineage
from ndt3_dist.checkpoint.export import describe_export, normalisation, write_export
from ndt3_dist.evaluate.metrics import mean
from ndt3_dist.model.load import read_export_config
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.tune.closed_form import fit_readout
from ndt3_dist.tune.joint import Joint
from ndt3_dist.tune.tune_config import TuneConfig


def write_tuned(
    out: Path,
    config: TuneConfig,
    init: str | None,
    decoder: NDT3,
    data: Joint,
    step: int,
    wise: float | None,
) -> float | None:
    """Write the export of a fine-tune.

    Args:
        init: The export that it began with; None from scratch.
        decoder: With its weights.
        step: Whose they are.
        wise: How much of the way from `init` was taken; None = all.
    Returns:
        R2 of bins that were held back in turn, mean of sessions; None where no readout was fitted.
    """
    parent = read_export_config(init) if init else None
    stages = lineage.of_export(parent) if parent else []
    if data.replayed:
        corpus, sessions = data.replayed.corpus, data.replayed.sessions
        told = {"steps": step, "replayed": data.weight}
        stages.append(lineage.stage(corpus.manifest, sessions, corpus.splits[0], **told))
    stages.append(lineage.stage(data.manifest, data.sessions, config.data.fit, steps=step))
    one = len(data.sessions) == 1
    trained = {
        "run": config.run.name,
        "step": step,
        "corpus": data.manifest.fingerprint,
        **({"session": data.names} if one else {"sessions": [s.id for s in data.sessions]}),
        "lineage": stages,
    }
    if parent:
        trained["init"] = {k: v for k, v in parent["trained"].items() if k != "lineage"}
    if config.train.refit:
        trained["refit"] = True
    if not config.has_labels:
        trained["objective"] = config.train.objective
    if wise is not None:
        trained["wise"] = wise
    readouts, scores = [], []
    for fitted in log.progress(data.fitted, "fitting readouts, sessions"):
        readout, r2 = fit_readout(decoder, fitted, config.readout)
        readouts += [readout] if readout else []
        scores += [] if r2 is None else [r2]
    weights = {name: p.detach() for name, p in decoder.named_parameters()}
    described = describe_export(decoder.config, weights, "fp32", trained)
    norms = normalisation(data.manifest, data.sessions, decoder.config.context)
    write_export(out, weights, described, norms, readouts)
    return mean(scores) if scores else None
