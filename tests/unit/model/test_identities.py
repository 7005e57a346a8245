"""Identity tokens: names, rows and counts; unknown ones; new rows at a fine-tune."""

import numpy as np
import pytest
import torch
from samples import sample_of

from ndt3_dist.checkpoint.export import describe_export, normalisation, write_export
from ndt3_dist.config import PROJECT, load_config
from ndt3_dist.data.continuous import Piece
from ndt3_dist.errors import BadInput, Unsupported
from ndt3_dist.evaluate.decode import slide
from ndt3_dist.evaluate.online import OnlineDecoder, open_export, read_units
from ndt3_dist.model.load import load_model
from ndt3_dist.model.ndt3 import NDT3
from ndt3_dist.model.objective.identities import TABLE, grown, knowing, names_of
from ndt3_dist.model.streaming import StreamingDecoder
from ndt3_dist.model.tokenise import Layout, NDT3Packing
from ndt3_dist.model.tokens import PackedTokens
from ndt3_dist.shards.corpus import Corpus
from ndt3_dist.shards.manifest import Array, Session, read_manifest
from ndt3_dist.train.initial import InitialExport
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.settings import with_identities
from ndt3_dist.tune.transfer import start_model
from ndt3_dist.tune.tune_config import TuneConfig

KINDS = ("session", "subject", "array", "task")


def session_of(number: int, arrays=("M1", "PMd"), subject="p") -> Session:
    return Session.model_construct(
        id=f"d-{subject}-{number}",
        dataset="d",
        subject=subject,
        arrays=[Array(name=name, channels=20) for name in arrays],
        covariates=["x"],
    )


@pytest.fixture(params=["causal", "masked"])
def config(request, tiny_model):
    changes = {"context": KINDS, "objective": request.param, "dropout": 0.0}
    return knowing(tiny_model.model_copy(update=changes), [session_of(1), session_of(2, ("M1",))])


def window(config, session, seed=0, bins=9):
    draw = np.random.default_rng(seed)
    spikes = draw.poisson(0.5, (bins, session.channels)).astype(np.uint8)
    sample = sample_of(spikes, np.zeros((bins, 1), np.float32))
    packing = NDT3Packing([session], config)
    return packing, packing.window(sample, 0, lambda: np.random.default_rng(1))


def test_a_name_has_one_row_for_ever(config):
    assert config.identities == (
        *("session:d-p-1", "subject:d/p", "array:d/p/M1", "array:d/p/PMd", "task:d"),
        "session:d-p-2",
    )
    more = knowing(config, [session_of(3, subject="q"), session_of(1)])
    assert more.identities[:6] == config.identities
    assert more.identities[6:] == (
        *("session:d-q-3", "subject:d/q", "array:d/q/M1", "array:d/q/PMd"),
    )


def test_windows_begin_with_a_token_of_each(config):
    packing, found = window(config, session_of(1))
    index = np.zeros(1, [("session", "<u4"), ("bins", "<u4")])
    index["bins"] = 9
    assert packing.tokens(index)[0] == found.length == 5 + 9 * (2 + 1)
    arrays = found.arrays
    assert arrays["identity"].tolist() == [0, 1, 2, 3, 4]
    assert arrays["identity_slot"].tolist() == [0, 1, 2, 3, 4]
    assert (arrays["space"][:5] == 0).all()
    assert (arrays["space"][5:] > 0).all()
    assert arrays["spike_slot"].min() == 5
    assert len(arrays["time"]) == found.length
    packing, other = window(config, session_of(2, ("M1",)))
    assert other.arrays["identity"].tolist() == [5, 1, 2, 4]
    assert packing.tokens(index)[0] == other.length == 4 + 9 * 2


def test_each_identity_changes_the_predictions_of_its_windows_alone(config):
    torch.manual_seed(0)
    model, pair = NDT3(config).eval(), []
    for number, arrays in ((1, ("M1", "PMd")), (2, ("M1",))):
        packing, found = window(config, session_of(number, arrays))
        pair.append(found)
    tokens = PackedTokens.from_numpy(packing.pack(pair))
    before, cut = model.features(tokens), pair[0].length
    for row, name in enumerate(config.identities):
        with torch.no_grad():
            model.identity_in.weight[row] += 1
        after = model.features(tokens)
        is_in = [row in w.arrays["identity"] for w in pair]
        for part, known in zip((slice(5, cut), slice(cut + 4, None)), is_in, strict=True):
            assert (before[part] == after[part]).all().item() != known, name
        before = after


