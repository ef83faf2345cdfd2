# SPDX-License-Identifier: Apache-2.0
"""`chefmate make`, `say`, `stop`, and the verbs of sequencer, arm and kitchen: clients of a running graph."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

from std_srvs.srv import SetBool, Trigger

from chefmate.errors import ChefmateError
from chefmate.interrupting import interruptible
from chefmate.kitchen import request_of
from chefmate.progress import StepLines, progress
from chefmate.ros import joined
from chefmate_policy.sequencer.client import SandwichClient

PATIENCE = 10.0  # s; home and park answer when they have begun
ARM_SERVICES: dict[str, tuple[str, Any, Any]] = {
    "estop": ("arm/estop", Trigger, Trigger.Request()),
    "release": ("arm/estop_release", Trigger, Trigger.Request()),
    "home": ("arm/home", Trigger, Trigger.Request()),
    "park": ("arm/park", Trigger, Trigger.Request()),
    "torque-on": ("arm/torque", SetBool, SetBool.Request(data=True)),
    "torque-off": ("arm/torque", SetBool, SetBool.Request(data=False)),
}

INTERRUPTED = 130


def command(options: argparse.Namespace) -> int:
    """Runs one of the commands; returns its exit code."""
    with joined(), SandwichClient("chefmate", namespace=options.namespace) as client:
        if options.command == "make":
            return make(client, options)
        if options.command == "say":
            client.say(options.text)
            answer: dict[str, Any] = {"instruction": options.text}
        elif options.command == "stop":
            client.stop()
            answer = {"instruction": ""}
        elif options.command == "arm":
            said = ask(client, "arm", *ARM_SERVICES[options.verb])
            answer = {"message": said.message or f"{options.verb}: done"}
        elif options.command == "kitchen":
            said = ask(client, "twin", *request_of(options))
            answer = {"message": said.message} | ({"seed": said.seed} if options.verb == "reset" else {})
        else:
            answer = {"message": getattr(client, options.command)()}
        status = client.policy
        if options.command in ("say", "stop") and status is not None:
            answer |= {"instruction_number": status.instruction_number, "policy": status.state}
    print(json.dumps(answer) if options.json else answer.get("message") or described(answer))
    return 0


def ask(client: SandwichClient, who: str, service: str, kind: Any, request: Any) -> Any:
    """Calls a service of a node, which the message calls `who`; returns its response.

    Raises:
        ChefmateError: nobody answers, or it refuses.
    """
    caller = client.node.create_client(kind, service)
    try:
        if not caller.wait_for_service(PATIENCE):
            raise ChefmateError(
                f"no {who} serves {service}; is the graph up, in this ROS_DOMAIN_ID and namespace?"
            )
        answer = caller.call_async(request)
        deadline = time.monotonic() + PATIENCE
        while not answer.done() and time.monotonic() < deadline:
            client.spin(0.02)
    finally:
        client.node.destroy_client(caller)
    if not answer.done():
        raise ChefmateError(f"{service} did not answer within {PATIENCE:g} s")
    if not answer.result().success:
        raise ChefmateError(f"{service}: {answer.result().message}")
    return answer.result()


def described(answer: dict[str, Any]) -> str:
    """What became of an instruction, in words."""
    text = answer["instruction"]
    what = f"instruction {answer.get('instruction_number', '?')} in force: {text}" if text else "stopped"
    return f"{what} (policy {answer.get('policy', 'unknown')})"


def make(client: SandwichClient, options: argparse.Namespace) -> int:
    """Makes a recipe with one progress line per step; ctrl-C cancels it and exits 130."""
    say = progress(quiet=options.json)
    with interruptible() as interrupt:
        client.on_idle = lambda: not interrupt.asked
        lines = StepLines(say)
        result = client.make(options.recipe, resume=options.resume, on_feedback=lines)
        lines.finish(result.steps)
    if options.json:
        document = {
            "outcome": result.outcome,
            "reason": result.reason,
            "steps": list(map(asdict, result.steps)),
        }
        print(json.dumps(document, indent=2))
    say(f"{result.outcome}{': ' + result.reason if result.reason else ''}")
    if interrupt.asked:
        return INTERRUPTED
    return 0 if result.success else 1
