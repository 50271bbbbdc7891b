//! Images: archives as docker and OCI tools make them, there and back again.

use std::fs;

use hull_model::{Digest, ErrorKind};
use hull_storage::image::{
    Descriptor, Empty, ImageConfig, ImportOptions, LayerRef, LoadOptions, Platform, Reference,
    RunConfig, SavedImage,
};
use hull_storage::{Blob, Hasher, Result, Store};
use serde_json::{Value, json};

use crate::support::{Archive, Scratch, assert_no_leftovers, chain, gzip, run, text};

fn layer(name: &str) -> Vec<u8> {
    Archive::new().file(name, name.as_bytes()).end()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Hasher::digest(layer)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2024-05-06T07:08:09.5Z",
        "config": {"Cmd": ["sh"], "Env": ["A=b"], "Labels": null, "Unknown": {"x": 1}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": [], "moby.extra": true,
    });
    config.to_string().into_bytes()
}

fn load(store: &Store, archive: &[u8]) -> Result<Vec<hull_storage::image::LoadedImage>> {
    store
        .load(archive, &LoadOptions::default(), &mut |_| {})
        .map(|loaded| loaded.images)
}

fn names(references: &[Reference]) -> Vec<String> {
    references.iter().map(Reference::familiar).collect()
}

/// An archive of the old kind: layers in folders, one of them a link to another.
fn docker_archive(tags: &Value) -> Vec<u8> {
    let (first, second) = (layer("first"), layer("second"));
    let config = config(&[&first, &second, &first]);
    let manifest = json!([{
        "Config": "abc.json", "RepoTags": tags,
        "Layers": ["one/layer.tar", "two/layer.tar", "three/layer.tar"],
    }]);
    Archive::new()
        .dir("one")
        .file("one/VERSION", b"1.0")
        .file("one/layer.tar", &first)
        .file("two/layer.tar", &second)
        .symlink("three/layer.tar", "../one/layer.tar")
        .file("abc.json", &config)
        .file("manifest.json", manifest.to_string().as_bytes())
        .file("repositories", b"{}")
        .end()
}

/// The files of an OCI layout with an index in an index, an attestation and a foreign platform.
struct Layout {
    blobs: Vec<(Digest, Vec<u8>)>,
}

impl Layout {
    fn put(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let blob = Blob {
            digest: Hasher::digest(&bytes),
            size: bytes.len() as u64,
        };
        self.blobs.push((blob.digest, bytes));
        Descriptor::new(media_type, blob)
    }

    fn image(&mut self, config: Vec<u8>, layers: &[Vec<u8>]) -> Descriptor {
        let config = self.put("application/vnd.oci.image.config.v1+json", config);
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| self.put(kind, layer.clone()))
            .collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let bytes = manifest.to_string().into_bytes();
        self.put("application/vnd.oci.image.manifest.v1+json", bytes)
    }

    fn archive(&self, top: &Value) -> Vec<u8> {
        let mut archive = Archive::new().file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index = json!({"schemaVersion": 2, "manifests": [top]});
        archive = archive.file("index.json", index.to_string().as_bytes());
        for (digest, bytes) in &self.blobs {
            archive = archive.file(&format!("blobs/sha256/{}", digest.hex()), bytes);
        }
        archive.end()
    }
}

