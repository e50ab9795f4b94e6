"""One net with one batch size: trials one after the other, K fused in one program, Keras's fit, and
a step alone.

A trial has ten epochs of 45,000 random images and is validated on 5,000 after each. Compiling is
left out for all arms, to the favour of Keras's fit, which compiles anew for each model. What is
fused runs below the command line: `FusedProgram` is used as `FusedTrainer` uses it. Not all steps
of a fused epoch are made, only up to N_STEPS of them, or MOST_FLOPS. The time of a step is the
difference to an epoch without steps, divided by their number, and the time of the epoch is computed
from it. The smaller batch that ends an epoch belongs to what is not left out: an epoch without
steps trains it, and then validates. Times that are not of whole epochs are medians of N_REPEATS.

Programs are proved as a study does it: that of a trial alone once, before its first fit; that of
fused trials once, at the smallest K and after its first epoch, so that several can be compiled at a
time.

The process prepares, writes `is_ready` into its result, waits for a line on its standard input, and
measures.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

from gpu_parts.result import Result, command_line, device, peak_bytes, seconds
from hpsearch.cli import entry
from rows import versions

entry.prepare_environment()

import jax  # noqa: E402 (the environment that the product makes comes first)
import jax.numpy as jnp  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402

from gpu_parts.nets import EPOCHS, configuration, hyperparameters, images, product_flops  # noqa: E402
from hpsearch.seeds import derive  # noqa: E402
from hpsearch.training.epochs import Work  # noqa: E402
from hpsearch.training.fused import FusedProgram, FusedTrainer  # noqa: E402
from hpsearch.training.how_trained import structure_of  # noqa: E402
from hpsearch.training.programs.order import Order  # noqa: E402
from hpsearch.training.programs.program import jax_variables  # noqa: E402
from hpsearch.training.settings import VAL_BATCH_SIZE  # noqa: E402
from hpsearch.training.trainer import Trainer  # noqa: E402
from parts import hypermodel, part  # noqa: E402

KS, KS_SMALL = (8, 32, 64, 128), (2,)
EPOCHS_OF_A_TRIAL = 10
N_STEPS = 300  # of a timed epoch, at most
MOST_FLOPS, MOST_FLOPS_SMALL = 2e13, 1e9  # of a timed epoch
LEAST_STEPS = 4  # of a timed epoch, whatever they cost
N_REPEATS = 3
N_COMPILING = 4  # programs at a time
# Fused programs of dense nets are compiled beforehand, several at a time. Those of convolutional
# nets are compiled when their turn comes: XLA tries out many algorithms for each convolution, which
# takes minutes and gigabytes of the GPU.
COMPILED_AHEAD = ("elu",)
WHOLE_FITS = ("elu", 128, 8)  # the arm that is also trained by FusedTrainer.fit from threads
Row = dict[str, Any]


class Arm:
    """A net with a batch size, prepared.

    Args:
        arch: The architecture.
        batch_size: Examples of a step.
        small: Whether the net is tiny.
    """

    def __init__(self, arch: str, batch_size: int, small: bool) -> None:
        self.arch, self.batch_size = arch, batch_size
        self.ks = KS_SMALL if small else KS
        self.data = images(small)
        config = configuration(arch, batch_size, small)
        self.settings = part(config.training)
        self.hypermodel = hypermodel(config, self.data)
        self.trainer = Trainer(self.settings, self.data)
        self.fused: dict[int, FusedTrainer] = {}
        self.is_fusion_proved = False
        self.most_flops = MOST_FLOPS_SMALL if small else MOST_FLOPS
        self.counts: Row = {}
        _, self.as_it_comes = self.build()  # what Keras's fit trains

    def prepare(self, result: Result) -> None:
        """Prove and compile what is measured later, several programs at a time."""
        proof_s = seconds(self.prove)
        ahead = self.ks if self.arch in COMPILED_AHEAD else ()
        with ThreadPoolExecutor(N_COMPILING) as pool:
            compiling = {k: pool.submit(self.compile, k, self.lowered(k)) for k in ahead}
            fit_s = seconds(lambda: self.fit_seconds(self.trainer))
            result.set(proof_s=proof_s, first_fit_s=proof_s + fit_s)
            self.counts = counted(self)
            result.set(first_keras_fit_s=seconds(self.keras_epoch))
            result.set(compiling_s={f"K = {k}": future.result() for k, future in compiling.items()})

    def build(self, number: int = 0) -> tuple[Any, keras.Model]:
        """Return the hyperparameters and the freshly built model of a trial."""
        hp = hyperparameters(number)
        return hp, self.hypermodel.build(hp)

    def order(self, seed: int) -> Order:
        """Return the order of the examples of a trial."""
        return Order(
            len(self.data.train), self.batch_size, 0, lambda epoch: derive(seed, "order", epoch)
        )

    def work(self) -> Work:
        """Return the work of a trial that nobody listens to."""
        return Work(self.hypermodel, *self.build(), 0, self.order(0))

    def prove(self) -> None:
        """Make the program of a trial alone and prove it, as its first fit would; all trainers know
        the answer.
        """
        work = self.work()
        structure = structure_of(work.model, self.data.train.inputs)
        self.trainer._load_program(work, structure)

    def model(self) -> keras.Model:
        """Return the model that the program of a trial alone trains."""
        for program in self.trainer._programs.values():
            return program.model
        raise RuntimeError(f"The models of arch={self.arch} are not trained by a program.")

    def arguments(self, k: int) -> tuple[Any, int, Any, Any, Any]:
        """Return what `FusedProgram.run` passes for an epoch of `k` trials.

        These are the order, the number of steps, their rates, the last batch and its rates.
        """
        rows, n_steps, table, last, _, last_rates = self.order(0).element_at(0)
        of_all = [np.stack([part] * k) for part in (rows, table, last, last_rates)]
        return of_all[0], int(n_steps[0]), *of_all[1:]

    def lowered(self, k: int) -> Any:
        """Return the epoch of `k` fused trials, ready to be compiled."""
        program = self.program(k)
        return program._epoch.lower(program.state, *self.arguments(k))

    def compile(self, k: int, lowered: Any) -> float:
        """Compile the epoch of `k` fused trials, and return the seconds that took."""
        begin = time.perf_counter()
        self.program(k)._epoch = lowered.compile()
        return time.perf_counter() - begin

    def program(self, k: int) -> FusedProgram:
        """Return the program of `k` fused trials, made once; `prove_fusion` proves it."""
        if k not in self.fused:
            trainer = FusedTrainer(self.settings, self.data, k)
            trainer.remembered_proofs = self.trainer.remembered_proofs
            with patch.object(
                FusedProgram, "differs", return_value=None
            ):  # it would compile, one after the other
                fused = trainer._fused_for(self.work())
            if fused is None:
                proofs = dict(trainer.remembered_proofs)
                raise RuntimeError(f"The models of arch={self.arch} cannot be fused: {proofs}")
            self.fused[k] = trainer
        (program,) = self.fused[k]._fused.values()
        return program

    def prove_fusion(self, k: int) -> float:
        """Prove that `k` fused trials are trained like one alone, and return the seconds; 0 where
        that is known.
        """
        if self.is_fusion_proved:
            return 0.0
        begin = time.perf_counter()
        found = self.program(k).differs(self.build()[1], self.order(0))
        if found:
            raise RuntimeError(f"The models of arch={self.arch} cannot be fused: {found}")
        self.is_fusion_proved = True
        return time.perf_counter() - begin

    def fit_seconds(self, trainer: Trainer, number: int = 0) -> list[float]:
        """Return the seconds from the end of each epoch to the next, for a trial that `trainer`
        fits.
        """
        ends: list[float] = []
        hp, model = self.build(number)
        trainer.fit(
            self.hypermodel,
            hp,
            model,
            number,
            lambda *_: ends.append(time.perf_counter()),
        )
        return [later - earlier for earlier, later in itertools.pairwise(ends)]

    def keras_epoch(self) -> float:
        """Return the seconds of an epoch of Keras's fit as people call it."""
        begin: list[float] = []
        stamp = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: begin.append(time.perf_counter())
        )
        train, val = self.data.train, self.data.val
        self.as_it_comes.fit(
            train.inputs,
            train.targets,
            batch_size=self.batch_size,
            verbose=0,
            validation_data=(val.inputs, val.targets),
            callbacks=[stamp],
        )
        return time.perf_counter() - begin[0]

    def rows(self) -> Iterator[tuple[str, int, Callable[[], Row]]]:
        """Yield what each row is called, how many trials it is about, and what measures it."""
        yield "one after the other", 1, lambda: one_after_the_other(self)
        yield "step", 1, lambda: step(self)
        yield "Keras's fit", 1, lambda: keras_fit(self)
        for k in self.ks:
            yield "fused", k, lambda k=k: fused(self, k)
            if (self.arch, self.batch_size, k) == WHOLE_FITS or self.ks == KS_SMALL:
                yield "fused, whole fits in threads", k, lambda k=k: whole_fits(self, k)
            self.fused.pop(k, None)
            gc.collect()


