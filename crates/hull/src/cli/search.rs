//! `hull search`.

use super::failure::Failure;
use super::format::{self, Columns, Style};
use super::session::{Session, print};
use super::value::Value;
use super::{Command, credentials, filter};

/// Letters of a description that are shown.
const DESCRIPTION_LETTERS_MAX: usize = 45;

const COLUMNS: Columns = Columns {
    headers: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
    ],
    table: r"{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
    quiet: "{{.Name}}",
};

/// `hull search`.
#[derive(Debug, clap::Args)]
pub(crate) struct Search {
    /// Filter output based on conditions provided
    #[arg(long, short, value_name = "filter", value_parser = filter::parse)]
    filter: Vec<(String, String)>,
    /// Pretty-print search using a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Max number of search results
    #[arg(long, value_name = "int")]
    limit: Option<u32>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    #[arg(required = true, value_name = "TERM")]
    term: String,
}

impl Command for Search {
    const USAGE: &str = "[OPTIONS] TERM";
    const ABOUT: &str = "Search Docker Hub for images";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, value) = credentials::header_for(session, &self.term).await?;
        let client = session.client().await?;
        let call = client.get("/images/search").query("term", &self.term);
        let call = call.query_some("limit", self.limit.map(|limit| limit.to_string()));
        let call = call
            .query_some("filters", filter::to_query(&self.filter))
            .header(name, value);
        let found: Vec<Value> = call.receive().await?;
        let rows: Vec<Value> = found.iter().map(|row| self.row(row)).collect();
        let style = Style {
            format: self.format.as_deref(),
            quiet: false,
        };
        print(&format::render(&COLUMNS, style, &rows)?)
    }
}

impl Search {
    fn row(&self, found: &Value) -> Value {
        let description = found.text(&["description"]).replace(['\n', '\t'], " ");
        let members = [
            ("Name", found.text(&["name"]).to_owned()),
            (
                "Description",
                match self.no_trunc {
                    true => description,
                    false => format::ellipsis(&description, DESCRIPTION_LETTERS_MAX),
                },
            ),
            ("StarCount", found.int(&["star_count"]).to_string()),
            (
                "IsOfficial",
                if found.flag(&["is_official"]) {
                    "[OK]"
                } else {
                    ""
                }
                .to_owned(),
            ),
        ];
        let member = |(name, text): (&str, String)| (name.to_owned(), Value::String(text));
        Value::Object(members.map(member).to_vec())
    }
}
