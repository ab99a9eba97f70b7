"""Which machines train together, and which of them this one is: TensorFlow's cluster resolvers."""

import os
import socket

import tensorflow as tf

resolvers = tf.distribute.cluster_resolver


def from_tf_config():
    """The cluster in the variable `TF_CONFIG`, as Kubeflow and `kerasllm launch` set it."""
    if not os.environ.get("TF_CONFIG"):
        raise RuntimeError(
            "`TF_CONFIG` must be set to the cluster's JSON. Received: nothing "
            "(`kerasllm launch --workers 2 -- train …` sets it, for a trial on one machine)."
        )
    return resolvers.TFConfigClusterResolver()


def from_slurm():
    """The tasks of this Slurm step, as workers."""
    missing = [name for name in ("SLURMD_NODENAME", "SLURM_LOCALID") if name not in os.environ]
    if missing:
        raise RuntimeError(
            f"`{missing[0]}` must be set: start the program with `srun` in a Slurm job. "
            "Received: nothing."
        )
    # Which GPUs a process sees is left to Slurm: one for each task, of as many as there may be.
    resolver = resolvers.SlurmClusterResolver(
        gpus_per_node=1024, gpus_per_task=1, auto_set_gpu=False
    )
    # The resolver takes nodes in the order of their names, Slurm in that of their numbers, so a
    # task must not go by its rank.
    jobs = resolver.cluster_spec().as_dict()
    return _with_own_index(jobs, {os.environ["SLURMD_NODENAME"]}, int(os.environ["SLURM_LOCALID"]))


def from_kubernetes(selector="job-name=kerasllm", port=8470, **client):
    """All running pods with a label, as workers.

    Args:
        selector: str, the label, `key=value`.
        port: int, that they listen on.
        **client: of `KubernetesClusterResolver`.
    """
    _check_package("kubernetes", "kubernetes")
    resolver = resolvers.KubernetesClusterResolver(
        {"worker": [selector]}, tf_server_port=int(port), **client
    )
    return _with_own_index(resolver.cluster_spec().as_dict(), _own_addresses())


def from_gce(project=None, zone=None, group=None, port=8470, **client):
    """All instances of a Google Compute Engine instance group, as workers.

    Args:
        project, zone, group: str, which group.
        port: int, that they listen on.
        **client: of `GCEClusterResolver`.
    """
    if not (project and zone and group):
        raise ValueError(
            "`cluster` must say which instance group: gce:PROJECT,ZONE,GROUP. "
            f"Received: project={project!r}, zone={zone!r}, group={group!r}."
        )
    _check_package("googleapiclient", "google-api-python-client")
    resolver = resolvers.GCEClusterResolver(project, zone, group, int(port), **client)
    return _with_own_index(resolver.cluster_spec().as_dict(), _own_addresses())


CLUSTERS = {
    "tf_config": from_tf_config,
    "slurm": from_slurm,
    "kubernetes": from_kubernetes,
    "gce": from_gce,
}


def cluster(spec=None):
    """Find out which machines train together.

    Args:
        spec: str or None: a name in `CLUSTERS`, and after a colon what it wants to know, with
            commas between: `"kubernetes:job-name=train"`, `"gce:project,zone,group"`. None for
            Slurm inside a Slurm step without `TF_CONFIG`, and for `TF_CONFIG` elsewhere.

    Returns:
        `tf.distribute.cluster_resolver.ClusterResolver`.

    Raises:
        ImportError: the cluster's client is not installed.
        RuntimeError: this process is in no such cluster.
        ValueError: no such name.
    """
    if spec is None:
        in_slurm = "SLURM_LOCALID" in os.environ and not os.environ.get("TF_CONFIG")
        spec = "slurm" if in_slurm else "tf_config"
    name, _, details = spec.partition(":")
    if name not in CLUSTERS:
        raise ValueError(f"`cluster` must be one of {', '.join(CLUSTERS)}. Received: {spec!r}.")
    return CLUSTERS[name](*[detail for detail in details.split(",") if detail])


def _with_own_index(jobs, own, number=0):
    """A resolver for workers that know their own machine's addresses, not their place.

    All must agree on an order, so they are sorted; `number` counts those of one machine.
    """
    workers = sorted(jobs["worker"])
    found = [i for i, worker in enumerate(workers) if worker.rpartition(":")[0] in own]
    if len(found) <= number:
        raise RuntimeError(
            f"This machine ({', '.join(sorted(own))}) must be one of the cluster's workers. "
            f"Received: {', '.join(workers)}."
        )
    return resolvers.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": workers}),
        task_type="worker",
        task_id=found[number],
        rpc_layer="grpc",
    )


def _own_addresses():
    name = socket.gethostname()
    try:
        return {name, *socket.gethostbyname_ex(name)[2]}
    except OSError:  # a name that nobody knows
        return {name}


def _check_package(module, package):
    try:
        __import__(module)
    except ImportError:
        raise ImportError(
            f"`cluster` needs the package `{package}`, which is not installed "
            f"(pip install {package})."
        ) from None
