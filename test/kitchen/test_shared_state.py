# SPDX-License-Identifier: Apache-2.0
"""The twin's state crosses to other processes whole, and a dead writer is noticed and cleared away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from chefmate_driver.kitchen.config import KitchenError
from chefmate_driver.kitchen.shared_state import StateReader, StateWriter, path_of, remove_abandoned

NQ = 48
LOOK = np.arange(10.0)
WRITER = """
import sys, time, numpy as np
from chefmate_driver.kitchen.shared_state import StateWriter
writer = StateWriter(sys.argv[1], b"model", 48, np.arange(10.0))
writer.write(np.zeros(48), 0.0)
print("writing", flush=True)
time.sleep(60)
"""


@pytest.fixture
def name() -> Iterator[str]:
    """A name of this test's own, removed afterwards."""
    chosen = f"test.{os.getpid()}"
    yield chosen
    path_of(chosen).unlink(missing_ok=True)


def test_a_reader_gets_model_look_and_state(name: str) -> None:
    writer = StateWriter(name, b"a model", NQ, LOOK)
    reader = StateReader(name)
    assert reader.model == b"a model" and reader.alive and reader.pid == os.getpid()
    assert reader.read() is None
    qpos = np.random.default_rng(0).normal(size=NQ)
    stamp = writer.write(qpos, 1.5)
    state = reader.read()
    assert state is not None
    assert (state.stamp, state.writes, state.simulated) == (stamp, 1, 1.5)
    np.testing.assert_array_equal(state.qpos, qpos)
    np.testing.assert_array_equal(reader.look, LOOK)
    writer.write(qpos, 1.6, look=LOOK + 1)
    newer = reader.read()
    assert newer is not None and newer.generation == state.generation + 1
    np.testing.assert_array_equal(reader.look, LOOK + 1)
    writer.close()
    assert not path_of(name).exists()


def test_states_are_never_torn(name: str) -> None:
    writer, done = StateWriter(name, b"model", NQ, LOOK), threading.Event()
    writer.write(np.zeros(NQ), 0.0)

    def write() -> None:
        number = 0.0
        while not done.is_set():
            number += 1.0
            writer.write(np.full(NQ, number), number, look=np.full(10, number))

    thread = threading.Thread(target=write)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        reader = StateReader(name)
        for _ in range(3000):
            state = reader.read()
            assert state is not None
            assert state.qpos[0] == state.qpos[-1] == state.simulated
            assert state.simulated in (0.0, reader.look[0])
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
        writer.close()


def test_two_writers_of_one_name_are_refused_by_process(name: str) -> None:
    writer = StateWriter(name, b"model", NQ, LOOK)
    with pytest.raises(KitchenError, match=f"already runs .process {os.getpid()}"):
        StateWriter(name, b"model", NQ, LOOK)
    writer.close()


def test_a_killed_writer_is_dead_to_readers_and_its_file_is_taken_over(name: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITER, name], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    reader = StateReader(name)
    assert reader.alive
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not reader.alive
    assert path_of(name).exists()
    writer = StateWriter(name, b"new", NQ, LOOK)
    assert StateReader(name).model == b"new"
    assert not reader.alive
    writer.close()


def test_abandoned_states_are_removed_and_living_ones_stay(name: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITER, f"{name}.b"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    child.kill()
    child.wait()
    writer = StateWriter(name, b"model", NQ, LOOK)  # clears away as it starts
    assert path_of(name).exists() and not path_of(f"{name}.b").exists()
    assert remove_abandoned() == [] and path_of(name).exists()
    writer.close()


def test_a_writer_that_died_halfway_is_an_error_not_a_picture(name: str) -> None:
    writer = StateWriter(name, b"model", NQ, LOOK)
    writer.write(np.zeros(NQ), 0.0)
    writer._block.counts[0] += 1
    with pytest.raises(KitchenError, match="half a state"):
        StateReader(name).read()
    writer.close()


def test_a_name_is_a_plain_name(name: str) -> None:
    with pytest.raises(KitchenError, match="letters"):
        path_of("../etc/passwd")
    with pytest.raises(KitchenError, match="no twin runs"):
        StateReader(name)
