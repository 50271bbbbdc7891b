//! Shows the messages that long requests (pull, load, import) send while they go on.

use super::failure::Failure;
use super::session::print_line;
use super::value::Value;
use crate::client::Reply;

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
                print_one(&message)?;
            }
        }
    }
    Ok(())
}

fn print_one(message: &Value) -> Result<(), Failure> {
    if let Some(text) = message.at(&["stream"]).and_then(Value::as_str) {
        return super::session::print(text);
    }
    let status = message.text(&["status"]);
    // Numbers that change all the time are for terminals; lines are for everybody.
    if status.is_empty() || !message.members(&["progressDetail"]).is_empty() {
        return Ok(());
    }
    match message.text(&["id"]) {
        "" => print_line(status),
        id => print_line(&format!("{id}: {status}")),
    }
}
