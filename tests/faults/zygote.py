"""Runs the scripts in processes of their own without importing PyTorch for each: one that has, forks them.

Started as `python zygote.py PROJECT`, it reads one JSON order a line and answers each with one line of JSON:

    {"start": script, "argv": [...], "env": {...}, "fault": {...} or null, "output": file}  ->  pid
    {"wait": pid, "seconds": limit}  ->  exit status, negative for a signal, null when the time is up

A fault is what happens to the run from within, see `arm`.
"""

import importlib
import json
import os
import random
import resource
import signal
import sys
import threading
import time


def arm(fault: dict) -> None:
    """Have the process signal itself, once and at a chosen moment.

    {"signal": "SIGTERM", "at": "step", "number": 3}: within the third call of what `at` names;
    "after": up to so many seconds later, drawn with "seed"; "child": to this process's children instead,
    if it is "after SIGTERM" with that signal to the process first.
    {"at": "limit", "bytes": 1000}: no file can grow beyond.
    """
    if fault["at"] == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # too long a file is then an error of writing
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"], fault["bytes"]))
        return
    import datasets.features
    import engine.evaluation
    import engine.loop
    import engine.step

    places = {
        "step": (engine.step.Step, "gradients"),
        "save": (engine.loop, "save_checkpoint"),
        "validation": (engine.evaluation.Evaluation, "add"),
        "epoch's end": (engine.loop.Trainer, "_report"),
        "extraction": (datasets.features.FeatureWriter, "write"),
    }
    owner, name = places[fault["at"]]
    original, calls = getattr(owner, name), 0
    delay = random.Random(fault.get("seed", 0)).uniform(0, fault.get("after", 0))

    def fire() -> None:
        if fault.get("child") == "after SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
        for victim in children() if fault.get("child") else [os.getpid()]:
            os.kill(victim, signal.Signals[fault["signal"]])

    def wrapped(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == fault["number"]:
            if delay:
                threading.Timer(delay, fire).start()
            else:
                fire()
        return original(*args, **options)

    setattr(owner, name, wrapped)


def children() -> list[int]:
    """Processes that this one has started: its loader's workers."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return [int(pid) for pid in file.read().split()]


def start(order: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        file = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ |= order["env"]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if order["fault"]:
            arm(order["fault"])
        importlib.import_module(order["start"]).main(order["argv"])
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        import multiprocessing.util

        multiprocessing.util._exit_function()  # as at the end of any process: children are joined
        os._exit(status)


def wait(pid: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    os.chdir(sys.argv[1])
    for script in ("train_fine", "extract_fineFEAT", "train_coarse_fineFEAT"):
        importlib.import_module(script)
    for line in sys.stdin:
        order = json.loads(line)
        answer = start(order) if "start" in order else wait(order["wait"], order["seconds"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
