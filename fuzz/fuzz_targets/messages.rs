//! What daemon and shim say to each other, and plans: whatever is read is written and read again the
//! same.

#![no_main]

use hull_plan::codec::Writer;
use hull_plan::message::{Event, Request};
use hull_plan::{Plan, Process, Step};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(Request::decode(&request.encode()).expect("a request"), request);
    }
    if let Ok(events) = Event::decode_all(bytes) {
        let mut writer = Writer::default();
        events.iter().for_each(|event| event.encode(&mut writer));
        assert_eq!(Event::decode_all(&writer.finish()).expect("events"), events);
    }
    if let Ok(plan) = Plan::parse(bytes) {
        let mut writer = Plan::begin();
        for step in plan.steps() {
            step.encode(&mut writer);
            if let Step::Process(steps) = step
                && let Ok(process) = Process::parse(steps)
            {
                process.steps().for_each(drop);
            }
        }
        let written = writer.finish();
        let again = Plan::parse(&written).expect("a plan");
        assert!(again.steps().eq(plan.steps()));
    }
});
