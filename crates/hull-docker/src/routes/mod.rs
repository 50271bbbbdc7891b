//! The table of all routes, in the order of Docker's documentation; one module per tag.
//!
//! What a later issue brings is here too, as a row that names it: `501` with a sentence.

mod containers;
mod exec;
mod files;
mod images;
mod io;
mod networks;
mod prune;
mod ps;
mod publish;
mod registry;
mod stats;
mod system;
mod top;
mod volumes;

use http::{Method, StatusCode};

use crate::errors::ApiError;
use crate::request::{Call, drain};
use crate::router::{Answer, Route};

macro_rules! routes {
    ($($method:ident $pattern:literal => $handler:path;)*) => {
        /// Every route.
        pub(crate) static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            pattern: $pattern,
            run: |call| Box::pin($handler(call)),
        }),*];
    };
}

routes! {
    GET "/_ping" => system::ping;
    HEAD "/_ping" => system::ping;
    GET "/version" => system::version;
    GET "/info" => system::info;
    GET "/events" => system::events;
    GET "/system/df" => system::disk_usage;
    POST "/auth" => registry::login;
    GET "/hull/system/verify" => system::verify;
    GET "/hull/network/rules" => networks::rules;
    POST "/hull/system/shutdown" => system::shutdown;
    POST "/hull/images/import-docker" => images::import_docker;

    GET "/containers/json" => containers::list;
    POST "/containers/create" => containers::create;
    POST "/containers/prune" => prune::containers;
    GET "/containers/{name}/json" => containers::inspect;
    GET "/containers/{name}/top" => top::top;
    GET "/containers/{name}/logs" => io::logs;
    GET "/containers/{name}/changes" => files::changes;
    GET "/containers/{name}/export" => files::export;
    GET "/containers/{name}/stats" => stats::stats;
    POST "/containers/{name}/resize" => io::resize;
    POST "/containers/{name}/start" => containers::start;
    POST "/containers/{name}/stop" => containers::stop;
    POST "/containers/{name}/restart" => containers::restart;
    POST "/containers/{name}/kill" => containers::kill;
    POST "/containers/{name}/update" => containers::update;
    POST "/containers/{name}/rename" => containers::rename;
    POST "/hull/containers/{name}/publish" => publish::publish;
    POST "/containers/{name}/pause" => containers::pause;
    POST "/containers/{name}/unpause" => containers::unpause;
    POST "/containers/{name}/attach" => io::attach;
    GET "/containers/{name}/attach/ws" => attach_websocket;
    POST "/containers/{name}/wait" => containers::wait;
    DELETE "/containers/{name..}" => containers::remove;
    GET "/containers/{name}/archive" => files::archive;
    HEAD "/containers/{name}/archive" => files::archive;
    PUT "/containers/{name}/archive" => files::archive;
    POST "/commit" => files::commit;

    POST "/containers/{name}/exec" => exec::create;
    POST "/exec/{id}/start" => exec::start;
    POST "/exec/{id}/resize" => exec::resize;
    GET "/exec/{id}/json" => exec::inspect;

    GET "/images/json" => images::list;
    GET "/images/get" => images::save_many;
    GET "/images/search" => registry::search;
    POST "/images/create" => images::create;
    POST "/images/load" => images::load;
    POST "/images/prune" => prune::images;
    GET "/images/{name..}/json" => images::inspect;
    GET "/images/{name..}/history" => images::history;
    GET "/images/{name..}/get" => images::save_one;
    POST "/images/{name..}/tag" => images::tag;
    POST "/images/{name..}/push" => registry::push;
    DELETE "/images/{name..}" => images::remove;
    GET "/distribution/{name..}/json" => registry::distribution;
    POST "/build" => build;
    POST "/build/prune" => prune::build_cache;
    POST "/build/cancel" => build;
    POST "/session" => session;
    POST "/grpc" => session;

    GET "/networks" => networks::list;
    GET "/networks/{id}" => networks::inspect;
    POST "/networks/create" => networks::create;
    POST "/networks/prune" => networks::prune;
    POST "/networks/{id}/connect" => networks::connect;
    POST "/networks/{id}/disconnect" => networks::disconnect;
    DELETE "/networks/{id}" => networks::remove;

    GET "/volumes" => volumes::list;
    GET "/volumes/{name}" => volumes::inspect;
    POST "/volumes/create" => volumes::create;
    POST "/volumes/prune" => volumes::prune;
    PUT "/volumes/{name}" => volume_update;
    DELETE "/volumes/{name}" => volumes::remove;
    GET "/hull/volumes/{name}/export" => volumes::export;
    POST "/hull/volumes/{name}/import" => volumes::import;
    POST "/hull/volumes/{name}/rename" => volumes::rename;
    POST "/hull/volumes/{name}/clone" => volumes::clone;
    POST "/hull/volumes/{name}/snapshot" => volumes::snapshot;

    GET "/plugins" => plugins;
    GET "/plugins/{name..}/json" => no_plugin;
    GET "/plugins/{rest..}" => plugin_change;
    POST "/plugins/{rest..}" => plugin_change;
    DELETE "/plugins/{rest..}" => plugin_change;

    POST "/swarm/init" => swarm_change;
    POST "/swarm/join" => swarm_change;
    GET "/swarm" => no_swarm;
    GET "/swarm/{rest..}" => no_swarm;
    POST "/swarm/leave" => no_swarm;
    POST "/swarm/update" => no_swarm;
    POST "/swarm/unlock" => no_swarm;
    GET "/nodes" => no_swarm;
    GET "/nodes/{rest..}" => no_swarm;
    POST "/nodes/{rest..}" => no_swarm;
    DELETE "/nodes/{rest..}" => no_swarm;
    GET "/services" => no_swarm;
    GET "/services/{rest..}" => no_swarm;
    POST "/services/{rest..}" => no_swarm;
    DELETE "/services/{rest..}" => no_swarm;
    GET "/tasks" => no_swarm;
    GET "/tasks/{rest..}" => no_swarm;
    GET "/secrets" => no_swarm;
    GET "/secrets/{rest..}" => no_swarm;
    POST "/secrets/{rest..}" => no_swarm;
    DELETE "/secrets/{rest..}" => no_swarm;
    GET "/configs" => no_swarm;
    GET "/configs/{rest..}" => no_swarm;
    POST "/configs/{rest..}" => no_swarm;
    DELETE "/configs/{rest..}" => no_swarm;
}

/// Handlers of what is not there yet: each names it.
macro_rules! not_there {
    ($($handler:ident: $what:literal;)*) => {
        $(async fn $handler(mut call: Call) -> Answer {
            drain(call.request.body_mut()).await;
            Err(ApiError::not_there($what))
        })*
    };
}

not_there! {
    attach_websocket: "attaching by websocket";
    build: "building an image";
    plugin_change: "installing a plugin";
    swarm_change: "swarm";
}

/// Docker answers 404 to the session of a builder that it does not have, and clients expect it.
async fn session(_: Call) -> Answer {
    Err(ApiError::no_such_page())
}

async fn plugins(_: Call) -> Answer {
    crate::body::json(&[(); 0])
}

async fn no_plugin(call: Call) -> Answer {
    let name = call.name();
    Err(ApiError::not_found(format!("plugin \"{name}\" not found")))
}

/// Only volumes of a cluster can be updated.
async fn volume_update(call: Call) -> Answer {
    no_swarm(call).await
}

/// What Docker says where there is no swarm.
const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" \
     to connect this node to swarm and try again.";

async fn no_swarm(_: Call) -> Answer {
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NO_SWARM))
}
