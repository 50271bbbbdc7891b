//! `hull events`.

use super::failure::Failure;
use super::session::{Session, print_line};
use super::template::Template;
use super::value::Value;
use super::{Command, filter, units};

/// Bytes that one event may have; more is no event.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// `hull events`.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// Filter output based on conditions provided
    #[arg(long, short, value_name = "filter", value_parser = filter::parse)]
    filter: Vec<(String, String)>,
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show all events created since timestamp
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Stream events until this timestamp
    #[arg(long, value_name = "string")]
    until: Option<String>,
}

impl Command for Events {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Get real time events from the server";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let format = self.format.as_deref().filter(|format| !format.is_empty());
        let template = match format {
            None => None,
            Some("json") => Some(Template::parse("{{json .}}")),
            Some(text) => Some(Template::parse(text)),
        };
        let template = template.transpose().map_err(|error| {
            Failure::new(format!("Error parsing format: {error}")).with_code(64)
        })?;
        let moment = |text: &Option<String>| {
            text.as_ref()
                .map(|text| units::api_timestamp(text))
                .transpose()
        };
        let client = session.client().await?;
        let call = client
            .get("/events")
            .query_some("since", moment(&self.since)?);
        let call = call.query_some("until", moment(&self.until)?);
        let call = call.query_some("filters", filter::to_query(&self.filter));
        let mut reply = call.send().await?;
        let mut pending = Vec::new();
        while let Some(chunk) = reply.chunk().await? {
            pending.extend_from_slice(&chunk);
            let mut events = serde_json::Deserializer::from_slice(&pending).into_iter::<Value>();
            let mut read = 0;
            while let Some(Ok(event)) = events.next() {
                read = events.byte_offset();
                let text = match &template {
                    None => line(&event),
                    Some(template) => template.execute(&event).map_err(|error| {
                        Failure::new(format!("failed to execute template: {error}"))
                    })?,
                };
                print_line(&text)?;
            }
            pending.drain(..read);
            if pending.len() > EVENT_BYTES_MAX {
                return Err(Failure::new("the engine sent what is no event"));
            }
        }
        Ok(())
    }
}

/// `2026-01-02T03:04:05.000000006Z container start ID (image=busybox, name=web)`.
fn line(event: &Value) -> String {
    let nanoseconds = event.int(&["timeNano"]);
    let time = match nanoseconds {
        0 => jiff::Timestamp::from_second(event.int(&["time"])),
        nanoseconds => jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)),
    };
    let time = time
        .unwrap_or_default()
        .to_zoned(jiff::tz::TimeZone::system());
    let time = time
        .strftime("%Y-%m-%dT%H:%M:%S.%9f%:z")
        .to_string()
        .replace("+00:00", "Z");
    let (kind, action) = (event.text(&["Type"]), event.text(&["Action"]));
    let id = event.text(&["Actor", "ID"]);
    let mut attributes: Vec<String> = event
        .members(&["Actor", "Attributes"])
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    attributes.sort();
    let attributes = match attributes.is_empty() {
        true => String::new(),
        false => format!(" ({})", attributes.join(", ")),
    };
    format!("{time} {kind} {action} {id}{attributes}")
}
