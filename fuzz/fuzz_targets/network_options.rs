//! What a client says of a network, and what the host says of its resolvers, as text: whatever is
//! read is shown and read again the same.

#![no_main]

use std::net::IpAddr;

use hull_net::{Mac, Subnet, files};
use libfuzzer_sys::fuzz_target;

fn same<T>(text: &str)
where
    T: std::str::FromStr + ToString + PartialEq + std::fmt::Debug,
    T::Err: std::fmt::Debug,
{
    if let Ok(read) = text.parse::<T>() {
        let again = read.to_string().parse::<T>().expect("what is shown can be read");
        assert_eq!(again, read);
    }
}

fuzz_target!(|text: &str| {
    for line in text.lines() {
        same::<Subnet>(line);
        same::<Mac>(line);
        if let Ok(subnet) = line.parse::<Subnet>() {
            let last = subnet.at(subnet.last_offset());
            assert_eq!(subnet.offset(last), Some(subnet.last_offset()));
        }
    }
    let none = files::ResolverOverrides { servers: &[], search: &[], options: &[] };
    for inside in [
        files::resolv_conf(text, &none),
        files::resolv_conf_of_resolver(text, &none),
        files::resolv_conf_of_host(text, &none),
    ] {
        drop(files::servers(&inside));
    }
    let loopback = |server: &IpAddr| server.is_loopback();
    let of_bridge = files::resolv_conf(text, &none);
    assert!(!files::servers(&of_bridge).iter().any(loopback), "no loopback of the host inside");
});
