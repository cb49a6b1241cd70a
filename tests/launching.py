# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of protocols without the cost of a start: each is forked from the tests, where Scipion is imported already.

It is a process of its own as ever, with a log and a number of its own, that loads the protocol from its database;
what a test has patched holds there too. Scipion's own launcher starts what goes through a queue, and whatever is
run in the context of ``started_by_scipion``.
"""

import contextlib
import gc
import os
import sys
import traceback

import psutil

from downsample_plugin.engine.worker import end_with

from .waiting import assert_all_end, wait_for


def use_forks():
    """Have projects launch protocols in forks from now on."""
    from pyworkflow import protocol

    protocol.launch = _launch


@contextlib.contextmanager
def started_by_scipion():
    """Scipion's own launcher, with a fresh interpreter."""
    from pyworkflow import protocol
    from pyworkflow.protocol.launch import launch

    protocol.launch = launch
    try:
        yield
    finally:
        protocol.launch = _launch


def _launch(protocol, wait=False):
    from pyworkflow.protocol.launch import launch

    if protocol.useQueue():
        launch(protocol, wait)
        return
    project = protocol.getProject()
    run = project.path, protocol.getDbPath(), protocol.getObjId()
    logs = [project.getPath(path) for path in (protocol.getStdoutLog(), protocol.getStderrLog())]
    protocol.cleanExecutionAttributes()
    protocol._store(protocol._jobId)
    parent = os.getpid()
    number = os.fork()
    if number == 0:
        _be_the_run(run, logs, parent)
    protocol.setPid(number)
    if wait:
        os.waitpid(number, 0)


def _be_the_run(run, logs, parent):
    """In the fork: what Scipion's script for a run does; it does not return."""
    from pyworkflow.protocol import runProtocolMain
    from pyworkflow.utils import LoggingConfigurator

    try:
        end_with(parent)  # a run that waits for particles would wait for ever
        gc.freeze()  # what the tests hold open is theirs to close
        LoggingConfigurator.setUpProtocolRunLogging(*logs)
        runProtocolMain(*run)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@contextlib.contextmanager
def without_pictures():
    """Runs leave an empty file for the result picture, which takes longer to draw than all else."""
    from downsample_plugin.protocols import protocol_downsample

    draw = protocol_downsample.draw_result
    protocol_downsample.draw_result = lambda path, sample: open(path, "wb").close()
    try:
        yield
    finally:
        protocol_downsample.draw_result = draw


def processes_of(protocol):
    """The process of a run, then those that it has started; none if it has ended."""
    try:
        process = psutil.Process(protocol.getPid())
        found = [process, *process.children(recursive=True)]
        while found and "python" not in found[0].name():  # Scipion starts it by a shell
            del found[0]
        return [] if process.status() == psutil.STATUS_ZOMBIE else found
    except psutil.NoSuchProcess:
        return []


def kill(processes):
    """Kill them, and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert_all_end(processes)


def update(project, protocol):
    """Read the state of a run anew; by itself, a project may miss what was written while it was looking."""
    protocol.lastUpdateTimeStamp.set(None)
    project._updateProtocol(protocol)


def wait_for_end(project, protocol):
    """Wait until the process of a run has ended, and read its last state."""
    wait_for(lambda: not processes_of(protocol), "the end")
    update(project, protocol)


def go_on(project, protocol, wait=False):
    """Continue a run that was killed, as from the project window, which finds that its process is gone."""
    from pyworkflow.protocol.constants import MODE_RESUME

    protocol.setFailed("it was killed")
    project._storeProtocol(protocol)
    protocol.runMode.set(MODE_RESUME)
    project.launchProtocol(protocol, wait=wait)
