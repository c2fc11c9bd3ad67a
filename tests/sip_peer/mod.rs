//! A peer that writes its messages by hand, and reads what comes back as text.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aftertone::sip::{Dialog, IncomingCall};
use bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

/// Waits for what must happen soon.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it must happen soon")
}

pub(crate) fn options(transport: &str, branch: u32) -> String {
    format!(
        "OPTIONS sip:voicemail@127.0.0.1 SIP/2.0\r\n\
         Via: SIP/2.0/{transport} 127.0.0.1:9;branch=z9hG4bK-{branch}-o;rport\r\n\
         From: <sip:peer@127.0.0.1>;tag=p\r\n\
         To: <sip:voicemail@127.0.0.1>\r\n\
         Call-ID: options-{branch}\r\n\
         CSeq: 1 OPTIONS\r\n\
         Max-Forwards: 70\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

pub(crate) fn invite(transport: &str, branch: u32) -> String {
    format!(
        "INVITE sip:+4790012345@127.0.0.1 SIP/2.0\r\n\
         Via: SIP/2.0/{transport} 127.0.0.1:9;branch=z9hG4bK-{branch}-i;rport\r\n\
         From: <sip:peer@127.0.0.1>;tag=p\r\n\
         To: <sip:+4790012345@127.0.0.1>\r\n\
         Call-ID: call\r\n\
         CSeq: 1 INVITE\r\n\
         Contact: <sip:peer@127.0.0.1:9;transport={transport}>\r\n\
         Max-Forwards: 70\r\n\
         Content-Type: application/sdp\r\n\
         Content-Length: 3\r\n\r\n\
         v=0"
    )
}

/// One of many calls.
pub(crate) fn invite_of(transport: &str, call: u32) -> String {
    invite(transport, call).replace("Call-ID: call\r\n", &format!("Call-ID: call-{call}\r\n"))
}

/// The ACK to a refusal of `invite_of`.
pub(crate) fn ack_of(response: &str, transport: &str, call: u32) -> String {
    let to = response
        .lines()
        .find(|line| line.starts_with("To:"))
        .unwrap();
    format!(
        "ACK sip:+4790012345@127.0.0.1 SIP/2.0\r\n\
         Via: SIP/2.0/{transport} 127.0.0.1:9;branch=z9hG4bK-{call}-i;rport\r\n\
         From: <sip:peer@127.0.0.1>;tag=p\r\n\
         {to}\r\n\
         Call-ID: call-{call}\r\n\
         CSeq: 1 ACK\r\n\
         Max-Forwards: 70\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

pub(crate) fn in_dialog(method: &str, to: &str, cseq: u32, body: &str) -> String {
    format!(
        "{method} sip:voicemail@127.0.0.1 SIP/2.0\r\n\
         Via: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bK-{method}-{cseq};rport\r\n\
         From: <sip:peer@127.0.0.1>;tag=p\r\n\
         {to}\r\n\
         Call-ID: call\r\n\
         CSeq: {cseq} {method}\r\n\
         Max-Forwards: 70\r\n\
         Content-Type: application/dtmf-relay\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn info(to: &str, cseq: u32) -> String {
    in_dialog("INFO", to, cseq, "Signal=1")
}

enum Socket {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

pub(crate) struct Peer {
    socket: Socket,
    received: String,
}

impl Peer {
    pub(crate) async fn udp(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(server).await.unwrap();
        Self {
            socket: Socket::Udp(socket),
            received: String::new(),
        }
    }

    pub(crate) async fn tcp(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            socket: Socket::Tcp(stream),
            received: String::new(),
        }
    }

    pub(crate) async fn send(&mut self, message: &str) {
        self.try_send(message).await.unwrap();
    }

    pub(crate) async fn try_send(&mut self, message: &str) -> std::io::Result<()> {
        match &mut self.socket {
            Socket::Udp(socket) => socket.send(message.as_bytes()).await.map(drop),
            Socket::Tcp(stream) => stream.write_all(message.as_bytes()).await,
        }
    }

    /// The next whole message, or `None` when the connection has been closed.
    pub(crate) async fn try_next_message(&mut self) -> Option<String> {
        let mut buffer = vec![0; 65_536];
        loop {
            if let Some(message) = self.cut() {
                return Some(message);
            }
            let length = match &mut self.socket {
                Socket::Udp(socket) => socket.recv(&mut buffer).await.ok()?,
                Socket::Tcp(stream) => stream
                    .read(&mut buffer)
                    .await
                    .ok()
                    .filter(|length| *length > 0)?,
            };
            self.received
                .push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
    }

    fn cut(&mut self) -> Option<String> {
        let head = self.received.find("\r\n\r\n")? + 4;
        let length = self.received[..head]
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length:"));
        let whole = head + length.map_or(0, |length| length.trim().parse().unwrap());
        if self.received.len() < whole {
            return None;
        }
        let rest = self.received.split_off(whole);
        Some(std::mem::replace(&mut self.received, rest))
    }

    pub(crate) async fn next_message(&mut self) -> String {
        self.try_next_message()
            .await
            .expect("the server must not close")
    }

    /// Sends a request and returns its final response.
    pub(crate) async fn ask(&mut self, request: &str) -> String {
        self.send(request).await;
        loop {
            let response = self.next_message().await;
            if !response.starts_with("SIP/2.0 1") {
                return response;
            }
        }
    }

    /// Sends a request and returns its first response.
    pub(crate) async fn ask_provisional(&mut self, request: &str) -> String {
        self.send(request).await;
        self.next_message().await
    }

    /// Like `ask`, but the server may close the connection instead.
    pub(crate) async fn try_ask(&mut self, request: &str) -> Option<String> {
        self.try_send(request).await.ok()?;
        self.try_next_message().await
    }

    /// Completes when the server closes the connection.
    pub(crate) async fn closed(&mut self) {
        while self.try_next_message().await.is_some() {}
    }

    /// Calls, is answered, and acknowledges. Returns the server's dialog and the To header with its tag.
    pub(crate) async fn set_up_call(
        &mut self,
        incoming: &mut mpsc::Receiver<IncomingCall>,
    ) -> (Dialog, String) {
        self.send(&invite("TCP", 1)).await;
        let call = within(incoming.recv()).await.unwrap();
        let dialog = within(call.answer(Bytes::from_static(b"v=0")))
            .await
            .unwrap();
        let mut response = within(self.next_message()).await;
        while !response.starts_with("SIP/2.0 200") {
            response = within(self.next_message()).await;
        }
        let to = response
            .lines()
            .find(|line| line.starts_with("To:"))
            .unwrap()
            .to_owned();
        self.send(&in_dialog("ACK", &to, 1, "")).await;
        (dialog, to)
    }
}

/// Makes a TLS handshake and returns the certificate that the server showed.
pub(crate) async fn connect_tls(server: SocketAddr) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    let stream = TcpStream::connect(server).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = within(connecting).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
