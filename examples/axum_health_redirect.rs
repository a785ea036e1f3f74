//! An HTTP service on three nodes, and the three ways to reach the one that leads: a health check
//! for a load balancer, a check before a write, and a redirect with HTTP 307. Takes a directory as
//! its argument.
#![expect(clippy::print_stdout, clippy::disallowed_macros, reason = "an example shows its result")]

#[path = "kit/trio.rs"]
mod trio;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, put};
use bowline::{EmbeddedEngine, Error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What one node serves. Its address is `node.app_address`: so the other nodes can name it.
fn service(engine: EmbeddedEngine) -> Router {
    Router::new()
        .route("/primary", get(health))
        .route("/checked/{key}", put(checked))
        .route("/kv/{key}", put(redirecting).get(read))
        .with_state(engine)
}

/// 1. A load balancer asks every node and sends writes to the one that says 200.
async fn health(State(engine): State<EmbeddedEngine>) -> StatusCode {
    if engine.is_leader() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// 2. A service asks before it writes. That is a hint: whether it leads is decided by the log, so
///    the write may still be refused.
async fn checked(
    State(engine): State<EmbeddedEngine>,
    Path(key): Path<String>,
    value: Bytes,
) -> Response {
    if !engine.is_leader_of(key.as_bytes()) {
        return (StatusCode::SERVICE_UNAVAILABLE, "ask the leader").into_response();
    }
    match engine.client().put(key, value).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => failure(&error),
    }
}

/// 3. Any node is asked; one that does not lead says where to ask instead.
async fn redirecting(
    State(engine): State<EmbeddedEngine>,
    Path(key): Path<String>,
    value: Bytes,
) -> Response {
    match engine.client().put(&key, value).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(Error::NotLeader { leader_address: Some(address), .. }) => {
            Redirect::temporary(&format!("http://{address}/kv/{key}")).into_response()
        },
        Err(error) => failure(&error),
    }
}

/// Every node answers reads, and sees every write that was acknowledged before.
async fn read(State(engine): State<EmbeddedEngine>, Path(key): Path<String>) -> Response {
    match engine.client().get(key).await {
        Ok(Some(value)) => value.into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(error) => failure(&error),
    }
}

fn failure(error: &Error) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string()).into_response()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/axum".to_owned());
    let dir = PathBuf::from(dir);
    let addresses = trio::addresses();
    let (mut starts, mut listeners) = (Vec::new(), Vec::new());
    for id in 1..=3 {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let app = listener.local_addr()?.to_string();
        listeners.push(listener);
        starts.push(trio::node(&dir, addresses, id).shards(1).app_address(app).start());
    }
    let mut nodes = Vec::new();
    for (start, listener) in starts.into_iter().zip(listeners) {
        let (engine, at) = (start.await?, listener.local_addr()?);
        drop(tokio::spawn(axum::serve(listener, service(engine.clone())).into_future()));
        nodes.push((engine, at));
    }
    for (engine, _) in &nodes {
        engine.wait_ready(Duration::from_secs(30)).await?;
    }
    show(&nodes).await?;
    for (engine, _) in &nodes {
        engine.stop().await?;
    }
    Ok(())
}

/// What the clients of such a service see.
async fn show(nodes: &[(EmbeddedEngine, SocketAddr)]) -> io::Result<()> {
    let (mut leaders, mut others) = (Vec::new(), Vec::new());
    for (_, at) in nodes {
        let answer = ask(*at, "GET /primary", "").await?;
        if answer.status == 200 { leaders.push(*at) } else { others.push(*at) }
    }
    println!("health check: {} primary, {} others", leaders.len(), others.len());

    let answers = (
        ask(others[0], "PUT /checked/a", "1").await?,
        ask(leaders[0], "PUT /checked/a", "1").await?,
    );
    println!(
        "check before a write: {} at a follower, {} at the leader",
        answers.0.status, answers.1.status
    );

    let answer = ask(others[0], "PUT /kv/greeting", "hello").await?;
    let to_leader = answer.location == Some(format!("http://{}/kv/greeting", leaders[0]));
    println!("redirect: {} at a follower, to the leader: {to_leader}", answer.status);
    ask(leaders[0], "PUT /kv/greeting", "hello").await?;
    for (_, at) in nodes {
        println!("read: {}", ask(*at, "GET /kv/greeting", "").await?.body);
    }
    Ok(())
}

/// An answer, as far as this example looks at it.
struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

/// One request of HTTP, by hand.
async fn ask(at: SocketAddr, what: &str, body: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(at).await?;
    let head = "HTTP/1.1\r\nHost: node\r\nConnection: close";
    let request = format!("{what} {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let location = head.lines().find_map(|line| line.strip_prefix("location: "));
    Ok(Answer {
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        location: location.map(str::to_owned),
        body: body.to_owned(),
    })
}
