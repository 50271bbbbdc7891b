//! `hull container prune`, `hull image prune` and their like: remove what nothing uses.

use std::io::{BufRead, Write};

use super::failure::Failure;
use super::session::{Session, print};
use super::value::Value;
use super::{Command, filter, units};

/// What one sort of thing needs to be pruned.
struct Kind {
    /// The path that does it.
    path: &'static str,
    /// What is asked first.
    warning: &'static str,
    /// The member of the answer that lists what is gone, and the title over it.
    removed: &'static str,
    title: &'static str,
    /// The answer tells how much space was won.
    counts_space: bool,
}

const CONTAINERS: Kind = Kind {
    path: "/containers/prune",
    warning: "WARNING! This will remove all stopped containers.",
    removed: "ContainersDeleted",
    title: "Deleted Containers:",
    counts_space: true,
};

const NETWORKS: Kind = Kind {
    path: "/networks/prune",
    warning: "WARNING! This will remove all custom networks not used by at least one container.",
    removed: "NetworksDeleted",
    title: "Deleted Networks:",
    counts_space: false,
};

const ANONYMOUS_VOLUMES: Kind = Kind {
    path: "/volumes/prune",
    warning: "WARNING! This will remove anonymous local volumes not used by at least one \
              container.",
    removed: "VolumesDeleted",
    title: "Deleted Volumes:",
    counts_space: true,
};

const ALL_VOLUMES: Kind = Kind {
    warning: "WARNING! This will remove all local volumes not used by at least one container.",
    ..ANONYMOUS_VOLUMES
};

const DANGLING_IMAGES: Kind = Kind {
    path: "/images/prune",
    warning: "WARNING! This will remove all dangling images.",
    removed: "ImagesDeleted",
    title: "Deleted Images:",
    counts_space: true,
};

const ALL_IMAGES: Kind = Kind {
    warning: "WARNING! This will remove all images without at least one container associated to \
              them.",
    ..DANGLING_IMAGES
};

/// Options of every prune.
#[derive(Debug, clap::Args)]
struct PruneOptions {
    /// Provide filter values
    #[arg(
        long,
        value_name = "filter",
        help = "Provide filter values (e.g. \"until=<timestamp>\")",
        value_parser = filter::parse
    )]
    filter: Vec<(String, String)>,
    /// Do not prompt for confirmation
    #[arg(long, short)]
    force: bool,
}

impl PruneOptions {
    async fn run(
        self,
        session: &Session,
        kind: &Kind,
        more: Option<(&str, &str)>,
    ) -> Result<(), Failure> {
        if !self.force && !confirmed(kind.warning)? {
            return Ok(());
        }
        let mut filters = self.filter;
        filters.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let client = session.client().await?;
        let call = client
            .post(kind.path)
            .query_some("filters", filter::to_query(&filters));
        let answer: Value = call.receive().await?;
        print(&kind.report(&answer))
    }
}

impl Kind {
    fn report(&self, answer: &Value) -> String {
        let lines: Vec<String> = answer
            .items(&[self.removed])
            .iter()
            .map(removed_line)
            .collect();
        let mut text = String::new();
        if !lines.is_empty() {
            text = format!("{}\n{}\n\n", self.title, lines.join("\n"));
        }
        if self.counts_space {
            let space = answer.int(&["SpaceReclaimed"]) as f64;
            let space = units::human_size_with_precision(space, 4);
            text.push_str(&format!("Total reclaimed space: {space}\n"));
        }
        text
    }
}

fn removed_line(one: &Value) -> String {
    if let Some(name) = one.as_str() {
        return name.to_owned();
    }
    match one.text(&["Untagged"]) {
        "" => format!("deleted: {}", one.text(&["Deleted"])),
        name => format!("untagged: {name}"),
    }
}

/// Asks on the terminal; no answer means no.
fn confirmed(warning: &str) -> Result<bool, Failure> {
    print(&format!(
        "{warning}\nAre you sure you want to continue? [y/N] "
    ))?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y"))
}

/// `hull container prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContainerPrune {
    #[command(flatten)]
    options: PruneOptions,
}

impl Command for ContainerPrune {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Remove all stopped containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        self.options.run(session, &CONTAINERS, None).await
    }
}

/// `hull network prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkPrune {
    #[command(flatten)]
    options: PruneOptions,
}

impl Command for NetworkPrune {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Remove all unused networks";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        self.options.run(session, &NETWORKS, None).await
    }
}

/// `hull image prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImagePrune {
    /// Remove all unused images, not just dangling ones
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    options: PruneOptions,
}

impl Command for ImagePrune {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Remove unused images";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (kind, dangling) = if self.all {
            (&ALL_IMAGES, "false")
        } else {
            (&DANGLING_IMAGES, "true")
        };
        self.options
            .run(session, kind, Some(("dangling", dangling)))
            .await
    }
}

/// `hull volume prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumePrune {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    options: PruneOptions,
}

impl Command for VolumePrune {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Remove unused local volumes";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (kind, more) = if self.all {
            (&ALL_VOLUMES, Some(("all", "1")))
        } else {
            (&ANONYMOUS_VOLUMES, None)
        };
        self.options.run(session, kind, more).await
    }
}
