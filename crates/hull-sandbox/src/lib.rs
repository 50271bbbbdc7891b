//! One running thing, seen from the daemon.
