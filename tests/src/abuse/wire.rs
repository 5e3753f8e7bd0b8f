//! HTTP/2 by hand: what no client library sends.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// With which every HTTP/2 connection begins.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const CONTINUATION: u8 = 9;

/// Flags of frames.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The setting of how much a peer may send before it is asked for more.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// A connection from an address of this machine.
///
/// # Errors
/// It is refused, or the address is none of this machine's.
pub async fn connect(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0)).with_context(|| format!("bind {from}"))?;
    Ok(socket.connect(to).await?)
}

/// A connection on which both sides have begun.
///
/// # Errors
/// It ends before.
pub async fn begin(from: IpAddr, to: SocketAddr, window: Option<u32>) -> Result<TcpStream> {
    let mut stream = connect(from, to).await?;
    let mut bytes = PREFACE.to_vec();
    bytes.extend(settings(window));
    bytes.extend(frame(SETTINGS, 1, 0, &[]));
    stream.write_all(&bytes).await?;
    Ok(stream)
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Settings, with the window of streams if one is given.
fn settings(window: Option<u32>) -> Vec<u8> {
    let mut payload = Vec::new();
    if let Some(window) = window {
        payload.extend(INITIAL_WINDOW_SIZE.to_be_bytes());
        payload.extend(window.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

/// The head of a call of a method, as HPACK without any table.
pub fn head(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields {
        field(&mut block, name, value);
    }
    block
}

/// One more field of a head.
pub fn field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        let short = u8::try_from(text.len()).unwrap_or(0).min(126);
        block.push(short);
        block.extend(&text.as_bytes()[..usize::from(short)]);
    }
}

/// A message as gRPC frames it, with any length in front.
pub fn message(length: u32, bytes: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.extend(bytes);
    framed
}

/// Time until the server closes the connection, whatever it says before; none if it does not
/// within `patience`.
pub async fn until_closed(stream: &mut TcpStream, patience: Duration) -> Option<Duration> {
    let began = Instant::now();
    let mut buffer = [0; 4096];
    let ended = tokio::time::timeout(patience, async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    });
    ended.await.ok().map(|()| began.elapsed())
}

/// Sends until the server takes no more; whether it is still there.
pub async fn send(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    let sent: io::Result<()> = stream.write_all(bytes).await;
    sent.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_heads_are_as_the_standards_say() {
        assert_eq!(frame(SETTINGS, 1, 0, &[]), [0, 0, 0, 4, 1, 0, 0, 0, 0]);
        assert_eq!(frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]), [0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8]);
        assert_eq!(settings(Some(0)), [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
        let mut block = Vec::new();
        field(&mut block, "te", "x");
        assert_eq!(block, [0, 2, b't', b'e', 1, b'x']);
        assert_eq!(message(1 << 30, &[7]), [0, 64, 0, 0, 0, 7]);
    }
}
