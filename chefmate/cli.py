# SPDX-License-Identifier: Apache-2.0
"""The `chefmate` command."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from chefmate import arm, card, data, graph, kitchen, memory, obey_options, params, serve, study, train
from chefmate.errors import ArgumentError, ChefmateError
from chefmate_driver.errors import DriverError
from chefmate_policy.errors import PolicyError

INTERRUPTED = 130  # what a shell reports for a job that ctrl-C ended
UNREAD = 141  # and for one that SIGPIPE ended


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="chefmate", description="A SO-ARM 101 makes sandwiches because it was told to."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start the graph, as bringup.launch.py does")
    for argument in graph.ARGUMENTS:
        up.add_argument(
            f"--{argument.name.replace('_', '-')}",
            dest=argument.name,
            choices=argument.choices or None,
            help=f"{argument.description} (default: {argument.default!r})",
        )
    up.add_argument("values", nargs="*", metavar="name:=value", help="the same arguments in launch's form")

    make = commands.add_parser("make", help="have a running graph make a recipe, with progress")
    make.add_argument("recipe")
    make.add_argument("--resume", action="store_true", help="go on with the interrupted run of this recipe")
    tell(make)

    say = commands.add_parser("say", help="publish one instruction")
    say.add_argument("text")
    tell(say)
    tell(commands.add_parser("stop", help="publish the empty instruction: the policy stops, the arm holds"))
    for verb in ("pause", "resume", "skip", "retry", "abort"):
        tell(commands.add_parser(verb, help=f"{verb} the recipe in progress"))

    arm.add(commands.add_parser("arm", help="set up, check, drive and stop the arm"))

    kitchen.add(commands.add_parser("kitchen", help="lay the twin's table anew, or move a slice by hand"))

    data.add(commands.add_parser("data", help="what is in datasets"))

    sandwich = commands.add_parser("sandwich", help="whole job on the twin: graph, goal, result folder")
    sandwich.add_argument("recipe", nargs="?", default="cheese_sandwich")
    sandwich.add_argument(
        "--seed",
        type=int,
        default=graph.DEFAULT_SEED,
        help=f"seed of the twin's layout (default {graph.DEFAULT_SEED})",
    )
    sandwich.add_argument("--policy", default=graph.DEFAULTS["policy"], help="as in `up`")
    sandwich.add_argument("--out", type=Path, help="result folder (default out/<time>)")
    sandwich.add_argument("--no-record", action="store_true", help="leave the rosbag out")
    sandwich.add_argument("--json", action="store_true", help="print result.json on standard output")

    bench = commands.add_parser("bench", help="print the figures that the README states")
    bench.add_argument(
        "what",
        choices=(
            *("twin", "bus", "fuzz", "loop", "faults", "sandwich", "instruct", "policy", "change", "graph"),
            *("seams", "perception", "all"),
        ),
    )
    bench.add_argument(
        "--seeds", default="0-19", help="sandwich, instruct: seeds as FIRST-LAST (default 0-19)"
    )
    bench.add_argument("--recipe", default="cheese_sandwich", help="sandwich: the recipe")
    bench.add_argument("--policy", default=graph.DEFAULTS["policy"], help="as in `up`")
    bench.add_argument("--out", type=Path, help="sandwich, faults: folder (default out/bench-<time>)")
    bench.add_argument(
        "--seconds",
        type=float,
        help="twin, bus, loop, graph, seams: of each measurement (default 10, 10, 60, 20, 10)",
    )
    bench.add_argument(
        "--runs",
        type=int,
        help="faults, change, perception: number of runs (default 1000, 100, 8 of each policy)",
    )
    bench.add_argument("--inputs", type=int, default=1_000_000, help="fuzz: number of inputs (default 1e6)")
    bench.add_argument(
        "--seed", type=int, default=0, help="faults, fuzz, perception: seed of the first run (default 0)"
    )
    bench.add_argument(
        "--member",
        default="small-7m",
        help="policy: model size (default small-7m; n1.5-3b needs a GPU or patience)",
    )
    bench.add_argument("--device", default="auto", help="policy: cuda, cpu or auto (default)")
    bench.add_argument(
        "--workers", type=int, help="faults, perception: runs at a time (default 2, 1 for each core)"
    )
    bench.add_argument("--json", action="store_true", help="one JSON document on standard output")

    serve.add(commands.add_parser("serve", help="serve a checkpoint to GR00T N1.5 clients"))

    doctor_options(
        commands.add_parser("doctor", help="what is missing on this machine, and the command that mends it")
    )

    memory.add(commands.add_parser("memory", help="what a training run needs on a GPU, and what to set"))

    params.add(commands.add_parser("params", help="what a training run trains, and what that takes"))

    card.add(
        commands.add_parser("card", help="write the model card of a trained policy, and check the folder")
    )

    train.add(commands.add_parser("train", help="train a policy on datasets, from a checkpoint or nothing"))

    obey_options.add(commands.add_parser("obey", help="does a policy do what it is told? the language audit"))

    study.add(commands.add_parser("study", help="why fine-tunes ignore words: trainings, trials, a table"))

    perception = commands.add_parser("perception", help="set up perception on a table")
    view = perception.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "view", help="write zones and masks over a scene camera picture"
    )
    view.add_argument(
        "--image", type=Path, help="picture to use (default: the next frame of the running camera)"
    )
    view.add_argument("--config", type=Path, help="perception configuration (default: the one in use)")
    view.add_argument("--out", type=Path, default=Path("perception.png"), help="default perception.png")
    tell(view)
    return top


def doctor_options(command: argparse.ArgumentParser) -> None:
    """Options of `chefmate doctor`."""
    command.add_argument("--port", help="serial port of the arm (default: every adapter of a servo board)")
    command.add_argument("--leader", help="serial port of the leader arm")
    command.add_argument(
        "--calibration", help="the arm's LeRobot calibration, JSON file or id (default: all)"
    )
    command.add_argument("--leader-calibration", help="the leader's")
    command.add_argument("--quick", action="store_true", help="without the frame test, which takes some 5 s")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def tell(command: argparse.ArgumentParser) -> None:
    """Options of a command that talks to a running graph."""
    command.add_argument("--namespace", default="", help="namespace of the graph")
    command.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(options: argparse.Namespace) -> int:
    """Runs the chosen command. Modules are imported here: each command pays for its own."""
    graph.check_namespace(getattr(options, "namespace", None) or "")
    if options.command == "up":
        from chefmate.up import read_arguments, up

        given = {argument.name: getattr(options, argument.name) for argument in graph.ARGUMENTS}
        return up(read_arguments(options.values, given))
    if options.command == "sandwich":
        from chefmate.sandwich import sandwich

        return sandwich(options)
    if options.command == "bench":
        from chefmate.bench import bench

        return bench(options)
    if options.command == "perception":
        from chefmate.perception_view import view

        return view(options)
    if options.command == "arm":
        return arm.run(options)
    if options.command == "card":
        return card.card(options)
    if options.command == "data":
        return data.run(options)
    if options.command == "memory":
        return memory.memory(options)
    if options.command == "params":
        return params.params(options)
    if options.command == "serve":
        return serve.serve(options)
    if options.command == "train":
        return train.train(options)
    if options.command == "obey":
        from chefmate.obey import obey

        return obey(options)
    if options.command == "study":
        return study.study(options)
    if options.command == "doctor":
        try:
            from chefmate.doctor.command import doctor
        except ModuleNotFoundError as missing:
            raise ChefmateError(
                f"{missing.name} is not installed; run: make setup && source env.sh"
            ) from None

        return doctor(options)
    from chefmate.tell import command

    return command(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 nobody reads the output any more."""
    options = parser().parse_args(arguments)
    try:
        status = run(options)
        sys.stdout.flush()
        return status
    except ArgumentError as error:
        print(f"chefmate {options.command}: {error}", file=sys.stderr)
        return 2
    except (ChefmateError, DriverError, PolicyError) as error:
        print(f"chefmate {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _unread():
            raise
        # `| head` has what it wanted. The interpreter would flush once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except KeyboardInterrupt:
        print(f"chefmate {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    look = select.poll()
    look.register(sys.stdout.fileno(), select.POLLOUT)
    return any(events & select.POLLERR for _, events in look.poll(0))


if __name__ == "__main__":
    sys.exit(main())
