//! `hull system df` and `hull system prune`: what takes room, and giving back what nothing uses.

use super::failure::Failure;
use super::format::{self, Columns, Style};
use super::session::{Session, print};
use super::value::Value;
use super::{Command, image_list, prune, ps, reference, units};

const SUMMARY: Columns = Columns {
    headers: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    table: r"{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    quiet: "{{.Type}}",
};

const IMAGES: Columns = Columns {
    headers: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ],
    table: r"{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
    quiet: "{{.ID}}",
};

const CONTAINERS: Columns = Columns {
    headers: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ],
    table: r"{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
    quiet: "{{.ID}}",
};

const VOLUMES: Columns = Columns {
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
    ],
    table: r"{{.Name}}\t{{.Links}}\t{{.Size}}",
    quiet: "{{.Name}}",
};

const BUILD_CACHE: Columns = Columns {
    headers: &[
        ("ID", "CACHE ID"),
        ("CacheType", "CACHE TYPE"),
        ("Size", "SIZE"),
        ("CreatedSince", "CREATED"),
        ("LastUsedSince", "LAST USED"),
        ("UsageCount", "USAGE"),
        ("Shared", "SHARED"),
    ],
    table: r"{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
    quiet: "{{.ID}}",
};

/// `hull system df`.
#[derive(Debug, clap::Args)]
pub(crate) struct DiskUsage {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show detailed information on space usage
    #[arg(long, short)]
    verbose: bool,
}

impl Command for DiskUsage {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Show docker disk usage";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let usage: Value = client.get("/system/df").receive().await?;
        let style = Style {
            format: self.format.as_deref(),
            quiet: false,
        };
        if !self.verbose {
            return print(&format::render(&SUMMARY, style, &summary(&usage))?);
        }
        let parts = details(&usage);
        match self.format.as_deref() {
            None | Some("" | "table") => {}
            Some(template) => {
                let all = parts.map(|part| (part.name.to_owned(), Value::List(part.rows)));
                let mut all = all.to_vec();
                all.sort_by(|(a, _), (b, _)| a.cmp(b));
                let template = if template == "json" {
                    "{{json .}}"
                } else {
                    template
                };
                let parsed = super::template::Template::parse(template)
                    .map_err(|error| Failure::new(format!("failed to parse template: {error}")))?;
                let text = parsed.execute(&Value::Object(all)).map_err(|error| {
                    Failure::new(format!("failed to execute template: {error}"))
                })?;
                return print(&(text + "\n"));
            }
        }
        for (number, part) in parts.iter().enumerate() {
            let between = if number == 0 { "" } else { "\n" };
            print(&format!("{between}{}\n\n", part.title))?;
            print(&format::render(part.columns, Style::default(), &part.rows)?)?;
        }
        Ok(())
    }
}

fn size(bytes: i64) -> String {
    units::human_size_with_precision(bytes as f64, 4)
}

fn object(members: &[(&str, String)]) -> Value {
    let text = |(name, text): &(&str, String)| ((*name).to_owned(), Value::String(text.clone()));
    Value::Object(members.iter().map(text).collect())
}

/// One line of the summary.
fn line(kind: &str, counts: (usize, usize), bytes: i64, reclaimable: i64, percent: bool) -> Value {
    let mut share = size(reclaimable);
    if percent && bytes > 0 {
        share = format!("{share} ({}%)", reclaimable * 100 / bytes);
    }
    object(&[
        ("Active", counts.1.to_string()),
        ("Reclaimable", share),
        ("Size", size(bytes)),
        ("TotalCount", counts.0.to_string()),
        ("Type", kind.to_owned()),
    ])
}

/// The rows of the short form, counted as docker's client counts them.
fn summary(usage: &Value) -> Vec<Value> {
    let sum = |items: &[&Value], path: &[&str]| -> i64 {
        items.iter().map(|item| item.int(path).max(0)).sum()
    };
    let split = |items: &[Value], active: &dyn Fn(&Value) -> bool| -> (usize, usize) {
        (
            items.len(),
            items.iter().filter(|item| active(item)).count(),
        )
    };
    let images = usage.items(&["Images"]);
    let used: i64 = images
        .iter()
        .filter(|image| image.int(&["Containers"]) != 0)
        .filter(|image| image.int(&["Size"]) != -1 && image.int(&["SharedSize"]) != -1)
        .map(|image| image.int(&["Size"]) - image.int(&["SharedSize"]))
        .sum();
    let layers = usage.int(&["LayersSize"]);
    let containers = usage.items(&["Containers"]);
    let lives = |container: &Value| {
        let state = container.text(&["State"]);
        ["running", "paused", "restarting"].contains(&state)
    };
    let idle: Vec<&Value> = containers.iter().filter(|c| !lives(c)).collect();
    let all: Vec<&Value> = containers.iter().collect();
    let volumes = usage.items(&["Volumes"]);
    let is_used = |volume: &Value| volume.int(&["UsageData", "RefCount"]) > 0;
    let unused: Vec<&Value> = volumes.iter().filter(|v| !is_used(v)).collect();
    let held: Vec<&Value> = volumes.iter().collect();
    let caches = usage.items(&["BuildCache"]);
    let own: Vec<&Value> = caches.iter().filter(|c| !c.flag(&["Shared"])).collect();
    let idle_caches: Vec<&Value> = own
        .iter()
        .copied()
        .filter(|c| !c.flag(&["InUse"]))
        .collect();
    let of_volume = ["UsageData", "Size"];
    vec![
        line(
            "Images",
            split(images, &|image| image.int(&["Containers"]) > 0),
            layers,
            layers - used,
            true,
        ),
        line(
            "Containers",
            split(containers, &lives),
            sum(&all, &["SizeRw"]),
            sum(&idle, &["SizeRw"]),
            true,
        ),
        line(
            "Local Volumes",
            split(volumes, &is_used),
            sum(&held, &of_volume),
            sum(&unused, &of_volume),
            true,
        ),
        line(
            "Build Cache",
            split(caches, &|cache| cache.flag(&["InUse"])),
            sum(&own, &["Size"]),
            sum(&idle_caches, &["Size"]),
            false,
        ),
    ]
}

