//! The edge on a real unix socket, before a real engine with an empty data root.

use std::path::PathBuf;
use std::time::Duration;

use hull_docker::{Listener, ServeConfig};
use hull_engine::{BridgeConfig, Engine, EngineConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long an answer may take before a test fails.
const ANSWER_S_MAX: u64 = 20;

/// A served engine in a folder of its own, which goes with it.
struct Edge {
    folder: PathBuf,
    engine: Engine,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), hull_docker::ServeError>>,
}

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        let word = self.head.split(' ').nth(1).expect("a status line");
        word.parse().expect("a status")
    }

    fn header(&self, name: &str) -> Option<&str> {
        let field = |line: &'_ str| line.split_once(": ").map(|(k, _)| k.to_owned());
        let line = self
            .head
            .lines()
            .find(|line| field(line).as_deref() == Some(name))?;
        line.split_once(": ").map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .expect("a message")
            .to_owned()
    }
}

impl Edge {
    async fn start(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("hull-edge-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("make a folder");
        let engine = Engine::open(EngineConfig {
            data_root: folder.join("data"),
            run_root: folder.join("run"),
            shim_program: &[],
            cgroup_parent: format!("hull-edge-{name}"),
            defaults: hull_engine::HostDefaults::default(),
            bridge: BridgeConfig {
                disabled: true,
                ..BridgeConfig::default()
            },
            registries: hull_engine::RegistryOptions::default(),
            downloads_max: 0,
            uploads_max: 0,
            image_gc: hull_engine::ImageGc::default(),
            layer_backing: None,
            users: hull_model::ids::UserMaps::default(),
        })
        .await
        .expect("open an engine");
        let listener = UnixListener::bind(folder.join("sock")).expect("bind");
        let config = ServeConfig {
            version: "1.2.3".to_owned(),
            ..ServeConfig::default()
        };
        let (_, config) = tokio::sync::watch::channel(std::sync::Arc::new(config));
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = engine.clone();
        let served = tokio::spawn(async move {
            let asked = async { stopped.await.unwrap_or(()) };
            hull_docker::serve(serving, vec![Listener::Unix(listener)], config, asked).await
        });
        Self {
            folder,
            engine,
            stop: Some(stop),
            served,
        }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.join("sock"))
            .await
            .expect("connect")
    }

    /// Sends one request on a connection of its own and reads all of the answer.
    async fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        let content = match body {
            Some(body) => format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
            None => "\r\n".to_owned(),
        };
        let text = format!("{method} {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n{content}");
        self.exchange(&text).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None).await
    }

    async fn exchange(&self, request: &str) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let read = tokio::time::timeout(Duration::from_secs(ANSWER_S_MAX), read).await;
        read.expect("an answer in time").expect("read");
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        Answer {
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn end(mut self) {
        let stop = self.stop.take().expect("ended once");
        stop.send(()).expect("it serves");
        self.served.await.expect("no panic").expect("served");
        self.engine.shutdown().await.expect("shut down");
        drop(self.engine);
        std::fs::remove_dir_all(&self.folder).expect("nothing is mounted there");
    }
}

