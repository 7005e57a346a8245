"""launch/kubernetes.yaml by the API's own schema, and by what hangs together in it."""

import re

import kubernetes_validate
import pytest
import yaml
from launching import ROOT

FILE = ROOT / "launch" / "kubernetes.yaml"


@pytest.fixture
def parts() -> dict[str, dict]:
    """Kind -> object."""
    return {part["kind"]: part for part in yaml.safe_load_all(FILE.read_text())}


def test_the_api_knows_every_field(parts):
    for part in parts.values():
        kubernetes_validate.validate(part, "1.31", strict=True)
    parts["Job"]["spec"]["completionmode"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError, match="completionmode"):
        kubernetes_validate.validate(parts["Job"], "1.31", strict=True)


def test_pods_find_the_first_one_and_numbers_agree(parts):
    job, service = parts["Job"], parts["Service"]
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert environment["FIRST"] == f"{name}-0.{pod['subdomain']}"
    assert f"--master-port={service['spec']['ports'][0]['port']}" in container["args"]
    assert spec["completions"] == spec["parallelism"] == int(environment["NODES"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == int(environment["GPUS"])
    named = {*re.findall(r"\$\((\w+)\)", " ".join(container["args"]))}
    assert named == {*environment, "JOB_COMPLETION_INDEX"}
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    waits = next(word for word in container["args"] if word.startswith("--shutdown-timeout="))
    assert 90 < int(waits.partition("=")[2]) < pod["terminationGracePeriodSeconds"]


def test_no_key_is_in_it_and_nothing_runs_as_root(parts):
    pod = parts["Job"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"]
    assert not pod["automountServiceAccountToken"]
    for line in FILE.read_text().splitlines():
        assert not re.search(r"(?i)(secret|key|token|password)\w*:\s*\S{8}", line), line