def one_after_the_other(arm: Arm) -> Row:
    """Return the row of trials that `Trainer.fit` trains one after the other.

    An epoch's time includes keeping the weights where the epoch is the best so far.
    """
    begin = time.perf_counter()
    between = arm.fit_seconds(arm.trainer, 1)
    whole_s = time.perf_counter() - begin
    epoch_s = statistics.median(between)
    start_s = max(0.0, whole_s - EPOCHS * epoch_s)  # building and loading
    trial_s = start_s + EPOCHS_OF_A_TRIAL * epoch_s
    return {"epoch_s": epoch_s, "start_s": start_s, "trials_per_hour": 3600 / trial_s}


def keras_fit(arm: Arm) -> Row:
    """Return the row of Keras's fit."""
    epoch_s, build_s = middle(arm.keras_epoch), middle(lambda: seconds(arm.build))
    trial_s = build_s + EPOCHS_OF_A_TRIAL * epoch_s
    return {"epoch_s": epoch_s, "build_s": build_s, "trials_per_hour": 3600 / trial_s}


def state_of(model: keras.Model) -> tuple[list[Any], ...]:
    """Return copies of what a training step changes, in the form that Keras's steps take on JAX."""
    return tuple([jnp.copy(variable.value) for variable in part] for part in jax_variables(model))


