//! Messages to bytes.

use std::fmt::Display;
use std::io::Write;

use bytes::Bytes;

use crate::sip::message::HeaderName;
use crate::sip::message::Headers;
use crate::sip::message::Message;
use crate::sip::message::Request;
use crate::sip::message::Response;

impl Request {
    /// Appends the request as it goes on the wire. Content-Length is always there, and right.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        write_text(out, &self.method);
        out.push(b' ');
        write_text(out, &self.uri);
        out.extend_from_slice(b" SIP/2.0\r\n");
        write_rest(out, &self.headers, &self.body);
    }

    /// The request as it goes on the wire.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(1024 + self.body.len());
        self.write_to(&mut out);
        out.into()
    }
}

impl Response {
    /// Appends the response as it goes on the wire. Content-Length is always there, and right.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"SIP/2.0 ");
        write_text(out, &self.status);
        out.push(b' ');
        write_text(out, &self.reason);
        out.extend_from_slice(b"\r\n");
        write_rest(out, &self.headers, &self.body);
    }

    /// The response as it goes on the wire.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(1024 + self.body.len());
        self.write_to(&mut out);
        out.into()
    }
}

impl Message {
    /// Appends the message as it goes on the wire.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Request(request) => request.write_to(out),
            Self::Response(response) => response.write_to(out),
        }
    }

    /// The message as it goes on the wire.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Request(request) => request.to_bytes(),
            Self::Response(response) => response.to_bytes(),
        }
    }
}

/// Writes text that must not end its line: line ends in it become spaces.
fn write_text(out: &mut Vec<u8>, text: &impl Display) {
    let start = out.len();
    write!(out, "{text}").expect("writing to a Vec does not fail");
    for byte in out
        .iter_mut()
        .skip(start)
        .filter(|byte| matches!(byte, b'\r' | b'\n'))
    {
        *byte = b' ';
    }
}

fn write_rest(out: &mut Vec<u8>, headers: &Headers, body: &[u8]) {
    let mut length_written = false;
    for (name, value) in headers.iter() {
        if *name == HeaderName::ContentLength {
            if !std::mem::replace(&mut length_written, true) {
                write_length(out, body.len());
            }
            continue;
        }
        match name {
            HeaderName::Other(name) => write_text(out, name),
            known => out.extend_from_slice(known.as_str().as_bytes()),
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if !length_written {
        write_length(out, body.len());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

fn write_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(b"Content-Length: ");
    write_text(out, &length);
    out.extend_from_slice(b"\r\n");
}
