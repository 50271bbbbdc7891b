#!/usr/bin/env python3
"""Writes archives that must be refused: NAME.tar, and what the refusal has to say in NAME.says."""

import hashlib
import io
import json
import sys
import tarfile
import zlib
from pathlib import Path

OUT, GOOD = Path(sys.argv[1]), Path(sys.argv[2])


def tar(members):
    """An archive of (name, bytes) or ready-made TarInfo without contents."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                name, contents = member
                info = tarfile.TarInfo(name)
                info.size = len(contents)
                archive.addfile(info, io.BytesIO(contents))
    return out.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def sha(data):
    return hashlib.sha256(data).hexdigest()


def write(name, says, data):
    (OUT / f"{name}.tar").write_bytes(data)
    (OUT / f"{name}.says").write_text(says)


def docker(layers, names=None, diff_ids=None, tags=("bad:1",)):
    """A docker archive of one image."""
    names = names or [f"layer{n}.tar" for n in range(len(layers))]
    diff_ids = diff_ids if diff_ids is not None else ["sha256:" + sha(layer) for layer in layers]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": names}]
    members = [*dict(zip(names, layers)).items(), ("config.json", json.dumps(config).encode())]
    return [*members, ("manifest.json", json.dumps(manifest).encode())]


GOOD_LAYER = tar([("file", b"contents")])

# Layers.
write("escape", 'layer layer0.tar: layer entry "../../etc/evil": it leads out of the layer',
      tar(docker([tar([("../../etc/evil", b"x")])])))
write("hardlink", 'layer layer0.tar: layer entry "x"', tar(docker([tar([link("x", "/etc/shadow", tarfile.LNKTYPE)])])))
write("linkthrough", "passes something that is not a directory",
      tar(docker([tar([link("d", "/etc"), link("x", "d/shadow", tarfile.LNKTYPE)])])))
device = tarfile.TarInfo("dev")
device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 0o7777777, 0o7777777
write("device", "the device number is out of range", tar(docker([tar([device])])))
write("truncated", "layer layer0.tar", tar(docker([tar([("big", bytes(5000))])[:2000]])))
write("corrupt", "layer layer0.tar", tar(docker([zlib.compress(GOOD_LAYER, wbits=31)[:-9] + b"garbage!!"])))
# Half of the archive itself, and one that is no archive.
write("cut", "middle of an entry", GOOD.read_bytes()[:3000])
write("cutzip", "load the archive", zlib.compress(GOOD.read_bytes(), wbits=31)[:-200])
write("html", "load the archive", b"<!DOCTYPE html><html><body>404 not found</body></html>\n" * 40)
write("empty", "neither a manifest.json nor an index.json", tar([]))

# Claims.
write("digest", "image bad:1: layer layer0.tar: uncompressed layer of the archive has the digest",
      tar(docker([GOOD_LAYER], diff_ids=["sha256:" + "0" * 64])))
write("missing", "image bad:1: image archive: layer0.tar is named, but not in it",
      tar([m for m in docker([GOOD_LAYER]) if m[0] != "layer0.tar"]))
write("count", "promises 2 layers and names 1", tar(docker([GOOD_LAYER], diff_ids=["sha256:" + sha(GOOD_LAYER)] * 2)))
write("noconfig", "config.json is named, but not in it", tar([m for m in docker([GOOD_LAYER]) if m[0] != "config.json"]))
write("htmlconfig", "parse config.json",
      tar([(n, b"<html>" if n == "config.json" else c) for n, c in docker([GOOD_LAYER])]))
write("htmlmanifest", "parse manifest.json", tar([("manifest.json", b"<html><body>503</body></html>")]))
write("name", 'image reference "Bad/NAME"', tar(docker([GOOD_LAYER], tags=["Bad/NAME"])))
write("loop", "is named, but not in it",
      tar([link("layer0.tar", "x"), link("x", "layer0.tar"), *[m for m in docker([GOOD_LAYER]) if m[0] != "layer0.tar"]]))
write("many", "limit of 500 layers",
      tar(docker([GOOD_LAYER], names=["layer0.tar"] * 501, diff_ids=["sha256:" + sha(GOOD_LAYER)] * 501)))
# A million layers make a document that is larger than any registry's.
million = json.dumps([{"Config": "config.json", "RepoTags": ["bad:1"], "Layers": ["layer0.tar"] * 1_000_000}])
write("million", "manifest.json: document of the archive exceeds the limit of 4194304 bytes", tar([("manifest.json", million.encode())]))


def layout(top, blobs):
    index = {"schemaVersion": 2, "manifests": [top]}
    members = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", json.dumps(index).encode())]
    return tar(members + [(f"blobs/sha256/{name}", data) for name, data in blobs])


def descriptor(data, kind, digest=None):
    return {"mediaType": f"application/vnd.oci.image.{kind}.v1+json", "digest": "sha256:" + (digest or sha(data)), "size": len(data)}


# Indexes.
nested, blobs = json.dumps({"schemaVersion": 2, "manifests": []}).encode(), []
for _ in range(8):
    blobs.append((sha(nested), nested))
    nested = json.dumps({"schemaVersion": 2, "manifests": [descriptor(nested, "index")]}).encode()
blobs.append((sha(nested), nested))
write("deep", "nesting of indexes exceeds the limit of 4 levels", layout(descriptor(nested, "index"), blobs))
data = b'{"schemaVersion":2}'
write("lie", "document of the archive has the digest", layout(descriptor(data, "manifest", "1" * 64), [("1" * 64, data)]))
write("blob", f"layer blobs/sha256/{'2' * 64}: layer has the digest", layout(descriptor(data, "manifest"), [("2" * 64, GOOD_LAYER)]))
