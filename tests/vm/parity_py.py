"""What a program does with docker-py, printed without what differs from run to run."""

import io
import os
import tarfile

import docker

client = docker.from_env(timeout=300)
isolation = {"isolation": os.environ["ISOLATION"]}
print(client.containers.run("busybox", ["echo", "hello"], remove=True, **isolation))
try:
    client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], **isolation)
except docker.errors.ContainerError as error:
    print(error.exit_status, error.stderr)
container = client.containers.run("busybox", ["sh", "-c", "echo up; sleep 1000"], name="py", detach=True,
                                  mem_limit="192m", labels={"k": "v"}, **isolation)
print(container.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True))
print(container.exec_run("id", user="12:13").output)
buffer = io.BytesIO()
with tarfile.open(fileobj=buffer, mode="w") as archive:
    facts = tarfile.TarInfo("given")
    facts.size = 5
    archive.addfile(facts, io.BytesIO(b"bytes"))
print(container.put_archive("/tmp", buffer.getvalue()), container.exec_run("cat /tmp/given").output)
chunks, stat = container.get_archive("/tmp/given")
print(stat["name"], stat["size"], len(b"".join(chunks)) > 512)
print(next(container.logs(stream=True)))
print(sorted(change["Path"] for change in container.diff() or []))
print(container.stats(stream=False)["memory_stats"]["usage"] > 0)
container.pause()
container.reload()
print(container.status)
container.unpause()
container.stop(timeout=0)
print(container.wait()["StatusCode"])
container.reload()
print(container.status, container.attrs["State"]["ExitCode"], container.labels)
container.remove()
print(client.containers.list(all=True, filters={"name": "py"}))
