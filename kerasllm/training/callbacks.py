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


def _figures(logs):
    return ", ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
