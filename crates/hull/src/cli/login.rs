//! `hull login` and `hull logout`.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use hull_os::pty::{RawMode, is_terminal};
use serde::Deserialize;

use super::Command;
use super::credentials::{Credential, Credentials, HUB, key_of};
use super::failure::Failure;
use super::session::{Session, print_line, warn_line};

/// Bytes of a name or password.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// `hull login`.
#[derive(Debug, clap::Args)]
pub(crate) struct Login {
    /// Password or Personal Access Token (PAT)
    #[arg(long, short, value_name = "string")]
    password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    password_stdin: bool,
    /// Username
    #[arg(long, short, value_name = "string")]
    username: Option<String>,
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    identity_token: String,
    #[serde(default)]
    status: String,
}

impl Command for Login {
    const USAGE: &str = "[OPTIONS] [SERVER]";
    const ABOUT: &str = "Authenticate to a registry";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        if self.password.is_some() && self.password_stdin {
            return Err(Failure::new(
                "conflicting options: cannot specify both --password and --password-stdin",
            ));
        }
        if self.password_stdin && self.username.is_none() {
            return Err(Failure::new(
                "the --password-stdin option requires --username to be set",
            ));
        }
        if self.password.is_some() {
            warn_line("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        }
        let key = key_of(self.server.as_deref().unwrap_or_default());
        let mut credentials = Credentials::read(session)?;
        let mut credential = Credential {
            serveraddress: key,
            ..Credential::default()
        };
        credential.username = match self.username {
            Some(username) => username,
            None => ask("Username: ", false)?,
        };
        credential.password = match (self.password, self.password_stdin) {
            (Some(password), _) => password,
            (None, true) => match read_all()? {
                nothing if nothing.is_empty() => ask("Password: ", true)?,
                password => password,
            },
            (None, false) => ask("Password: ", true)?,
        };
        let client = session.client().await?;
        let answer: Answer = client.post("/auth").json(&credential)?.receive().await?;
        if !answer.identity_token.is_empty() {
            credential.password.clear();
            credential.identitytoken = answer.identity_token;
        }
        credentials.store(&credential).await?;
        if credentials.helper(&credential.serveraddress).is_none() {
            warn_line(&format!(
                "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a \
                 credential helper to remove this warning. See\n\
                 https://docs.docker.com/go/credential-store/\n",
                credentials.path.display()
            ));
        }
        print_line(&answer.status)
    }
}

/// `hull logout`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logout {
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

impl Command for Logout {
    const USAGE: &str = "[SERVER]";
    const ABOUT: &str = "Log out from a registry";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let key = key_of(self.server.as_deref().unwrap_or_default());
        let shown = if key == HUB { "docker.io" } else { &key };
        print_line(&format!("Removing login credentials for {shown}"))?;
        Credentials::read(session)?.erase(&key).await
    }
}

fn failed(cause: &std::io::Error) -> Failure {
    Failure::new(format!("read the standard input: {cause}"))
}

fn read_all() -> Result<String, Failure> {
    let mut text = String::new();
    let stdin = std::io::stdin().lock();
    stdin
        .take(SECRET_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|e| failed(&e))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks at the terminal; a secret is not shown while it is typed.
fn ask(question: &str, secret: bool) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !is_terminal(stdin.as_fd()) {
        return Err(Failure::new(
            "Error: Cannot perform an interactive login from a non TTY device",
        ));
    }
    let mut out = std::io::stdout();
    out.write_all(question.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| failed(&e))?;
    if !secret {
        let mut line = String::new();
        stdin.read_line(&mut line).map_err(|e| failed(&e))?;
        return Ok(line.trim().to_owned());
    }
    let raw = RawMode::enter(stdin.as_fd()).map_err(|e| failed(&e))?;
    let mut typed = Vec::new();
    for byte in stdin.lock().bytes() {
        match byte.map_err(|e| failed(&e))? {
            b'\r' | b'\n' | 4 => break,
            // Control-C: nobody else sees it in this mode.
            3 => {
                drop(raw);
                return Err(Failure::status(130));
            }
            8 | 127 => drop(typed.pop()),
            byte => typed.push(byte),
        }
    }
    drop(raw);
    print_line("")?;
    String::from_utf8(typed).map_err(|_| Failure::new("the password is not UTF-8"))
}
