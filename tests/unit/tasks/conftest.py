"""A story of two subjects that the tests of words share, and its corpus."""

import pytest

from ndt3_dist.tasks.words.prepare_words import corpus_of
from ndt3_dist.tasks.words.simulated_story import write_story
from ndt3_dist.tasks.words.word_config import Experiment


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A BIDS folder: 12 and 8 channels, 40 s."""
    folder = tmp_path_factory.mktemp("story")
    write_story(folder, channels=(12, 8), seconds=40, vocabulary=30)
    return folder


@pytest.fixture(scope="module")
def corpus(story, tmp_path_factory):
    """Its corpus at 512 Hz."""
    out = str(tmp_path_factory.mktemp("results"))
    data = {"data_root": str(story)}
    stage = Experiment.model_validate({"output_dir": out, "task_config": {"data_params": data}})
    return corpus_of(stage, workers=0)
