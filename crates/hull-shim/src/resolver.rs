//! Sockets of the container's name server: opened inside, answered by the daemon. They stay open
//! here, so that a question asked while there is no daemon is answered late.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hull_os::nft::Nftables;
use hull_os::port;
use hull_plan::message::{KEY_RESOLVER_TCP, KEY_RESOLVER_UDP};

use crate::serve::Server;

/// Where containers ask.
const ADDRESS: [u8; 4] = [127, 0, 0, 11];
/// How long the kernel may take for the rules.
const RULES_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the sockets in this process's network namespace, which is the container's, leads
/// questions there, and gives the daemon copies. Nothing is done when they are open.
pub(crate) fn open(server: &mut Server, port: u32, rules: &[u8]) -> io::Result<()> {
    if server.kept.iter().any(|(key, _)| *key == KEY_RESOLVER_UDP) {
        return Ok(());
    }
    let number = u16::try_from(port).map_err(io::Error::other)?;
    let address: SocketAddr = (ADDRESS, number).into();
    let datagrams = port::take(libc::IPPROTO_UDP as u8, address)?;
    let streams = port::take(libc::IPPROTO_TCP as u8, address)?;
    // None where the sockets are where questions go by themselves.
    if !rules.is_empty() {
        Nftables::open(RULES_TIMEOUT)?
            .commit_bytes(rules)
            .map_err(|error| error.cause)?;
    }
    server.keep(KEY_RESOLVER_UDP, datagrams);
    server.keep(KEY_RESOLVER_TCP, streams);
    Ok(())
}
