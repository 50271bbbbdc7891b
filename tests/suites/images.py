#!/usr/bin/env python3
"""Makes the images that the suites of the SDKs ask for, as one archive for `docker load`.

usage: images.py OUT.tar      prints the names

The suites want images of a registry that tests do not reach. These are stand-ins: Debian's static
busybox under the names that the suites use, with the few files and settings that they look at.
"""
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

BUSYBOX = "/bin/busybox"
TIME = 1700000000
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FOLDERS = """bin dev etc home lib mnt opt proc root run sbin srv sys tmp usr usr/bin usr/local usr/local/bin usr/sbin
usr/share var var/lib var/opt var/run var/spool var/spool/mail var/www""".split()
USERS = ["root:x:0:0:root:/root:/bin/sh", "bin:x:2:2:bin:/bin:/bin/false", "www-data:x:33:33:www-data:/var/www:/bin/false",
         "postgres:x:70:70::/var/lib/postgresql:/bin/sh", "guest:x:405:100:guest:/dev/null:/bin/false",
         "operator:x:37:37:Operator:/var:/bin/false", "nobody:x:65534:65534:nobody:/home:/bin/false"]
GROUPS = ["root:x:0:", "bin:x:2:", "www-data:x:33:", "postgres:x:70:", "users:x:100:", "nogroup:x:65534:"]

HELLO = "\nHello from Docker!\nThis message shows that your installation appears to be working correctly.\n\n"
WEB = {"usr/sbin/nginx": ("#!/bin/sh\nexec httpd -f -p 80 -h /usr/share/nginx/html\n", 0o755),
       "usr/share/nginx/html/index.html": ("<h1>Welcome to nginx!</h1>\n", 0o644)}
UHTTPD = {"usr/sbin/run_uhttpd": ("#!/bin/sh\nexec httpd \"$@\"\n", 0o755),
          "etc/config/uhttpd": ("\nconfig uhttpd main\n", 0o644), "www/index.html": ("ok\n", 0o644)}
UBUNTU = {"bin/bash": ("#!/bin/busybox sh\nexec /bin/busybox sh \"$@\"\n", 0o755),
          "etc/os-release": ("NAME=Ubuntu\nID=ubuntu\n", 0o644)}
RYUK = {"bin/ryuk": ("#!/bin/sh\necho 'ryuk stand-in Started!'\nexec nc -ll -p 8080 -e /bin/cat\n", 0o755)}
ALPINE = {"etc/os-release": ("NAME=\"Alpine Linux\"\nID=alpine\n", 0o644)}

# Names, further files, settings.
IMAGES = [
    ("busybox:latest busybox:1 busybox:1.0 busybox:1.24 busybox:1.27.2 busybox:1.31 busybox:1.31.0-uclibc busybox:1.33.1 "
     "busybox:1.36 busybox:musl busybox:uclibc busybox:stable busybox:glibc busybox:1.27.0.2 busybox:buildroot-2013.08.1",
     {}, {}),
    ("alpine:latest alpine:3 alpine:3.10 alpine:3.10.1 alpine:3.12 alpine:3.18", ALPINE, {"Cmd": ["/bin/sh"]}),
    ("hello-world:latest hello-world:linux", {"hello": ("#!/bin/sh\ncat /hello.txt\n", 0o755), "hello.txt": (HELLO, 0o644)},
     {"Cmd": ["/hello"]}),
    ("nginx:latest nginx:alpine nginx:alpine-slim nginx:1.25.4-alpine-slim", WEB, {"Cmd": ["nginx"], "ExposedPorts": {"80/tcp": {}}}),
    ("fussybeaver/uhttpd:latest", UHTTPD,
     {"Cmd": ["/usr/sbin/run_uhttpd", "-f", "-p", "80", "-h", "/www"], "ExposedPorts": {"80/tcp": {}}}),
    ("ubuntu:latest ubuntu:14.04 ubuntu:22.04", UBUNTU, {"Cmd": ["/bin/bash"]}),
    ("postgres:latest redis:latest mysql:latest", {}, {"Cmd": ["top"]}),
    ("testcontainers/ryuk:0.8.1", RYUK, {"Cmd": ["/bin/ryuk"], "ExposedPorts": {"8080/tcp": {}}}),
]