/// One part of the long form.
struct Part {
    name: &'static str,
    title: String,
    columns: &'static Columns,
    rows: Vec<Value>,
}

fn details(usage: &Value) -> [Part; 4] {
    let images = usage.items(&["Images"]).iter().map(image);
    let containers = usage.items(&["Containers"]).iter();
    let volumes = usage.items(&["Volumes"]).iter().map(volume);
    let cached: i64 = usage
        .items(&["BuildCache"])
        .iter()
        .filter(|cache| !cache.flag(&["Shared"]))
        .map(|cache| cache.int(&["Size"]))
        .sum();
    [
        Part {
            name: "Images",
            title: "Images space usage:".to_owned(),
            columns: &IMAGES,
            rows: images.collect(),
        },
        Part {
            name: "Containers",
            title: "Containers space usage:".to_owned(),
            columns: &CONTAINERS,
            rows: containers.map(|one| ps::row(one, false)).collect(),
        },
        Part {
            name: "Volumes",
            title: "Local Volumes space usage:".to_owned(),
            columns: &VOLUMES,
            rows: volumes.collect(),
        },
        Part {
            name: "BuildCache",
            title: format!("Build cache usage: {}", size(cached)),
            columns: &BUILD_CACHE,
            // No engine that this client was seen with has one yet.
            rows: Vec::new(),
        },
    ]
}

fn image(image: &Value) -> Value {
    let first = image.items(&["RepoTags"]).first().and_then(Value::as_str);
    let (repository, tag) = first
        .and_then(reference::split_tag)
        .unwrap_or(("<none>", "<none>"));
    let (all, shared) = (image.int(&["Size"]), image.int(&["SharedSize"]).max(0));
    let Value::Object(mut members) = image_list::row(image, (repository, tag, "<none>"), false)
    else {
        return Value::Null;
    };
    for (name, value) in &mut members {
        match name.as_str() {
            "SharedSize" => *value = Value::String(size(shared)),
            "UniqueSize" => *value = Value::String(size(all - shared)),
            _ => {}
        }
    }
    Value::Object(members)
}

fn volume(volume: &Value) -> Value {
    let labels: Vec<String> = volume
        .members(&["Labels"])
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let used = |name: &str| volume.int(&["UsageData", name]);
    let text = |name: &str| volume.text(&[name]).to_owned();
    object(&[
        ("Availability", "N/A".to_owned()),
        ("Driver", text("Driver")),
        ("Group", "N/A".to_owned()),
        ("Labels", labels.join(",")),
        ("Links", used("RefCount").to_string()),
        ("Mountpoint", text("Mountpoint")),
        ("Name", text("Name")),
        ("Scope", text("Scope")),
        ("Size", size(used("Size").max(0))),
        ("Status", "N/A".to_owned()),
    ])
}

/// `hull system prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct SystemPrune {
    /// Remove all unused images not just dangling ones
    #[arg(long, short)]
    all: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    options: prune::PruneOptions,
}

impl Command for SystemPrune {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Remove unused data";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        self.options.run_all(session, self.all, self.volumes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_container_uses_is_reclaimable() {
        let usage: Value = serde_json::from_str(
            r#"{"LayersSize":3000,"Images":[
                {"Id":"sha256:1","RepoTags":["a:1"],"Size":2000,"SharedSize":500,"Containers":1},
                {"Id":"sha256:2","RepoTags":[],"Size":1500,"SharedSize":500,"Containers":0}],
              "Containers":[{"State":"exited","SizeRw":7},{"State":"running","SizeRw":13}],
              "Volumes":[{"Name":"v","UsageData":{"RefCount":0,"Size":9}}],"BuildCache":[]}"#,
        )
        .unwrap();
        let rows = summary(&usage);
        let texts = |row: &Value| {
            let of = |name: &str| row.text(&[name]).to_owned();
            [
                of("TotalCount"),
                of("Active"),
                of("Size"),
                of("Reclaimable"),
            ]
            .join(" ")
        };
        let expected = [
            "2 1 3kB 1.5kB (50%)",
            "2 1 20B 7B (35%)",
            "1 0 9B 9B (100%)",
            "0 0 0B 0B",
        ];
        assert_eq!(rows.iter().map(texts).collect::<Vec<_>>(), expected);
        assert_eq!(
            image(&usage.items(&["Images"])[0]).text(&["UniqueSize"]),
            "1.5kB"
        );
    }
}
