//! Lists of manifests that are being put together: files of the client, in docker's form, so that
//! either of the two goes on where the other one stopped.
//!
//! ```text
//!  ~/.docker/manifests/<list>/<manifest>      names with `:` as `-` and `/` as `_`
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hull_model::Digest;
use hull_os::durable::{self, Durability};
use hull_registry::Fetched;
use hull_storage::image::{INDEX_TYPES, MANIFEST_TYPES, Reference};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::failure::Failure;
use super::super::session::Session;

const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// What an image runs on, as a list says it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct On {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub(super) os_version: String,
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) variant: String,
}

/// Points to a manifest of a list; the members have docker's order, and so has the list's digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    pub(super) media_type: String,
    pub(super) size: u64,
    pub(super) digest: Digest,
    #[serde(default)]
    pub(super) platform: On,
}

/// One manifest of a list, in its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Member {
    #[serde(rename = "Ref")]
    pub(super) name: String,
    pub(super) descriptor: Listed,
    /// Its bytes, in base64; older files of docker's have none.
    #[serde(default)]
    raw: String,
    #[serde(
        rename = "SchemaV2Manifest",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    docker: Option<Value>,
    #[serde(
        rename = "OCIManifest",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    oci: Option<Value>,
}

impl Member {
    pub(super) fn new(
        name: &Reference,
        kind: String,
        fetched: &Fetched,
        platform: On,
    ) -> Result<Member, Failure> {
        let manifest: Value = serde_json::from_slice(&fetched.bytes)
            .map_err(|cause| Failure::new(format!("manifest {}: {cause}", fetched.digest)))?;
        let (docker, oci) = match kind == MANIFEST_TYPES[0] {
            true => (None, Some(manifest)),
            false => (Some(manifest), None),
        };
        Ok(Member {
            name: name.to_string(),
            descriptor: Listed {
                media_type: kind,
                size: fetched.bytes.len() as u64,
                digest: fetched.digest,
                platform,
            },
            raw: STANDARD.encode(&fetched.bytes),
            docker,
            oci,
        })
    }
}

impl Member {
    /// Its bytes; none: they are to be fetched again.
    pub(super) fn bytes(&self) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(&self.raw).ok();
        bytes.filter(|bytes| !bytes.is_empty())
    }
}

/// The list as a registry gets it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List {
    schema_version: u32,
    pub(super) media_type: String,
    manifests: Vec<Listed>,
}

impl List {
    /// A list of these, of their form.
    pub(super) fn of(members: &[Member]) -> List {
        let first = members.first().map(|first| &first.descriptor.media_type);
        let form = usize::from(first.is_none_or(|kind| kind != MANIFEST_TYPES[0]));
        List {
            schema_version: 2,
            media_type: INDEX_TYPES[form].to_owned(),
            manifests: members.iter().map(|m| m.descriptor.clone()).collect(),
        }
    }

    /// Its bytes, with docker's indentation.
    pub(super) fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        let form = serde_json::ser::PrettyFormatter::with_indent(b"   ");
        let mut writer = serde_json::Serializer::with_formatter(&mut bytes, form);
        self.serialize(&mut writer)
            .map_err(|cause| Failure::new(format!("write the list: {cause}")))?;
        Ok(bytes)
    }
}

/// Where one list is kept.
pub(super) struct Folder {
    path: PathBuf,
    name: String,
}

impl Folder {
    pub(super) fn of(session: &Session, list: &Reference) -> Folder {
        let name = list.to_string();
        let path = session.config_dir().join("manifests").join(as_file(&name));
        Folder { path, name }
    }

    pub(super) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// All that it has, in the order of their files' names.
    pub(super) fn members(&self) -> Result<Vec<Member>, Failure> {
        let listed = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Failure::new(format!("No such manifest: {}", self.name)));
            }
            listed => listed.map_err(|cause| self.failed("list", &cause))?,
        };
        let mut names = Vec::new();
        for entry in listed {
            names.push(entry.map_err(|cause| self.failed("list", &cause))?.path());
        }
        names.sort();
        names.iter().map(|path| self.read(path)).collect()
    }

    /// One of them; none: it is not in the list.
    pub(super) fn member(&self, name: &Reference) -> Result<Option<Member>, Failure> {
        let path = self.path.join(as_file(&name.to_string()));
        match path.exists() {
            true => self.read(&path).map(Some),
            false => Ok(None),
        }
    }

    pub(super) fn put(&self, name: &Reference, member: &Member) -> Result<(), Failure> {
        durable::make_dir_all(&self.path, FOLDER_MODE)
            .map_err(|cause| self.failed("make", &cause))?;
        let path = self.path.join(as_file(&name.to_string()));
        let text = serde_json::to_vec(member)
            .map_err(|cause| Failure::new(format!("write {}: {cause}", path.display())))?;
        durable::replace_file(&path, &text, FILE_MODE, Durability::Synced)
            .map_err(|cause| self.failed("write", &cause))
    }

    pub(super) fn remove(&self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.path).map_err(|cause| self.failed("remove", &cause))
    }

    fn read(&self, path: &std::path::Path) -> Result<Member, Failure> {
        let text = fs::read(path).map_err(|cause| self.failed("read", &cause))?;
        serde_json::from_slice(&text)
            .map_err(|cause| Failure::new(format!("read {}: {cause}", path.display())))
    }

    fn failed(&self, step: &str, cause: &std::io::Error) -> Failure {
        Failure::new(format!("{step} {}: {cause}", self.path.display()))
    }
}

/// A name as that of a file.
fn as_file(name: &str) -> String {
    name.replace(':', "-").replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_dockers_bytes() {
        let digest = Digest::from_bytes([7; 32]);
        let member = Member {
            name: "docker.io/library/a:1".to_owned(),
            descriptor: Listed {
                media_type: MANIFEST_TYPES[1].to_owned(),
                size: 5,
                digest,
                platform: On {
                    architecture: "amd64".to_owned(),
                    os: "linux".to_owned(),
                    ..On::default()
                },
            },
            raw: String::new(),
            docker: None,
            oci: None,
        };
        let text = String::from_utf8(List::of(&[member]).bytes().unwrap()).unwrap();
        let expected = format!(
            "{{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"{}\",\n   \"manifests\": [\n      {{\n         \
             \"mediaType\": \"{}\",\n         \"size\": 5,\n         \"digest\": \"{digest}\",\n         \
             \"platform\": {{\n            \"architecture\": \"amd64\",\n            \"os\": \"linux\"\n         \
             }}\n      }}\n   ]\n}}",
            INDEX_TYPES[1], MANIFEST_TYPES[1]
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn names_of_lists_are_names_of_files() {
        assert_eq!(as_file("docker.io/library/a:1"), "docker.io_library_a-1");
    }
}
