//! `hull container prune`, `hull image prune` and their like: remove what nothing uses.

use std::io::{BufRead, Write};

use super::failure::Failure;
use super::session::{Session, print};
use super::value::Value;
use super::{Command, filter, units};
use crate::client::{ApiVersion, Client};

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

const BUILD_CACHE: Kind = Kind {
    path: "/build/prune",
    warning: "WARNING! This will remove all dangling build cache.",
    removed: "CachesDeleted",
    title: "Deleted build cache objects:",
    counts_space: true,
};

/// Options of every prune.
#[derive(Debug, clap::Args)]
pub(super) struct PruneOptions {
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

/// First version of the API in which only anonymous volumes are pruned unless all are asked for.
const ANONYMOUS_ONLY: ApiVersion = ApiVersion::minor(42);

impl PruneOptions {
    /// Everything that nothing uses, in the order in which one frees the next.
    pub(super) async fn run_all(
        self,
        session: &Session,
        all_images: bool,
        volumes: bool,
    ) -> Result<(), Failure> {
        if volumes && self.filter.iter().any(|(name, _)| name == "until") {
            return Err(Failure::new(
                "ERROR: The \"until\" filter is not supported with \"--volumes\"",
            ));
        }
        let client = session.client().await?;
        let images = if all_images {
            &ALL_IMAGES
        } else {
            &DANGLING_IMAGES
        };
        if !self.force && !confirmed(&self.warning_of_all(client, all_images, volumes).await?)? {
            return Ok(());
        }
        let dangling = if all_images { "false" } else { "true" };
        let mut steps = vec![(&CONTAINERS, None), (&NETWORKS, None)];
        if volumes {
            steps.push((&ANONYMOUS_VOLUMES, None));
        }
        steps.push((images, Some(("dangling", dangling))));
        steps.push((&BUILD_CACHE, None));
        let mut space = 0;
        for (kind, more) in steps {
            let mut filters = self.filter.clone();
            filters.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
            let call = client
                .post(kind.path)
                .query_some("filters", filter::to_query(&filters));
            let answer: Value = call.receive().await?;
            space += answer.int(&["SpaceReclaimed"]);
            print(&kind.removed_lines(&answer))?;
        }
        let space = units::human_size_with_precision(space as f64, 4);
        print(&format!("Total reclaimed space: {space}\n"))
    }

    async fn warning_of_all(
        &self,
        client: &Client,
        all_images: bool,
        volumes: bool,
    ) -> Result<String, Failure> {
        let mut lines = vec![
            "all stopped containers",
            "all networks not used by at least one container",
        ];
        if volumes {
            lines.push(if client.version().await? >= ANONYMOUS_ONLY {
                "all anonymous volumes not used by at least one container"
            } else {
                "all volumes not used by at least one container"
            });
        }
        lines.extend(if all_images {
            [
                "all images without at least one container associated to them",
                "all build cache",
            ]
        } else {
            ["all dangling images", "unused build cache"]
        });
        let mut text = "WARNING! This will remove:\n".to_owned();
        for line in lines {
            text.push_str(&format!("  - {line}\n"));
        }
        if !self.filter.is_empty() {
            text.push_str("\n  Items to be pruned will be filtered with:\n");
            for (name, value) in &self.filter {
                text.push_str(&format!("  - {name}={value}\n"));
            }
        }
        Ok(text)
    }
}

impl Kind {
    /// The lines about what is gone; nothing where nothing is.
    fn removed_lines(&self, answer: &Value) -> String {
        let lines: Vec<String> = answer
            .items(&[self.removed])
            .iter()
            .map(removed_line)
            .collect();
        if lines.is_empty() {
            return String::new();
        }
        format!("{}\n{}\n\n", self.title, lines.join("\n"))
    }

    fn report(&self, answer: &Value) -> String {
        let mut text = self.removed_lines(answer);
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
        let old = session.client().await?.version().await? < ANONYMOUS_ONLY;
        let (kind, more) = if old {
            (&ALL_VOLUMES, None)
        } else if self.all {
            (&ALL_VOLUMES, Some(("all", "1")))
        } else {
            (&ANONYMOUS_VOLUMES, None)
        };
        self.options.run(session, kind, more).await
    }
}
