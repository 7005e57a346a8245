"""What a fine-tune is fitted to: one session or several together, and what is replayed beside them.

Each session keeps its own layout and its own scales. The model tells covariates apart by their
position alone, as NDT3 does: sessions may have more of them or fewer, but a name that stands at two
positions is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ndt3_dist import log
from ndt3_dist.data.continuous import sessions_with
from ndt3_dist.data.patterns import matching
from ndt3_dist.errors import BadInput
from ndt3_dist.model.model_config import ModelConfig
from ndt3_dist.model.tokenise import Layout
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Manifest, Session
from ndt3_dist.tune.fit_data import FitData, read_fit_data
from ndt3_dist.tune.replayed import Replayed
from ndt3_dist.tune.tune_config import TuneConfig
from ndt3_dist.tune.unlabelled import covariates_of


@dataclass(frozen=True)
class Joint:
    """Attributes:
    fitted: Of each session, at least one.
    replayed: Windows of earlier sessions; None = no replay.
    weight: Their share of the windows of a step.
    """

    fitted: list[FitData]
    replayed: Replayed | None = None
    weight: float = 0.0

    @property
    def manifest(self) -> Manifest:
        return self.fitted[0].manifest

    @property
    def sessions(self) -> list[Session]:
        return [data.session for data in self.fitted]

    @property
    def all_sessions(self) -> list[Session]:
        """Those that are replayed, too."""
        return self.sessions + (self.replayed.sessions if self.replayed else [])

    @property
    def is_scored(self) -> bool:
        return any(data.last for data in self.fitted)

    @property
    def names(self) -> str:
        return ", ".join(session.id for session in self.sessions)

    def bins(self, part: str) -> int:
        """Of a part of all sessions, by its name in `FitData`."""
        return sum(len(piece) for data in self.fitted for piece in getattr(data, part))

    def whole(self) -> "Joint":
        """The same with nothing held back."""
        return replace(self, fitted=[data.whole() for data in self.fitted])

    def check(self, model: ModelConfig) -> None:
        """Raises BadInput where the model cannot hold a session."""
        for session in self.all_sessions:
            Layout.of(session, model)


def read_joint(config: TuneConfig, init: str | None) -> Joint:
    """The fit split of the config's sessions, and what is replayed.

    Args:
        init: Export whose covariates sessions without labels are decoded to; a masked model that
            begins without one then learns no covariates.
    Raises:
        BadInput: A session cannot be fitted, or sessions do not go together.
    """
    data, chosen = config.data, [config.data.session]
    if data.sessions:
        known = sessions_with(Corpus(data.corpus, (data.fit,)))
        found = matching(f"{data.corpus}, split {data.fit}", known, data.sessions)
        chosen = [name for name, is_in in zip(known, found, strict=True) if is_in]
    fitted = [read_fit_data(config, name) for name in chosen] if config.has_labels else []
    for name in [] if config.has_labels else chosen:
        if not init and config.model and config.model.objective == "masked":
            fitted.append(read_fit_data(config, name, []))
            continue
        if not init:
            raise BadInput(
                "train.objective spikes adapts a decoder; give the --init EXPORT of one, without "
                "--scratch"
            )
        plain = name or sessions_with(Corpus(data.corpus, (data.fit,)))[0]
        decoded = covariates_of(init, plain, data.decodes)
        fitted.append(read_fit_data(config, name, decoded))
    replayed = Replayed.read(config, [f.session for f in fitted]) if data.replay.sessions else None
    check_positions([f.session for f in fitted] + (replayed.sessions if replayed else []))
    return Joint(fitted, replayed, data.replay.weight if replayed else 0.0)


def check_positions(sessions: Sequence[Session]) -> None:
    """Say which covariates share a position; BadInput where one name has two positions."""
    places: dict[str, tuple[int, str]] = {}
    names: dict[int, dict[str, None]] = {}
    for session in sessions:
        for place, covariate in enumerate(session.covariates):
            at, first = places.setdefault(covariate.name, (place, session.id))
            if at != place:
                raise BadInput(
                    f"covariate {covariate.name} is number {at + 1} of session {first} and number "
                    f"{place + 1} of {session.id}, and a model tells them apart by their number; "
                    "give all sessions one order with data.covariates="
                )
            names.setdefault(place, {})[covariate.name] = None
    for place, found in names.items():
        if len(found) > 1:
            log.note(
                f"covariate {place + 1} is {' or '.join(found)}, one and the same to the model"
            )
