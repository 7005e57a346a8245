"""docker/Dockerfile and docker/compose.yaml: what they copy is there, and they hold no secret."""

import re
import subprocess

import yaml
from dockerfile import instructions
from launching import ROOT

FOLDER = ROOT / "docker"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())


def test_what_is_copied_is_there_and_kept_out_of_the_image_are_its_keys():
    copied = [words for name, words in instructions() if name == "COPY"]
    assert len(copied) == 3
    for words in copied:
        *sources, _ = [word for word in words.split() if not word.startswith("--")]
        assert sources
        for source in sources:
            assert (ROOT / source).exists(), words
    assert "docker/*.env" in (ROOT / ".dockerignore").read_text().splitlines()
    ignored = subprocess.run(["git", "check-ignore", "-q", "docker/s3.env"], cwd=ROOT)
    assert ignored.returncode == 0


def test_the_image_is_not_roots_and_says_whether_it_is_well():
    last = instructions(last_stage=True)
    assert [words for name, words in last if name == "USER"] == ["ndt3"]
    (health,) = [words for name, words in last if name == "HEALTHCHECK"]
    assert health.endswith('CMD ["ndt3", "--version"]')
    (entry,) = [words for name, words in last if name == "ENTRYPOINT"]
    script = FOLDER / entry.strip('[]"').rpartition("/")[2]
    assert script.stat().st_mode & 0o111
    assert all("devel" not in words for name, words in last if name == "FROM")


def test_no_secret_is_written_down():
    named = re.compile(r"(?i)(secret|password|token|_key)\w*[\"']?\s*[:=]\s*(\S+)")
    for file in (FOLDER / "Dockerfile", FOLDER / "compose.yaml", FOLDER / "s3.env.example"):
        lines = [
            line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")
        ]
        for found in (named.search(line) for line in lines):
            assert not found or "${AWS_" in found[2], (file, found[0])


def test_the_store_is_reached_from_this_machine_alone():
    services = COMPOSE["services"]
    assert [port for s in services.values() for port in s.get("ports", [])] == [
        "127.0.0.1:9000:9000"
    ]
    assert services["ndt3"]["environment"]["AWS_ENDPOINT_URL"] == "http://s3:9000"
    assert "network_mode" not in str(services)
    built = services["ndt3"]["build"]
    assert (FOLDER / built["context"] / built["dockerfile"]).is_file()
    assert services["gpu"]["extends"] == "ndt3"
    volumes = {volume.partition(":")[0] for volume in services["s3"]["volumes"]}
    assert volumes == {*COMPOSE["volumes"]}
