//! `etcdserverpb.KV/Put` over HTTP/2, by hand.
//!
//! ```text
//! message    0 u8 (not compressed)   length u32, big end first   PutRequest
//! PutRequest 0x0a len key   0x12 len value
//! ```

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;

use crate::Failure;

/// A connection that several clients share.
#[derive(Clone)]
pub(crate) struct Caller(SendRequest<Bytes>);

/// Opens one.
pub(crate) async fn connect(member: SocketAddr) -> Result<Caller, Failure> {
    let stream = TcpStream::connect(member).await?;
    stream.set_nodelay(true)?;
    let (caller, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            eprintln!("a connection ended: {error}");
        }
    });
    Ok(Caller(caller))
}

impl Caller {
    /// One put, acknowledged.
    pub(crate) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let request = Request::post("http://etcd/etcdserverpb.KV/Put")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut ready = self.0.clone().ready().await?;
        let (response, mut body) = ready.send_request(request, false)?;
        body.send_data(message(key, value), true)?;
        let response = response.await?;
        // A call that fails at once has its status here.
        let early = response.headers().get("grpc-status").cloned();
        let mut answer = response.into_body();
        while let Some(part) = answer.data().await {
            let len = part?.len();
            answer.flow_control().release_capacity(len)?;
        }
        let trailers = answer.trailers().await?;
        let late = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        match early.as_ref().or(late).map(http::HeaderValue::as_bytes) {
            Some(b"0") => Ok(()),
            status => Err(format!("a put failed: {status:?}, {trailers:?}").into()),
        }
    }
}

fn message(key: &[u8], value: &[u8]) -> Bytes {
    let mut put = BytesMut::with_capacity(key.len() + value.len() + 16);
    for (tag, field) in [(0x0a, key), (0x12, value)] {
        put.put_u8(tag);
        let mut len = field.len();
        while len >= 0x80 {
            put.put_u8((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        put.put_u8(len as u8);
        put.put_slice(field);
    }
    let mut framed = BytesMut::with_capacity(put.len() + 5);
    framed.put_u8(0);
    framed.put_u32(put.len() as u32);
    framed.put_slice(&put);
    framed.freeze()
}
