//! The same rules by `iptables`, for hosts whose kernel has no nftables, or by choice.
//!
//! ```text
//!   Networks ──▶ plan.rs    chains of ours as they should be, of one family
//!                saved.rs   what iptables-save has of them; the difference as a script
//!            ──▶ iptables-restore --noflush    one table, all of it or nothing
//! ```
//!
//! Each change writes the tables that it changes whole, so it costs a program's start and a line per
//! published port. Foreign chains get one rule each, which leads to ours; all that is ours is gone
//! when no network is left. Programs are started by the caller's seam: the daemon never forks.
//!
//! Changes of others are seen where the kernel tells of them: of `iptables-nft` at once, of the old
//! tables at our own next change.

mod plan;
mod saved;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{fmt, fs, io};

use hull_os::nft::{Counted, Nftables};

use self::plan::{Chain, Line, TABLES, Wanted, read_flow, read_port};
use self::saved::Saved;
use crate::Error;
use crate::apply::{KERNEL_ANSWER_MS_MAX, Networks};
use crate::egress::{EgressCount, Flow, Guards, Holder, drop_comment, pass_comment};
use crate::firewall::Output;
use crate::forwarding::{Both, Family};
use crate::network::Network;
use crate::publish::Published;

/// How long another program may hold the lock of the old tables, in seconds.
const LOCK_WAIT_S: &str = "5";
/// In the run directory: which tables of iptables may have rules of ours.
const MARK: &str = "iptables-tables";
/// In the run directory: what is told to a table.
const SCRIPT: &str = "iptables-script";

/// What enforces our rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backend {
    /// One table of nftables, by netlink.
    #[default]
    Nftables,
    /// Chains in the tables of iptables, by its programs.
    Iptables,
}

impl Backend {
    /// The one that this kernel has: nftables, or else iptables.
    pub fn probe() -> Self {
        match has_nftables() {
            true => Self::Nftables,
            false => Self::Iptables,
        }
    }

