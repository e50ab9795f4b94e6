"""The process of a worker: its SLURM job, the signals that it heeds, and its replacement.

A cluster asks a process to leave by a signal. Within `this_process.heeding_signals`, the process
raises `Preempted` where a trial can be given back without a loss, or after a grace period. The same
clock can call an alarm that looks for a trial that hangs.

`this_process.restart` replaces a process that can no longer be trusted by a fresh one, which runs
the same command under the same process id. It is needed when a thread hangs in native code, which
only the end of the process stops, or when the memory of the process has grown. The study then goes
on as after any other end of a process. The fresh process is told only what a command line cannot
say: the number of restarts so far and the deadline of the search.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from hpsearch.errors import Preempted
from hpsearch.standard_error import standard_error


class _Command:
    """The command that started this process, and what it found at the start."""

    def __init__(self) -> None:
        self.overrides: list[str] = []  # for the fresh process, in addition
        self.environment = dict(os.environ)
        self._words = [sys.executable, *sys.orig_argv[1:]]
        self._n_own = len(sys.argv) - 1  # how many of the words are arguments of the script
        self._folder = os.getcwd()
        self._files = set(os.listdir("/proc/self/fd"))
        self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def run(self) -> None:
        """Replace this process by one that runs the command.

        Raises:
            OSError: The operating system cannot start it.
        """
        opened = set(os.listdir("/proc/self/fd")) - self._files
        for name in opened:
            with suppress(OSError):
                os.set_inheritable(int(name), False)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)  # inherited as well
        os.chdir(self._folder)
        standard_error.restore()
        os.execve(sys.executable, self._words_with_overrides(), self.environment)

    def _words_with_overrides(self) -> list[str]:
        """Return the command line for the fresh process.

        The additional overrides stand before the first override, since Hydra wants all in one
        piece.
        """
        words = self._words
        n_words = len(words)
        for place in range(n_words - self._n_own, n_words):
            word = words[place]
            if "=" in word and not word.startswith("-"):
                added = [new for new in self.overrides if new not in words]
                return words[:place] + added + words[place:]
        return words


class _WorkerProcess:
    """This process; `this_process` is the only object of the class."""

    # This environment variable holds `PID RESTARTS DEADLINE`. The process id tells the restarted
    # process from its children, which inherit the variable.
    RESTARTED = "HPSEARCH_RESTARTED"

    def __init__(self) -> None:
        self._heeds_signals = False  # whether the block of `heeding_signals` runs
        self.has_worked = False  # whether that block has begun, in which trials run
        self._grace_s = 0.0
        self.is_interrupted = False  # by Ctrl-C, since the block of `heeding_signals` began
        self._asked: int | None = None  # the signal that asked this process to leave
        self._alarm: Callable[[], None] | None = None
        self._command: _Command | None = None  # None if this process must not be replaced
        self._deadline = 0.0  # 0 if it is unknown

    @property
    def slurm_job(self) -> str | None:
        """The SLURM job of this process, such as `17` or `17_3`; None outside of SLURM."""
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        if array and task:
            return f"{array}_{task}"
        return os.environ.get("SLURM_JOB_ID")

    @contextmanager
    def heeding_signals(self, grace_s: float) -> Iterator[None]:
        """Raise Preempted within the block after SIGTERM, or after the signal that submitit sends.

        Submitit sends its signal before the time of a job is over. `Preempted` is raised at the
        next `leave_if_asked`, or after `grace_s` seconds wherever the process is. After the block,
        the signal is passed to the handler that was installed before, so that submitit can requeue
        the job. SIGINT, which Ctrl-C sends, raises KeyboardInterrupt at once as ever, and at the
        next `leave_if_asked` again if that was lost in a library's code.

        Outside of the main thread the block runs without all this.
        """
        self.has_worked = True
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        submitit_signal = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
        self._grace_s = grace_s
        self._heeds_signals = True
        alarm = signal.signal(signal.SIGALRM, self._leave_or_wake)
        before = {signal.SIGALRM: alarm}
        preempts = signal.Signals[f"SIG{submitit_signal}"]
        for number in {signal.SIGTERM, preempts}:
            before[number] = signal.signal(number, self._ask)
        interrupts = signal.getsignal(signal.SIGINT)
        if callable(interrupts):

            def interrupt(number: int, frame: FrameType | None) -> None:
                self.is_interrupted = True
                interrupts(number, frame)

            before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            self._heeds_signals = False
            self.is_interrupted = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
            if self._asked is not None:
                asked = signal.Signals(self._asked)
                self._asked = None
                handler = before[asked]
                if callable(handler):
                    handler(asked, None)

    def _ask(self, number: int, _frame: object) -> None:
        if self._asked is None:  # SLURM repeats the signal while the trial is given back
            self._asked = number
            signal.setitimer(signal.ITIMER_REAL, self._grace_s)

    def _leave_or_wake(self, *_: object) -> None:
        self.leave_if_asked()
        if self._alarm is not None:
            self._alarm()

    def leave_if_asked(self) -> None:
        """Raise an error if this process was asked to leave.

        It is called where a trial can be given back without a loss.

        Raises:
            Preempted: The cluster has asked.
            KeyboardInterrupt: The person has interrupted this process, and still it went on.
        """
        if self.is_interrupted:
            raise KeyboardInterrupt
        if self._asked is not None:
            raise Preempted(self._asked)

    def ring(
        self,
        after_s: float,
        every_s: float,
        alarm: Callable[[], None],
    ) -> bool:
        """Call `alarm` in the main thread after some seconds, and then at regular intervals.

        A timer of the kernel interrupts the main thread wherever it is. An exception that `alarm`
        raises is raised there.

        Args:
            after_s: Seconds until the first call.
            every_s: Seconds from each call to the next; 0 for one call only.
            alarm: Called without arguments.

        Returns:
            False if no signals are waited for, or if this is not the main thread; `alarm` is then
            never called.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        if not self._heeds_signals or not in_main_thread:
            return False
        self._alarm = alarm
        if self._asked is None:  # after a request to leave, the timer measures the grace period
            signal.setitimer(signal.ITIMER_REAL, after_s, every_s)
        return True

    def stop_ringing(self) -> None:
        """Cancel the alarm that `ring` has set."""
        self._alarm = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._asked is not None:
            signal.setitimer(signal.ITIMER_REAL, self._grace_s)

    def remember(self) -> None:
        """Note the command of this process, so that `restart` can run it again.

        It is called at the very start of a process that runs a single command.
        """
        self._command = _Command()

    def forget(self) -> None:
        """Drop what `remember` noted, because this process does not run a single command."""
        self._command = None

    def keep(self, override: str) -> None:
        """Give a fresh process one more override, such as the folder that this one writes to."""
        if self._command is not None:
            self._command.overrides.append(override)

    def can_restart(self) -> bool:
        """Return whether this process may be replaced.

        The worker of a sweep, a notebook and a script of somebody else may not.
        """
        return self._command is not None

    @classmethod
    def n_restarts(
        cls,
        pid: int,
        environment: Mapping[str, str] = os.environ,
    ) -> int:
        """Return how often a process has been replaced.

        Args:
            pid: The id of the process.
            environment: Its environment variables.
        """
        n_before, _ = cls._told(pid, environment)
        return n_before

    def deadline(self, timeout_s: float) -> float:
        """Return when the time of a search is over, on the clock of `time.monotonic`.

        A process that replaces another one keeps the deadline of that one.
        """
        _, before = self._told(os.getpid(), os.environ)
        self._deadline = before or time.monotonic() + timeout_s
        return self._deadline

    @classmethod
    def _told(
        cls,
        pid: int,
        environment: Mapping[str, str],
    ) -> tuple[int, float]:
        """Return the number of restarts of a process, and its deadline; 0 for an unknown one."""
        told = environment.get(cls.RESTARTED) or "0 0 0"
        told_pid, n_before, until = told.split()
        if int(told_pid) != pid:
            return 0, 0.0
        return int(n_before), float(until)

    def restart(self) -> NoReturn:
        """Replace this process by a fresh one that runs the same command.

        Other threads stop, and no `finally` block runs, so everything that must outlive the process
        has to be written before. If the cluster has asked this process to leave, it exits instead.
        """
        # A thread of its own does this, because a thread that hangs may never release the streams.
        flush = threading.Thread(target=_flush, daemon=True)
        flush.start()
        flush.join(2.0)
        signal.setitimer(signal.ITIMER_REAL, 0)  # the fresh process would inherit the timer
        if self._asked is not None:
            os._exit(Preempted(self._asked).exit_status)
        if self._command is None:
            raise ValueError("Expected `remember` to be called before `restart`.")
        pid = os.getpid()
        n_restarts = self.n_restarts(pid) + 1
        self._command.environment[self.RESTARTED] = f"{pid} {n_restarts} {self._deadline}"
        try:
            self._command.run()
        except OSError as error:
            message = (
                f"Error: no fresh process could be started ({error}); the same command goes on."
            )
            standard_error.tell(message)
        os._exit(1)


def _flush() -> None:
    """Write out the standard streams, and show the cursor again."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h")
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


this_process = _WorkerProcess()
