//! Users and groups of a user namespace, and who they are on the host.

/// What a user or group is shown as that has no place in a namespace, as the kernel does.
const OVERFLOW_ID: u32 = 65_534;

/// Maps of a user namespace; empty: ids inside are those of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMaps {
    /// User ids.
    pub uids: Vec<IdMap>,
    /// Group ids.
    pub gids: Vec<IdMap>,
}

/// One range of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// First id inside.
    pub inside: u32,
    /// First id on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

impl UserMaps {
    /// From the contents of `/proc/<pid>/uid_map` and `gid_map`; empty where these change nothing.
    pub fn parse(uid_map: &str, gid_map: &str) -> UserMaps {
        let parse = |text: &str| -> Vec<IdMap> {
            let line = |line: &str| {
                let mut numbers = line.split_ascii_whitespace().map(str::parse::<u32>);
                let mut next = || numbers.next()?.ok();
                Some(IdMap {
                    inside: next()?,
                    host: next()?,
                    count: next()?,
                })
            };
            text.lines().filter_map(line).collect()
        };
        let maps = UserMaps {
            uids: parse(uid_map),
            gids: parse(gid_map),
        };
        let same = |maps: &[IdMap]| maps.iter().all(|map| map.inside == map.host);
        match same(&maps.uids) && same(&maps.gids) {
            true => UserMaps::default(),
            false => maps,
        }
    }

    /// Whether ids inside are those of the host.
    pub fn is_empty(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// User and group on the host; none where one has no place there.
    pub fn on_host(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |maps: &[IdMap], id: u32| match maps {
            [] => Some(id),
            maps => maps.iter().find_map(|map| {
                let offset = id.checked_sub(map.inside)?;
                (offset < map.count).then(|| map.host.checked_add(offset))?
            }),
        };
        Some((find(&self.uids, uid)?, find(&self.gids, gid)?))
    }

    /// User and group inside, from those of the host.
    pub fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        let find = |maps: &[IdMap], id: u32| match maps {
            [] => id,
            maps => maps
                .iter()
                .find_map(|map| {
                    let offset = id.checked_sub(map.host)?;
                    (offset < map.count).then(|| map.inside.checked_add(offset))?
                })
                .unwrap_or(OVERFLOW_ID),
        };
        (find(&self.uids, uid), find(&self.gids, gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_out_and_come_back() {
        let maps = UserMaps::parse(
            "         0     100000      65536\n 65536 300000 10\n",
            "0 200000 65536\n",
        );
        assert_eq!(maps.on_host(0, 0), Some((100_000, 200_000)));
        assert_eq!(maps.on_host(65_540, 5), Some((300_004, 200_005)));
        assert_eq!(maps.on_host(65_546, 5), None);
        assert_eq!(maps.on_host(5, 65_536), None);
        assert_eq!(maps.inside(300_004, 265_535), (65_540, 65_535));
        assert_eq!(maps.inside(0, 200_000), (65_534, 0));
    }

    #[test]
    fn the_hosts_own_map_is_none() {
        let maps = UserMaps::parse("0 0 4294967295\n", "0 0 4294967295\n");
        assert!(maps.is_empty());
        assert_eq!(maps.on_host(7, 8), Some((7, 8)));
        assert_eq!(maps.inside(7, 8), (7, 8));
    }
}
