"""A run whose folder lies in a real S3 server: killed, resumed, exported, reported."""

import json
import time

import pytest
from launching import kill_all, launch

from ndt3_dist import storage
from ndt3_dist.checkpoint.export import export, verify_export
from ndt3_dist.checkpoint.steps import steps_of
from ndt3_dist.config import load_config
from ndt3_dist.errors import ResumeMismatch
from ndt3_dist.pages.run_page import write_report
from ndt3_dist.train.pretrain_config import PretrainConfig
from ndt3_dist.train.replay import replay
from ndt3_dist.train.run_metrics import read_metrics
from ndt3_dist.train.start import find_start

RUN = "s3://lab/runs/r"


def test_a_run_in_a_store_is_killed_and_goes_on(store, corpus, tmp_path):
    extra = ["run.dir=s3://lab/runs", "checkpoint.keep_last=1"]
    process = launch(tmp_path, corpus, extra=extra, wait=False)
    deadline = time.time() + 120
    while not steps_of(RUN):
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.05)
    kill_all(process)
    # Metrics up to a step are there before the step is.
    (at,) = steps_of(RUN)
    before = [m["loss"] for m in read_metrics(RUN)]
    assert len(before) >= at
    store.fail("rank00001-of-00002", "503", 1, "PUT")  # one of its later uploads
    code, log = launch(tmp_path, corpus, extra=extra, resume="auto")
    assert code == 0, log
    assert f"resuming from step {at} ({RUN}/steps/" in log
    after = [m["loss"] for m in read_metrics(RUN)]
    assert len(after) == 12
    assert after[:at] == before[:at]
    assert steps_of(RUN) == [12]
    starts = storage.read_text(f"{RUN}/starts.jsonl").splitlines()
    assert [json.loads(s)["from_step"] for s in starts] == [0, at]

    export(RUN, tmp_path / "export", None, "fp32")
    assert len(verify_export(RUN, tmp_path / "export")) > 10
    assert storage.exists(write_report(RUN))
    assert replay(RUN, 5).damaged == []
    config = load_config(
        PretrainConfig, "configs/demo.yaml", ["run.dir=s3://lab/runs", "run.name=r"]
    )
    with pytest.raises(ResumeMismatch, match="the run exists"):
        find_start(config, "never")
