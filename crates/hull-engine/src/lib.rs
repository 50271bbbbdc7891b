//! The product: objects, rules, store, events, recovery.
