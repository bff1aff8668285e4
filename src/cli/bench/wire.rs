//! One connection to one server, as cheap as it can be: the load shares the machine with the cluster it loads.

use bytes::{Buf as _, Bytes, BytesMut};
use cluster::environment::{Network as _, Stream, TcpNetwork};
use std::io::{self, IoSlice};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one answer may take: longer than a node lets a request wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Bodies up to this size travel in one piece with their head: copying is cheaper than a second slice.
const COPIED_BYTES_MAX: usize = 4096;
/// Largest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A kept connection.
pub struct Wire {
    stream: Box<dyn Stream>,
    received: BytesMut,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What it says.
    pub body: Bytes,
}

impl Wire {
    /// Connects to `host:port`.
    pub async fn connect(address: &str) -> io::Result<Wire> {
        let stream = timeout(CONNECT_TIMEOUT, TcpNetwork.connect(address)).await??;
        Ok(Wire { stream, received: BytesMut::with_capacity(8 * 1024) })
    }

    /// Sends a request and reads its answer. `head` ends with an empty line and announces the body. After an error the
    /// connection is of no use any more.
    pub async fn ask(&mut self, head: &mut Vec<u8>, body: &[u8]) -> io::Result<Answer> {
        timeout(ANSWER_TIMEOUT, async {
            if body.len() <= COPIED_BYTES_MAX {
                head.extend_from_slice(body);
                self.stream.write_all(head).await?;
            } else {
                self.write(head, body).await?;
            }
            self.answer().await
        })
        .await?
    }

    async fn write(&mut self, mut head: &[u8], body: &[u8]) -> io::Result<()> {
        while !head.is_empty() {
            let written = self.stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]).await?;
            if written > head.len() {
                return self.stream.write_all(&body[written - head.len()..]).await;
            }
            head.advance(written);
        }
        self.stream.write_all(body).await
    }

    async fn answer(&mut self) -> io::Result<Answer> {
        let (status, head_bytes, body_bytes) = loop {
            if let Some(head) = parse_head(&self.received)? {
                break head;
            }
            self.read().await?;
        };
        self.received.reserve(head_bytes + body_bytes);
        while self.received.len() < head_bytes + body_bytes {
            self.read().await?;
        }
        self.received.advance(head_bytes);
        Ok(Answer { status, body: self.received.split_to(body_bytes).freeze() })
    }

    async fn read(&mut self) -> io::Result<()> {
        self.received.reserve(1024);
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Status, length of the head and length of the body, once the head is there.
fn parse_head(received: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        let is_endless = received.len() > HEAD_BYTES_MAX;
        return if is_endless { Err(invalid("the answer's head has no end")) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&received[..end]).map_err(|_| invalid("the answer's head is no text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let status = status.ok_or_else(|| invalid("the answer is not HTTP/1.1"))?;
    let length = length.ok_or_else(|| invalid("the answer does not tell its length"))?;
    Ok(Some((status, end + 4, length)))
}

/// `host:port` of a server's URL.
pub fn address(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let address = rest.strip_suffix('/').unwrap_or(rest);
    let is_host = |host: &str| !host.is_empty() && !host.contains('/');
    let is_address = address.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok());
    if is_address { Ok(address.to_owned()) } else { Err(format!("{url:?} is not like http://host:port")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_once_they_are_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx: y\r\n\r\nhello";
        assert_eq!(parse_head(text).unwrap(), Some((200, 45, 12)));
        assert_eq!(parse_head(&text[..40]).unwrap(), None);
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(parse_head(b"hello\r\n\r\n").is_err());
    }

    #[test]
    fn servers_are_hosts_with_ports() {
        assert_eq!(address("http://127.0.0.1:3600/").as_deref(), Ok("127.0.0.1:3600"));
        assert_eq!(address("node:1").as_deref(), Ok("node:1"));
        assert!(address("http://node").is_err() && address("https://node:1").is_err());
    }
}
