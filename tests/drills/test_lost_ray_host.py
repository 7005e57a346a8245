"""A host of a Ray cluster that is lost with results on it."""

import json
import os
import subprocess
import sys

LOST = """
import json, os, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from ndt3_dist.prep.pool import ray_pool
from ndt3_dist.prep.recipe import Recipe

def task(folder, number):
    (folder / f"{number}-{os.getpid()}").touch()
    return bytes(1_000_000)  # ten times what Ray sends along with a task's end

folder = Path(sys.argv[1])
cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
lost = cluster.add_node(num_cpus=1)
with ray_pool(Recipe(dataset="t", ray_address=cluster.address), 6) as run_all:
    running = run_all(task, [(folder, number) for number in range(6)])
    done = [next(running)]
    while len(list(folder.iterdir())) < 6:
        time.sleep(0.1)
    time.sleep(1)
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    done += running
print(json.dumps([[number, len(result)] for number, result in done]))
cluster.shutdown()
"""


def test_results_that_a_lost_host_kept_are_made_again(tmp_path):
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "disabled"}
    ran = subprocess.run(
        [sys.executable, "-c", LOST, str(tmp_path)],
        env={**os.environ, **loopback},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr
    done = json.loads(ran.stdout.splitlines()[-1])
    assert sorted(done) == [[number, 1_000_000] for number in range(6)]
    assert len(list(tmp_path.iterdir())) > 6  # some of them twice, by another process
