//! What the two ends of a machine's channel do with bytes of strangers, replayed from `fuzz/corpus/frames`; the
//! fuzz target of that name runs the same.

use std::fs;
use std::path::Path;

use hull_plan::codec::Writer;
use hull_plan::frame::{
    FROM_GUEST_BYTES_MAX, Frame, Guest, Inbox, Kind, SEED_BYTES, TO_GUEST_BYTES_MAX, put,
};
use hull_plan::message::{Event, Request};

/// Takes frames out of `bytes`, which come in pieces of some size, until they make no sense.
fn frames(bytes: &[u8], piece: usize, payload_max: usize) -> Vec<Frame> {
    let mut inbox = Inbox::new(payload_max);
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        inbox.push(piece);
        loop {
            match inbox.take() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

/// The end on the host, and that in the guest: whatever comes is bounded, the same in whatever pieces it comes,
/// and what is understood is written again the same.
pub fn check(bytes: &[u8]) {
    let whole = frames(bytes, usize::MAX, FROM_GUEST_BYTES_MAX);
    assert_eq!(whole, frames(bytes, 7, FROM_GUEST_BYTES_MAX));
    let mut written = Vec::new();
    for frame in &whole {
        assert!(frame.payload.len() <= FROM_GUEST_BYTES_MAX);
        put(&mut written, frame.kind, frame.stream, &frame.payload);
        if frame.kind == Kind::Event
            && let Ok(events) = Event::decode_all(&frame.payload)
        {
            let mut writer = Writer::default();
            events.iter().for_each(|event| event.encode(&mut writer));
            assert_eq!(Event::decode_all(&writer.finish()), Ok(events));
        }
    }
    assert_eq!(written, bytes[..written.len()]);
    for frame in frames(bytes, 4096, TO_GUEST_BYTES_MAX) {
        match frame.kind {
            Kind::Start => {
                let guest = frame.payload.get(8 + SEED_BYTES..).map(Guest::decode);
                if let Some(Ok(guest)) = guest {
                    let again = guest.encode();
                    assert_eq!(Guest::decode(&again), Ok(guest));
                }
            }
            Kind::Request => {
                if let Ok(request) = Request::decode(&frame.payload) {
                    assert_eq!(Request::decode(&request.encode()), Ok(request));
                }
            }
            _ => {}
        }
    }
}

#[test]
fn the_corpus_of_frames_is_taken_apart_and_put_together() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !checkout.exists() {
        println!("skip the_corpus_of_frames_is_taken_apart_and_put_together: no checkout here");
        return;
    }
    let folder = checkout.join("../../fuzz/corpus/frames");
    let inputs = fs::read_dir(folder).expect("the corpus").flatten();
    let count = inputs
        .map(|entry| check(&fs::read(entry.path()).expect("an input")))
        .count();
    assert!(count >= 8, "{count} inputs");
}
