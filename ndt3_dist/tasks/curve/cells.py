"""What a curve is made of: decoders, amounts of data, seeds; checked before anything is fitted.

A cell is one decoder, fitted to one amount of the fit split at one seed. Of one seed all decoders
are fitted to the same bins, a smaller amount within each larger one, and all are scored on the same
test bins.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ndt3_dist import log
from ndt3_dist.config import check
from ndt3_dist.errors import BadInput
from ndt3_dist.evaluate.session import read_test_data, seen_lines
from ndt3_dist.model.load import read_export_config, read_normalisation
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.tasks.curve.cascade import histories
from ndt3_dist.tasks.curve.gru import GruConfig
from ndt3_dist.tune.fit_data import bins_of, divided, read_split
from ndt3_dist.tune.transfer import CHANGES
from ndt3_dist.tune.tune_config import TuneConfig

DECODERS = {
    "pretrained": "fine-tune of the export",
    "readout": "the export as it is, its hidden states and lagged counts read by a ridge",
    "scratch": "the same architecture from random weights",
    "ridge": "ridge regression over lagged counts",
    "wiener": "the same, then a polynomial of each covariate",
    "gru": "a small recurrent network",
}
NETS = "pretrained", "readout", "scratch", "gru"
"""Those that are fitted by runs of a search."""
OF_INIT = "pretrained", "readout", "scratch"


@dataclass(frozen=True)
class Amount:
    """How much of the fit split is fitted.

    Attributes:
        key: data.share or data.minutes.
        value: As the config has it.
        bins: So many.
        minutes: So long.
    """

    key: str
    value: float
    bins: int
    minutes: float

    @property
    def label(self) -> str:
        return f"{100 * self.value:g} %" if self.key == "data.share" else f"{self.value:g} min"

    @property
    def name(self) -> str:
        """Of files."""
        return self.label.replace(" %", "pct").replace(" ", "")


@dataclass(frozen=True)
class Cell:
    decoder: str
    amount: Amount
    seed: int

    @property
    def name(self) -> str:
        return f"{self.decoder}_{self.amount.name}_seed{self.seed}"


@dataclass(frozen=True)
class Curve:
    """What is asked.

    Attributes:
        config: Of fine-tunes; its section `data` says which split of which session is fitted.
        gru: Of the GRU, with the same section.
        init: Folder of the export; "" where no decoder needs one.
        test: Split that is scored.
        rates: Learning rates that the held-back part chooses from; none = each config's own.
        decoders, amounts: In order.
        seeds: How many, from the config's on.
        seen: Lines on what the export may have seen.
    """

    config: TuneConfig
    gru: GruConfig
    init: str
    test: str
    rates: list[float]
    decoders: list[str]
    amounts: list[Amount]
    seeds: int
    seen: list[str]

    def cells(self) -> list[Cell]:
        first = self.config.run.seed
        seeds = range(first, first + self.seeds)
        return [Cell(d, a, s) for d in self.decoders for a in self.amounts for s in seeds]

    def fit_config(self, amount: Amount, seed: int) -> TuneConfig:
        """The config with an amount and a seed."""
        data = self.config.data.model_copy(update={amount.key.split(".")[1]: amount.value})
        run = self.config.run.model_copy(update={"seed": seed})
        return self.config.model_copy(update={"data": data, "run": run})


def check_decoders(names: Sequence[str]) -> list[str]:
    """The names in the order of `DECODERS`; BadInput for one that is none, or comes twice."""
    for name in names:
        if name not in DECODERS:
            near = difflib.get_close_matches(name, DECODERS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(DECODERS)}"
            raise BadInput(f"--decoders: no decoder {name!r} ({hint})")
    if len({*names}) < len(names):
        raise BadInput(f"--decoders {','.join(names)}: one is named twice")
    return [name for name in DECODERS if name in names]


def numbers(text: str, flag: str, most: float = float("inf")) -> list[float]:
    """Ascending numbers of a list as 3,10,25; BadInput unless all are above 0, up to `most`."""
    try:
        found = sorted(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"{flag} {text}: expected numbers such as 3,10,25") from None
    for value in found:
        if not 0 < value <= most:
            limit = f" and at most {most:g}" if most < float("inf") else ""
            raise BadInput(f"{flag} {text}: {value:g} is not above 0{limit}")
    if len({*found}) < len(found) or found[-1] == float("inf"):
        raise BadInput(f"{flag} {text}: expected different, finite numbers")
    return found


def check_init(init: str, bin_size_ms: float, corpus: str) -> dict[str, Any]:
    """The export's config. Raises BadInput where its bins are of another size."""
    own = read_normalisation(init)["bin_size_ms"]
    if own != bin_size_ms:
        raise BadInput(
            f"--init {init} was trained on bins of {own:g} ms, {corpus} has {bin_size_ms:g}; "
            "prepare the session with the export's bin size"
        )
    return read_export_config(init)


def planned(
    config: TuneConfig, init: str, test: str, key: str, values: Sequence[float], **asked: Any
) -> Curve:
    """A curve, all of whose cells can be fitted.

    Args:
        config: Its `data` names corpus, session (or the only one) and fit split.
        init: Folder of an export, or "".
        test: Split to score.
        key: data.share or data.minutes.
        values: Of it, ascending.
        asked: gru, rates, decoders, seeds of the curve.
    Raises:
        BadInput: A split is missing, or too short for an amount; or the export does not fit.
    """
    data, decoders = config.data, asked["decoders"]
    if test == data.fit:
        raise BadInput(f"split {test} would be fitted and scored; choose another --split")
    manifest, session, pieces = read_split(data)
    read_test_data(data.corpus, session.id, test)
    seen: list[str] = []
    if {*decoders} & {*OF_INIT}:
        if not init:
            raise BadInput(f"{', '.join(OF_INIT)}: need --init EXPORT, or leave them out")
        model = check_init(init, manifest.bin_size_ms, data.corpus)["model"]
        changes = config.transfer.model_dump(include=CHANGES, exclude_none=True)
        Layout.of(session, check(ModelConfig, {**model, **changes}, init))  # all channels fit in
        if {*decoders} & {"pretrained", "readout"}:
            splits = (data.fit, test)
            seen = [line for s in splits for line in seen_lines(init, manifest, session, s)]
    of_session = data.model_copy(update={"session": session.id})
    config = config.model_copy(update={"data": of_session})
    asked["gru"] = asked["gru"].model_copy(update={"data": of_session, "run": config.run})
    amounts, ms = [], manifest.bin_size_ms
    for value in values:
        sized = data.model_copy(update={key.split(".")[1]: value})
        bins = bins_of(sized, session.id, pieces, ms)
        amounts.append(Amount(key, value, bins, bins * ms / 60_000))
    curve = Curve(config, init=init, test=test, amounts=amounts, seen=seen, **asked)
    for amount in log.progress(amounts, "looking at shares"):
        for seed in range(config.run.seed, config.run.seed + curve.seeds):
            part = curve.fit_config(amount, seed).data
            fit = divided(part, seed, manifest, session, pieces)
            histories(sum(map(len, fit.first)))
    return curve
