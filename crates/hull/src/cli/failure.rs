//! How a command ends that does not end well: what is printed, and the exit code.

use crate::client::{ClientError, EndpointError};

/// Exit code for what the command itself did wrong, where docker says 125.
pub(crate) const EXIT_USAGE: u8 = 125;

/// Exit code for a template that cannot be read.
pub(crate) const EXIT_TEMPLATE: u8 = 64;

/// The end of a command that did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is printed on the standard error; nothing where it is empty.
    pub(crate) message: String,
    /// The exit code of the program.
    pub(crate) code: u8,
    /// Whether the engine said that the named thing does not exist.
    pub(crate) not_found: bool,
}

impl Failure {
    /// A failure with a message and exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            code: 1,
            not_found: false,
        }
    }

    /// The end of a program whose own code is passed on, without a word of ours.
    pub(crate) fn status(code: i64) -> Failure {
        // As in a shell, only the low byte arrives.
        let code = code.rem_euclid(256) as u8;
        Failure {
            message: String::new(),
            code,
            not_found: false,
        }
    }

    /// Makes a failure from an error and all its causes that its text does not have already.
    pub(crate) fn chain(error: &dyn std::error::Error) -> Failure {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Failure::new(message)
    }

    /// Changes the exit code.
    pub(crate) fn with_code(self, code: u8) -> Failure {
        Failure { code, ..self }
    }

    /// Puts text before the message.
    pub(crate) fn prefixed(self, prefix: &str) -> Failure {
        Failure {
            message: format!("{prefix}{}", self.message),
            ..self
        }
    }

    /// Joins the failures of several names, one line each; none is success.
    pub(crate) fn join(failures: Vec<Failure>) -> Result<(), Failure> {
        if failures.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = failures
            .into_iter()
            .map(|failure| failure.message)
            .collect();
        Err(Failure::new(lines.join("\n")))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let not_found = error.is_not_found();
        let failure = match &error {
            // The cause says nothing that the text does not, and scripts compare the text.
            ClientError::Connect { .. } => Failure::new(error.to_string()),
            _ => Failure::chain(&error),
        };
        Failure {
            not_found,
            ..failure
        }
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Failure {
        Failure::new(format!("Failed to initialize: {error}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::new(message)
    }
}

impl From<&str> for Failure {
    fn from(message: &str) -> Failure {
        Failure::new(message)
    }
}
