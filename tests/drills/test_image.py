"""What docker/Dockerfile does, done in a plain Debian of a folder: no Docker engine is needed.

Its base is what debootstrap makes; steps run as its users, in its folders, with its variables.
The stage that compiles flash-attn is left out.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from dockerfile import instructions
from launching import ROOT, SMALL

pytestmark = [pytest.mark.drill, pytest.mark.timeout(3600)]
TOOLS = ("debootstrap", "unshare", "chroot")


class Image:
    """A file system that instructions are carried out in.

    Attributes:
        variables: Of ENV and ARG.
    """

    def __init__(self, root: Path):
        self.root, self.user, self.folder = root, "root", "/"
        self.variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.told: dict[str, str] = {}

    def run(self, command: list[str]) -> str:
        """What a command in it prints, as its user; mounts are gone afterwards."""
        mounts = ["mount -t proc proc {0}/proc", "mount --rbind /dev {0}/dev"]
        mounts += [f"mount --bind {shlex.quote(str(f))} {{0}}{f}" for f in pip_folders()]
        for folder in pip_folders():
            (self.root / str(folder)[1:]).mkdir(parents=True, exist_ok=True)
        inner = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        chroot = ["chroot", f"--userspec={self.user}", str(self.root), "sh", "-c", inner]
        script = " && ".join([*(m.format(self.root) for m in mounts), f"exec {shlex.join(chroot)}"])
        done = subprocess.run(
            ["unshare", "--mount", "--fork", "sh", "-c", script],
            env={**pip_settings(), "HOME": f"/home/{self.user}", **self.variables},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def carry_out(self, name: str, words: str) -> None:
        if name in ("ENV", "ARG"):
            for pair in shlex.split(words):
                key, _, value = pair.partition("=")
                self.variables[key] = value.replace("$PATH", self.variables["PATH"])
        elif name == "USER":
            self.user = words
        elif name == "WORKDIR":
            self.folder = words
            (self.root / words[1:]).mkdir(parents=True, exist_ok=True)
        elif name == "RUN" and "--mount" not in words:
            self.run(["sh", "-c", words])
        elif name == "COPY":
            *sources, _ = [word for word in words.split() if not word.startswith("--")]
            owner = re.search(r"--chown=(\S+)", words)
            self.copy(sources, owner[1] if owner else "root:root")
        else:
            self.told[name] = words

    def copy(self, sources: list[str], owner: str) -> None:
        """Files that git knows, into the folder of now."""
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *sources]
        files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for file in filter(None, files.split("\0")):
            if (ROOT / file).is_file():
                there = self.root / self.folder[1:] / file
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, there)
        user, self.user = self.user, "root"
        self.run(["chown", "-R", owner, self.folder])
        self.user = user


def pip_settings() -> dict[str, str]:
    """What pip is told on this machine, as variables; torch of CPUs where it has that one."""
    told = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    return told | {key: value for key, value in os.environ.items() if key.upper() in names}


def pip_folders() -> list[Path]:
    """Folders that these settings name."""
    found = [Path(word) for value in pip_settings().values() for word in value.split()]
    return [folder for folder in found if folder.is_absolute() and folder.is_dir()]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    if os.geteuid() or lacking:
        pytest.skip(f"needs root and {', '.join(TOOLS)} (apt-get install debootstrap)")
    root = tmp_path_factory.mktemp("image")
    root.chmod(0o755)
    subprocess.run(
        ["debootstrap", "--variant=minbase", "bookworm", str(root), "http://deb.debian.org/debian"],
        check=True,
        capture_output=True,
    )
    for file in ("etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("/", file), root / file)
    made = Image(root)
    for name, words in instructions(last_stage=True):
        made.carry_out(name, words)
        if "ca-certificates" in words:  # its package wrote those of Debian alone
            shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs")
    yield made
    shutil.rmtree(root, ignore_errors=True)


def test_the_image_is_whole_and_trains_as_its_user(image):
    entry = json.loads(image.told["ENTRYPOINT"])
    assert image.run([*entry, "sh", "-c", "id -un; pwd"]).split() == ["ndt3", "/opt/ndt3_dist"]
    assert "pretrain" in image.run([*entry, *json.loads(image.told["CMD"])])
    health = json.loads(image.told["HEALTHCHECK"].partition("CMD ")[2])
    assert "torch 2.13" in image.run([*entry, *health])
    simulate = ["python", "data_prep/simulate.py", "/data/nwb", "--sessions", "1", "--minutes", "1"]
    image.run([*entry, *simulate, "--seed", "0"])
    prepare = ["python", "data_prep/preprocess.py", "--recipe", "nwb.yaml", "source=/data/nwb"]
    prepare += ["out=/data/corpus", "dataset=t"]
    image.run([*entry, *prepare, "covariates.path=processing/behavior/Velocity/cursor_vel"])
    train = ["deepspeed", "-q", "--num_accelerators", "2", "launch/pretrain.py"]
    train += ["--config", "demo.yaml", "data.corpus=/data/corpus", "run.dir=/data", *SMALL]
    assert "done: 2 steps" in image.run([*entry, *train, "train.max_steps=2"])
    assert (image.root / "data" / "demo" / "starts.jsonl").stat().st_uid == 1000
