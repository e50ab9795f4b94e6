"""A HyperModel of somebody's own that hangs once at each place and in each way that HANG names."""

import ctypes
import os
import threading
import time

import keras
import keras_tuner

HANGS = os.environ.get("HANG", "").split(", ")  # such as `build sleep, callback native`
BUILT: list[int] = []


def sleep_on():
    time.sleep(3600)


def loop_and_catch_all_errors():
    while True:
        try:
            int("no number")
        except Exception:
            continue


def wait_in_native_code():
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # signals do not end this wait


def hold_the_interpreter():
    """Sleep without letting other threads run; a signal ends it."""
    ctypes.PyDLL(None).sleep(3600)


WAYS = {
    "sleep": sleep_on,
    "loop": loop_and_catch_all_errors,
    "native": wait_in_native_code,
    "holding": hold_the_interpreter,
}


def hang_once(place):
    """Hang in each way that is named for this place and in which no trial has hung before."""
    for hang in HANGS:
        if not hang.startswith(place):
            continue
        try:
            os.close(os.open(f"has_hung {hang}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        WAYS[hang.split()[1]]()


class Hanging(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        hang_once("callback")


class Net(keras_tuner.HyperModel):
    def __init__(self, image_shape, n_classes):
        super().__init__()
        self.image_shape, self.n_classes = image_shape, n_classes

    def build(self, hp):
        hang_once("probe")
        BUILT.append(threading.get_ident())
        if len(BUILT) > 2:  # the first two are built to find mistakes and changes of the code
            hang_once("build")
        layers = [keras.layers.Input(self.image_shape), keras.layers.Flatten()]
        layers += [
            keras.layers.Dropout(0.1),
            keras.layers.Dense(self.n_classes, activation="softmax"),
        ]
        model = keras.Sequential(layers)
        rate = hp.Float("learning_rate", 1e-4, 1e-3, sampling="log")
        model.compile(
            keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        return model


class OwnFit(Net):
    def fit(self, hp, model, *args, callbacks=(), **more):
        if len(more["y"]) > 100:  # no few of them, on which a model is tried before the search
            callbacks = [*callbacks, Hanging()]
        return model.fit(*args, callbacks=callbacks, **more)