    /// As `dockerd` calls it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether the kernel answers for nf_tables; one without knows no such messages.
pub(crate) fn has_nftables() -> bool {
    Nftables::open(Duration::from_millis(KERNEL_ANSWER_MS_MAX))
        .and_then(|mut nft| nft.chains())
        .is_ok()
}

/// What is known of the tables of iptables.
#[derive(Debug, Default)]
pub(crate) struct Iptables {
    /// Whether only the old tables are there; see [`Networks::programs`].
    old: OnceLock<bool>,
    /// Taken last.
    applied: Mutex<Applied>,
}

/// What was last brought into the tables.
#[derive(Debug, Default)]
struct Applied {
    networks: Vec<Network>,
    forwarding: Both,
    chains: [Vec<Chain>; 2],
}

/// The programs of one family.
#[derive(Debug, Clone, Copy)]
struct Programs {
    save: &'static str,
    restore: &'static str,
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Networks {
    /// Brings the tables to what is wanted; those that are right are not touched.
    pub(crate) fn apply_iptables(
        &self,
        networks: &[Network],
        forwarding: &Both,
    ) -> Result<(), Error> {
        let (published, guards) = (self.published(), self.guards());
        let mut applied = self.applied();
        applied.networks = networks.to_vec();
        applied.forwarding = forwarding.clone();
        if networks.is_empty() {
            applied.chains = Default::default();
            return self.leave_iptables();
        }
        for (at, family) in FAMILIES.into_iter().enumerate() {
            let chains = self.chains(family, (networks, forwarding), (&guards, &published));
            self.write(family, &chains, |_| true)?;
            applied.chains[at] = chains;
        }
        Ok(())
    }

    /// Brings published ports and policies, which change most, to what is given.
    pub(crate) fn change_iptables(
        &self,
        published: &Published,
        guards: &Guards,
    ) -> Result<(), Error> {
        let mut applied = self.applied();
        for (at, family) in FAMILIES.into_iter().enumerate() {
            let made = (&*applied.networks, &applied.forwarding);
            let chains = self.chains(family, made, (guards, published));
            let before = &applied.chains[at];
            self.write(family, &chains, |table| {
                of_table(before, table) != of_table(&chains, table)
            })?;
            applied.chains[at] = chains;
        }
        Ok(())
    }

    /// Takes everything of ours out of the tables of iptables, if there may be something.
    pub(crate) fn leave_iptables(&self) -> Result<(), Error> {
        if self.tables_with_rules()?.is_empty() {
            return Ok(());
        }
        for family in FAMILIES {
            self.write(family, &[], |_| true)?;
        }
        fs::remove_file(self.mark()).map_err(self.not_recorded())
    }

    /// What a daemon before us left: published ports and flows of names.
    pub(crate) fn found_in_iptables(&self) -> Result<(Published, Vec<(Holder, Flow)>), Error> {
        let (mut published, mut flows) = (Published::new(), Vec::new());
        for (family, table) in self.tables_with_rules()? {
            for rule in self.saved(self.programs(family), table)?.rules {
                published.extend(read_port(&self.settings.tag, &rule.comment));
                flows.extend(read_flow(&rule.comment));
            }
        }
        Ok((published, flows))
    }

    /// What differs from what is wanted, one line each.
    pub(crate) fn verify_iptables(
        &self,
        networks: &[Network],
        forwarding: &Both,
    ) -> Result<Vec<String>, Error> {
        let (published, guards) = (self.published(), self.guards());
        let mut differences = Vec::new();
        for family in FAMILIES {
            let chains = self.chains(family, (networks, forwarding), (&guards, &published));
            let programs = self.programs(family);
            for table in self.tables_of(family, &chains)? {
                let saved = self.saved(programs, table)?;
                let lines = saved.differences(&of_table(&chains, table));
                let named = |line| format!("{} {table}: {line}", programs.save);
                differences.extend(lines.into_iter().map(named));
            }
        }
        Ok(differences)
    }

    /// What we installed, for people.
    pub(crate) fn list_iptables(&self, networks: &[Network], forwarding: &Both) -> Vec<String> {
        let (published, guards) = (self.published(), self.guards());
        let mut lines = Vec::new();
        for (family, program) in FAMILIES.into_iter().zip(["iptables", "ip6tables"]) {
            for chain in self.chains(family, (networks, forwarding), (&guards, &published)) {
                let Chain {
                    table,
                    name,
                    from,
                    lines: rules,
                } = chain;
                lines.extend(from.map(|from| format!("{program} {table} {from}: -j {name}")));
                lines.extend(rules.into_iter().map(|Line { options, comment }| {
                    format!("{program} {table} {name}: {options}  # {comment}")
                }));
            }
        }
        lines
    }

    /// What a policy has done, by the name of its chain in nftables.
    pub(crate) fn count_iptables(&self, key: &str) -> Result<EgressCount, Error> {
        let tag = &self.settings.tag;
        let mut count = EgressCount::default();
        for (family, table) in self.tables_with_rules()? {
            if table != plan::POLICIES {
                continue;
            }
            for rule in self.saved(self.programs(family), table)?.rules {
                let Counted { packets, bytes } = rule.counted;
                if rule.comment == drop_comment(tag, key) {
                    count.blocked.packets += packets;
                    count.blocked.bytes += bytes;
                } else if rule.comment.starts_with(&pass_comment(tag, key)) {
                    count.connections += packets;
                }
            }
        }
        Ok(count)
    }

    fn chains(
        &self,
        family: Family,
        (networks, forwarding): (&[Network], &Both),
        (guards, published): (&Guards, &Published),
    ) -> Vec<Chain> {
        let wanted = Wanted {
            tag: &self.settings.tag,
            networks,
            reach: self.settings.reach,
            guards,
            published,
        };
        match family {
            Family::V4 => plan::chains(&wanted, family, &forwarding.v4),
            Family::V6 => plan::chains(&wanted, family, &forwarding.v6),
        }
    }

    /// Brings tables of a family to what is wanted.
    fn write(
        &self,
        family: Family,
        chains: &[Chain],
        is_meant: impl Fn(&str) -> bool,
    ) -> Result<(), Error> {
        let programs = self.programs(family);
        let mut script = String::new();
        let mut changed = Vec::new();
        for table in self.tables_of(family, chains)? {
            if !is_meant(table) {
                continue;
            }
            let saved = self.saved(programs, table)?;
            let wanted = of_table(chains, table);
            if !saved.differences(&wanted).is_empty() {
                script.push_str(&saved.script(table, &wanted, &self.settings.tag));
                changed.push((family, table));
            }
        }
        if script.is_empty() {
            return Ok(());
        }
        self.mark_tables(&changed)?;
        let path = self.settings.run.join(SCRIPT);
        fs::write(&path, &script).map_err(self.not_recorded())?;
        let file = path.to_string_lossy();
        let restore = programs.restore;
        // The file stays after a failure, for who looks for its reason.
        self.program(&[restore, "--noflush", "--counters", "-w", LOCK_WAIT_S, &file])?;
        fs::remove_file(&path).map_err(self.not_recorded())
    }

    /// Tables to look at: merely asking for one makes it.
    fn tables_of(&self, family: Family, chains: &[Chain]) -> Result<Vec<&'static str>, Error> {
        let marked = self.tables_with_rules()?;
        let used = |table: &&'static str| {
            marked.contains(&(family, *table)) || chains.iter().any(|c| c.table == *table)
        };
        Ok(TABLES.into_iter().filter(used).collect())
    }

