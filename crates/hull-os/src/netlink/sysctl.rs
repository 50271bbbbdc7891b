//! Settings of single links under `/proc/sys/net`, in the calling thread's network namespace.

use std::io;
use std::path::PathBuf;

/// One setting of one link, e.g. `forwarding` of `hull0` for IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSetting<'a> {
    /// `ipv4` or `ipv6`.
    pub family: &'a str,
    /// The link, or `all` / `default`.
    pub link: &'a str,
    /// The setting.
    pub key: &'a str,
}

impl LinkSetting<'_> {
    /// A setting of IPv4.
    pub fn ipv4<'a>(link: &'a str, key: &'a str) -> LinkSetting<'a> {
        LinkSetting {
            family: "ipv4",
            link,
            key,
        }
    }

    /// A setting of IPv6.
    pub fn ipv6<'a>(link: &'a str, key: &'a str) -> LinkSetting<'a> {
        LinkSetting {
            family: "ipv6",
            link,
            key,
        }
    }

    fn path(&self) -> io::Result<PathBuf> {
        // Link names may hold dots but never slashes; anything else would leave the folder.
        let safe =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('/');
        if ![self.family, self.link, self.key].into_iter().all(safe) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(["/proc/sys/net", self.family, "conf", self.link, self.key]
            .iter()
            .collect())
    }

    /// What it is now; `None` where there is no such link or setting.
    pub fn read(&self) -> io::Result<Option<i64>> {
        match std::fs::read_to_string(self.path()?) {
            Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets it; says whether that changed anything.
    pub fn write(&self, value: i64) -> io::Result<bool> {
        if self.read()? == Some(value) {
            return Ok(false);
        }
        std::fs::write(self.path()?, value.to_string()).map(|()| true)
    }
}