def member(name, mode, kind=tarfile.REGTYPE, size=0, link=""):
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.size, info.linkname, info.mtime = mode, kind, size, link, TIME
    return info


def put(archive, name, data, mode=0o644):
    archive.addfile(member(name, mode, size=len(data)), io.BytesIO(data))


def archive_of(fill):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        fill(archive)
    return buffer.getvalue()


def base(archive):
    for name in FOLDERS:
        archive.addfile(member(name + "/", 0o1777 if name == "tmp" else 0o755, tarfile.DIRTYPE))
    with open(BUSYBOX, "rb") as program:
        put(archive, "bin/busybox", program.read(), 0o755)
    applets = set(subprocess.run([BUSYBOX, "--list-full"], capture_output=True, text=True, check=True).stdout.split())
    applets |= {"bin/" + name.rsplit("/", 1)[-1] for name in applets}
    for name in sorted(applets - {"bin/busybox"}):
        archive.addfile(member(name, 0o777, tarfile.SYMTYPE, link="/bin/busybox"))
    put(archive, "etc/passwd", "\n".join(USERS + [""]).encode())
    put(archive, "etc/group", "\n".join(GROUPS + [""]).encode())


def extra(name, files):
    def fill(archive):
        # Each name is an image of its own: tests remove images by their ids.
        put(archive, "etc/image-name", name.encode())
        for path, (text, mode) in files.items():
            put(archive, path, text.encode(), mode)
    return archive_of(fill)


def registry_files():
    """Debian's registry with what it is linked to, for suites that run one in a container."""
    program = "/usr/bin/docker-registry"
    if not os.path.exists(program):
        return None
    config = "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: /var/lib/registry\nhttp:\n  addr: :5000\n"
    files = {"bin/registry": (program, 0o755), "etc/docker/registry/config.yml": (config, 0o644)}
    for word in subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout.split():
        if word.startswith("/"):
            files[("lib64/" if "ld-linux" in word else "lib/") + os.path.basename(word)] = (word, 0o755)
    def fill(archive):
        for path, (source, mode) in files.items():
            data = open(source, "rb").read() if source.startswith("/") else source.encode()
            put(archive, path, data, mode)
    return archive_of(fill)


def main(out):
    layer = archive_of(base)
    images = [(name, [layer, extra(name, files)], settings) for names, files, settings in IMAGES for name in names.split()]
    registry = registry_files()
    if registry:
        settings = {"Entrypoint": ["/bin/registry"], "Cmd": ["serve", "/etc/docker/registry/config.yml"],
                    "ExposedPorts": {"5000/tcp": {}}, "Volumes": {"/var/lib/registry": {}}}
        images += [(name, [layer, registry, extra(name, {})], settings) for name in ("registry:2", "registry:2.7", "registry:latest")]
    written, manifest = set(), []
    with tarfile.open(out + ".part", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, layers, settings in images:
            digests = [hashlib.sha256(one).hexdigest() for one in layers]
            for digest, one in zip(digests, layers):
                if digest not in written:
                    written.add(digest)
                    put(archive, digest + ".tar", one)
            config = json.dumps({
                "architecture": os.environ.get("ARCHITECTURE", "amd64"), "os": "linux", "created": "2023-11-14T22:13:20Z",
                "config": {"Env": [PATH], "Cmd": ["sh"], **settings},
                "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest for digest in digests]},
                "history": [{"created": "2023-11-14T22:13:20Z", "created_by": name} for _ in layers],
            }).encode()
            file = hashlib.sha256(config).hexdigest() + ".json"
            put(archive, file, config)
            manifest.append({"Config": file, "RepoTags": [name], "Layers": [digest + ".tar" for digest in digests]})
        put(archive, "manifest.json", json.dumps(manifest).encode())
    os.rename(out + ".part", out)
    print("\n".join(name for name, _, _ in images))


main(sys.argv[1])