    fn mark(&self) -> PathBuf {
        self.settings.run.join(MARK)
    }

    /// Tables that may have rules of ours, also of a daemon before us.
    fn tables_with_rules(&self) -> Result<Vec<(Family, &'static str)>, Error> {
        let text = match fs::read_to_string(self.mark()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other.map_err(self.not_recorded())?,
        };
        let all = FAMILIES
            .into_iter()
            .flat_map(|f| TABLES.map(|table| (f, table)));
        let is_there = |entry: &(Family, &str)| text.lines().any(|line| line == mark_line(entry));
        Ok(all.filter(is_there).collect())
    }

    /// Notes tables before they are changed.
    fn mark_tables(&self, tables: &[(Family, &'static str)]) -> Result<(), Error> {
        let mut all = self.tables_with_rules()?;
        let before = all.len();
        all.extend(tables);
        all.sort_unstable();
        all.dedup();
        if all.len() == before {
            return Ok(());
        }
        let lines: String = all.iter().map(|entry| mark_line(entry) + "\n").collect();
        fs::write(self.mark(), lines).map_err(self.not_recorded())
    }

    fn not_recorded(&self) -> impl FnOnce(io::Error) -> Error {
        let path = self.mark();
        move |cause| Error::Record { path, cause }
    }

    /// The host's own choice of `iptables`; without nftables that of the old tables, whatever the
    /// choice is.
    fn programs(&self, family: Family) -> Programs {
        let works = |name: &str| {
            let said = (self.run)(&[name, "--version"]);
            said.is_ok_and(|output| output.code == Some(0))
        };
        let iptables = &self.iptables;
        let old = *iptables
            .old
            .get_or_init(|| !has_nftables() && works("iptables-legacy-save"));
        let (save, restore) = match (family, old) {
            (Family::V4, false) => ("iptables-save", "iptables-restore"),
            (Family::V4, true) => ("iptables-legacy-save", "iptables-legacy-restore"),
            (Family::V6, false) => ("ip6tables-save", "ip6tables-restore"),
            (Family::V6, true) => ("ip6tables-legacy-save", "ip6tables-legacy-restore"),
        };
        Programs { save, restore }
    }

    fn saved(&self, programs: Programs, table: &str) -> Result<Saved, Error> {
        let text = self.program(&[programs.save, "-c", "-t", table])?;
        Ok(Saved::parse(&text, &self.settings.tag))
    }

    fn program(&self, command: &[&str]) -> Result<String, Error> {
        let fail = |cause| Error::Iptables {
            command: command.join(" "),
            cause,
        };
        let Output {
            code,
            stdout,
            stderr,
        } = (self.run)(command).map_err(fail)?;
        match code {
            Some(0) => Ok(stdout),
            _ => Err(fail(io::Error::other(stderr.trim().to_owned()))),
        }
    }

    fn applied(&self) -> MutexGuard<'_, Applied> {
        // What differs from the kernel after a panic is put right by the next look at it.
        let applied = &self.iptables.applied;
        applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mark_line((family, table): &(Family, &str)) -> String {
    format!("{family:?} {table}")
}

fn of_table<'a>(chains: &'a [Chain], table: &str) -> Vec<&'a Chain> {
    chains.iter().filter(|chain| chain.table == table).collect()
}
