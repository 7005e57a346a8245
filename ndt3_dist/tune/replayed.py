"""Windows of earlier sessions, as their corpus holds them, for a share of the steps' windows.

They are read when they are drawn, so that the whole corpus of a pretraining can be replayed.
"""

import numpy as np

from ndt3_dist.data.continuous import choose_covariates, sessions_with
from ndt3_dist.data.patterns import matching
from ndt3_dist.errors import BadInput
from ndt3_dist.model.tokenise import Sample
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Session
from ndt3_dist.tune.tune_config import TuneConfig


class Replayed:
    """Attributes:
    corpus: Opened at one split.
    numbers: Of the windows in it, (windows,).
    sessions: Whose they are, with the covariates that are fitted.
    columns: Of each session's covariates, by its row of the corpus's table.
    """

    def __init__(self, corpus: Corpus, names: list[str], covariates: list[str]):
        """
        Args:
            names: Ids of the sessions.
            covariates: To take, in this order; none = all.
        """
        self.corpus, self.sessions, rows = corpus, [], []
        self.entries: dict[int, tuple[Session, list[int]]] = {}
        for row, session in enumerate(corpus.manifest.sessions):
            if session.id in names:
                known = [c.name for c in session.covariates]
                chosen, _ = choose_covariates(session, [], covariates or known)
                columns = [known.index(c.name) for c in chosen.covariates]
                self.entries[row] = chosen, columns
                self.sessions.append(chosen)
                rows.append(row)
        self.numbers = np.flatnonzero(np.isin(corpus.index["session"], rows))

    @classmethod
    def read(cls, config: TuneConfig, fitted: list[Session]) -> "Replayed":
        """What the config names, but for recordings that are fitted.

        Raises:
            BadInput: Nothing is left, or its bins are not those of the fit.
        """
        replay = config.data.replay
        path, split = replay.corpus or config.data.corpus, replay.split or config.data.fit
        corpus = Corpus(path, (split,))
        known = sessions_with(corpus)
        taken = matching(f"{path}, split {split}", known, replay.sessions)
        recordings = {session.source_sha256 for session in fitted}
        names = [
            name
            for name, is_in in zip(known, taken, strict=True)
            if is_in and corpus.manifest.named(name).source_sha256 not in recordings
        ]
        if not names:
            raise BadInput(
                f"data.replay.sessions {', '.join(replay.sessions)}: names only what is fitted; "
                "name earlier sessions, or none"
            )
        bins = Corpus(config.data.corpus, (config.data.fit,)).manifest.bin_size_ms
        if corpus.manifest.bin_size_ms != bins:
            raise BadInput(
                f"{path} has bins of {corpus.manifest.bin_size_ms:g} ms, {config.data.corpus} of "
                f"{bins:g}; replay sessions that were prepared with the same bins"
            )
        return cls(corpus, names, config.data.covariates)

    def __len__(self) -> int:
        return len(self.numbers)

    def window(self, number: int) -> tuple[Sample, Session]:
        """Streams of a window, and its session."""
        number = int(self.numbers[number])
        session, columns = self.entries[int(self.corpus.record(number)["session"])]
        found = self.corpus.read(number)
        covariates = found["covariates"][:, columns]
        return {"spikes": found["spikes"], "covariates": covariates}, session

    def name(self, number: int) -> str:
        """Of a window, for people."""
        record = self.corpus.record(int(self.numbers[number]))
        session, _ = self.entries[int(record["session"])]
        return f"{session.id} bin {int(record['start_bin'])} (replayed)"
