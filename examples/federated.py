"""Federated fine-tuning with Flower: each client trains on rows of its own, which never leave it.

In each round every client trains the model that it gets for an epoch, and sends back weights, of
which the server takes the mean, each counted by its rows (McMahan et al. 2017,
"Communication-Efficient Learning of Deep Networks from Decentralized Data", algorithm 1). Here the
clients are processes of this machine, as Flower's simulation starts them; the same two apps run on
many machines under `flwr run`.

    pip install 'flwr[simulation]'
    python examples/federated.py MODEL sst2/train.txt sst2/test.txt --clients 4 --rounds 3
"""

import argparse

import keras
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from kerasllm import TextClassifier, evaluate, fit, read_rows
from kerasllm.data.rows import label_names


def new_model(options):
    """The model that all begin with."""
    keras.utils.set_random_seed(options.seed)
    labels = label_names(read_rows(options.train))
    return TextClassifier.from_pretrained(options.model, labels=labels, fresh_head=True)


def own_rows(options, client, clients):
    """The rows that one client alone sees: every so many-th."""
    return read_rows(options.train)[client::clients]


def client_app(options):
    """What runs where the rows are."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        place = context.node_config
        rows = own_rows(options, int(place["partition-id"]), int(place["num-partitions"]))
        model = new_model(options)  # not kept from round to round: Ray could not copy it
        model.set_weights(message.content["arrays"].to_numpy_ndarrays())
        history = fit(
            model,
            rows,
            epochs=1,
            learning_rate=options.learning_rate,
            warmup=0.0,
            seed=int(message.content["config"]["server-round"]),
            progress=False,
        )
        found = {"loss": history["loss"][-1], "num-examples": len(rows)}
        content = {"arrays": ArrayRecord(model.get_weights()), "metrics": MetricRecord(found)}
        return Message(content=RecordDict(content), reply_to=message)

    return app


def server_app(options):
    """What puts the clients' weights together, and says how good the mean is."""
    app = ServerApp()

    @app.main()
    def main(grid, context):
        model, test = new_model(options), read_rows(options.test)

        def evaluation(round_number, arrays):
            model.set_weights(arrays.to_numpy_ndarrays())
            accuracy = evaluate(model, test).accuracy
            print(f"round {round_number}: accuracy {accuracy:.4f} on {options.test}", flush=True)
            return MetricRecord({"accuracy": accuracy})

        mean = FedAvg(fraction_evaluate=0.0, min_available_nodes=options.clients)
        mean.start(
            grid=grid,
            initial_arrays=ArrayRecord(model.get_weights()),
            num_rounds=options.rounds,
            evaluate_fn=evaluation,
        )

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="Folder in Hugging Face's layout, or a name on its hub.")
    parser.add_argument("train", help="Rows, for `kerasllm.read_rows`.")
    parser.add_argument("test", help="Rows, for `kerasllm.read_rows`.")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run_simulation(
        server_app=server_app(options),
        client_app=client_app(options),
        num_supernodes=options.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
