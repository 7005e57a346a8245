"""Two: a decoder of that corpus, from new weights; give `init=` an export to fine-tune it."""

import ndt3_dist

test = ndt3_dist.open_corpus("corpora/example", "test").session("example-A-day1")
export = ndt3_dist.fit(
    "corpora/example",
    out="runs/example",
    train={"steps": 60, "eval_every": 60},
    optim={"lr": 3e-3, "warmup_epochs": 5, "decay_epochs": 60},
    model={"layers": 2, "dim": 64, "heads": 2, "feedforward": 64, "context_tokens": False},
)
error = ndt3_dist.open_decoder(export).decode(test.spikes) - test.covariates
print("R2", 1 - (error**2).sum(0) / ((test.covariates - test.covariates.mean(0)) ** 2).sum(0))
