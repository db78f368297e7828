"""What the benchmarks share: a back-end under load as a process, and how a result is judged."""
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """A sentence for the reader."""


class Target:
    """A back-end process on the target's core, listening at `socket`.

    Its standard input is a pipe that stays open and silent: dpdk-testpmd ends with its input.
    """

    def __init__(self, settings, command, sock, environment=None, scheduling=None):
        self.socket = sock
        prefix = settings.scheduling if scheduling is None else scheduling
        prefix = prefix + ["taskset", "-c", str(settings.target_cpu)]
        self.log = tempfile.TemporaryFile()
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            prefix + command, stdin=subprocess.PIPE, stdout=self.log, stderr=self.log,
            env={**os.environ, **(environment or {})})
        self.listening_after = self._wait_until_listening()

    def _wait_until_listening(self):
        deadline = self.began + 10
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with socket.socket(socket.AF_UNIX) as attempt:
                try:
                    attempt.connect(str(self.socket))
                    return time.monotonic() - self.began
                except OSError:
                    time.sleep(0.0002)
        self.stop()
        self.log.seek(0)
        raise Failed("the target did not start: " + self.log.read().decode(errors="replace").strip())

    @property
    def pid(self):
        return self.process.pid

    def resident_mib(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def cpu_seconds(self):
        spent = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            spent += int((task / "schedstat").read_text().split()[0])
        return spent / 1e9

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def testpmd_command(settings, devices):
    """dpdk-testpmd between two of these DPDK devices, on the target's core."""
    # The main thread waits for input, the worker has the target's core.
    command = ["dpdk-testpmd", "--lcores", f"0@{settings.generator_cpu},1@{settings.target_cpu}",
               "--no-huge", "-m", "512", "--no-pci", f"--file-prefix=bench{os.getpid()}"]
    for device in devices:
        command += ["--vdev", device]
    return command + ["--", "--auto-start", "--forward-mode=io", "--nb-cores=1",
                      "--total-num-mbufs=32768"]


def run_load(command):
    """Runs vhost-bench, which is to print one JSON object: that object."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"vhost-bench: {done.stderr.strip() or done.stdout}")
    return json.loads(done.stdout)


def round_trip(settings):
    """A cache line from core to core and back, ns: what the day's placement of CPUs costs."""
    done = subprocess.run(
        settings.scheduling + [str(settings.bench), "--calibrate",
                               f"--cpus={settings.generator_cpu},{settings.target_cpu}"],
        capture_output=True, text=True)
    return done.stdout.strip()


def verdict(value, bar, at_least):
    if bar is None:
        return "", True
    passed = value >= bar if at_least else value <= bar
    relation = ">=" if at_least else "<="
    return f"bar {relation} {bar:g}: {'pass' if passed else 'FAIL'}", passed