def test_an_identity_that_was_not_learned_is_refused(config):
    with pytest.raises(BadInput, match=r"d-p-9: the model has learned no session:d-p-9 \(of 2 of"):
        Layout.of(session_of(9), config)
    with pytest.raises(BadInput, match=r"begin with identities of session.*none are known"):
        Layout.from_counts([20], 1, config, "s")


def test_streams_run_each_window_anew(config):
    session = session_of(1)
    layout, model = Layout.of(session, config), NDT3(config).eval()
    with pytest.raises(Unsupported, match=r"does not hold once another.*--recompute"):
        StreamingDecoder(model, layout, 5)
    spikes = np.random.default_rng(0).poisson(0.5, (12, 40)).astype(np.uint8)
    piece = Piece(0, spikes, np.zeros((12, 1), np.float32))
    online = OnlineDecoder(model, layout, 5, keep=False)
    steps = np.stack([online.step(counts) for counts in spikes])
    np.testing.assert_allclose(slide(model, piece, layout, 5, 1)[0], steps, atol=1e-5)
    unasked = slide(model, piece, layout, 5)[0]
    assert np.array_equal(unasked, slide(model, piece, layout, 5, 1 if model.masked else 5)[0])


def test_a_new_row_is_the_mean_of_its_kind():
    table = torch.tensor([[1.0], [3.0], [10.0]])
    before = ("session:a", "session:b", "task:t")
    found = grown(table, before, (*before, "session:c", "task:u", "array:x"))
    assert found[:, 0].tolist() == pytest.approx([1, 3, 10, 2, 10, 14 / 3])


def export_of(config, folder, corpus, sessions):
    torch.manual_seed(0)
    model = NDT3(config)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    trained = {"run": "r", "step": 1, "epochs": 0.0, "corpus": "c" * 64}
    norms = normalisation(read_manifest(corpus), sessions, config.context)
    write_export(folder, weights, describe_export(config, weights, "fp32", trained), norms)
    return weights


def test_exports_fine_tunes_and_decoders_carry_identities(corpus, config, tmp_path):
    manifest, export = read_manifest(corpus), str(tmp_path / "e")
    config = knowing(config.model_copy(update={"identities": ()}), manifest.sessions[:2])
    weights = export_of(config, export, corpus, manifest.sessions[:2])
    assert load_model(export).config.identities == config.identities
    new = manifest.named("t-S-03")
    units = read_units(export, "t-S-02")
    assert units.identities == names_of(manifest.sessions[1], KINDS)
    opened = open_export(export, units, units.channels, "cpu")
    assert opened.layout.identities.tolist() == [
        config.identities.index(name) for name in units.identities
    ]
    tune = load_config(TuneConfig, PROJECT / "configs" / "tune_session.yaml", ["data.corpus=c"])
    model, fresh = start_model(tune, export, False, [new])
    assert fresh == set()
    assert model.config.identities[: len(config.identities)] == config.identities
    added = model.config.identities[len(config.identities) :]
    assert added == ("session:t-S-03",)  # subject, array and dataset are known
    table = dict(model.named_parameters())[TABLE].detach()
    assert torch.equal(table[:-1], weights[TABLE])
    known = [i for i, n in enumerate(config.identities) if n.startswith("session:")]
    torch.testing.assert_close(table[-1], weights[TABLE][known].mean(0))


def test_a_pretraining_knows_the_sessions_that_it_may_see(corpus, config, tmp_path):
    overrides = [
        "model.context=[session,subject]",
        f"data.corpus={corpus}",
        'data.exclude=["*-02"]',
    ]
    path = PROJECT / "configs" / "demo.yaml"
    asked = load_config(PretrainConfig, path, overrides)
    opened = Corpus(corpus)
    found = with_identities(asked, (), opened).ndt3
    assert found.identities == ("session:t-S-01", "subject:t/S", "session:t-S-03")
    begun = ["subject:t/S", "session:t-S-07"]
    assert with_identities(asked, begun, opened).ndt3.identities == (
        *begun,
        "session:t-S-01",
        "session:t-S-03",
    )
    # An export's rows come first, and those of others begin as their mean.
    model = knowing(config.model_copy(update={"identities": ()}), opened.manifest.sessions[:1])
    weights = export_of(model, tmp_path / "e", corpus, opened.manifest.sessions[:1])
    initial = InitialExport(str(tmp_path / "e"), model)
    more = knowing(model, opened.manifest.sessions)
    initial.grow(more)
    rows, dim = len(more.identities), model.dim
    read = initial.read(TABLE, 0, rows * dim)["master"].view(rows, dim)
    assert torch.equal(read[: len(model.identities)], weights[TABLE])
    new = more.identities.index("session:t-S-02")
    assert torch.equal(read[new], weights[TABLE][0])  # the only session that it has
