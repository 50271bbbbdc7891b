//! `hull manifest`: what a registry has under a name, and lists of images of several platforms; by the
//! client itself.
//!
//! ```text
//!  lists.rs   lists that are being put together, as files
//!  make.rs    create, annotate, push, rm
//! ```

mod lists;
mod make;

use hull_model::Digest;
use hull_registry::{Access, Fetched, Repository};
use hull_storage::image::{INDEX_TYPES, ImageConfig, MANIFEST_TYPES, Manifest, Reference};
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::session::{Session, print_line};
use super::{Command, registry_end};
use crate::copy;
use lists::{Folder, List, Member};

pub(super) use make::{ManifestAnnotate, ManifestCreate, ManifestPush, ManifestRemove};

/// Bytes of a configuration that is looked into for its platform.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// `hull manifest inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestInspect {
    /// Allow communication with an insecure registry
    #[arg(long)]
    insecure: bool,
    /// Output additional info including layers and platform
    #[arg(long, short)]
    verbose: bool,
    #[arg(required = true, num_args = 1..=2, value_name = "MANIFEST")]
    names: Vec<String>,
}

impl Command for ManifestInspect {
    const USAGE: &str = "[OPTIONS] [MANIFEST_LIST] MANIFEST";
    const ABOUT: &str = "Display an image manifest, or manifest list";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let failed = |error: &dyn std::error::Error| Failure::chain(error);
        let last = self.names.last().map_or("", String::as_str);
        let reference = registry_end::parse(last)?;
        if let [list, _] = &self.names[..] {
            let list = Folder::of(session, &registry_end::parse(list)?);
            let member = list.member(&reference)?;
            let member =
                member.ok_or_else(|| Failure::new(format!("No such manifest: {reference}")))?;
            return self.print_member(&member);
        }
        let list = Folder::of(session, &reference);
        if list.exists() {
            return self.print_list(&list.members()?);
        }
        let repository =
            registry_end::open(session, &reference, Access::Pull, self.insecure).await?;
        let fetched = repository.manifest(&asked(&reference)).await;
        let fetched = fetched.map_err(|e| failed(&e))?;
        if !self.verbose {
            return print_line(&indented(&fetched.bytes));
        }
        if !copy::is_index(&fetched).map_err(|e| failed(&e))? {
            let one = described(&reference.to_string(), &fetched)?;
            let config = config_platform(&repository, &fetched).await?;
            return print_json(&with_platform(one, config));
        }
        let mut all = Vec::new();
        for entry in copy::index(&fetched).map_err(|e| failed(&e))?.manifests {
            let child = repository.manifest(&entry.digest.to_string()).await;
            let child = child.map_err(|e| failed(&e))?;
            let name = reference.with_digest(entry.digest).to_string();
            let platform = entry.platform.map(|platform| json!(platform));
            all.push(with_platform(described(&name, &child)?, platform));
        }
        print_json(&Value::Array(all))
    }
}

impl ManifestInspect {
    /// A list that is being put together here.
    fn print_list(&self, members: &[Member]) -> Result<(), Failure> {
        match self.verbose {
            true => print_json(&json!(members)),
            false => print_line(&String::from_utf8_lossy(&List::of(members).bytes()?)),
        }
    }

    fn print_member(&self, member: &Member) -> Result<(), Failure> {
        match member.bytes().filter(|_| !self.verbose) {
            Some(bytes) => print_line(&indented(&bytes)),
            None => print_json(&json!(member)),
        }
    }
}

/// What a registry is asked for.
fn asked(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or_default().to_owned(),
    }
}

/// Where it runs, by its configuration.
async fn config_platform(
    repository: &Repository,
    fetched: &Fetched,
) -> Result<Option<Value>, Failure> {
    let config = config_of(repository, fetched).await?;
    // What is no image has no platform.
    let config: Option<ImageConfig> = config.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(config.map(|config| json!({"architecture": config.architecture, "os": config.os})))
}

/// The configuration of an image; none: it is too large to be one.
async fn config_of(repository: &Repository, fetched: &Fetched) -> Result<Option<Vec<u8>>, Failure> {
    let manifest: Manifest = parse(&fetched.bytes, &fetched.digest)?;
    let part = manifest.config;
    if part.size > CONFIG_BYTES_MAX {
        return Ok(None);
    }
    let opened = repository.blob(&part.digest, part.size, 0).await;
    let mut stream = opened.map_err(|e| Failure::chain(&e))?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.map_err(|e| Failure::chain(&e))?);
    }
    Ok(Some(bytes))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], digest: &Digest) -> Result<T, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|cause| Failure::new(format!("manifest {digest}: {cause}")))
}

/// As Docker's client shows it at length.
fn described(name: &str, fetched: &Fetched) -> Result<Map<String, Value>, Failure> {
    let kind = copy::media_type(fetched).map_err(|e| Failure::chain(&e))?;
    let content: Value = parse(&fetched.bytes, &fetched.digest)?;
    let member = match kind.as_str() {
        kind if kind == MANIFEST_TYPES[0] => "OCIManifest",
        kind if INDEX_TYPES.contains(&kind) => "Index",
        _ => "SchemaV2Manifest",
    };
    let mut shown = Map::new();
    shown.insert("Ref".to_owned(), name.into());
    let size = fetched.bytes.len();
    let descriptor = json!({"mediaType": kind, "digest": fetched.digest.to_string(), "size": size});
    shown.insert("Descriptor".to_owned(), descriptor);
    shown.insert(member.to_owned(), content);
    Ok(shown)
}

fn with_platform(mut shown: Map<String, Value>, platform: Option<Value>) -> Value {
    if let (Some(descriptor), Some(platform)) = (shown.get_mut("Descriptor"), platform) {
        descriptor["platform"] = platform;
    }
    Value::Object(shown)
}

fn print_json(value: &Value) -> Result<(), Failure> {
    print_line(&indented(value.to_string().as_bytes()))
}

/// JSON with a tab for each level, members in the order in which they are.
fn indented(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(bytes.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let mut bytes = bytes.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_text {
            out.push(byte);
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'{' | b'[' => {
                out.push(byte);
                while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
                if let Some(end) = bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b'"' => {
                in_text = true;
                out.push(byte);
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.resize(out.len() + depth, b'\t');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_as_gos_encoder_does_it() {
        let check = |text: &str, expected| assert_eq!(indented(text.as_bytes()), expected);
        check("{}", "{}");
        check(
            r#"{ "b":[1, 2],"a": {"x":"{\",}" } , "e":[ ]}"#,
            "{\n\t\"b\": [\n\t\t1,\n\t\t2\n\t],\n\t\"a\": {\n\t\t\"x\": \"{\\\",}\"\n\t},\n\t\"e\": []\n}",
        );
    }
}
