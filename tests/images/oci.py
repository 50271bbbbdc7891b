"""Images made by hand, put straight into a registry: for tests that must know each byte."""
import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
PROCESSOR = {"aarch64": "arm64"}.get(os.uname().machine, "amd64")


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar(members):
    """Of (name, bytes, mode)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, contents, *mode in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(contents), mode[0] if mode else 0o644
            archive.addfile(entry, io.BytesIO(contents))
    return out.getvalue()


class Registry:
    """A docker-registry of its own with a store below `work`."""

    def __init__(self, work, port, host="127.0.0.1"):
        self.address, self.port = f"{host}:{port}", port
        config = Path(work) / f"registry-{port}.yml"
        config.write_text(f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{self.address}'}}\n"
                          f"storage: {{filesystem: {{rootdirectory: {work}/registry-{port}}}}}\n")
        log = open(Path(work) / f"registry-{port}.log", "ab")
        self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)

    def answers(self):
        try:
            return self.request("GET", "/v2/").status == 200
        except OSError:
            return False

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def request(self, method, path, body=None, headers=None):
        url = path if path.startswith("http") else f"http://{self.address}{path}"
        return urllib.request.urlopen(urllib.request.Request(url, body, headers or {}, method=method))

    def digest_of(self, name, tag):
        """What a tag stands for; none: nothing."""
        accept = {"Accept": ", ".join((INDEX, MANIFEST))}
        try:
            return digest(self.request("GET", f"/v2/{name}/manifests/{tag}", headers=accept).read())
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def blob(self, name, data, kind=None):
        place = self.request("POST", f"/v2/{name}/blobs/uploads/").headers["Location"]
        self.request("PUT", place + ("&" if "?" in place else "?") + "digest=" + digest(data), data,
                     {"Content-Type": "application/octet-stream"})
        return {"mediaType": kind, "digest": digest(data), "size": len(data)} if kind else {
            "digest": digest(data), "size": len(data)}

    def document(self, name, kind, value, tag=None):
        """Puts a manifest or index, by tag or digest; returns its descriptor."""
        data = json.dumps(value).encode()
        self.request("PUT", f"/v2/{name}/manifests/{tag or digest(data)}", data, {"Content-Type": kind})
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def image(self, name, layers, tag=None, architecture=PROCESSOR, run=None):
        """An image of tars; returns its descriptor, with `id` and `diff_ids` beside it."""
        blobs = [self.blob(name, gzip.compress(layer, 1, mtime=0), LAYER) for layer in layers]
        diff_ids = [digest(layer) for layer in layers]
        config = json.dumps({"architecture": architecture, "os": "linux", "config": run or {"Cmd": ["/x"]},
                             "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
        described = self.document(name, MANIFEST, {"schemaVersion": 2, "mediaType": MANIFEST, "layers": blobs,
                                                   "config": self.blob(name, config, CONFIG)}, tag)
        platform = {"architecture": architecture, "os": "linux"}
        return {**described, "platform": platform}, {"id": digest(config), "diff_ids": diff_ids, "layers": blobs}

    def index(self, name, entries, tag=None):
        return self.document(name, INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, tag)

    def referrer(self, name, subject, contents, kind="application/vnd.example.sbom"):
        """An artifact that refers to a manifest, and the tag by which older registries list it."""
        value = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
                 "config": self.blob(name, b"{}", "application/vnd.oci.empty.v1+json"),
                 "layers": [self.blob(name, contents, kind)],
                 "subject": {key: subject[key] for key in ("mediaType", "digest", "size")}}
        described = self.document(name, MANIFEST, value)
        self.index(name, [{**described, "artifactType": kind}], subject["digest"].replace(":", "-"))
        return described


def random_tar(numbers, *sizes):
    return tar([(f"file-{at}", numbers.randbytes(size)) for at, size in enumerate(sizes)])


def numbers(seed):
    return random.Random(seed)
