//! What images run on: `linux/arm64/v8`, in Go's words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// Processor architecture in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Platform {
    /// That of this machine.
    pub fn host() -> Self {
        let (architecture, variant) = canonical(std::env::consts::ARCH, "");
        Self {
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os: "linux".to_owned(),
            ..Self::default()
        }
    }

    /// Whether an image for the other runs here, variants aside.
    pub fn runs(&self, other: &Self) -> bool {
        self.os == other.os && self.architecture == other.architecture
    }

    /// Whether an image of this system, architecture and variant is what was asked for; what was
    /// left out is met by anything.
    pub fn is_met_by(&self, os: &str, architecture: &str, variant: &str) -> bool {
        let (wanted, wanted_variant) = canonical(&self.architecture, &self.variant);
        let (architecture, variant) = canonical(architecture, variant);
        let fits = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
        fits(&self.os, os) && fits(wanted, architecture) && fits(wanted_variant, variant)
    }
}

/// The names that the specification prefers: people type those of `uname`, too.
fn canonical<'t>(architecture: &'t str, variant: &'t str) -> (&'t str, &'t str) {
    match (architecture, variant) {
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
        other => other,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// Reads `os[/arch[/variant]]`, or an architecture alone; what is left out is this machine's.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || Error::Platform {
            text: text.to_owned(),
        };
        let valid = |part: &&str| {
            let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            !part.is_empty() && part.bytes().all(good)
        };
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 || !parts.iter().all(valid) {
            return Err(refuse());
        }
        let host = Self::host();
        let (os, architecture, variant) = match parts[..] {
            ["linux" | "windows" | "darwin" | "freebsd"] => {
                (parts[0], host.architecture.as_str(), host.variant.as_str())
            }
            [architecture] => (host.os.as_str(), architecture, ""),
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] => (os, architecture, variant),
            _ => return Err(refuse()),
        };
        let (architecture, variant) = canonical(architecture, variant);
        Ok(Self {
            os: os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let read = text.parse::<Platform>();
        assert_eq!(
            read.map_or_else(|_| "no".into(), |read| read.to_string()),
            expected
        );
    }

    #[test]
    fn platforms_are_read_as_people_type_them() {
        check("linux/arm64/v8", "linux/arm64");
        check("linux/aarch64", "linux/arm64");
        check("linux/arm/v6", "linux/arm/v6");
        check("linux/arm", "linux/arm/v7");
        check("arm64", "linux/arm64");
        check("linux/x86_64", "linux/amd64");
        check("linux", &Platform::host().to_string());
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/am d64"] {
            check(bad, "no");
        }
    }

    #[test]
    fn what_is_left_out_is_met_by_anything() {
        let wanted = |text: &str| text.parse::<Platform>().unwrap();
        assert!(wanted("linux/arm64").is_met_by("linux", "arm64", "v8"));
        assert!(wanted("linux/amd64").is_met_by("linux", "amd64", "v2"));
        assert!(!wanted("linux/arm/v6").is_met_by("linux", "arm", "v7"));
        assert!(!wanted("linux/amd64").is_met_by("windows", "amd64", ""));
    }
}
