"""Where a model is trained: `tf.distribute` strategies by name."""

import contextlib

import tensorflow as tf

from kerasllm.training.clusters import cluster as find_cluster
from kerasllm.training.keras_mends import mend


def _default(devices, cluster):
    """One device, whichever TensorFlow takes."""
    return tf.distribute.get_strategy()


def _one_device(devices, cluster):
    """One device, the first GPU or else the CPU."""
    return tf.distribute.OneDeviceStrategy(_local_devices(1)[0])


def _mirrored(devices, cluster):
    """All GPUs of this machine, or where there are none, its logical CPUs."""
    return tf.distribute.MirroredStrategy(_local_devices(devices))


def _multi_worker_mirrored(devices, cluster):
    """All GPUs (or the CPU) of every worker of a cluster."""
    return tf.distribute.MultiWorkerMirroredStrategy(find_cluster(cluster))


def _parameter_server(devices, cluster):
    """Workers that compute, and servers that hold the variables; the chief deals out the work."""
    resolver = find_cluster(cluster)
    if resolver.task_type in ("worker", "ps"):
        _serve(resolver)
    missing = {"ps", "worker"} - set(resolver.cluster_spec().jobs)
    if missing:
        raise RuntimeError(
            "The cluster must have tasks `chief`, `worker` and `ps`. Received: "
            f"{resolver.cluster_spec().as_dict()}."
        )
    return tf.distribute.ParameterServerStrategy(resolver)


def _serve(resolver):
    """Do what the chief asks for, until this process is ended."""
    server = tf.distribute.Server(
        resolver.cluster_spec(),
        job_name=resolver.task_type,
        task_index=resolver.task_id,
        protocol=resolver.rpc_layer or "grpc",
        start=True,
    )
    server.join()


def _central_storage(devices, cluster):
    """All GPUs of this machine (or its logical CPUs), with the variables on the CPU."""
    return tf.distribute.experimental.CentralStorageStrategy(
        _local_devices(devices), parameter_device="CPU:0"
    )


def _tpu(devices, cluster):
    """All cores of a TPU."""
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(cluster or "")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RuntimeError(
            f"There must be a TPU for the strategy `tpu`. Received: {reason}"
        ) from None
    return tf.distribute.TPUStrategy(resolver)


STRATEGIES = {
    "default": _default,
    "one_device": _one_device,
    "mirrored": _mirrored,
    "multi_worker_mirrored": _multi_worker_mirrored,
    "parameter_server": _parameter_server,
    "central_storage": _central_storage,
    "tpu": _tpu,
}


def strategy(name="default", *, devices=None, cluster=None):
    """Return the strategy of a name. Make the model in its scope; `fit` then uses it by itself.

    What Keras gets wrong under strategies is mended by this call; see `keras_mends`.

    Args:
        name: str, one of `STRATEGIES`. Under `parameter_server`, this call returns on the chief
            alone; workers and servers do what it asks for until they are ended.
        devices: int or None: how many devices of this machine `mirrored` and `central_storage` use,
            GPUs or, where there are none, parts of the CPU; None for all there are.
        cluster: str or None: where `multi_worker_mirrored` and `parameter_server` find their
            cluster, see `clusters.cluster`; for `tpu`, the TPU's name or address.

    Returns:
        `tf.distribute.Strategy`.

    Raises:
        ImportError: the cluster's client is not installed.
        RuntimeError: this machine can't run it; the message says why.
        ValueError: no such strategy or cluster.

    Example:
        >>> with strategy("mirrored").scope():
        ...     model = BertClassifier(2, "bert_tiny")
    """
    if name not in STRATEGIES:
        raise ValueError(f"`name` must be one of {', '.join(STRATEGIES)}. Received: {name!r}.")
    found = STRATEGIES[name](devices, cluster)
    mend()
    return found


def strategy_of(model):
    """Return the strategy that a model was made under.

    Args:
        model: `keras.Model`.

    Returns:
        `tf.distribute.Strategy`.
    """
    # Keras' other backends know no strategies.
    return getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()


def is_chief(strategy):
    """Whether this process is the one of a cluster that writes files and draws progress.

    Args:
        strategy: `tf.distribute.Strategy`.

    Returns:
        bool. True without a cluster.
    """
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type in (None, "", "chief", "master"):
        return True
    jobs = resolver.cluster_spec().jobs
    return resolver.task_type == "worker" and resolver.task_id == 0 and "chief" not in jobs


def _local_devices(count):
    """Names of `count` local devices, GPUs if there are any; None for all."""
    gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
    found = gpus or _cpus(count)
    if count is not None and len(found) < count:
        raise RuntimeError(
            f"`devices` must be at most {len(found)}, as many as this machine has. "
            f"Received: {count}."
        )
    return [device.name for device in found[:count]]


def _cpus(count):
    """The logical CPUs; the one CPU there is is cut into `count` of them first."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    if count is not None and tf.config.get_logical_device_configuration(cpu) is None:
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        with contextlib.suppress(RuntimeError):  # if TensorFlow has started, with what it found
            tf.config.set_logical_device_configuration(cpu, parts)
    return tf.config.list_logical_devices("CPU")
