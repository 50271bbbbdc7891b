//! `hull system verify`, `shutdown` and `dial-stdio`.

use std::io;
use std::os::fd::AsFd as _;

use super::Command;
use super::failure::Failure;
use super::session::{Session, print_line, warn_line};
use super::value::Value;
use crate::client::Endpoint;

/// `hull system verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {}

impl Command for Verify {
    const USAGE: &str = "";
    const ABOUT: &str = "Compare stored bytes, records and kernel objects, and change nothing";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let found: Value = client.get("/hull/system/verify").receive().await?;
        let problems = found.items(&["problems"]);
        for problem in problems {
            match problem.as_str() {
                Some(text) => print_line(text)?,
                None => print_line(&problem.to_json())?,
            }
        }
        match problems.len() {
            0 => {
                warn_line("no problems found");
                Ok(())
            }
            1 => Err(Failure::new("1 problem found")),
            count => Err(Failure::new(format!("{count} problems found"))),
        }
    }
}

/// `hull system shutdown`.
#[derive(Debug, clap::Args)]
pub(crate) struct Shutdown {}

impl Command for Shutdown {
    const USAGE: &str = "";
    const ABOUT: &str = "Stop all containers as the host's shutdown does, and keep what shall \
                         run again";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        Ok(session
            .client()
            .await?
            .post("/hull/system/shutdown")
            .done()
            .await?)
    }
}

/// `hull system dial-stdio`: what `ssh://` runs on the other host.
#[derive(Debug, clap::Args)]
pub(crate) struct DialStdio {}

impl Command for DialStdio {
    const USAGE: &str = "";
    const ABOUT: &str = "Proxy the stdio stream to the daemon connection";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let endpoint = session.endpoint()?;
        let failed = |cause: io::Error| Failure::new(format!("connect to {endpoint}: {cause}"));
        match &endpoint {
            Endpoint::Unix(path) => {
                let socket = std::os::unix::net::UnixStream::connect(path).map_err(failed)?;
                let other = socket.try_clone()?;
                relay(socket, other, |socket| {
                    socket.shutdown(std::net::Shutdown::Write)
                })
            }
            Endpoint::Tcp {
                host,
                port,
                tls: None,
            } => {
                let socket =
                    std::net::TcpStream::connect((host.as_str(), *port)).map_err(failed)?;
                let other = socket.try_clone()?;
                relay(socket, other, |socket| {
                    socket.shutdown(std::net::Shutdown::Write)
                })
            }
            Endpoint::Ssh { .. } | Endpoint::Tcp { .. } => Err(Failure::new(format!(
                "dial-stdio to {endpoint}: name an engine of this host"
            ))),
        }
    }
}

/// Passes our input to the socket, and what comes from it to our output, until the engine closes.
fn relay<S>(
    from_engine: S,
    mut to_engine: S,
    end: impl FnOnce(&S) -> io::Result<()> + Send + 'static,
) -> Result<(), Failure>
where
    S: io::Read + io::Write + Send + 'static,
{
    // Its end is not awaited: our input may stay open when the engine has said all.
    std::thread::spawn(move || {
        let passed = pass(io::stdin().lock(), &mut to_engine);
        passed.and_then(|()| end(&to_engine))
    });
    // Not through `io::stdout`, which keeps back what follows the last line break: the end of an
    // answer that the other side waits for.
    let output = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(pass(from_engine, output)?)
}

/// Bytes that are passed on at once.
const PIECE: usize = 64 << 10;

/// What `io::copy` does, but never by splice: that holds the lock of a pipe while it waits for the
/// socket, and sshd, which has the pipe's other end, would wait with it.
fn pass(mut from: impl io::Read, mut to: impl io::Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&piece[..length])?,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}
