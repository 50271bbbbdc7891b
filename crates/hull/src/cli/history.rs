//! `hull history`.

use super::failure::Failure;
use super::format::{self, Columns, Style};
use super::load::platform_query;
use super::session::{Session, print};
use super::value::Value;
use super::{Command, arguments, units};

/// Characters of a layer's command that are shown.
const COMMAND_CHARACTERS_MAX: usize = 45;

/// Times up to this (2000-01-01) were never real, but set to make images reproducible.
const EPOCH_SECONDS: i64 = 946_684_800;

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    table: r"{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    quiet: "{{.ID}}",
};

/// The table with exact numbers.
const EXACT_COLUMNS: Columns = Columns {
    table: r"{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    ..COLUMNS
};

/// `hull history`.
#[derive(Debug, clap::Args)]
pub(crate) struct History {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(long, short = 'H', default_value = "true", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "bool",
        value_parser = arguments::parse_bool, action = clap::ArgAction::Set)]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Show history for the given platform. Formatted as "os[/arch[/variant]]"
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Only show image IDs
    #[arg(long, short)]
    quiet: bool,
    #[arg(required = true, value_name = "IMAGE")]
    image: String,
}

impl Command for History {
    const USAGE: &str = "[OPTIONS] IMAGE";
    const ABOUT: &str = "Show the history of an image";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let path = format!("/images/{}/history", self.image);
        let call = client.get(path);
        let call = call.query_some("platform", platform_query(self.platform.as_deref()));
        let found: Vec<Value> = call.receive().await?;
        let rows: Vec<Value> = found.iter().map(|step| self.row(step)).collect();
        let columns = if self.human { &COLUMNS } else { &EXACT_COLUMNS };
        let style = Style {
            format: self.format.as_deref(),
            quiet: self.quiet,
        };
        print(&format::render(columns, style, &rows)?)
    }
}

impl History {
    fn row(&self, step: &Value) -> Value {
        let id = step.text(&["Id"]);
        let created = step.int(&["Created"]);
        let at = jiff::Timestamp::from_second(created).unwrap_or_default();
        let at = at
            .to_zoned(jiff::tz::TimeZone::system())
            .strftime("%Y-%m-%dT%H:%M:%S%:z");
        let at = at.to_string().replace("+00:00", "Z");
        let since = match self.human {
            false => at.clone(),
            true if created <= EPOCH_SECONDS => "N/A".to_owned(),
            true => format!(
                "{} ago",
                units::human_duration(units::now_seconds() - created)
            ),
        };
        let command = step.text(&["CreatedBy"]).replace('\t', " ");
        let bytes = step.int(&["Size"]);
        let members = [
            ("Comment", step.text(&["Comment"]).to_owned()),
            ("CreatedAt", at),
            (
                "CreatedBy",
                if self.no_trunc {
                    command
                } else {
                    format::ellipsis(&command, COMMAND_CHARACTERS_MAX)
                },
            ),
            ("CreatedSince", since),
            (
                "ID",
                if self.no_trunc {
                    id
                } else {
                    format::short_id(id)
                }
                .to_owned(),
            ),
            (
                "Size",
                if self.human {
                    units::human_size_with_precision(bytes as f64, 3)
                } else {
                    bytes.to_string()
                },
            ),
        ];
        Value::Object(
            members
                .map(|(name, text)| (name.to_owned(), Value::String(text)))
                .to_vec(),
        )
    }
}
