//! Commands whose time comes later. The engine is asked all the same: one that has them answers
//! that this client cannot use them yet, ours says what is missing.

use std::ffi::OsString;

use http::Method;

use super::Command;
use super::failure::Failure;
use super::session::Session;

macro_rules! later {
    ($name:ident, $method:ident $path:literal, $usage:literal, $about:literal) => {
        #[doc = $about]
        #[derive(Debug, clap::Args)]
        pub(crate) struct $name {
            #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
            _words: Vec<OsString>,
        }

        impl Command for $name {
            const USAGE: &str = $usage;
            const ABOUT: &str = $about;

            async fn run(self, session: &Session) -> Result<(), Failure> {
                session
                    .client()
                    .await?
                    .call(Method::$method, $path)
                    .done()
                    .await?;
                let name = stringify!($name).to_lowercase();
                Err(Failure::new(format!(
                    "{name} is not there yet in this client"
                )))
            }
        }
    };
}

later!(Build, POST "/build", "[OPTIONS] PATH | URL | -", "Build an image from a Dockerfile");

/// `hull compose`.
#[derive(Debug, clap::Args)]
pub(crate) struct Compose {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    _words: Vec<OsString>,
}

impl Command for Compose {
    const USAGE: &str = "[OPTIONS] COMMAND";
    const ABOUT: &str = "Define and run multi-container applications";

    async fn run(self, _session: &Session) -> Result<(), Failure> {
        Err(Failure::new(
            "compose is not there yet\n  hint: docker-compose works with this engine: set \
             DOCKER_HOST=unix:///run/hull/hull.sock",
        ))
    }
}
