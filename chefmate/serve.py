# SPDX-License-Identifier: Apache-2.0
"""`chefmate serve`: a checkpoint as a policy server in the protocol of Isaac-GR00T N1.5."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from chefmate.errors import ArgumentError

LOCALHOST = "127.0.0.1"
DEFAULT_PORT = 5555  # of the reference's server and clients
TOKEN_VARIABLE = "CHEFMATE_API_TOKEN"  # a test holds it equal to the client's


def add(command: argparse.ArgumentParser) -> None:
    """Options of the command."""
    command.add_argument("checkpoint", help="folder or hub id (owner/name) of a GR00T N1.5 checkpoint")
    command.add_argument(
        "--host", default=LOCALHOST, help=f"address to listen on; * is all of them (default {LOCALHOST})"
    )
    command.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help=f"0 takes a free one (default {DEFAULT_PORT})"
    )
    command.add_argument(
        "--token-file",
        type=Path,
        help=f"file with the token that clients must send (default: {TOKEN_VARIABLE} of the environment)",
    )
    command.add_argument("--base", default="", help="base checkpoint of an adapter, where it is elsewhere")
    command.add_argument("--embodiment", default="new_embodiment", help="default new_embodiment")
    command.add_argument("--device", default="auto", help="cuda, cpu (default: cuda where there is one)")
    command.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    command.add_argument("--prompt", default="", help="form of the prompt (default: as the checkpoint says)")
    command.add_argument("--denoising-steps", type=int, default=0, help="0: as the checkpoint says")
    command.add_argument(
        "--guidance", type=float, default=1.0, help="weight of the instruction (default 1: off)"
    )
    command.add_argument(
        "--seed", type=int, default=-1, help="of the noise; -1 draws it anew each time (default)"
    )


def token_of(file: Path | None) -> str:
    """The token. Raises ArgumentError: the file cannot be read or is empty."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"--token-file {file} cannot be read: {error}") from error
    if not token:
        raise ArgumentError(f"--token-file {file} is empty; write a token into it.")
    return token


def serve(options: argparse.Namespace) -> int:
    """Serves until ctrl-C or SIGTERM, or a client's kill; returns 0."""
    from chefmate.interrupting import interruptible
    from chefmate_policy.inference.checkpoint_policy import CheckpointOptions, CheckpointPolicy
    from chefmate_policy.inference.serving import PolicyServer

    if not 0 <= options.port <= 65535:
        raise ArgumentError(f"--port {options.port} is not within 0 to 65535.")
    token = token_of(options.token_file)
    logging.basicConfig(level=logging.INFO, format="chefmate serve: %(message)s", stream=sys.stderr)
    policy = CheckpointPolicy(
        options.checkpoint,
        CheckpointOptions(
            device=options.device,
            dtype=options.dtype,
            base=options.base,
            embodiment=options.embodiment,
            prompt=options.prompt,
            denoising_steps=options.denoising_steps,
            guidance=options.guidance,
            seed=options.seed,
        ),
        (),
    )
    policy.warm_up()
    with interruptible() as interrupt:
        with PolicyServer(policy, f"tcp://{options.host}:{options.port}", token) as server:
            who = "clients with the token" if token else "anyone who can reach it"
            logging.info("%s at %s, for %s", options.checkpoint, server.address, who)
            server.run(until=lambda: interrupt.asked)
    return 0
