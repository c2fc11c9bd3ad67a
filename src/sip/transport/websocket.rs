//! SIP over WebSocket (RFC 7118): one task for each connection, which carries one message in each frame.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio::time::sleep_until;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, Uri};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_tungstenite::{accept_hdr_async_with_config, client_async_with_config};
use tracing::debug;

use crate::sip::endpoint::{Flow, ResolveId};
use crate::sip::message::{self, Limits};
use crate::sip::transport::stream::{Arrival, FIRST_MESSAGE, OUTBOX, Streams, WRITE_DEADLINE};
use crate::telemetry;

/// The sub-protocol that both sides must name (RFC 7118 section 4.1).
const SIP: &str = "sip";
const PROTOCOL_HEADER: &str = "Sec-WebSocket-Protocol";

/// A connection on which nothing came for so long is pinged: browsers themselves never ask, and proxies between
/// close what is quiet for a minute.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Each connection holds such a buffer, also when idle.
const READ_BYTES: usize = 4 * 1024;

/// What waits to be written beyond this ends the connection. Above the longest message, and all control frames.
const UNWRITTEN_BYTES: usize = 256 * 1024;

fn socket_config(limits: &Limits) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(UNWRITTEN_BYTES)
        .max_message_size(Some(limits.message_bytes))
        .max_frame_size(Some(limits.message_bytes))
}

/// Answers a handshake, or refuses it.
pub(super) async fn accept<S>(
    stream: S,
    limits: &Limits,
    origins: &[String],
) -> Result<WebSocketStream<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    #[expect(
        clippy::result_large_err,
        reason = "the signature is that of the library"
    )]
    let check = |request: &Request, response: Response| admit(request, response, origins);
    accept_hdr_async_with_config(stream, check, Some(socket_config(limits))).await
}

/// Any web page can make its visitor's browser connect, with the visitor's address. So a page must be one that is
/// allowed to (RFC 6455 section 10.2).
#[expect(
    clippy::result_large_err,
    reason = "the signature is that of the library"
)]
fn admit(
    request: &Request,
    mut response: Response,
    origins: &[String],
) -> Result<Response, ErrorResponse> {
    let refuse = |status, why: &str| {
        let mut refusal = ErrorResponse::new(Some(format!("{why}\n")));
        *refusal.status_mut() = status;
        Err(refusal)
    };
    let mut protocols = request.headers().get_all(PROTOCOL_HEADER).iter();
    let names_sip = |value: &HeaderValue| {
        let value = value.to_str().unwrap_or_default();
        value.split(',').any(|it| it.trim() == SIP)
    };
    if !protocols.any(names_sip) {
        return refuse(
            StatusCode::BAD_REQUEST,
            "Only the WebSocket sub-protocol \"sip\" is spoken here.",
        );
    }
    if let Some(origin) = request.headers().get("Origin") {
        let is_it = |allowed: &String| {
            allowed == "*" || origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes())
        };
        if !origins.iter().any(is_it) {
            return refuse(
                StatusCode::FORBIDDEN,
                "Pages of this origin may not connect; sip.websocket_origins names those that may.",
            );
        }
    }
    let protocol = HeaderValue::from_static(SIP);
    response.headers_mut().insert(PROTOCOL_HEADER, protocol);
    Ok(response)
}

/// Makes the handshake of a client on an open connection to `host`.
pub(super) async fn connect<S>(
    stream: S,
    host: &str,
    port: u16,
    limits: &Limits,
) -> io::Result<WebSocketStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let host = match host.parse() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host.to_owned(),
    };
    // TLS, where there is any, is made already.
    let uri = Uri::builder()
        .scheme("ws")
        .authority(format!("{host}:{port}"))
        .path_and_query("/")
        .build()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SIP);
    let (socket, _) = client_async_with_config(request, stream, Some(socket_config(limits)))
        .await
        .map_err(io::Error::other)?;
    Ok(socket)
}

impl Streams {
    /// Carries messages both ways until either ends.
    pub(super) async fn serve_frames<S>(
        &self,
        mut socket: WebSocketStream<S>,
        flow: Flow,
        asked_by: Option<ResolveId>,
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let opened = Arrival::Opened {
            flow,
            outbox,
            asked_by,
        };
        if !self.tell(opened).await {
            return;
        }
        let end = self
            .exchange(&mut socket, flow, queue, asked_by.is_none())
            .await;
        debug!(remote = %flow.remote, end, "A connection was closed");
        self.tell(Arrival::Closed { flow }).await;
        // The peer may be gone already; there is nobody left to tell.
        timeout(WRITE_DEADLINE, socket.close(None)).await.ok();
    }

    /// Reads and writes until the end, which it names. With `is_accepted` the peer must speak first.
    async fn exchange<S>(
        &self,
        socket: &mut WebSocketStream<S>,
        flow: Flow,
        mut queue: mpsc::Receiver<Bytes>,
        is_accepted: bool,
    ) -> &'static str
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let ping_after = PING_EVERY.min(self.patience.idle);
        let begun = Instant::now();
        let mut first_message = is_accepted.then(|| begun + FIRST_MESSAGE.min(self.patience.idle));
        let mut quiet_until = begun + ping_after;
        let mut is_pinged = false;
        loop {
            let deadline = first_message.map_or(quiet_until, |first| first.min(quiet_until));
            let outgoing = tokio::select! {
                () = sleep_until(deadline) => {
                    if first_message.is_some_and(|first| first <= deadline) {
                        return "idle";
                    }
                    if is_pinged {
                        metrics::counter!(telemetry::SIP_SLOW_MESSAGES).increment(1);
                        return "no answer to a ping";
                    }
                    is_pinged = true;
                    quiet_until = deadline + self.patience.message;
                    Message::Ping(Bytes::new())
                }
                message = queue.recv() => match message {
                    Some(bytes) => frame_of(bytes),
                    None => return "let go of",
                },
                frame = socket.next() => {
                    is_pinged = false;
                    quiet_until = Instant::now() + ping_after;
                    match self.take_frame(flow, frame).await {
                        Ok(true) => first_message = None,
                        Ok(false) => {}
                        Err(end) => return end,
                    }
                    continue;
                }
            };
            match timeout(WRITE_DEADLINE, socket.send(outgoing)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return "broken",
                Err(_) => {
                    metrics::counter!(telemetry::SIP_STALLED_WRITES).increment(1);
                    return "the peer does not read";
                }
            }
        }
    }

    /// Hands one frame on. Whether there was a message in it; or why there will be no more.
    async fn take_frame(
        &self,
        flow: Flow,
        frame: Option<Result<Message, Error>>,
    ) -> Result<bool, &'static str> {
        let bytes = match frame {
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(_)) => return Ok(false),
            None | Some(Err(Error::ConnectionClosed)) => return Err("closed by the peer"),
            Some(Err(Error::Capacity(_) | Error::Protocol(_) | Error::Utf8(_))) => {
                metrics::counter!(telemetry::SIP_UNFRAMEABLE).increment(1);
                return Err("no WebSocket messages that are taken");
            }
            Some(Err(_)) => return Err("broken"),
        };
        let message = message::parse_datagram(&bytes, &self.limits);
        if self.tell(Arrival::Message { flow, message }).await {
            Ok(true)
        } else {
            Err("stopped")
        }
    }
}

/// Text where it can be one, as some clients take nothing else.
fn frame_of(bytes: Bytes) -> Message {
    match Utf8Bytes::try_from(bytes.clone()) {
        Ok(text) => Message::Text(text),
        Err(_) => Message::Binary(bytes),
    }
}

#[cfg(test)]
mod tests;