def counted(arm: Arm) -> Row:
    """Return operations and bytes of one step, as the compiler counts them after it has optimized
    the step.

    The step is compiled alone, since the compiler counts the body of a loop once, however often it
    runs; and with a batch as its argument, since the compiler counts a whole array as read where
    rows are gathered from it.
    """
    model = arm.model()
    tensors = arm.trainer._on_device(model)[:2]

    def one(state: Any, images: Any, labels: Any) -> Any:
        return model.train_step(state, (images, labels))[1]

    batch = [tensor[: arm.batch_size] for tensor in tensors]
    found = jax.jit(one, donate_argnums=0).lower(state_of(model), *batch).compile().cost_analysis()
    first = found[0] if isinstance(found, list) else found
    return {
        "product_flops": product_flops(model, arm.batch_size),
        "compiled_flops": first.get("flops", 0.0),
        "compiled_bytes": first.get("bytes accessed", 0.0),
    }


def step(arm: Arm) -> Row:
    """Return the row of one trial's step: an epoch, and the same steps back to back on arguments
    that are there.

    The smaller batch at the end counts as a step.
    """
    epoch_s = statistics.median(arm.fit_seconds(arm.trainer, 2))
    model, order = arm.model(), arm.order(0)
    *first, comes, last_rates = order.element_at(0)
    element = (
        *map(jax.device_put, first),
        comes,
        jax.device_put(last_rates),
    )  # the host reads whether a batch comes
    state = state_of(model)

    def loop() -> None:
        nonlocal state
        _, state = model.train_function(state, iter([(element,)]))
        jax.block_until_ready(state)

    loop()
    loop_s = middle(lambda: seconds(loop))
    val = arm.trainer._on_device(model)[2:]
    validation_s = seconds(lambda: model.evaluate(*val, batch_size=VAL_BATCH_SIZE, verbose=0))
    n = order.n_steps
    return {
        "epoch_s": epoch_s,
        "steps": n,
        "step_s": loop_s / n,
        "loop_s": loop_s,
        "validation_s": validation_s,
        "waited_s": epoch_s - loop_s,
        **arm.counts,
    }


