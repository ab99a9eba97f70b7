"""What happens while a model is trained."""

import sys

import keras
import tqdm


class Progress(keras.callbacks.Callback):
    """One progress bar an epoch on stderr, with the running loss and metrics, and a last line each.

    Example:
        >>> model.fit(data, verbose=0, callbacks=[Progress()])
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._bar = tqdm.tqdm(
            total=self.params.get("steps"),
            desc=f"epoch {epoch + 1}/{self.params['epochs']}",
            unit="batch",
            file=sys.stderr,
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 30,  # a log file wants few lines
        )

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update()
        if batch % 10 == 0:
            self._bar.set_postfix_str(_figures(logs), refresh=False)

    def on_epoch_end(self, epoch, logs=None):
        self._bar.set_postfix_str(_figures(logs), refresh=False)
        self._bar.close()


class BestEpoch(keras.callbacks.EarlyStopping):
    """Keeps the weights of the best epoch, and can say what it has seen, for a checkpoint.

    Args:
        monitor: str, name of the figure that is best.
        patience: int, epochs without a better one after which training ends.

    Example:
        >>> model.fit(data, validation_data=data, callbacks=[BestEpoch("val_loss", 3)])
    """

    def __init__(self, monitor, patience):
        super().__init__(monitor, patience=patience, restore_best_weights=True, mode="auto")

    def seen(self):
        """The pair of a dict of numbers, and the list of the best epoch's weights (or none)."""
        best = None if self.best is None else float(self.best)
        numbers = {"wait": self.wait, "best": best, "best_epoch": self.best_epoch}
        return numbers, self.best_weights or []

    def go_on(self, numbers, weights):
        """Go on from what `seen` gave."""
        for name, value in numbers.items():
            setattr(self, name, value)
        self.best_weights = weights or None


def _figures(logs):
    return ", ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
