//! One file per noun: the task or table that owns it, and its requests.

pub(crate) mod connect;
pub(crate) mod connection;
pub(crate) mod container;
pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod guest_view;
pub(crate) mod health;
pub(crate) mod image;
pub(crate) mod image_mount;
pub(crate) mod port;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod referrer;
pub(crate) mod registry;
pub(crate) mod remote;
pub(crate) mod start;
pub(crate) mod transfer;
pub(crate) mod update;
pub(crate) mod view;
pub(crate) mod volume;
