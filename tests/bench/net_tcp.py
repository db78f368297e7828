"""The case of net_run that has a guest in it: a TCP stream between the guest and a TAP on the host.

For every round of every peer a guest boots in QEMU (without KVM) with one virtio-net device, as the
guest tests boot theirs; the TAP is in a network namespace of the round's own. iperf3 in there
receives from the iperf3 in the guest, then sends to it, over IPv4 with an MTU of 1500. The target
has its core to itself; QEMU and iperf3 share the generator's. Nothing here is given precedence: a
target that polls would keep the kernel's work for the TAP from its core.

Each peer offers the guest and the TAP what it offers by default. dpdk-testpmd offers neither of
them segmentation, so each segment is a frame; vhost-user-net takes 64 KiB at once, and is measured
once more without segmentation at both ends ("ours, cut"): then it moves frames like dpdk-testpmd's.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from targets import TOP, Failed, Target, testpmd_command, verdict

sys.path.append(str(TOP / "tests/guest"))
import network  # noqa: E402
from debian import NotToBeHad  # noqa: E402
from guest import GuestError  # noqa: E402
from initramfs import ToolMissing  # noqa: E402
from lab import Lab, Setting  # noqa: E402
from namespace import NotAllowed  # noqa: E402
from nic import Nic  # noqa: E402

HOST, GUEST = 1, 2  # The ends' numbers, of which their addresses are made.
# The flags of the host's iperf3. Each direction has a server of its own in the guest: one that has
# just served is away for a moment.
DIRECTIONS = {"guest to TAP": ["--port=5201", "--reverse"], "TAP to guest": ["--port=5202"]}
SERVERS = """
for port in 5201 5202; do
    iperf3 --server --daemon --port=$port
    until netstat -ltn | grep -q :$port; do sleep 0.1; done
done
"""
BAR = 1.0  # ours must be at least this many times dpdk-testpmd


def show_tcp(settings, peers):
    """Measures all rounds of all peers and prints them; False if a bar is missed."""
    if not shutil.which("qemu-system-x86_64"):
        return _left_out("there is no qemu-system-x86_64")
    try:
        rates = _measure(settings, [name for name in _VARIANTS if name.split(",")[0] in peers])
    except (NotAllowed, ToolMissing, NotToBeHad) as reason:
        return _left_out(str(reason))
    return all([_show(settings, direction, rates[direction]) for direction in DIRECTIONS])


def _left_out(reason):
    print(f"\ntcp: left out, {reason}", flush=True)
    return True


def _measure(settings, variants):
    """direction -> variant -> the list of its results."""
    results = {direction: {variant: [] for variant in variants} for direction in DIRECTIONS}
    for round_number in range(settings.rounds):
        for variant in variants if round_number % 2 == 0 else list(reversed(variants)):
            for direction, result in _round(settings, variant).items():
                results[direction][variant].append(result)
    return results


def _round(settings, variant):
    """One guest and one target: a result for each direction."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {settings.generator_cpu})  # All but the target inherit it.
    lab = Lab(Setting(None, settings.daemon, TOP / "build/guest"))
    try:
        with lab:
            return _VARIANTS[variant](settings, lab)
    except (GuestError, RuntimeError, subprocess.SubprocessError) as error:
        raise Failed(f"tcp, {variant}: {error}\n{lab.logs()}") from None
    finally:
        lab.discard()
        os.sched_setaffinity(0, everywhere)


def _ours(settings, lab, cut=False):
    namespace = lab.namespace(*network.namespace_addresses(HOST))
    sock = lab.folder / "tcp.sock"
    command = [str(settings.daemon), f"--cpus={settings.target_cpu}", "--workers=1",
               "--port", f"guest,socket={sock}", "--uplink", namespace.uplink]
    with _target(settings, namespace, command, sock) as target:
        if cut:
            namespace.run("ethtool", "-K", namespace.interface, "tso", "off")
        return _streams(settings, lab, namespace, target, ["host_tso4=off"] if cut else [])


def _ours_cut(settings, lab):
    return _ours(settings, lab, cut=True)


def _testpmd(settings, lab):
    # net_tap takes only a TAP that may have several queues; it has one.
    namespace = lab.namespace(*network.namespace_addresses(HOST), queues=2)
    sock = lab.folder / "tcp.sock"
    command = testpmd_command(
        settings, [f"net_vhost0,iface={sock}", f"net_tap0,iface={namespace.interface}"])
    with _target(settings, namespace, command, sock) as target:
        time.sleep(0.5)  # It listens before it forwards.
        return _streams(settings, lab, namespace, target, [])


_VARIANTS = {"ours": _ours, "ours, cut": _ours_cut, "testpmd": _testpmd}


def _target(settings, namespace, command, sock):
    runtime = {name: str(settings.folder) for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")}
    return Target(settings, namespace.command(*command), sock, runtime, scheduling=[])


def _streams(settings, lab, namespace, target, properties):
    guest = lab.begin_to_boot(
        Nic(target.socket, network.mac(GUEST), properties=tuple(properties)), kind="bench")
    guest.wait_ready()
    end = network.End(guest, GUEST, "/")
    network.configure(end)
    end.run(SERVERS)
    network.ping(end, network.End(namespace, HOST, "/"))
    results = {direction: _stream(settings, namespace, target, end.addresses[0], flags)
               for direction, flags in DIRECTIONS.items()}
    lab.finish()
    return results


def _stream(settings, namespace, target, address, flags):
    seconds, warmup = max(1, round(settings.seconds)), max(1, round(settings.warmup))
    begin, cpu = time.monotonic(), target.cpu_seconds()
    report = json.loads(namespace.run(
        "iperf3", "--client", address, "--json", f"--time={seconds}", f"--omit={warmup}", *flags,
        timeout_seconds=seconds + warmup + 30))
    elapsed, cpu = time.monotonic() - begin, target.cpu_seconds() - cpu
    if "error" in report:
        raise Failed(f"tcp: iperf3: {report['error']}")
    return {"gbit_per_second": report["end"]["sum_received"]["bits_per_second"] / 1e9,
            "retransmits": report["end"]["sum_sent"]["retransmits"], "target_cpu": cpu / elapsed}


def _show(settings, direction, results):
    lines = {variant: _summary(rounds) for variant, rounds in results.items()}
    print(f"\ntcp, {direction}")
    for variant, line in lines.items():
        print(f"  {variant:10} {line['gbit_per_second']:8.3f} Gbit/s "
              f"[{line['low']:.3f}-{line['high']:.3f}]  resent {line['retransmits']:g}  "
              f"CPU of the target {line['target_cpu']:4.0%}")
    settings.results[f"tcp, {direction}"] = {"lines": lines, "rounds": results}
    if "testpmd" not in lines:
        return True
    good = True
    for variant in [name for name in lines if name != "testpmd"]:
        ratio = lines[variant]["gbit_per_second"] / max(lines["testpmd"]["gbit_per_second"], 1e-9)
        text, passed = verdict(ratio, BAR, at_least=True)
        print(f"  ratio      {ratio:8.2f} times  {text}  ({variant})")
        settings.results[f"tcp, {direction}"][f"ratio of {variant}"] = ratio
        good &= passed
    sys.stdout.flush()
    return good


def _summary(results):
    rates = sorted(result["gbit_per_second"] for result in results)
    middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
    return {**middle, "low": rates[0], "high": rates[-1]}
