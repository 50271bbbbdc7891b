#!/usr/bin/env python3
"""Machines beside containers and beside raw QEMU, in one run: script/bench-machines.

    start     POST start until the first byte of output at an attached client: wall and CPU of all that it started
    stages    of it: until QEMU's process is there; until its guest's clock runs; until the container's process is
              there; until its output is. The last three by clocks of 10 ms. Our share is the first stage and
              what daemon and shim use of the processors after it.
    raw       QEMU with the same kernel and initramfs, from its start to the agent's first frame
    exec      a round trip through the API
    memory    Private_* of QEMU and shim with `sleep` running, the kernel's image apart, which all machines of it
              share; before, during and after a spike of 150 MiB of a program's memory
    io        64 MiB written and synced to the root, then to a volume; 500 files made and removed on each
    network   64 MiB sent to a container of the same engine, round trips to it

Each engine is in a network and mount namespace of its own, rounds are interleaved. Writes a table to OUT.
"""
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

HULL, OUT, WORK, ROUNDS = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
KERNELS = sys.argv[5:]
TICKS = os.sysconf("SC_CLK_TCK")
IMAGE = Path(os.environ["BUSYBOX_IMAGE"])


class Api:
    def __init__(self, path):
        self.path = str(path)

    def open(self):
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(200)
        stream.connect(self.path)
        return stream

    def __call__(self, method, path, body=None, data=None):
        connection = http.client.HTTPConnection("localhost", timeout=200)
        connection.sock = self.open()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, json.dumps(body) if body is not None else data, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")
        return json.loads(text) if text.strip().startswith((b"{", b"[")) else text

    def upgraded(self, path, body=b""):
        stream = self.open()
        stream.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body))
        return stream


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def cpu_s(pid):
    """Of a process, those it has, and those that it reaped."""
    total = 0
    for one in [pid, *children(pid)]:
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += sum(map(int, fields[11:15]))
        except OSError:
            pass
    return total / TICKS


def private_mib(pids):
    """Of processes: all that is theirs alone, and how much of that is the kernel's image."""
    total = image = 0
    for pid in pids:
        is_image = False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if line.startswith("Private_"):
                size = int(line.split()[1])
                total, image = total + size, image + (size if is_image else 0)
            elif "-" in line.split()[0]:
                is_image = line.endswith("/machine/kernel")
    return total / 1024, image / 1024


def own_mib(pids):
    total, image = private_mib(pids)
    return total - image


def run_ns(pid):
    """What a process used of the processors, exactly."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def born_s(pid):
    """When a process began, by the clock of the boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]) / TICKS