#[tokio::test]
async fn ping_says_who_we_are_in_headers() {
    let edge = Edge::start("ping").await;
    let answer = edge.get("/_ping").await;
    assert_eq!((answer.status(), answer.body.as_str()), (200, "OK"));
    for (name, value) in [
        ("Api-Version", "1.48"),
        ("Docker-Experimental", "false"),
        ("Ostype", "linux"),
        ("Server", "Hull/1.2.3 (linux)"),
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Content-Length", "2"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    let head = edge.ask("HEAD", "/v1.24/_ping", None).await;
    assert_eq!((head.status(), head.body.as_str()), (200, ""));
    edge.end().await;
}

#[tokio::test]
async fn versions_are_negotiated() {
    let edge = Edge::start("version").await;
    let version = edge.get("/v1.41/version").await.json();
    assert_eq!(version["ApiVersion"], "1.48");
    assert_eq!(version["MinAPIVersion"], "1.24");
    assert_eq!(version["Version"], "1.2.3");
    let refused = edge.get("/v1.99/version").await;
    assert_eq!(refused.status(), 400);
    assert_eq!(
        refused.message(),
        "client version 1.99 is too new. Maximum supported API version is 1.48"
    );
    edge.end().await;
}

#[tokio::test]
async fn what_is_not_found_says_so_in_dockers_words() {
    let edge = Edge::start("missing").await;
    for (method, path, status, message) in [
        ("GET", "/nope", 404, "page not found"),
        ("PATCH", "/info", 404, "page not found"),
        ("GET", "/containers/zz/json", 404, "No such container: zz"),
        ("POST", "/containers/zz/start", 404, "No such container: zz"),
        ("GET", "/images/a/b/json", 404, "No such image: a/b:latest"),
        ("DELETE", "/images/zz:1", 404, "No such image: zz:1"),
        ("GET", "/exec/zz/json", 404, "No such exec instance: zz"),
        ("GET", "/networks/zz", 404, "network zz not found"),
        ("GET", "/volumes/zz", 404, "get zz: no such volume"),
        (
            "POST",
            "/build",
            501,
            "building an image is not there yet in hull",
        ),
        (
            "GET",
            "/containers/json?filters=%7B%22a%22%3A%5B%5D%7D",
            400,
            "invalid filter 'a'",
        ),
    ] {
        let answer = edge.ask(method, path, None).await;
        assert_eq!(
            (answer.status(), answer.message().as_str()),
            (status, message),
            "{path}"
        );
    }
    assert_eq!(edge.get("/swarm").await.status(), 503);
    edge.end().await;
}

#[tokio::test]
async fn an_empty_engine_lists_nothing() {
    let edge = Edge::start("empty").await;
    assert_eq!(edge.get("/containers/json?all=1").await.json(), json!([]));
    assert_eq!(edge.get("/images/json").await.json(), json!([]));
    assert_eq!(edge.get("/plugins").await.json(), json!([]));
    assert_eq!(edge.get("/info").await.json()["Containers"], 0);
    assert_eq!(
        edge.get("/hull/system/verify").await.json(),
        json!({"problems": []})
    );
    let networks = edge.get("/networks").await.json();
    let mut names: Vec<_> = networks.as_array().expect("a list").iter().collect();
    names.sort_by_key(|network| network["Name"].to_string());
    let names: Vec<_> = names.iter().map(|network| &network["Name"]).collect();
    assert_eq!(names, ["host", "none"]);
    edge.end().await;
}

#[tokio::test]
async fn wrong_bodies_are_answered_and_not_cut_off() {
    let edge = Edge::start("bodies").await;
    let create = |body: &'static str| edge.ask("POST", "/containers/create", Some(body));
    assert_eq!(create("{").await.status(), 400);
    assert_eq!(create("").await.status(), 400);
    assert_eq!(create(r#"{"Image":5}"#).await.status(), 400);
    let missing = create(r#"{"Image":"nope","Cmd":["a"]}"#).await;
    assert_eq!(
        (missing.status(), missing.message().as_str()),
        (404, "No such image: nope:latest")
    );
    let named = edge
        .ask(
            "POST",
            "/containers/create?name=-w",
            Some(r#"{"Image":"x"}"#),
        )
        .await;
    assert_eq!(named.status(), 400);
    let huge = "x".repeat(hull_model::limits::REQUEST_BODY_BYTES_MAX + 1);
    let length = huge.len();
    // Only the head: what is announced is refused when it is read, so a part is enough.
    let part = &huge[..1024];
    let mut stream = edge.connect().await;
    let head = format!(
        "POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{part}"
    );
    stream.write_all(head.as_bytes()).await.expect("write");
    let mut answer = [0; 12];
    let read = stream.read_exact(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(ANSWER_S_MAX), read).await;
    read.expect("an answer in time").expect("read");
    assert_eq!(&answer, b"HTTP/1.1 413");
    drop(stream);
    edge.end().await;
}

#[tokio::test]
async fn two_requests_share_a_connection_and_a_half_closed_client_is_answered() {
    let edge = Edge::start("keep").await;
    let mut stream = edge.connect().await;
    let one = "GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n";
    stream
        .write_all(format!("{one}{one}").as_bytes())
        .await
        .expect("write");
    stream.shutdown().await.expect("half-close");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("read");
    let text = String::from_utf8(bytes).expect("text");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    edge.end().await;
}

/// The head comes at once: clients start listening before anything happens.
#[tokio::test]
async fn events_answer_before_the_first_event() {
    let edge = Edge::start("events").await;
    let mut stream = edge.connect().await;
    let request = "GET /events HTTP/1.1\r\nHost: d\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("write");
    let mut head = [0; 15];
    let read = stream.read_exact(&mut head);
    let read = tokio::time::timeout(Duration::from_secs(ANSWER_S_MAX), read).await;
    read.expect("a head in time").expect("read");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    let ended = edge.get("/events?since=0&until=1").await;
    assert_eq!(ended.status(), 200);
    edge.end().await;
}

/// A client that was killed while it listened must not be kept until the next event.
#[tokio::test]
async fn a_client_that_vanished_is_let_go() {
    let edge = Edge::start("vanish").await;
    let sockets = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").expect("list").flatten();
        let ours = |path: &PathBuf| path.to_string_lossy().starts_with("socket:");
        descriptors
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .filter(ours)
            .count()
    };
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = edge.connect().await;
        let request = "GET /events HTTP/1.1\r\nHost: d\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("write");
        stream.read_exact(&mut [0; 15]).await.expect("a head");
        streams.push(stream);
    }
    let listening = sockets();
    drop(streams);
    let deadline = std::time::Instant::now() + Duration::from_secs(ANSWER_S_MAX);
    // Both ends are ours: 100 descriptors go; other tests of this program come and go beside.
    while sockets() + 80 > listening {
        assert!(
            std::time::Instant::now() < deadline,
            "the server keeps vanished clients"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    edge.end().await;
}
