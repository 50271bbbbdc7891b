//! `hull top`.

use super::Command;
use super::failure::Failure;
use super::format::{self, Width};
use super::session::{Session, print};
use super::value::Value;

/// Columns of the table.
const WIDTH: Width = Width {
    least: 20,
    padding: 3,
};

/// `hull top`.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    #[arg(trailing_var_arg = true, required = true, num_args = 1.., value_name = "CONTAINER")]
    words: Vec<String>,
}

impl Command for Top {
    const USAGE: &str = "CONTAINER [ps OPTIONS]";
    const ABOUT: &str = "Display the running processes of a container";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (name, options) = self
            .words
            .split_first()
            .map_or(("", &[][..]), |(n, o)| (n, o));
        let client = session.client().await?;
        let call = client.get(format!("/containers/{name}/top"));
        let options = (!options.is_empty()).then(|| options.join(" "));
        let found: Value = call.query_some("ps_args", options).receive().await?;
        let line = |cells: &[Value]| {
            cells
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join("\t")
        };
        let mut lines = vec![line(found.items(&["Titles"]))];
        lines.extend(
            found
                .items(&["Processes"])
                .iter()
                .map(|process| line(process.items(&[]))),
        );
        print(&format::align(&lines, WIDTH))
    }
}
