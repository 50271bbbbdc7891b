//! `hull images`.

use super::failure::Failure;
use super::format::{self, Columns, Style};
use super::session::{Session, print};
use super::value::Value;
use super::{Command, filter, image_tree, reference, units};

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "IMAGE ID"),
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("Size", "SIZE"),
        ("Containers", "CONTAINERS"),
        ("VirtualSize", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
    ],
    table: r"{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    quiet: "{{.ID}}",
};

/// The table with digests.
const DIGEST_COLUMNS: Columns = Columns {
    table: r"{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    ..COLUMNS
};

/// `hull images`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageList {
    /// Show all images (default hides intermediate images)
    #[arg(long, short)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output based on conditions provided
    #[arg(long, short, value_name = "filter", value_parser = filter::parse)]
    filter: Vec<(String, String)>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(long, short)]
    quiet: bool,
    /// List the platforms of each image below its names
    #[arg(long, conflicts_with_all = ["quiet", "format", "digests", "no_trunc"])]
    tree: bool,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Command for ImageList {
    const USAGE: &str = "[OPTIONS] [REPOSITORY[:TAG]]";
    const ABOUT: &str = "List images";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let settings = || {
            if self.quiet {
                None
            } else {
                session.setting("imagesFormat")
            }
        };
        let format = self
            .format
            .clone()
            .filter(|f| !f.is_empty())
            .or_else(settings);
        let mut filters = self.filter.clone();
        filters.extend(
            self.name
                .iter()
                .map(|name| ("reference".to_owned(), name.clone())),
        );
        let client = session.client().await?;
        let call = client.get("/images/json").query_flag("all", self.all);
        let call = call.query_flag("manifests", self.tree);
        let call = call.query_some("filters", filter::to_query(&filters));
        let mut found: Vec<Value> = call.receive().await?;
        found.sort_by_key(|image| -image.int(&["Created"]));
        if self.tree {
            return print(&image_tree::render(&found));
        }
        let by_digest = self.digests
            || format
                .as_deref()
                .is_some_and(|format| format.contains(".Digest"));
        let rows: Vec<Value> = found
            .iter()
            .flat_map(|image| rows(image, by_digest, self.no_trunc))
            .collect();
        let columns = if self.digests {
            &DIGEST_COLUMNS
        } else {
            &COLUMNS
        };
        let style = Style {
            format: format.as_deref(),
            quiet: self.quiet,
        };
        print(&format::render(columns, style, &rows)?)
    }
}

/// One row for each name of an image; one without a name where it has none.
fn rows(image: &Value, by_digest: bool, no_trunc: bool) -> Vec<Value> {
    let texts = |name| image.items(&[name]).iter().filter_map(Value::as_str);
    let tags: Vec<(&str, &str)> = texts("RepoTags")
        .filter_map(reference::split_tag)
        .filter(|(n, _)| *n != "<none>")
        .collect();
    let digests: Vec<(&str, &str)> = texts("RepoDigests")
        .filter_map(|digest| digest.split_once('@'))
        .filter(|(name, _)| *name != "<none>")
        .collect();
    let mut names: Vec<(&str, &str, &str)> = Vec::new();
    for (repository, tag) in &tags {
        let mut of_repository = digests
            .iter()
            .filter(|(name, _)| name == repository)
            .peekable();
        if !by_digest || of_repository.peek().is_none() {
            names.push((repository, tag, "<none>"));
        } else {
            names.extend(of_repository.map(|(_, digest)| (*repository, *tag, *digest)));
        }
    }
    for (repository, digest) in &digests {
        if !tags.iter().any(|(name, _)| name == repository) {
            names.push((repository, "<none>", digest));
        }
    }
    if names.is_empty() {
        names.push(("<none>", "<none>", "<none>"));
    }
    names
        .into_iter()
        .map(|names| row(image, names, no_trunc))
        .collect()
}

pub(super) fn row(
    image: &Value,
    (repository, tag, digest): (&str, &str, &str),
    no_trunc: bool,
) -> Value {
    let id = image.text(&["Id"]);
    let created = image.int(&["Created"]);
    let size = |name, digits| units::human_size_with_precision(image.int(&[name]) as f64, digits);
    let unknown = || "N/A".to_owned();
    let ago = units::human_duration(units::now_seconds() - created);
    let containers = image.int(&["Containers"]);
    let members = [
        (
            "Containers",
            if containers == -1 {
                unknown()
            } else {
                containers.to_string()
            },
        ),
        ("CreatedAt", units::local_time(created)),
        ("CreatedSince", format!("{ago} ago")),
        ("Digest", digest.to_owned()),
        (
            "ID",
            if no_trunc { id } else { format::short_id(id) }.to_owned(),
        ),
        ("Repository", repository.to_owned()),
        (
            "SharedSize",
            if image.int(&["SharedSize"]) < 0 {
                unknown()
            } else {
                size("SharedSize", 3)
            },
        ),
        ("Size", size("Size", 3)),
        ("Tag", tag.to_owned()),
        ("UniqueSize", unknown()),
        ("VirtualSize", size("Size", 4)),
    ];
    Value::Object(
        members
            .map(|(name, text)| (name.to_owned(), Value::String(text)))
            .to_vec(),
    )
}
