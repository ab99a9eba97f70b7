"""Who trains together: what TensorFlow's resolvers make of each kind of cluster's environment."""

import json
import pathlib
import re
import socket
import subprocess
import sys
import types

import kubernetes_validate
import pytest
import yaml

from kerasllm.training.clusters import cluster
from kerasllm.training.strategies import is_chief

KITS = pathlib.Path(__file__).parents[1] / "export" / "cluster"
WORKERS = [f"kerasllm-{i}.kerasllm:2222" for i in range(4)]


def task(resolver):
    return resolver.task_type, resolver.task_id, resolver.cluster_spec().as_dict()


def chief(resolver):
    return is_chief(types.SimpleNamespace(cluster_resolver=resolver))


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No cluster, but for what a test sets."""
    for name in ("TF_CONFIG", "SLURMD_NODENAME", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)


def test_tf_config(monkeypatch):
    place = {"cluster": {"worker": WORKERS}, "task": {"type": "worker", "index": 2}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(place))
    assert task(cluster()) == ("worker", 2, {"worker": WORKERS})
    assert not chief(cluster())


@pytest.mark.parametrize(
    ("kind", "index", "jobs", "is_it"),
    [
        ("worker", 0, ("worker",), True),
        ("worker", 1, ("worker",), False),
        ("worker", 0, ("chief", "worker", "ps"), False),
        ("chief", 0, ("chief", "worker", "ps"), True),
        ("ps", 0, ("chief", "worker", "ps"), False),
    ],
)
def test_one_is_the_chief(monkeypatch, kind, index, jobs, is_it):
    place = {"cluster": {job: ["a:1", "b:1"] for job in jobs}}
    monkeypatch.setenv("TF_CONFIG", json.dumps({**place, "task": {"type": kind, "index": index}}))
    assert chief(cluster()) is is_it


@pytest.mark.parametrize("spec", [None, "slurm"])
@pytest.mark.parametrize(("node", "local"), [("node2", 0), ("node10", 1), ("gpu7", 0)])
def test_slurm(monkeypatch, spec, node, local):
    monkeypatch.setenv("SLURM_PROCID", "7")  # not the place in the resolver's order
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "6")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[2,10],gpu7")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2(x3)")
    monkeypatch.setenv("SLURMD_NODENAME", node)
    monkeypatch.setenv("SLURM_LOCALID", str(local))
    kind, index, jobs = task(cluster(spec))
    assert kind == "worker"
    assert len(set(jobs["worker"])) == 6
    assert jobs["worker"][index] == f"{node}:{8888 + local}"


def pods(*addresses):
    """A client that finds these pods, as TensorFlow asks it."""
    running = [
        types.SimpleNamespace(
            status=types.SimpleNamespace(phase="Running", host_ip=address, pod_ip=address),
            metadata=types.SimpleNamespace(name=f"pod {address}"),
        )
        for address in addresses
    ]
    found = types.SimpleNamespace(items=running)
    return types.SimpleNamespace(list_pod_for_all_namespaces=lambda **_: found)


def test_kubernetes_pods_agree_on_their_order(monkeypatch):
    from kerasllm.training import clusters

    monkeypatch.setitem(sys.modules, "kubernetes", types.ModuleType("kubernetes"))
    monkeypatch.setattr(clusters, "_own_addresses", lambda: {"10.0.0.2"})
    for addresses in (("10.0.0.2", "10.0.0.1"), ("10.0.0.1", "10.0.0.2")):
        found = clusters.from_kubernetes("app=train", override_client=pods(*addresses))
        wanted = {"worker": ["10.0.0.1:8470", "10.0.0.2:8470"]}
        assert task(found) == ("worker", 1, wanted)


def test_a_machine_that_is_no_worker(monkeypatch):
    from kerasllm.training import clusters

    monkeypatch.setitem(sys.modules, "kubernetes", types.ModuleType("kubernetes"))
    with pytest.raises(RuntimeError, match=rf"This machine \(.*{re.escape(socket.gethostname())}"):
        clusters.from_kubernetes(override_client=pods("192.0.2.1"))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (None, RuntimeError, r"`TF_CONFIG` must be set.*kerasllm launch"),
        ("slurm", RuntimeError, r"`SLURMD_NODENAME` must be set.*srun"),
        ("gce:project,zone", ValueError, r"must say which instance group: gce:PROJECT,ZONE,GROUP"),
        ("cloud", ValueError, r"`cluster` must be one of tf_config, slurm, kubernetes, gce.*cloud"),
    ],
)
def test_there_is_none(spec, error, message):
    with pytest.raises(error, match=message):
        cluster(spec)


@pytest.mark.parametrize(
    ("spec", "module"), [("kubernetes:a=b", "kubernetes"), ("gce:a,b,c", "googleapiclient")]
)
def test_the_clients_package_must_be_installed(monkeypatch, spec, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"`cluster` needs the package .*pip install"):
        cluster(spec)


# ------------------------------------------------------------------------ the kits in export/


def documents(name):
    return list(yaml.safe_load_all((KITS / name).read_text()))


def test_kubernetes_kit_is_valid():
    for each in documents("kubernetes.yaml"):
        kubernetes_validate.validate(each, "1.30", strict=True)


def test_kubernetes_kit_gives_each_pod_its_place(monkeypatch):
    service, job = documents("kubernetes.yaml")
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completions"] == spec["parallelism"] == len(WORKERS)
    variables = {each["name"]: each for each in pod["containers"][0]["env"]}
    assert list(variables) == ["INDEX", "TF_CONFIG"]  # in this order, to be filled in
    for i in range(len(WORKERS)):
        monkeypatch.setenv("TF_CONFIG", variables["TF_CONFIG"]["value"].replace("$(INDEX)", str(i)))
        assert task(cluster()) == ("worker", i, {"worker": WORKERS})


def test_kubeflow_kit_is_valid():
    (job,) = documents("kubeflow.yaml")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "TFJob")
    assert job["spec"].keys() == {"runPolicy", "tfReplicaSpecs"}
    worker = job["spec"]["tfReplicaSpecs"]["Worker"]
    assert worker.keys() == {"replicas", "restartPolicy", "template"}
    assert worker["template"]["spec"]["containers"][0]["name"] == "tensorflow"
    template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "worker"}}
    template["template"] = worker["template"]
    kubernetes_validate.validate(template, "1.30", strict=True)


def test_slurm_kit_is_a_script():
    subprocess.run(["bash", "-n", str(KITS / "slurm.sh")], check=True)


@pytest.mark.parametrize("name", ["kubernetes.yaml", "kubeflow.yaml", "slurm.sh"])
def test_commands_of_the_kits_are_understood(name):
    from click.testing import CliRunner

    from kerasllm.cli import main

    if name.endswith(".sh"):
        text = (KITS / name).read_text().replace("\\\n", " ")
        arguments = re.search(r"kerasllm (train .*?) \|\|", text, re.DOTALL).group(1).split()
    else:
        spec = documents(name)[-1]["spec"]
        spec = spec["tfReplicaSpecs"]["Worker"] if "tfReplicaSpecs" in spec else spec
        arguments = spec["template"]["spec"]["containers"][0]["args"]
    done = CliRunner().invoke(main, [*arguments, "--help"])
    assert done.exit_code == 0, done.output
    context = main.commands["train"].make_context("train", arguments[1:])
    assert context.params["strategy_name"] == "multi_worker_mirrored"
    assert context.params["backup"]
