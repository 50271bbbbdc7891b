//! Signals: passing ours on to a container.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that may be waiting to be passed on; more at once are one and the same.
const WAITING_SIGNALS_MAX: usize = 32;

/// The signals that are passed on, with the names that the API takes. Those missing are the ones
/// that cannot be caught, that speak of our own children and terminal, or of our own mistakes.
const FORWARDED: [(i32, &str); 10] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (20, "TSTP"),
    (29, "IO"),
];

/// Catches every signal that can be passed on; the receiver gets their names in order.
pub(crate) fn catch_all() -> mpsc::Receiver<&'static str> {
    let (sender, receiver) = mpsc::channel(WAITING_SIGNALS_MAX);
    for (number, name) in FORWARDED {
        let Ok(mut stream) = signal(SignalKind::from_raw(number)) else {
            continue;
        };
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(name).await.is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

/// Waits for a signal that asks this program to end; the number of it.
pub(crate) async fn end_request() -> i32 {
    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut stream) => {
            stream.recv().await;
            kind.as_raw_value()
        }
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        number = wait(SignalKind::hangup()) => number,
        number = wait(SignalKind::interrupt()) => number,
        number = wait(SignalKind::quit()) => number,
        number = wait(SignalKind::terminate()) => number,
    }
}