#[test]
fn a_docker_archive_is_loaded_saved_and_loaded_again_the_same() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let mut seen = 0;
    let archive = docker_archive(&json!(["busybox:1", "localhost:5000/a/b"]));
    let loaded = store
        .load(&archive[..], &LoadOptions::default(), &mut |progress| {
            seen += progress.current
        })
        .unwrap();
    assert!(seen > 0);
    let [loaded] = &loaded.images[..] else {
        panic!("{loaded:?}")
    };
    assert_eq!(
        names(&loaded.references),
        ["busybox:1", "localhost:5000/a/b:latest"]
    );
    let image = &loaded.image;
    let (first, second) = (layer("first"), layer("second"));
    let bytes = config(&[&first, &second, &first]);
    assert_eq!(image.id, Hasher::digest(&bytes));
    assert_eq!(
        store.read_blob(&image.id, 1 << 20, "config").unwrap(),
        bytes
    );
    let diff_ids: Vec<Digest> = image.layers.iter().map(|layer| layer.diff_id).collect();
    let digests = [&first, &second, &first].map(|layer| Hasher::digest(layer));
    assert_eq!(diff_ids, digests);
    assert_eq!(store.layers().unwrap().len(), 2);
    assert_eq!(store.image(&image.manifest.digest).unwrap(), *image);
    let shown = serde_json::to_value(&image.config).unwrap();
    assert_eq!(
        (&shown["config"]["Unknown"]["x"], &shown["moby.extra"]),
        (&json!(1), &json!(true))
    );

    let references = loaded.references.clone();
    let mut saved = Vec::new();
    store
        .save(
            &[SavedImage {
                image,
                references: &references,
            }],
            &mut saved,
        )
        .unwrap();
    for stream in [
        saved.clone(),
        gzip(&saved),
        zstd::encode_all(&saved[..], 3).unwrap(),
    ] {
        let other = Scratch::new();
        let store = other.store("store");
        let again = load(&store, &stream).unwrap();
        assert_eq!(again, std::slice::from_ref(loaded));
        assert_no_leftovers(&store);
    }
    // As tools see it.
    let file = scratch.path("saved.tar");
    fs::write(&file, &saved).unwrap();
    let listed = run("tar", &["-tf", text(&file)]);
    for name in ["blobs/sha256/", "index.json", "manifest.json", "oci-layout"] {
        assert!(listed.lines().any(|line| line == name), "{listed}");
    }
    let manifest = run("tar", &["-xOf", text(&file), "manifest.json"]);
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(
        manifest[0]["RepoTags"],
        json!(["busybox:1", "localhost:5000/a/b:latest"])
    );
    assert_eq!(manifest[0]["Layers"].as_array().unwrap().len(), 3);
}

#[test]
fn an_oci_layout_gives_the_image_for_this_machine() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let mut layout = Layout { blobs: Vec::new() };
    let (here, there) = (layer("here"), layer("there"));
    let foreign = layout.image(config(&[&there]), &[gzip(&there)]);
    let native = layout.image(config(&[&here]), &[gzip(&here)]);
    let attestation = layout.image(b"{}".to_vec(), &[]);
    let platform = |descriptor: &Descriptor, architecture: &str| {
        let os = "linux".to_owned();
        let architecture = architecture.to_owned();
        let platform = Platform {
            architecture,
            os,
            ..Platform::default()
        };
        Descriptor {
            platform: Some(platform),
            ..descriptor.clone()
        }
    };
    let mut unknown = platform(&attestation, "unknown");
    let note = (
        "vnd.docker.reference.type".to_owned(),
        "attestation-manifest".to_owned(),
    );
    unknown.annotations.extend([note]);
    let host = Platform::host().architecture;
    let entries = [
        unknown,
        platform(&foreign, "s390x"),
        platform(&native, &host),
    ];
    let nested = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let nested = layout.put(
        "application/vnd.oci.image.index.v1+json",
        nested.into_bytes(),
    );
    let mut top = serde_json::to_value(&nested).unwrap();
    top["annotations"] = json!({
        "org.opencontainers.image.ref.name": "1.0",
        "io.containerd.image.name": "docker.io/library/thing:1.0",
    });
    let loaded = load(&store, &layout.archive(&top)).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(names(&loaded[0].references), ["thing:1.0"]);
    assert_eq!(loaded[0].image.manifest.digest, native.digest);
    assert_eq!(loaded[0].image.layers[0].diff_id, Hasher::digest(&here));
    assert_eq!(
        loaded[0].image.layers[0].blob.digest,
        Hasher::digest(&gzip(&here))
    );

    let mut short = top.clone();
    short["size"] = json!(5);
    let error = load(&store, &layout.archive(&short)).unwrap_err();
    assert!(chain(&error).contains("bytes, not 5"), "{error}");

    // A tag alone names nothing; without a platform the first image that is there is taken.
    let top = json!({"mediaType": foreign.media_type, "digest": foreign.digest,
        "size": foreign.size, "annotations": {"org.opencontainers.image.ref.name": "latest"}});
    let loaded = load(&scratch.store("other"), &layout.archive(&top)).unwrap();
    assert!(loaded[0].references.is_empty());
    assert_eq!(loaded[0].image.manifest.digest, foreign.digest);
}

