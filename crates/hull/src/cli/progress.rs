//! Shows the messages that long requests (pull, push, load, import) send while they go on.
//!
//! On a terminal each layer has a line with a bar and its speed, which changes in place; elsewhere a
//! line is printed for each step, and numbers that change all the time are left out.

use super::failure::Failure;
use super::session::print;
use super::value::Value;
use crate::client::Reply;

mod screen;

pub(crate) use screen::Screen;

/// Bytes that one message may have; more is no message.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What is done with the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Print each.
    All,
    /// Print nothing.
    Nothing,
}

/// Reads messages to their end.
///
/// # Errors
/// The error that the engine sends among them.
pub(crate) async fn follow(mut reply: Reply, show: Show) -> Result<(), Failure> {
    let mut pending: Vec<u8> = Vec::new();
    let mut screen = Screen::of_stdout();
    while let Some(chunk) = reply.chunk().await? {
        pending.extend_from_slice(&chunk);
        if pending.len() > MESSAGE_BYTES_MAX {
            return Err(Failure::new("the engine sent what is no progress message"));
        }
        let mut messages = serde_json::Deserializer::from_slice(&pending).into_iter::<Value>();
        let mut complete = Vec::new();
        let mut read = 0;
        while let Some(Ok(message)) = messages.next() {
            complete.push(message);
            read = messages.byte_offset();
        }
        pending.drain(..read);
        for message in complete {
            if let Some(error) = message.at(&["error"]).and_then(Value::as_str) {
                return Err(Failure::new(error));
            }
            if show == Show::All {
                print(&shown(&mut screen, &message))?;
            }
        }
    }
    Ok(())
}

fn shown(screen: &mut Screen, message: &Value) -> String {
    if let Some(text) = message.at(&["stream"]).and_then(Value::as_str) {
        return screen.text(text);
    }
    let status = message.text(&["status"]);
    if status.is_empty() {
        return String::new();
    }
    let number = |name| u64::try_from(message.int(&["progressDetail", name])).unwrap_or_default();
    let bar = (number("current"), number("total"));
    match message.text(&["id"]) {
        "" => screen.text(&format!("{status}\n")),
        // The head of a pull, which no other line of it changes.
        id if message.at(&["progressDetail"]).is_none() => {
            screen.text(&format!("{id}: {status}\n"))
        }
        id => screen.row(id, status, Some(bar).filter(|bar| *bar != (0, 0))),
    }
}
