"""What every script does on the command line: errors in one sentence, signals, exit status. Loads nothing."""

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


class Patient:
    """A stream whose reader may leave, as `| head -1` does: from then on nothing is shown, and the work goes on."""

    def __init__(self, stream):
        stream.reconfigure(errors="replace")  # what a terminal cannot show is no reason to stop either
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        with contextlib.suppress(BrokenPipeError):
            return self.stream.write(text)
        self.leave()
        return len(text)

    def flush(self):
        try:
            self.stream.flush()
        except BrokenPipeError:
            self.leave()

    def leave(self):
        """Send what comes to nowhere."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def open_streams():
    """Give the process the streams that it was started without, and patience with those it has."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # or the next file opened would take its place, and what is printed go there
            stream = open(os.devnull, "w" if descriptor else "r")  # noqa: SIM115
            setattr(sys, name, stream)
        if descriptor and hasattr(stream, "reconfigure"):
            setattr(sys, name, Patient(stream))


def run(main):
    """Call `main()` and leave the process with the exit status of the README; errors are one line on stderr."""
    script = os.path.basename(sys.argv[0])
    open_streams()
    try:
        with terminate_politely():
            main()
            print(end="", flush=True)  # what does not fit on the disk shows here, not when Python ends
        status = 0
    except (InputError, RunFailed) as error:
        print(f"{script}:", *str(error).splitlines(), file=sys.stderr)  # one line, whatever was typed
        status = 2 if isinstance(error, InputError) else 1
    except OSError as error:  # what no one foresaw of a disk, such as a log that cannot grow
        print(f"{script}: {error}; mend that and repeat", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would try once more when it ends, and say so
        status = 1
    except (KeyboardInterrupt, Terminated) as signal_:
        word, status = ("stopped", 130) if isinstance(signal_, KeyboardInterrupt) else ("terminated", 143)
        more = "; the same command, without FORCE=1, goes on" if script.startswith("train_") else ""
        print(f"\n{script}: {word}{more}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        leave(status)  # at once: with TensorFlow loaded, Python takes seconds to go, which a scheduler may not give
    sys.exit(status)