def parent_of(pid):
    return int(re.search(r"^PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)[1])


class Engine:
    def __init__(self, name, command, isolation=None):
        self.name, self.isolation = name, isolation
        self.sock = WORK / f"{name}.sock"
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", 'ip link set lo up; exec "$@"', "-", *command],
            stdin=subprocess.DEVNULL, stdout=open(WORK / f"{name}.log", "ab"), stderr=subprocess.STDOUT)
        self.api = Api(self.sock)
        until = time.monotonic() + 60
        while True:
            try:
                self.api("GET", "/_ping")
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        self.api("POST", "/images/load?quiet=1", data=IMAGE.read_bytes())

    def create(self, command, **more):
        host = {"Memory": 256 << 20, "NetworkMode": "none"} | ({"Isolation": self.isolation} if self.isolation else {})
        body = {"Image": "busybox", "Cmd": command, "AttachStdout": True, "HostConfig": host | more}
        return self.api("POST", "/containers/create", body)["Id"]

    def remove(self, container):
        self.api("DELETE", f"/containers/{container}?force=1")

    def first_output(self):
        container = self.create(["sh", "-c", "echo x; exec sleep 1000"])
        stream = self.api.upgraded(f"/containers/{container}/attach?stream=1&stdout=1")
        head = b""
        while b"\r\n\r\n" not in head:
            head += stream.recv(1)
        cpu, ours, begun = cpu_s(self.process.pid), run_ns(self.process.pid), time.clock_gettime(time.CLOCK_BOOTTIME)
        self.api("POST", f"/containers/{container}/start")
        stream.recv(9)
        ended = time.clock_gettime(time.CLOCK_BOOTTIME)
        wall = ended - begun
        pid = self.api("GET", f"/containers/{container}/json")["State"]["Pid"]
        stream.close()
        if self.isolation != "vm":
            return container, pid, wall * 1000, cpu_s(self.process.pid) - cpu, None
        shim = parent_of(pid)
        ours = (run_ns(self.process.pid) - ours + run_ns(shim)) / 1e6
        used = cpu_s(shim)
        # By the guest's clock: how long it runs, and when the first process of the container began.
        asked = time.clock_gettime(time.CLOCK_BOOTTIME)
        words = self.run(container, "echo clock $(cut -d' ' -f1 /proc/uptime) $(cut -d' ' -f22 /proc/1/stat)")
        asked = (asked + time.clock_gettime(time.CLOCK_BOOTTIME)) / 2
        uptime, first = re.search(rb"clock ([0-9.]+) ([0-9]+)", words).groups()
        zero = asked - float(uptime)
        marks = [begun, max(begun, born_s(pid)), zero, zero + int(first) / 100, ended]
        stages = [(after - before) * 1000 for before, after in zip(marks, marks[1:])]
        return container, pid, wall * 1000, used, (stages, stages[0] + ours)

    def exec_ms(self, container):
        begun = time.monotonic()
        exec_id = self.api("POST", f"/containers/{container}/exec", {"AttachStdout": True, "Cmd": ["true"]})["Id"]
        stream = self.api.upgraded(f"/exec/{exec_id}/start", b'{"Detach":false,"Tty":false}')
        while stream.recv(4096):
            pass
        return (time.monotonic() - begun) * 1000

    def run(self, container, script):
        exec_id = self.api("POST", f"/containers/{container}/exec", {"AttachStdout": True, "Cmd": ["sh", "-c", script]})["Id"]
        stream = self.api.upgraded(f"/exec/{exec_id}/start", b'{"Detach":false,"Tty":false}')
        text = b""
        while data := stream.recv(4096):
            text += data
        return text

    def timed(self, container, script):
        begun = time.monotonic()
        self.run(container, script)
        return time.monotonic() - begun

    def figures(self):
        """Of files and network: seconds, MiB/s, ms."""
        other = {"Isolation": "default"} if self.isolation else {}
        server = self.create(["sh", "-c", "while :; do nc -l -p 5000 >/dev/null; done"], NetworkMode="bridge", **other)
        self.api("POST", f"/containers/{server}/start")
        address = self.api("GET", f"/containers/{server}/json")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        client = self.create(["sleep", "1000"], NetworkMode="bridge", Binds=["bench:/volume"])
        self.api("POST", f"/containers/{client}/start")
        self.exec_ms(client)
        found = []
        for folder in ("/root", "/volume"):
            seconds = self.timed(client, f"dd if=/dev/zero of={folder}/big bs=1M count=64 conv=fsync 2>/dev/null")
            found.append(64 / seconds)
            loop = f"cd {folder}; for i in $(seq 500); do echo x > f$i; done; rm -f f*"
            found.append(self.timed(client, loop) * 1000 / 500)
        found.append(64 / self.timed(client, f"dd if=/dev/zero bs=64k count=1024 2>/dev/null | nc {address} 5000"))
        trips = self.run(client, f"ping -q -c 20 -i 0.05 {address}")
        match = re.search(rb"= [0-9.]+/([0-9.]+)/", trips)
        found.append(float(match[1]) if match else float("nan"))
        self.remove(client)
        self.remove(server)
        return found

    def stop(self):
        for container in self.api("GET", "/containers/json?all=1"):
            self.remove(container["Id"])
        self.process.terminate()
        self.process.wait()


def raw_qemu(argv, kernel, initramfs):
    """The machine's own command line without disks and cards, until the agent says hello."""
    ours, theirs = socket.socketpair()
    words, skip = [], False
    for word in argv:
        words.append(word)
    line, index = [], 0
    while index < len(words):
        word = words[index]
        if word in ("-add-fd", "-blockdev", "-netdev") or (
                word == "-device" and words[index + 1].split(",")[0] in ("virtio-blk-device", "virtio-net-device")):
            index += 2
            continue
        line.append(word)
        index += 1
    line = [re.sub(r"(socket,id=agent,fd=)\d+", rf"\g<1>{theirs.fileno()}", word) for word in line]
    line[line.index("-kernel") + 1], line[line.index("-initrd") + 1] = str(kernel), str(initramfs)
    begun = time.monotonic()
    process = subprocess.Popen(line, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    theirs.close()
    ours.settimeout(120)
    ours.recv(16)
    wall, used = (time.monotonic() - begun) * 1000, cpu_s(process.pid)
    process.kill()
    process.wait()
    return wall, used


def main():
    engines = [Engine("docker", ["dockerd", "--data-root", WORK / "docker", "--exec-root", WORK / "docker.run", "--pidfile",
                                 WORK / "docker.pid", "--host", f"unix://{WORK}/docker.sock", "--log-level", "error"])]
    names = {"docker": "Docker 20.10, container"}
    for number, kernel in enumerate(["", *KERNELS]):
        name, data = f"hull{number}", WORK / f"data{number}"
        if kernel:
            subprocess.run([HULL, "vm", "kernel", "--data-root", data, "import", kernel], check=True, capture_output=True)
        engines.append(Engine(name, [HULL, "daemon", "--data-root", data, "--exec-root", WORK / f"run{number}", "--pidfile",
                                     WORK / f"{name}.pid", "--host", f"unix://{WORK}/{name}.sock"], "vm" if kernel else "default"))
        names[name] = f"machine, {Path(kernel).name.removeprefix('vmlinuz-').removeprefix('vmlinux-')}" if kernel else "container"
    kinds = ["start", "cpu", "exec", "memory", "image", "raw", "raw_cpu", "spike", "stages", "ours", "figures"]
    rows = {engine.name: {kind: [] for kind in kinds} for engine in engines}
    accelerator = "?"
    for round_number in range(ROUNDS):
        for engine in engines:
            row = rows[engine.name]
            container, pid, wall, used, stages = engine.first_output()
            row["start"].append(wall)
            row["cpu"].append(used)
            for _ in range(20):
                row["exec"].append(engine.exec_ms(container))
            processes = [pid] if engine.name == "docker" else [pid, parent_of(pid)]
            total, image = private_mib(processes)
            row["memory"].append(total - image)
            row["image"].append(image)
            if stages:
                row["stages"].append(stages[0])
                row["ours"].append(stages[1])
            if engine.isolation == "vm":
                facts = engine.api("GET", f"/containers/{container}/json")
                accelerator = next(iter(re.findall(r'"Accelerator": ?"([^"]*)"', json.dumps(facts))), accelerator)
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
                data = WORK / f"data{engine.name[4:]}"
                kernel = next((data / "vm/kernels").glob("[0-9a-f]*")) / "vmlinux"
                if round_number == 0:
                    row["spike"] = spike(engine, container, processes)
                engine.remove(container)
                wall, used = raw_qemu(argv, kernel, next((data / "vm/initramfs").iterdir()))
                row["raw"].append(wall)
                row["raw_cpu"].append(used)
            else:
                engine.remove(container)
    for engine in engines:
        rows[engine.name]["figures"] = engine.figures()
        engine.stop()
    write(engines, names, rows, accelerator)


def spike(engine, container, processes):
    """Private memory before, at most and, 10 s later, after a program held 150 MiB."""
    before, most, is_over = own_mib(processes), [0.0], threading.Event()

    def watch():
        while not is_over.wait(0.1):
            most[0] = max(most[0], own_mib(processes))

    watcher = threading.Thread(target=watch)
    watcher.start()
    engine.run(container, "head -c 157286400 /dev/zero | tail -c 157286400 | wc -c")
    is_over.set()
    watcher.join()
    least, until = 1e9, time.monotonic() + 10
    while time.monotonic() < until:
        least = min(least, own_mib(processes))
        time.sleep(0.5)
    return [before, most[0], least]


def write(engines, names, rows, accelerator):
    middle = lambda values: statistics.median(values) if values else None
    shown = lambda value, form="{:.0f}": "" if value is None else form.format(value)
    lines = ["# Machines", "", f"Command: `{os.environ.get('BENCH_COMMAND', 'benches/machines/run.py')}`, commit {os.environ.get('COMMIT', '?')}",
             f"Kernel {os.uname().release}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end; accelerator: {accelerator}; "
             f"medians of {ROUNDS} rounds", "",
             "| | start to first output, ms (least) | CPU s | raw QEMU to the agent's first frame, ms (least) | its CPU s | exec, ms (least) "
             "| private MiB with sleep | kernel's image, shared, MiB | spike of 150 MiB: before, most, least within 10 s after |",
             "|---|---|---|---|---|---|---|---|---|"]
    for engine in engines:
        row = rows[engine.name]
        raw = f"{middle(row['raw']):.0f} ({min(row['raw']):.0f})" if row["raw"] else ""
        spikes = ", ".join(f"{value:.0f}" for value in row["spike"])
        image = f"{max(row['image']):.0f}" if row["stages"] else ""
        lines.append(f"| {names[engine.name]} | {middle(row['start']):.0f} ({min(row['start']):.0f}) | {shown(middle(row['cpu']), '{:.2f}')} | {raw} | "
                     f"{shown(middle(row['raw_cpu']), '{:.2f}')} | {middle(row['exec']):.1f} ({min(row['exec']):.1f}) | "
                     f"{middle(row['memory']):.1f} | {image} | {spikes} |")
    lines += ["", "Stages of a start, ms: until QEMU's process is there, its guest's clock runs, the container's process is there, its output is at the client.", "",
              "| | QEMU's process | guest's clock | container's process | output | our share |", "|---|---|---|---|---|---|"]
    for engine in engines:
        row = rows[engine.name]
        if row["stages"]:
            stages = " | ".join(f"{middle(column):.0f}" for column in zip(*row["stages"]))
            lines.append(f"| {names[engine.name]} | {stages} | {middle(row['ours']):.0f} |")
    lines += ["", "| | written to the root, MiB/s | a file made and removed, ms | written to a volume, MiB/s | a file there, ms | sent to a container, MiB/s | round trip to it, ms |",
              "|---|---|---|---|---|---|---|"]
    for engine in engines:
        lines.append(f"| {names[engine.name]} | " + " | ".join(f"{value:.3g}" for value in rows[engine.name]["figures"]) + " |")
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


main()