def fused(arm: Arm, k: int) -> Row:
    """Return the row of `k` fused trials.

    `keep_s`, `build_s` and `start_s` are of one trial; `trials_per_hour` counts `keep_s` for each
    epoch of each trial, as if each were the best so far. `steps` are those of whole batches;
    `validation_s` is what the device takes for the rest of an epoch, the smaller batch and the
    validation. `proof_s` is 0 where a smaller K has proved it.
    """
    program = arm.program(k)
    orders = {seat: arm.order(seat) for seat in range(k)}
    flops = product_flops(program.program.model, arm.batch_size) * k
    n_all = orders[0].n_whole
    n_timed = int(min(n_all, N_STEPS, max(LEAST_STEPS, arm.most_flops / flops)))
    first_s = epoch_seconds(program, orders, n_timed)
    proof_s = arm.prove_fusion(k)
    without_s = middle(lambda: epoch_seconds(program, orders, 0))
    step_s = (middle(lambda: epoch_seconds(program, orders, n_timed)) - without_s) / n_timed
    epoch_s = without_s + n_all * step_s
    val_s, start_s = validation_seconds(program, arm, k), seat_seconds(program, arm)
    build_s = middle(lambda: seconds(arm.build))
    keep_s = middle(lambda: seconds(lambda: program.get(0).state()))
    all_s = k * (build_s + start_s) + EPOCHS_OF_A_TRIAL * (epoch_s + k * keep_s)
    return {
        "epoch_s": epoch_s,
        "step_s": step_s,
        "steps": n_all,
        "steps_timed": n_timed,
        "validation_s": val_s,
        "host_s": without_s - val_s,
        "build_s": build_s,
        "start_s": start_s,
        "keep_s": keep_s,
        "first_s": first_s,
        "proof_s": proof_s,
        "product_tflop_per_s": flops / step_s / 1e12,
        "trials_per_hour": 3600 * k / all_s,
        "trials_per_hour_device": 3600 * k / (EPOCHS_OF_A_TRIAL * (val_s + n_all * step_s)),
    }


def middle(measure: Callable[[], float]) -> float:
    """Return the median of N_REPEATS measurements."""
    return statistics.median(measure() for _ in range(N_REPEATS))


def epoch_seconds(program: FusedProgram, orders: dict[int, Order], n_steps: int) -> float:
    """Return the seconds of an epoch of all seats of which only `n_steps` steps are made, and the
    smaller batch.
    """
    elements = {seat: order.element_at(0) for seat, order in orders.items()}
    plain = program._epoch
    program._epoch = lambda state, rows, _, *rest: plain(state, rows, n_steps, *rest)
    try:
        return seconds(lambda: (program.run(elements), jax.block_until_ready(program.state)))
    finally:
        program._epoch = plain


def validation_seconds(program: FusedProgram, arm: Arm, k: int) -> float:
    """Return the seconds that the device takes for an epoch without steps, its arguments being
    there already.

    It trains the smaller batch that ends an epoch, and validates.
    """
    rows, _, *rest = jax.device_put(arm.arguments(k))

    def validate() -> None:
        _, state = program._epoch(program.state, rows, 0, *rest)
        program.state = [list(values) for values in state]
        jax.block_until_ready(state)

    validate()
    return middle(lambda: seconds(validate))


def seat_seconds(program: FusedProgram, arm: Arm) -> float:
    """Return the seconds in which a freshly built trial takes its seat."""
    _, model = arm.build()

    def sit() -> None:
        program.program.load(model, lambda layer: layer)
        program.put(0)
        jax.block_until_ready(program.state)

    sit()
    return middle(lambda: seconds(sit))


def whole_fits(arm: Arm, k: int) -> Row:
    """Train `k` trials by `FusedTrainer.fit`, each from a thread of its own, and return the seconds
    of it all.
    """
    arm.program(k)
    trainer, ends = arm.fused[k], []

    def listener_of(number: int) -> Callable[..., None]:
        return lambda *_: ends.append(time.perf_counter()) if number == 0 else None

    def fit(number: int, hp: Any, model: keras.Model) -> None:
        trainer.fit(arm.hypermodel, hp, model, number, listener_of(number))

    begin = time.perf_counter()
    built = [arm.build(number) for number in range(k)]
    built_s = time.perf_counter() - begin
    with ThreadPoolExecutor(k) as pool:
        for future in [pool.submit(fit, number, *pair) for number, pair in enumerate(built)]:
            future.result()
    whole_s = time.perf_counter() - begin
    epoch_s = statistics.median(later - earlier for earlier, later in itertools.pairwise(ends))
    first_s = ends[0] - begin - built_s
    return {
        "epoch_s": epoch_s,
        "all_built_s": built_s,
        "first_epoch_s": first_s,
        "whole_s": whole_s,
    }


def main() -> None:
    """Prepare, wait, measure."""
    parser = command_line(__doc__)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    given = parser.parse_args()
    result = Result(given.json)
    result.set(device=device(), versions=versions())
    arm = Arm(given.arch, given.batch_size, given.small)
    arm.prepare(result)
    result.set(is_ready=True)
    sys.stdin.readline()
    for what, k, measure in arm.rows():
        try:
            result.add(what=what, k=k, **measure())
        except (RuntimeError, ValueError) as error:  # XLA's errors, such as that of a full memory
            result.add(what=what, k=k, error=str(error)[:500])
        result.set(peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()