#[test]
fn archives_that_break_their_promises_are_refused() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let first = layer("first");
    let manifest = |config: &str, layers: &[&str]| {
        json!([{"Config": config, "RepoTags": ["a"], "Layers": layers}]).to_string()
    };
    let with = |config: &[u8], manifest: String| {
        let archive = Archive::new().file("l.tar", &first).file("c.json", config);
        archive.file("manifest.json", manifest.as_bytes()).end()
    };
    let good = config(&[&first]);
    let other = config(&[&layer("other")]);
    let wrong_name = format!("blobs/sha256/{}", "ab".repeat(32));
    let mut loop_archive = Archive::new()
        .file("c.json", &good)
        .symlink("l.tar", "m.tar");
    loop_archive = loop_archive.symlink("m.tar", "l.tar");
    let loops = loop_archive.file("manifest.json", manifest("c.json", &["l.tar"]).as_bytes());
    let cases: [(&str, Vec<u8>); 10] = [
        (
            "neither a manifest.json nor",
            Archive::new().file("x", b"y").end(),
        ),
        (
            "neither a manifest.json nor",
            Archive::new().file("manifest.json", b"[]").end(),
        ),
        (
            "parse manifest.json",
            Archive::new().file("manifest.json", b"{").end(),
        ),
        (
            "gone.tar is named",
            with(&good, manifest("c.json", &["gone.tar"])),
        ),
        (
            "c.json is not a layer",
            with(&good, manifest("c.json", &["c.json"])),
        ),
        (
            "promises 1 layers and names 2",
            with(&good, manifest("c.json", &["l.tar", "l.tar"])),
        ),
        (
            "has the digest",
            with(&other, manifest("c.json", &["l.tar"])),
        ),
        ("parse c.json", with(b"[]", manifest("c.json", &["l.tar"]))),
        (
            "has the digest",
            Archive::new().file(&wrong_name, &first).end(),
        ),
        ("l.tar is named", loops.end()),
    ];
    for (reason, archive) in cases {
        let error = load(&store, &archive).unwrap_err();
        assert!(
            chain(&error).contains(reason),
            "{reason:?} in {}",
            chain(&error)
        );
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_no_leftovers(&store);
    }
    let mut archive = docker_archive(&json!(["Not A Name"]));
    assert_eq!(
        load(&store, &archive).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    archive.truncate(700);
    assert_eq!(
        load(&store, &archive).unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
}

#[test]
fn an_imported_root_file_system_is_an_image_that_can_be_built_upon() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let config = RunConfig {
        cmd: Some(vec!["sh".to_owned()]),
        exposed_ports: [("80/tcp".to_owned(), Empty {})].into(),
        ..RunConfig::default()
    };
    let options = ImportOptions {
        config,
        message: "from a tar".to_owned(),
        platform: Platform::host(),
        created: "2024-01-02T03:04:05Z".to_owned(),
    };
    let base = store.import(&gzip(&layer("base"))[..], options).unwrap();
    assert_eq!(base.config.history[0].comment, "from a tar");
    assert_eq!(base.layers[0].diff_id, Hasher::digest(&layer("base")));
    let text = store.read_blob(&base.id, 1 << 20, "config").unwrap();
    let shown: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        shown["config"],
        json!({"Cmd": ["sh"], "ExposedPorts": {"80/tcp": {}}})
    );

    let top = store
        .ingest_layer(&layer("top")[..], &crate::support::keep())
        .unwrap();
    let layers = [base.layers[0].clone(), LayerRef::from(&top)];
    let built = store
        .put_image(
            ImageConfig {
                ..base.config.clone()
            },
            &layers,
        )
        .unwrap();
    assert_eq!(
        built.config.rootfs.diff_ids,
        [base.layers[0].diff_id, top.diff_id]
    );
    assert_ne!(built.id, base.id);
    store.remove_layer(&top.diff_id).unwrap();
    assert_eq!(
        store.image(&built.manifest.digest).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}
