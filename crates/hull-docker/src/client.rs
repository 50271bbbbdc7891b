//! A client's connection, unix or TCP, that can tell when the client is gone for good.
//!
//! A client may end its half and still read the answer, so the end of its input means nothing. One
//! that closed all of a unix socket shows as a hang-up; over TCP that shows only when something is
//! written to it.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hull_engine::api::has_read_all;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Seconds between two looks at whether a client that says nothing is still there.
const VANISHED_CHECK_S: u64 = 2;

/// Pause between two looks at whether the client has read what was written.
const READ_LOOK_PAUSE: Duration = Duration::from_millis(1);
/// Looks at whether it has read the head of an answer.
const HEAD_LOOKS_MAX: u32 = 1000;
/// Looks at whether it has read the last output: with dockerd the end of a container is told at least 50 ms
/// after its last output, the time that it takes to take the network down.
const OUTPUT_LOOKS_MAX: u32 = 100;

/// One connection; clones are the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Client(Arc<Stream>);

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl From<UnixStream> for Client {
    fn from(stream: UnixStream) -> Self {
        Self(Arc::new(Stream::Unix(stream)))
    }
}

impl From<TcpStream> for Client {
    fn from(stream: TcpStream) -> Self {
        Self(Arc::new(Stream::Tcp(stream)))
    }
}

/// Does the same to either kind of stream.
macro_rules! either {
    ($client:expr, $stream:ident => $action:expr) => {
        match &*$client.0 {
            Stream::Unix($stream) => $action,
            Stream::Tcp($stream) => $action,
        }
    };
}

impl Client {
    /// Waits until nothing written can reach the client any more.
    pub(crate) async fn vanished(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(VANISHED_CHECK_S)).await;
            let either_way = Interest::READABLE | Interest::WRITABLE;
            let ready = either!(self, stream => stream.ready(either_way).await);
            if ready.map_or(true, |ready| ready.is_write_closed()) {
                return;
            }
        }
    }

    /// Waits, for a while, until the client has read all that was written to it.
    ///
    /// Some read the head of an answer through a buffer and then take the bare socket over
    /// (docker-py does): what came with the head is lost to them. With dockerd it never does, since
    /// that takes so much longer to have something to say.
    pub(crate) async fn has_read_head(&self) {
        self.has_read(HEAD_LOOKS_MAX).await;
    }

    /// Waits, for a while, until the client has read all output that was written to it.
    ///
    /// Many programs attach, wait for the end and then look at what has come. A busy one finds the output and the
    /// answer of its wait at the same moment, and may read the answer first: so that is sent later.
    pub(crate) async fn has_read_output(&self) {
        self.has_read(OUTPUT_LOOKS_MAX).await;
    }

    async fn has_read(&self, looks: u32) {
        let Stream::Unix(stream) = &*self.0 else {
            return;
        };
        for _ in 0..looks {
            if has_read_all(stream.as_fd()) {
                return;
            }
            tokio::time::sleep(READ_LOOK_PAUSE).await;
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        // Only the owned standard types shut down through a shared reference.
        match &*self.0 {
            Stream::Unix(stream) => {
                let twin = stream.as_fd().try_clone_to_owned()?;
                std::os::unix::net::UnixStream::from(twin).shutdown(Shutdown::Write)
            }
            Stream::Tcp(stream) => {
                let twin = stream.as_fd().try_clone_to_owned()?;
                std::net::TcpStream::from(twin).shutdown(Shutdown::Write)
            }
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(either!(self, stream => stream.poll_read_ready(context)))?;
            match either!(self, stream => stream.try_read_buf(buffer)) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(either!(self, stream => stream.poll_write_ready(context)))?;
            match either!(self, stream => stream.try_write_vectored(pieces)) {
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn is_over(waits: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(Duration::ZERO, waits).await.is_ok()
    }

    #[tokio::test]
    async fn what_a_client_has_not_read_is_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::from(ours);
        assert!(is_over(client.has_read_output()).await);
        client.write_all(b"output").await.unwrap();
        assert!(!is_over(client.has_read_output()).await);
        theirs.read_exact(&mut [0; 6]).await.unwrap();
        client.has_read_output().await;
        assert!(is_over(client.has_read_output()).await);
    }
}
