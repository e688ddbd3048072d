"""What every script does besides its work: an error that was foreseen is one line, a signal is, and the exit status."""

import contextlib
import os
import signal
import sys


class InputError(Exception):
    """Arguments or input that cannot be used; its text is one sentence that says what to do (exit status 2)."""


class RunFailed(Exception):
    """A run that started and could not finish (exit status 1)."""


class Terminated(BaseException):
    """SIGTERM arrived; a BaseException, like KeyboardInterrupt, so that no handler of errors swallows it."""


leave = os._exit
HEARD = []  # what a signal raised


@contextlib.contextmanager
def terminate_politely():
    """While inside, SIGTERM raises Terminated and Ctrl-C KeyboardInterrupt, and HEARD keeps it."""

    def handler(signum, frame):
        HEARD.append(Terminated() if signum == signal.SIGTERM else KeyboardInterrupt())
        raise HEARD[0]

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in a shell's background
    signals = [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, plain in before.items():
            signal.signal(number, plain)
        HEARD.clear()


def raise_what_was_heard():
    """Raise what a signal raised, where somebody swallowed it: Keras does when it reads the figures of a batch."""
    if HEARD:
        raise HEARD[0]


def run(main):
    """Call `main()` and exit with 0, 1 (the run failed), 2 (unusable input), 130 or 143 (stopped).

    Errors that nobody foresaw show their traceback.
    """
    script = os.path.basename(sys.argv[0])
    os.environ["MPLBACKEND"] = "Agg"  # Keras imports matplotlib, which fails without the backend that a notebook names
    try:
        with terminate_politely():
            main()
    except (InputError, RunFailed) as error:
        print(f"{script}:", *str(error).splitlines(), file=sys.stderr)  # one line, whatever was typed
        sys.exit(2 if isinstance(error, InputError) else 1)
    except (KeyboardInterrupt, Terminated) as signal_:
        word, status = ("stopped", 130) if isinstance(signal_, KeyboardInterrupt) else ("terminated", 143)
        more = "; the same command, without FORCE=1, goes on" if script.startswith("train_") else ""
        print(f"\n{script}: {word}{more}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        leave(status)  # at once: with TensorFlow loaded, Python takes seconds to go, which a scheduler may not give
