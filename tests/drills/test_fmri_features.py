"""Features of films by small models of Hugging Face with random weights, on films made here."""

import json

import av
import numpy as np
import pytest
import torch
import transformers
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from ndt3_dist.config import load_config
from ndt3_dist.tasks.fmri.clips.feature_tree import FeatureTree
from ndt3_dist.tasks.fmri.extract.extract_config import ExtractConfig
from ndt3_dist.tasks.fmri.extract.extraction import extract
from ndt3_dist.tasks.fmri.extract.read_media import frames_at, sound_of, words_of

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"intermediate_size": 16}
TR_S = 0.5
SAID = ["the cat", "", "sat on", "nan", "['a', 'mat']", "the"]


def write_film(path, seconds=3.0, rate=10) -> None:
    """Grey that grows by 8 each frame, and a tone that gets louder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream("ffv1", rate=rate), out.add_stream("pcm_s16le", rate=16_000)
        video.width = video.height = 32
        video.pix_fmt = "bgr0"
        for i in range(round(seconds * rate)):
            grey = np.full((32, 32, 3), 8 * i, np.uint8)
            out.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        at = np.arange(round(seconds * 16_000)) / 16_000
        tone = (np.sin(2 * np.pi * 200 * at) * at / seconds * 20_000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = 16_000
        out.mux(audio.encode(frame))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    vit = transformers.ViTConfig(**SMALL, image_size=32, patch_size=8)
    transformers.ViTModel(vit).save_pretrained(root / "vit")
    vmae = transformers.VideoMAEConfig(**SMALL, image_size=32, patch_size=8, num_frames=4)
    transformers.VideoMAEModel(vmae).save_pretrained(root / "vmae")
    conv = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (80, 4)}
    groups = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    sound = transformers.Wav2Vec2Config(**SMALL, **conv, **groups)
    transformers.Wav2Vec2Model(sound).save_pretrained(root / "sound")
    words = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, vocab_size=16)
    transformers.LlamaModel(words).save_pretrained(root / "words")
    known = {w: i for i, w in enumerate(["[UNK]", *["the", "cat", "sat", "on", "a", "mat"]])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.save_pretrained(root / "words")
    write_film(root / "stimuli" / "movies" / "friends_s01e01a.mkv")
    write_film(root / "stimuli" / "movies" / "chaplin1.mkv", seconds=2.0)
    (root / "stimuli" / "movies" / "wot1.mkv").write_bytes(b"not a film")
    lines = [f"{text}\t[]" for text in SAID]
    table = root / "stimuli" / "transcripts" / "friends_s01e01a.tsv"
    table.parent.mkdir()
    table.write_text("\n".join(["text_per_tr\twords_per_tr", *lines]) + "\n")
    values = {
        "stimuli": str(root / "stimuli"),
        "out": str(root / "out"),
        "tr_s": TR_S,
        "num_workers": 0,
        "device": "cpu",
        "models": {
            "vit": {"kind": "image", "path": str(root / "vit"), "layers": [1, -1], "frames": 2},
            "vmae": {"kind": "video", "path": str(root / "vmae"), "frames": 4, "window_s": 1.0},
            "sound": {"kind": "audio", "path": str(root / "sound"), "window_s": 2, "stride_s": 0.5},
            "words": {"kind": "text", "path": str(root / "words"), "context_words": 3},
        },
    }
    (root / "c.yaml").write_text(yaml.safe_dump(values))
    return root


def test_features_are_a_row_for_each_sample_and_are_made_once(place):
    film = place / "stimuli" / "movies" / "friends_s01e01a.mkv"
    config = load_config(ExtractConfig, place / "c.yaml")
    found = extract(config)
    assert (found["made"], found["kept"]) == (7, 0)  # two films by three models, one transcript
    assert {*found["failed"]} == {"vit wot1", "vmae wot1", "sound wot1"}
    assert "cannot be decoded" in found["failed"]["vit wot1"]
    streams = {"a": "vit/layer1", "b": "vit/layer-1", "c": "vmae/layer-1", "d": "sound/layer-1"}
    tree = FeatureTree(place / "out", streams)
    assert (tree.dims, tree.rows("s01e01a"), tree.rows("chaplin1")) == (
        dict.fromkeys("abcd", 16),
        6,
        4,
    )
    # A row of `vit` is the mean of the two frames up to its end, through the model itself.
    model = transformers.AutoModel.from_pretrained(place / "vit")
    grey = torch.tensor([40.0 + 0, 56.0])  # frames at .5 and .75 s: numbers 5 and 7
    pixels = ((grey / 255 - 0.5) / 0.5)[:, None, None, None].expand(2, 3, 32, 32)
    with torch.no_grad():
        states = model(pixel_values=pixels, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(
        np.load(place / "out" / "vit" / "layer1" / "s01e01a.npy")[1],
        states[1].mean((0, 1)).numpy(),
        atol=1e-3,
    )
    said = np.load(place / "out" / "words" / "layer-1" / "s01e01a.npy")
    assert said.shape == (6, 16)
    assert [bool(row.any()) for row in said] == [True, False, True, False, True, True]
    tokens = torch.tensor([[1, 2, 3, 4]])  # the cat | sat on: the last two are its own
    text = transformers.AutoModel.from_pretrained(place / "words")
    with torch.no_grad():
        last = text(input_ids=tokens, output_hidden_states=True).hidden_states[-1][0]
    np.testing.assert_allclose(said[2], last[2:].mean(0).numpy(), atol=1e-5)
    assert words_of(place / "stimuli" / "transcripts" / "friends_s01e01a.tsv")[4] == "a mat"
    # Again: all is kept; what was damaged, or is asked for otherwise, is made anew.
    before = json.loads((place / "out" / "vit" / "s01e01a.json").read_text())
    damaged = place / "out" / "vit" / "layer1" / "s01e01a.npy"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + b"x")
    again = extract(config)
    assert (again["made"], again["kept"]) == (1, 6)
    assert damaged.read_bytes() == whole
    assert json.loads((place / "out" / "vit" / "s01e01a.json").read_text()) == before
    told = ["models.sound.window_s=1", "clips=[s01]"]
    other = extract(load_config(ExtractConfig, place / "c.yaml", told))
    assert (other["made"], other["kept"], other["failed"]) == (1, 3, {})
    assert len(sound_of(film, 16_000)) == 48_000
    assert [int(f[0, 0, 0]) for f in frames_at(film, 0.5)] == [0, 40, 80, 120, 160, 200]
    told = ["models.vit.layers=[7]", "clips=[s01]", f"out={place / 'none'}"]
    failed = extract(load_config(ExtractConfig, place / "c.yaml", told))["failed"]
    assert "has layers 0 to 2, not [7]" in failed["vit s01e01a"]


@pytest.mark.drill
def test_ray_makes_the_same_bytes(place):
    told = ["num_workers=1", "clips=[chaplin]", f"out={place / 'ray'}"]
    config = load_config(ExtractConfig, place / "c.yaml", told)
    models = {n: spec for n, spec in config.models.items() if n in ("vit", "sound")}
    config = config.model_copy(update={"models": models})
    assert extract(config)["made"] == 2
    alone = config.model_copy(update={"num_workers": 0, "out": str(place / "alone")})
    assert extract(alone)["made"] == 2
    files = sorted(p.relative_to(place / "ray") for p in (place / "ray").rglob("*") if p.is_file())
    assert len(files) == 5
    for file in files:
        assert (place / "ray" / file).read_bytes() == (place / "alone" / file).read_bytes()
